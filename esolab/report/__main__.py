"""`python -m esolab.report FOLDER...`: finished runs and judgements side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NoReturn, get_args

from esolab.errors import BadInput
from esolab.report import plain, show
from esolab.report.cases import By, Cases, show_cases
from esolab.report.findings import findings
from esolab.report.folders import read
from esolab.report.writing import write


class Parser(argparse.ArgumentParser):
    """Says what does not fit as everything here does."""

    def error(self, message: str) -> NoReturn:
        """Raise BadInput."""
        raise BadInput(f"report: {message}; -h lists what it takes")


def parser() -> Parser:
    """What the command line may hold."""
    made = Parser(
        prog="python -m esolab.report", description="Finished runs and judgements side by side.", allow_abbrev=False
    )
    made.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="of runs, or above, as outputs/quickstart"
    )
    made.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="where report.html, report.md, tables/ and figures/ go: into FOLDER itself, if it is one and holds runs; "
        "with several, or a single run's, nothing is written without it",
    )
    cases = made.add_argument_group("case studies", "the same prompts' answers, in place of the tables")
    cases.add_argument("--cases", metavar="N", type=int, help="so many prompts")
    cases.add_argument(
        "--by",
        choices=get_args(By),
        help="the rule that picks them: the largest spread of ROUGE-L between the runs' answers (the default), the "
        "largest gap of reward (from judgements with judge=preference), or at random",
    )
    cases.add_argument("--seed", metavar="N", type=int, help="of --by random, 0 by default")
    cases.add_argument("--data", metavar="NAME", help="of what corpus, if several were answered")
    cases.add_argument("--decoding", metavar="NAME", help="under what decoding, sample by default")
    return made


def main(arguments: list[str]) -> int:
    """Print what the folders that are named hold; the exit code."""
    try:
        asked = parser().parse_args(arguments)
        if (cases := _cases(asked)) is None:
            _report(asked.folders, asked.out)
        else:
            show_cases(*read(asked.folders), cases, plain())
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    except SystemExit:  # -h
        return 0
    return 0


def _report(folders: Sequence[Path], out: Path | None) -> None:
    """Print the tables, and write the files where they belong; nothing is printed where they cannot be written."""
    folders = list(dict.fromkeys(folders))
    found = findings(folders)
    if out is None and len(folders) == 1 and not (folders[0] / "result.json").exists():
        out = folders[0]
    written = write(found, out) if out is not None else []
    show(folders, found=found)
    for place, paths in groupby(written, key=lambda path: path.parent):
        names = [path.name for path in paths]
        print(f"written in {place}: {', '.join(names)}")


def _cases(asked: argparse.Namespace) -> Cases | None:
    given = {key: value for key in ("by", "seed", "data", "decoding") if (value := getattr(asked, key)) is not None}
    if asked.cases is None:
        if given:
            raise BadInput(f"report: --{next(iter(given))} goes with --cases N; give that, too, or leave it out")
        return None
    if asked.out is not None:
        raise BadInput(f"report: --out {asked.out} goes without --cases, which only prints; leave one of them out")
    if asked.cases < 1:
        raise BadInput(f"report: --cases {asked.cases}: nothing to show; give a number of prompts, as --cases 4")
    if "seed" in given and asked.by != "random":
        raise BadInput(f"report: --seed {asked.seed} goes with --by random; give that, too, or leave it out")
    return Cases(asked.cases, **given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

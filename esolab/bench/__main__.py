"""`python -m esolab.bench`: one ESO step of esolab beside what others do for the same work."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from esolab.bench import job as of
from esolab.bench.job import Job
from esolab.bench.machine import cores, describe
from esolab.bench.race import Heat, run
from esolab.bench.table import NOTE, explain, tables
from esolab.errors import BadInput
from esolab.terminal import console

PROMPTS = 16  # the paper's batch


class Parser(argparse.ArgumentParser):
    """Says what is wrong as the rest of the lab does."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving."""
        raise BadInput(f"bench: {message} (--help shows all options)")


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m esolab.bench", description=__doc__)
    made.add_argument(
        "--data", help="folder with the real corpora (xsum, dolly) and tokenizers; default: a synthetic twin"
    )
    made.add_argument(
        "--all", action="store_true", help="after the headline: ragged, tiny, bf16, other k; one round each"
    )
    made.add_argument("--rounds", type=_count, default=3, help="alternating rounds of the headline (3)")
    for name, known, default in (
        ("workloads", of.WORKLOADS, of.WORKLOADS),
        ("contenders", of.CONTENDERS, of.CONTENDERS),
        ("models", of.MODELS, ("gpt2",)),
        ("dtypes", of.DTYPES, ("float32",)),
        ("lengths", of.LENGTHS, ("fixed",)),
    ):
        made.add_argument(f"--{name}", type=_some(known), default=list(default), help=f"of {','.join(known)}")
    made.add_argument("--prompts", type=_count, default=PROMPTS, help=f"prompts of the step ({PROMPTS})")
    made.add_argument("--k", type=_count, default=4, help="answers per prompt (4)")
    made.add_argument("--max-new", type=_count, default=64, help="tokens of an answer (64)")
    made.add_argument("--threads", type=_count, default=cores(), help=f"CPU threads ({cores()})")
    made.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of result.json (outputs/bench)")
    return made


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _some(known: tuple[str, ...]) -> Any:
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return read


def heats(options: argparse.Namespace, contenders: list[str]) -> list[Heat]:
    """What is to be run, the headline first."""
    shared = {"prompts": options.prompts, "max_new": options.max_new, "threads": options.threads, "data": options.data}
    others = [f"esolab-k{k}" for k in (2, 8) if k != options.k] if options.all and "esolab" in contenders else []
    made = [
        Heat(Job(work, "", model, dtype, lengths, k=options.k, **shared), contenders + others, options.rounds)
        for model in options.models
        for dtype in options.dtypes
        for lengths in options.lengths
        for work in options.workloads
    ]
    if options.all:
        for work in options.workloads:
            base = Job(work, "", k=options.k, **shared)
            more = [replace(base, lengths="ragged"), replace(base, model="tiny"), replace(base, dtype="bfloat16")]
            made += [Heat(job, contenders, 1) for job in more]
    once: dict[Job, Heat] = {}
    for heat in made:
        once.setdefault(heat.job, heat)
    return list(once.values())


def main(arguments: list[str]) -> int:
    """Race, or be a child of the race; the exit code."""
    try:
        if arguments[:1] == ["--child"]:
            from esolab.bench.child import work

            work(Job.load(Path(arguments[1])), Path(arguments[2]))
            return 0
        return race(parser().parse_args(arguments), arguments)
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; result.json holds what has been measured", file=sys.stderr)
        return 130


def race(options: argparse.Namespace, arguments: list[str]) -> int:
    """Run what the command line asks for and print it."""
    if options.data is not None and not Path(options.data).is_dir():
        raise BadInput(f"--data {options.data}: there is no such folder; leave it out for the synthetic twin")
    contenders = list(options.contenders)
    if "trl" in contenders and find_spec("trl") is None:
        contenders.remove("trl")
        console.print("trl is not installed and does not take part: pip install 'esolab[bench]'", markup=False)
    if not contenders:
        raise BadInput("--contenders: nobody is left to run; install trl or name another")
    head = {"machine": describe(options.threads), "command": shlex.join(["python", "-m", "esolab.bench", *arguments])}
    head["note"] = NOTE
    result = run(heats(options, contenders), options.out / "result.json", head)
    for table in tables(result["rows"]):
        console.print(table)
    for line in [*explain(result), NOTE]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

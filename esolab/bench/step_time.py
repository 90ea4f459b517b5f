"""`python -m esolab.bench.step_time FOLDER`: what a step of each method costs, beside the paper's section 5.10.

Reads the finished runs of `python -m esolab -m experiments=step_time`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from esolab.bench.job import PHASES
from esolab.errors import BadInput
from esolab.terminal import console

# Seconds per step on the authors' GPUs (section 5.10). They fit 0.4 + 0.5 per `generate` call + 0.2 per scored batch,
# except RRHF, which so reckoned takes 3.2: a vectorised RRHF costs what ESO costs.
PAPER = {"sft": None, "drl": 1.6, "unlike": 2.6, "eso": 3.2, "rrhf": 4.5}


def main(arguments: list[str]) -> int:
    """Print the table of a folder; the exit code."""
    try:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise BadInput("step_time: give one folder, as outputs/step_time")
        console.print(table(read(Path(arguments[0]))))
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2
    return 0


def read(folder: Path) -> list[dict[str, Any]]:
    """The results of the finished runs, in the order of PAPER. Raises BadInput."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/result.json"))]
    known = [result for result in found if result["method"] in PAPER]
    if not known:
        raise BadInput(f"step_time: no finished run in {folder}; python -m esolab -m experiments=step_time makes them")
    return sorted(known, key=lambda result: list(PAPER).index(result["method"]))


def table(results: list[dict[str, Any]]) -> Table:
    """A row per run: median seconds of a step, mean seconds of its phases, mean tokens sampled and scored,
    peak memory; seconds in the paper."""
    made = Table(title=f"{results[0]['model']} on {results[0]['data']}, per step", title_justify="left", box=SIMPLE)
    made.add_column("method")
    for name in ("seconds", *PHASES, "sampled", "scored", "GB", "paper"):
        made.add_column(name, justify="right")
    for result in results:
        timing, train = result["timing"], result["train"]
        steps = train["steps"]
        phases = [f"{timing['phases'].get(phase, 0) / steps:.3f}" for phase in PHASES]
        tokens = [f"{train[f'{kind}_tokens'] / steps:.0f}" for kind in ("sampled", "scored")]
        paper = PAPER[result["method"]]
        made.add_row(
            result["method"],
            f"{timing['step_seconds_median']:.3f}",
            *phases,
            *tokens,
            f"{result['peak_rss_bytes'] / 1e9:.2f}",
            "" if paper is None else f"{paper}",
        )
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`report.md`: what an experiment found, in words and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.table import Table

from esolab.report.cases import escaped
from esolab.report.comparisons import control_tables, pair_tables, paper_table, score_tables
from esolab.report.costs import costs
from esolab.report.findings import STARS, Findings
from esolab.report.folders import Run, label
from esolab.report.held import models_held
from esolab.report.scores import preferences
from esolab.report.tradeoffs import tradeoffs
from esolab.report.wins import win_rates
from esolab.results import write_text

INTERVALS = (
    "An interval is a 95% BCa bootstrap over seeds and prompts, p a sign-flip test over prompts, d Cohen's of paired "
    "answers. Two variants are distinguishable where p after Holm's correction is below .05 and the interval leaves "
    f"out 0; stars say so: {STARS}. With one seed nothing is said about other seeds."
)


def write_markdown(found: Findings, folder: Path) -> Path:
    """Write report.md into a folder that exists; its path. Raises OSError where it cannot be written."""
    path = folder / "report.md"
    write_text(path, "\n".join(_lines(found)) + "\n")
    return path


def _lines(found: Findings) -> Iterator[str]:
    yield f"# {inline(found.experiment)}"
    yield from ("", inline(found.about)) if found.about else ()
    if found.scales:
        yield from ("", f"Scale: {', '.join(found.scales)}. Seeds: {', '.join(found.facts.get('seeds', []))}.")
    yield from ("", "## Verdict", "", *_verdicts(found))
    if found.missing:
        yield from ("", "## What is missing", "", *(f"- {inline(name)}: {inline(why)}" for name, why in found.missing))
    yield from _section("Scores", score_tables(found), inline(INTERVALS))
    yield from _section("Decoding alone", control_tables(found))
    yield from _section("All pairs", pair_tables(found))
    beside = paper_table(found)
    yield from _section("Beside the paper", [beside] if beside else [])
    yield from _others(found)
    cost = costs(found.variants)
    yield from _section("Cost", [cost] if cost else [])
    yield from ("", "## How it was made", "")
    if found.commands:
        yield from (*(f"    {escaped(command)}" for command in found.commands), "")
    else:
        yield from ("No sweep.json names the command; config.yaml in the folder of each run is what it did.", "")
    yield from (f"- {name}: {inline(', '.join(values))}" for name, values in found.facts.items())


def _verdicts(found: Findings) -> Iterator[str]:
    """The sentences, those of a corpus under its name."""
    if not found.verdicts:
        yield "- Nothing to compare."
    for data in found.headline:
        own = [line.removeprefix(data)[2:] for line in found.verdicts if line.startswith((f"{data}, ", f"{data}: "))]
        if own:
            yield from (f"**{inline(data)}**", "", *(f"- {inline(line)}" for line in own), "")


def _others(found: Findings) -> Iterator[str]:
    """Sections of what not every experiment has: judgements, reward models, rewards of parts, models held."""
    runs: list[Run] = [run for variant in found.variants for run in variant.runs]
    names = label(runs)
    for table, lines in win_rates(runs, found.judgements, names):
        yield from _section("Win rates", [table])
        yield from ("", *(f"- {inline(line)}" for line in lines))
    yield from _section("Pairs told apart", preferences(runs, names))
    yield from _section("Parts of the reward", list(tradeoffs(runs, names)))
    held = models_held(runs, names)
    yield from _section("Models held", [held] if held else [])


def _section(heading: str, tables: Iterable[Table], note: str = "") -> Iterator[str]:
    made = list(tables)
    if made:
        yield from ("", f"## {heading}", *(("", note) if note else ()))
    for table in made:
        yield from ("", f"**{inline(str(table.title))}**", "", *rows(table))


def rows(table: Table) -> Iterator[str]:
    """A table of the console as lines of markdown."""
    yield _row(str(column.header) for column in table.columns)
    yield _row("---:" if column.justify == "right" else "---" for column in table.columns)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        yield _row(inline(str(cell)) for cell in cells)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def inline(text: str) -> str:
    """Text as it is, whatever signs of markdown, of HTML or of terminals it has; in one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", escaped(" ".join(text.split())))

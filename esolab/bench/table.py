"""The result of a race as a table, and where the time beyond the least goes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from esolab.bench.job import PHASES

Row = dict[str, Any]
WORK = ("workload", "model", "dtype", "lengths", "prompts")

NOTE = (  # what the table does not show
    "A step is sampling, rewards and gradients; nobody takes the optimizer's step. trl has no likelihood of the "
    "references and one temperature, so it does less than the others. esolab's measurement of the two parts of its "
    "gradient, every 25th step (method.watch_every), is off."
)


def tables(rows: Sequence[Row]) -> list[Table]:
    """A table for each piece of work, a row for each contender; seconds of the whole step and of each phase."""
    return [_table(list(own)) for _, own in groupby(rows, key=lambda row: [row[key] for key in WORK])]


def _title(row: Row) -> str:
    return "{workload}, {model}, {dtype}, {lengths} lengths, {prompts} prompts, k={k}".format(**row)


def _table(rows: Sequence[Row]) -> Table:
    made = Table(title=_title(rows[0]), title_justify="left", box=SIMPLE)
    made.add_column("contender")
    for name in ("seconds", *PHASES, "peak GB", "ratio", "of least"):
        made.add_column(name, justify="right")
    for row in rows:
        phases = [_seconds(row["phases"].get(phase)) for phase in PHASES]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        share = "" if row["roofline"] is None else f"{row['roofline']:.0%}"
        memory = f"{row['peak_rss_bytes'] / 1e9:.1f}"
        made.add_row(row["contender"], _seconds(row["seconds"]), *phases, memory, ratio, share)
    return made


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def explain(result: dict[str, Any]) -> list[str]:
    """For each piece of work: what the machine could do it in, phase by phase, and what esolab took."""
    lines = []
    for least in result["rates"]:
        own = [r for r in result["rows"] if r["contender"] == "esolab" and all(r[key] == least[key] for key in WORK)]
        if not own:
            continue
        took = own[0]["phases"]
        parts = [
            f"{phase} {took[phase]:.2f} s of which {least['least'][phase]:.2f} s is the least"
            for phase in ("sample", "update")
        ]
        lines.append(f"{_title(least)}: esolab spent {'; '.join(parts)}; reward {took['reward']:.2f} s")
    return lines

"""The result of a race as a table, and where the time beyond the least goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

Row = dict[str, Any]


def table(rows: Sequence[Row]) -> Table:
    """A row for each contender; seconds of the whole step and of each phase."""
    made = Table(title="One ESO step", title_justify="left")
    for name in ("workload", "contender", "model", "dtype", "lengths"):
        made.add_column(name)
    for name in ("seconds", "sample", "reward", "update", "peak GB", "ratio", "of least"):
        made.add_column(name, justify="right")
    for row in rows:
        phases = [row["phases"].get(phase) for phase in ("sample", "reward", "update")]
        names = [str(row[key]) for key in ("workload", "contender", "model", "dtype", "lengths")]
        numbers = [_seconds(row["seconds"]), *map(_seconds, phases), f"{row['peak_rss_bytes'] / 1e9:.1f}"]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        share = "" if row["roofline"] is None else f"{row['roofline']:.0%}"
        made.add_row(*names, *numbers, ratio, share)
    return made


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def explain(result: dict[str, Any]) -> list[str]:
    """For each piece of work: what the machine could do it in, phase by phase, and what esolab took."""
    lines = []
    for least in result["rates"]:
        same = ("workload", "model", "dtype", "lengths")
        name = "esolab" if least["k"] == result["rates"][0]["k"] else f"esolab-k{least['k']}"
        own = [r for r in result["rows"] if r["contender"] == name and all(r[key] == least[key] for key in same)]
        if not own:
            continue
        took = own[0]["phases"]
        parts = [
            f"{phase} {took[phase]:.2f} s of which {least['least'][phase]:.2f} s is the least"
            for phase in ("sample", "update")
        ]
        work = " ".join(str(least[key]) for key in same)
        lines.append(f"{work}, {name}: {'; '.join(parts)}; reward {took['reward']:.2f} s")
    return lines

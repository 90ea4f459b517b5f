"""Rewards of several parts: which runs no other run beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from esolab.report.folders import Run


def undominated(points: Sequence[Sequence[float]]) -> list[bool]:
    """Of each point whether no other is at least as high in every coordinate and higher in one (Pareto)."""
    return [
        not any(
            other != point and all(theirs >= ours for theirs, ours in zip(other, point, strict=True))
            for other in points
        )
        for point in points
    ]


def tradeoffs(runs: Sequence[Run], names: dict[Path, str]) -> Iterator[Table]:
    """A table for each data set and set of parts that several runs share."""
    groups: dict[tuple[str, ...], list[tuple[Run, list[float]]]] = {}
    for run in runs:
        found = sorted(run.reward_parts().items())
        if len(found) > 1:
            key = (run.result["data"], *(name for name, _ in found))
            groups.setdefault(key, []).append((run, [value for _, value in found]))
    for (data, *parts), group in groups.items():
        if len(group) == 1:
            continue
        title = f"{data}: parts of the reward, unweighted, mean over the last sampled epoch; higher is better"
        table = Table(title=title, title_justify="left")
        table.add_column("run")
        for head in (*parts, "not dominated"):
            table.add_column(head, justify="right")
        best = undominated([point for _, point in group])
        for (run, point), front in zip(group, best, strict=True):
            table.add_row(names[run.folder], *(f"{value:.4f}" for value in point), "yes" if front else "")
        yield table

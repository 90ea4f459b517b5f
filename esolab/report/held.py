"""The models that each method holds while it trains, and their memory (the paper's appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from esolab.report.folders import Run, whole

KINDS = ("policy", "reward", "value", "reference")  # appendix B's order; it calls the value model a critic


def models_held(runs: Sequence[Run], names: dict[Path, str]) -> Table | None:
    """Megabytes of weights by kind, of runs that say so; None where no run holds more than the policy."""
    if not any(len(run.result.get("models", ())) > 1 for run in runs):
        return None
    title = "models held in training: weights, and the most memory the process held, in MB"
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    for head in (*KINDS, "models", "weights", "peak RSS"):
        table.add_column(head, justify="right")
    for run in runs:
        if "models" in run.result:
            with whole(run.folder / "result.json"):
                table.add_row(names[run.folder], *_cells(run))
    return table


def _cells(run: Run) -> list[str]:
    models = run.result["models"]
    sizes: dict[str, int] = {}
    for name, size in models.items():  # of a composite reward each part may have one: "reward <part>"
        kind = name.partition(" ")[0]
        sizes[kind] = sizes.get(kind, 0) + size["bytes"]
    columns = [_mb(sizes[kind]) if kind in sizes else "" for kind in KINDS]
    return [*columns, f"{len(models)}", _mb(sum(sizes.values())), _mb(run.result["peak_rss_bytes"])]


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"

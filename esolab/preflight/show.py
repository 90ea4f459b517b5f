"""Preflight on the terminal: short, and readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE
from rich.table import Table

from esolab.preflight.memory import gigabytes

MEANING = {
    "load": "the process with the policy",
    "sample": "answers grow",
    "reward": "answers are judged",
    "score": "forward of a micro-batch",
    "backward": "its gradients",
    "average": "gradients of all ranks, shared out",
    "watch": "backward of ESO's two gradients",
    "optimizer": "AdamW",
    "evaluate": "answers and likelihood",
}


HOW = {
    "estimated": "arithmetic of shapes, see esolab/preflight/memory.py",
    "dry run": "a rank's tensors, without numbers; its process left out, see esolab/preflight/dry.py",
}


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def memory(columns: Mapping[str, Mapping[str, int]], where: str) -> Table:
    """A row per phase and the peak; columns by what they are, those that are empty left out."""
    columns = {name: column for name, column in columns.items() if column}
    made = Table(title=f"memory, {where}, peak of each phase on the worst batch", title_justify="left", box=SIMPLE)
    made.add_column("phase")
    made.add_column("what")
    for name in columns:
        made.add_column(name, justify="right")
    for phase, meaning in MEANING.items():
        if any(phase in column for column in columns.values()):
            made.add_row(phase, meaning, *(gigabytes(c[phase]) if phase in c else "" for c in columns.values()))
    said = [f"{name}: {how}" for name, how in HOW.items() if name in columns]
    made.caption = "\n".join(said) or None
    made.caption_justify = "left"
    made.add_row("peak", "", *(gigabytes(max(column.values())) for column in columns.values()), style="bold")
    return made


def forecast(rows: Sequence[tuple[str, str, float | None, float | None]]) -> Table:
    """A row per kind of work: how many, seconds each, and all of them. None: not measured."""
    made = Table(title="time, answers at their limit", title_justify="left", box=SIMPLE)
    made.add_column("work")
    for name in ("how many", "each", "together"):
        made.add_column(name, justify="right")
    for name, count, each, together in rows:
        made.add_row(name, count, *("not measured" if x is None else duration(x) for x in (each, together)))
    known = [together for *_, together in rows if together is not None]
    if known:
        made.add_row("together", "", "", duration(sum(known)), style="bold")
    return made

"""What variants cost: seconds of a step that samples, tokens, memory (the paper's section 5.10, and its table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich.table import Table

from esolab.report.folders import Run, whole
from esolab.report.variants import Variant

TITLE = "cost, means over seeds: median seconds of a step that samples (SFT: of any), tokens of a run, peak memory"
HEADS = {
    "sample": "sample, s", "reward": "reward, s", "update": "update, s", "step": "step, s", "sampled": "sampled tokens",
    "forward": "forward tokens", "backward": "backward tokens", "peak": "peak RSS, MB", "wall": "run, min",
}  # fmt: skip


def costs(variants: Sequence[Variant]) -> Table | None:
    """A row for each variant that says what it cost; None where none does."""
    rows = {variant: values for variant in variants if (values := cost(variant))}
    if not rows:
        return None
    heads = [head for head in HEADS if any(head in values for values in rows.values())]
    table = Table(title=TITLE, title_justify="left")
    table.add_column("variant")
    for head in heads:
        table.add_column(HEADS[head], justify="right")
    for variant, values in rows.items():
        table.add_row(variant.name, *(_shown(head, values.get(head)) for head in heads))
    return table


def cost(variant: Variant) -> dict[str, float]:
    """Means over the seeds of a variant, by the keys of HEADS: seconds, tokens, megabytes, minutes of wall time."""
    columns: dict[str, list[float]] = {}
    for run in variant.runs:
        with whole(run.folder / "result.json"):
            if "timing" not in run.result:
                continue
            steps, train = run.step_seconds(), run.result["train"]
            values: dict[str, float] = {head: steps[head] for head in ("sample", "reward", "update") if head in steps}
            values |= {"step": sum(steps.values())} if steps else {}
            values |= {head: train[f"{head}_tokens"] for head in ("sampled", "forward", "backward")}
            values |= {"peak": run.result["peak_rss_bytes"] / 1e6, "wall": _wall(run) / 60}
        for head, value in values.items():
            columns.setdefault(head, []).append(value)
    return {head: fmean(column) for head, column in columns.items()}


def _wall(run: Run) -> float:
    """Seconds of a run as if it had been trained alone: those of the epochs that it shared are its own, too."""
    return float(
        run.result["timing"]["wall_seconds"] + (run.result.get("trunk") or {"wall_seconds": 0})["wall_seconds"]
    )


def _shown(head: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if HEADS[head].endswith(", s") else f"{value:.1f}" if head == "wall" else f"{value:,.0f}"

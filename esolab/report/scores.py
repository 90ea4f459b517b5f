"""Scores of runs side by side: tables, means over seeds, and differences from SFT in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from rich.table import Table

from esolab.report.folders import Run, answered
from esolab.stats import paired_bootstrap, verdict

COLUMNS = (("rouge1", "ROUGE-1"), ("rouge2", "ROUGE-2"), ("rougeL", "ROUGE-L"), ("gleu", "GLEU"), ("length", "words"))
PREFERENCE = (
    ("n", "pairs"),
    ("accuracy", "accuracy"),
    ("accuracy_longer", "chosen longer"),
    ("accuracy_shorter", "chosen shorter"),
    ("calibration", "calibration error"),
    ("margin", "margin"),
)


def tables(runs: Sequence[Run], names: dict[Path, str]) -> Iterator[Table]:
    """For each data set the scores of the answers, of the pairs told apart, and over seeds, where there are any."""
    for data in dict.fromkeys(d for run in runs for d in run.result["scores"]):
        made = (_table(data, runs, names), _preferences(data, runs, names), _over_seeds(data, runs))
        yield from (table for table in made if table is not None)


def _table(data: str, runs: Sequence[Run], names: dict[Path, str]) -> Table | None:
    sizes = sorted({row["n"] for run in runs for row in answered(run.result["scores"], data).values()})
    if not sizes:
        return None
    n = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    table = Table(title=f"{data}, {n} test prompts, scores x100", title_justify="left")
    for column in ("run", "decoding"):
        table.add_column(column)
    for _, head in COLUMNS:
        table.add_column(head, justify="right")
    rows = [("before training", answered(r.result["before"], data)) for r in runs[:1] if r.result.get("before")]
    for name, scores in [*rows, *((names[run.folder], answered(run.result["scores"], data)) for run in runs)]:
        for decoding, row in scores.items():
            table.add_row(name, decoding, *(f"{row[key]:.2f}" for key, _ in COLUMNS))
        table.add_section()
    return table


def preferences(runs: Sequence[Run], names: dict[Path, str]) -> Iterator[Table]:
    """For each data set how well reward models tell its test pairs apart, where there are such models."""
    for data in dict.fromkeys(d for run in runs for d in run.result["scores"]):
        if (table := _preferences(data, runs, names)) is not None:
            yield table


def _preferences(data: str, runs: Sequence[Run], names: dict[Path, str]) -> Table | None:
    """How well reward models tell the test pairs apart."""
    found = {run.folder: run.result["scores"].get(data, {}).get("preference") for run in runs}
    if not any(found.values()):
        return None
    table = Table(title=f"{data}: test pairs told apart", title_justify="left")
    table.add_column("run")
    for _, head in PREFERENCE:
        table.add_column(head, justify="right")
    for folder, row in found.items():
        if row is not None:
            cells = ["" if row[key] is None else f"{row[key]:.3f}" for key, _ in PREFERENCE[1:]]
            table.add_row(names[folder], f"{row['n']:,}", *cells)
    return table


def _over_seeds(data: str, runs: Sequence[Run]) -> Table | None:
    """Runs that differ in nothing but their seed as one row: mean and standard deviation, and what they cost."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if answered(run.result["scores"], data) and "but_for_seed" in run.result:
            groups.setdefault(run.result["but_for_seed"], []).append(run)
    several = {key: group for key, group in groups.items() if len({run.result["seed"] for run in group}) > 1}
    if not several:
        return None
    decodings = list(dict.fromkeys(d for run in runs for d in answered(run.result["scores"], data)))
    table = Table(title=f"{data}: mean and standard deviation over seeds", title_justify="left")
    table.add_column("runs")
    for head in ("seeds", *(f"ROUGE-L {how}" for how in decodings), "sampled tokens", "scored", "forward", "backward"):
        table.add_column(head, justify="right")
    methods = Counter(group[0].result["method"] for group in several.values())
    for group in several.values():
        method, words = group[0].result["method"], [w for w in group[0].words if not w.startswith(("seed=", "method="))]
        apart = methods[method] > 1
        cells = [f"{len(group)}"]
        for how in decodings:
            values = [run.result["scores"][data][how]["rougeL"] for run in group if how in run.result["scores"][data]]
            spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.2f}{spread}" if values else "")
        for kind in ("sampled", "scored", "forward", "backward"):
            cells.append(f"{mean(run.result['train'][f'{kind}_tokens'] for run in group):,.0f}")
        table.add_row(" ".join([method.upper(), *(words if apart else ())]), *cells)
    return table


def differences(runs: Sequence[Run], names: dict[Path, str], metric: str = "rougeL") -> list[str]:
    """Each run against the SFT run with the same model, data, protocol and seed, on the same prompts, in words."""
    lines = []
    for run in runs:
        base = next((r for r in runs if r.result["method"] == "sft" and r.same == run.same), None)
        if base is None or base is run:
            continue
        for data in run.result["scores"]:
            for decoding in answered(run.result["scores"], data):
                ours, theirs = run.scores(data, decoding, metric), base.scores(data, decoding, metric)
                shared = [i for i in ours if i in theirs]
                if len(shared) < 2:
                    continue
                interval = paired_bootstrap([ours[i] for i in shared], [theirs[i] for i in shared])
                sentence = verdict(interval, names[run.folder], names[base.folder], "ROUGE-L")
                lines.append(f"{data}, {decoding}: {sentence}")
    return lines

"""Runs side by side, from their folders alone."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from esolab.errors import BadInput
from esolab.results import SCHEMA, read_lines
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


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its result.json."""

    folder: Path
    result: dict[str, Any]

    @property
    def same(self) -> tuple[Any, ...]:
        """What two runs must share to be compared as methods."""
        return tuple(self.result[key] for key in ("model", "data", "protocol", "seed", "setting"))

    @property
    def words(self) -> list[str]:
        """The overrides in the folder's name."""
        return re.split(r",(?=[\w.-]+=)", self.folder.name.rpartition("-")[0])

    def scores(self, data: str, decoding: str, metric: str) -> dict[tuple[str, str, str], float]:
        """One metric of every test example (id, prompt, reference), in points (x100)."""
        file = self.folder / "predictions.jsonl"
        with _whole(file):
            lines = [r for r in read_lines(file) if (r["data"], r["decoding"]) == (data, decoding)]
            return {(r["id"], r["prompt"], r["reference"]): 100 * r[metric] for r in lines}

    def dev_loss(self) -> list[float]:
        """Nats per token on the dev references after each epoch."""
        place = self.folder / "metrics.csv"
        with _whole(place), place.open(newline="") as file:
            return [float(row["dev/loss"]) for row in csv.DictReader(file) if row.get("dev/loss")]


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The finished runs in run folders, or in folders of them.

    Raises:
        BadInput: there is none, or one is damaged or of another schema.
    """
    files = [f for folder in folders for f in sorted([*folder.glob("result.json"), *folder.glob("*/result.json")])]
    if not files:
        raise BadInput(f"report: no finished run (result.json) in {', '.join(map(str, folders))}")
    runs = []
    for file in files:
        with _whole(file):
            result = dict(json.loads(file.read_text(encoding="utf-8")))
            if result.get("schema") != SCHEMA:
                raise BadInput(f"report: {file.parent} has schema {result.get('schema')}, this esolab reads {SCHEMA}")
            run = Run(file.parent, result)
            _ = run.same, result["method"], result["scores"]  # what every table takes from it
            runs.append(run)
    return sorted(runs, key=lambda run: run.result["method"] != "sft")  # what the others are compared with comes first


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Say it of this file when it turns out to be missing or damaged."""
    try:
        yield
    except BadInput:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BadInput(
            f"report: {file} is damaged ({why}); repeat its run with rerun=true, or name the other folders"
        ) from error


def show(folders: Sequence[Path], console: Console | None = None) -> None:
    """Print one table of the runs' scores, how each method differs from SFT, and where the folders are."""
    console = console or Console()
    runs = read_runs(folders)
    names = label(runs)
    for data in dict.fromkeys(d for run in runs for d in run.result["scores"]):
        for table in (_table(data, runs, names), _preferences(data, runs, names)):
            if table is not None:
                console.print(table)
        if (summary := _over_seeds(data, runs)) is not None:
            console.print(summary)
    for run in runs:
        losses = run.dev_loss()
        if run.result["method"] == "sft" and len(losses) > 1:
            change = 100 * (losses[-1] / losses[-2] - 1)
            text = " ".join(f"{x:.3f}" for x in losses)
            line = f"{names[run.folder]}: dev loss by epoch {text}; the last epoch changed it by {change:+.1f}%."
            console.print(line, highlight=False, soft_wrap=True)
    for line in differences(runs, names):
        console.print(line, highlight=False, soft_wrap=True)
    for run in runs:
        console.print(f"{names[run.folder]}: {run.folder}", highlight=False, soft_wrap=True)


def label(runs: Sequence[Run]) -> dict[Path, str]:
    """A short name for each run: its method, and the overrides that tell it from others of the method."""
    own = {run.folder: run.words for run in runs}
    common = set.intersection(*(set(words) for words in own.values()))
    methods = Counter(run.result["method"] for run in runs)
    names = {}
    for run in runs:
        rest = [word for word in own[run.folder] if word not in common and not word.startswith("method=")]
        told = methods[run.result["method"]] > 1
        names[run.folder] = " ".join([run.result["method"].upper(), *(rest if told else ())])
    alike = Counter(names.values())  # a folder's name holds 60 characters of the overrides
    return {f: name if alike[name] == 1 else f"{name} {f.name.rpartition('-')[2]}" for f, name in names.items()}


def _over_seeds(data: str, runs: Sequence[Run]) -> Table | None:
    """Runs that differ in nothing but their seed as one row: mean and standard deviation, and what they cost."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if _answered(run.result["scores"], data) and "but_for_seed" in run.result:
            groups.setdefault(run.result["but_for_seed"], []).append(run)
    several = {key: group for key, group in groups.items() if len({run.result["seed"] for run in group}) > 1}
    if not several:
        return None
    decodings = list(dict.fromkeys(d for run in runs for d in _answered(run.result["scores"], data)))
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


def _answered(scores: dict[str, Any], data: str) -> dict[str, Any]:
    """The scores of a run's answers by decoding; of a reward model, which gives none, nothing."""
    return {how: row for how, row in scores.get(data, {}).items() if how != "preference"}


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


def _table(data: str, runs: Sequence[Run], names: dict[Path, str]) -> Table | None:
    sizes = sorted({row["n"] for run in runs for row in _answered(run.result["scores"], data).values()})
    if not sizes:
        return None
    n = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    table = Table(title=f"{data}, {n} test prompts, scores x100", title_justify="left")
    for column in ("run", "decoding"):
        table.add_column(column)
    for _, head in COLUMNS:
        table.add_column(head, justify="right")
    rows = [("before training", _answered(r.result["before"], data)) for r in runs[:1] if r.result.get("before")]
    for name, scores in [*rows, *((names[run.folder], _answered(run.result["scores"], data)) for run in runs)]:
        for decoding, row in scores.items():
            table.add_row(name, decoding, *(f"{row[key]:.2f}" for key, _ in COLUMNS))
        table.add_section()
    return table


def differences(runs: Sequence[Run], names: dict[Path, str], metric: str = "rougeL") -> list[str]:
    """Each run against the SFT run with the same model, data, protocol and seed, on the same prompts, in words."""
    lines = []
    for run in runs:
        base = next((r for r in runs if r.result["method"] == "sft" and r.same == run.same), None)
        if base is None or base is run:
            continue
        for data in run.result["scores"]:
            for decoding in _answered(run.result["scores"], data):
                ours, theirs = run.scores(data, decoding, metric), base.scores(data, decoding, metric)
                shared = [i for i in ours if i in theirs]
                if len(shared) < 2:
                    continue
                interval = paired_bootstrap([ours[i] for i in shared], [theirs[i] for i in shared])
                sentence = verdict(interval, names[run.folder], names[base.folder], "ROUGE-L")
                lines.append(f"{data}, {decoding}: {sentence}")
    return lines

"""Runs side by side, from their folders alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from esolab.report.findings import Findings, findings
from esolab.report.folders import Run, label, read
from esolab.report.held import models_held
from esolab.report.scores import differences, tables
from esolab.report.tradeoffs import tradeoffs
from esolab.report.wins import win_rates


def show(folders: Sequence[Path], console: Console | None = None, found: Findings | None = None) -> None:
    """Print what the runs in the folders say together, tables of what they scored, won and held, and where they are.

    `found` are the findings of these folders, where they are known already.
    """
    console = console or plain()
    runs, judgements = read(folders)
    names = label(runs)
    for table in tables(runs, names):
        console.print(table)
    lines = [*_dev_losses(runs, names), *_verdicts(runs, names, found or findings(folders))]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    for table, said in win_rates(runs, judgements, names):
        console.print(table)
        for line in said:
            console.print(line, highlight=False, soft_wrap=True)
    held = models_held(runs, names)
    for table in (*tradeoffs(runs, names), *([] if held is None else [held])):
        console.print(table)
    for folder in (*(run.folder for run in runs), *(judgement.folder for judgement in judgements)):
        console.print(f"{names.get(folder, 'judgement')}: {folder}", highlight=False, soft_wrap=True)


def _dev_losses(runs: Sequence[Run], names: dict[Path, str]) -> Iterator[str]:
    """Whether SFT has converged."""
    for run in runs:
        losses = run.dev_loss() if run.result["method"] == "sft" else []
        if len(losses) > 1:
            change = 100 * (losses[-1] / losses[-2] - 1)
            text = " ".join(f"{x:.3f}" for x in losses)
            yield f"{names[run.folder]}: dev loss by epoch {text}; the last epoch changed it by {change:+.1f}%."


def _verdicts(runs: Sequence[Run], names: dict[Path, str], found: Findings) -> Iterator[str]:
    """Over seeds where there are any, else run by run; then what is missing."""
    several = any(len(variant.runs) > 1 for variant in found.variants)
    yield from found.verdicts if several else differences(runs, names)
    yield from (f"missing: {name}: {why}" for name, why in found.missing)


def plain() -> Console:
    """The terminal, where brackets in names and in answers are brackets; a file gets wide tables."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(markup=False, emoji=False, width=width)

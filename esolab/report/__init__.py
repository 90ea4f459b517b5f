"""Runs side by side, from their folders alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from esolab.report.folders import label, read
from esolab.report.held import models_held
from esolab.report.scores import differences, tables
from esolab.report.tradeoffs import tradeoffs
from esolab.report.wins import win_rates


def show(folders: Sequence[Path], console: Console | None = None) -> None:
    """Print tables of what the runs in the folders scored, won and held, how each method differs from SFT, and where
    the folders are."""
    console = console or plain()
    runs, judgements = read(folders)
    names = label(runs)
    for table in tables(runs, names):
        console.print(table)
    for run in runs:
        losses = run.dev_loss()
        if run.result["method"] == "sft" and len(losses) > 1:
            change = 100 * (losses[-1] / losses[-2] - 1)
            text = " ".join(f"{x:.3f}" for x in losses)
            line = f"{names[run.folder]}: dev loss by epoch {text}; the last epoch changed it by {change:+.1f}%."
            console.print(line, highlight=False, soft_wrap=True)
    for line in differences(runs, names):
        console.print(line, highlight=False, soft_wrap=True)
    for table, lines in win_rates(runs, judgements, names):
        console.print(table)
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)
    held = models_held(runs, names)
    for table in (*tradeoffs(runs, names), *([] if held is None else [held])):
        console.print(table)
    for folder in (*(run.folder for run in runs), *(judgement.folder for judgement in judgements)):
        console.print(f"{names.get(folder, 'judgement')}: {folder}", highlight=False, soft_wrap=True)


def plain() -> Console:
    """The terminal, where brackets in names and in answers are brackets; a file gets wide tables."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(markup=False, emoji=False, width=width)

"""W&B and TensorBoard as mirrors of metrics.csv and samples.jsonl: each row once, whatever ends and begins again.

They alone cannot say so. A run that is killed has told of steps that it will make again after its last checkpoint; and
what a process without a network has told is in a buffer, of which a kill loses the end, or all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

STEP = "trainer/global_step"  # the axis that Lightning gives to all charts
ROWS = 3  # that an optimizer step may have: its own, its rollouts, the scores at the end of an epoch


@runtime_checkable
class Mirror(Protocol):
    """A logger that can be told of what was before training begins: of a trunk, of a run that goes on, or of one that
    has had no such logger before."""

    def catch_up(self, metrics: Iterable[Mapping[str, str]], samples: Iterable[Mapping[str, Any]]) -> None:
        """Take the rows of metrics.csv and the lines of samples.jsonl that are there, unless they are there already."""
        ...


class Board(TensorBoardLogger):
    """Event files. Those of earlier processes are removed, and all is told again."""

    def catch_up(self, metrics: Iterable[Mapping[str, str]], samples: Iterable[Mapping[str, Any]]) -> None:
        """Tell the rows of metrics.csv."""
        for left in Path(self.log_dir).glob("events.out.tfevents.*"):
            left.unlink()
        for row in metrics:
            self.log_metrics(_numbers(row), int(row["step"]))


class Wandb(WandbLogger):
    """The W&B run of a folder. W&B's own step of a row follows from the optimizer step and from what the row holds; so
    where W&B stands says what it has."""

    table: Any = None  # of rollouts

    @cached_property
    def told(self) -> int:
        """W&B's own step of the last row that its server has of this run; -1 without one, or without a network."""
        return int(self.experiment.starting_step) - 1

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Tell a row of metrics.csv, unless W&B has it."""
        assert step is not None
        self._tell(ROWS * step + (0 if "loss" in metrics else 2), {**metrics, STEP: step})

    def log_rollouts(self, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Add lines of samples.jsonl, all of one step, to the table of rollouts, unless W&B has them."""
        if ROWS * step + 1 <= self.told:
            return
        import wandb

        if self.table is None:
            self.table = wandb.Table(columns=list(rows[0]), log_mode="INCREMENTAL")
        for row in rows:
            self.table.add_data(*row.values())
        self._tell(ROWS * step + 1, {"rollouts": self.table, STEP: step})

    def catch_up(self, metrics: Iterable[Mapping[str, str]], samples: Iterable[Mapping[str, Any]]) -> None:
        """Tell what W&B does not have. What processes without a network have left is removed: all of it is told again,
        so that the folder of this one alone is to be synced."""
        for left in Path(self.save_dir or ".").glob(f"wandb/offline-run-*-{self.version}"):
            shutil.rmtree(left)
        rollouts = {step: list(lines) for step, lines in groupby(samples, itemgetter("step"))}
        for row in metrics:
            step, numbers = int(row["step"]), _numbers(row)
            self.log_metrics(numbers, step)
            if "loss" in numbers and step in rollouts:
                self.log_rollouts(rollouts[step], step)

    def _tell(self, place: int, row: dict[str, Any]) -> None:
        if place > self.told:
            self.experiment.log(row, step=place, commit=True)


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """What a row of metrics.csv says of its step."""
    return {name: float(value) for name, value in row.items() if name != "step" and value != ""}

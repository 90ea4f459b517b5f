"""Where a run's numbers go: metrics.csv always, TensorBoard or W&B beside it."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pytorch_lightning.loggers import Logger, WandbLogger

from esolab import results
from esolab.errors import BadInput
from esolab.mirror import Board, Wandb

SAVE_SECONDS = 2  # how old metrics.csv may be while a run goes on


class MetricsFile(Logger):
    """metrics.csv: a row per optimizer step, and one per epoch for the dev scores.

    Columns may join later; a resumed run goes on where its checkpoint stands.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows, self.columns = path, [], ["step", "epoch"]  # type: ignore[var-annotated]
        self.kept = 0  # rows already in the file
        self.torn = False  # the file may end in half a row
        self.saved = time.monotonic()

    @property
    def name(self) -> str:
        """Of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """config.yaml has them."""

    def start_at(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run will write again."""
        if self.path.exists():
            reader = csv.DictReader(results.whole_lines(self.path))
            self.rows = [r for r in reader if int(r["step"]) <= step]
            self.columns = list(reader.fieldnames or self.columns)
            self._rewrite()

    def scored(self, step: int) -> bool:
        """Whether there is a row of the scores after this step."""
        return any(int(row["step"]) == step and not row.get("loss") for row in self.rows)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; new names become new columns."""
        new = [name for name in metrics if name not in self.columns]
        self.columns += new
        self.rows.append({"step": step, **metrics})
        if new:
            self._rewrite()
        elif time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Append the rows that are not in the file yet. Raises BadInput where the disk is full."""
        if self.torn:
            self._rewrite()
            return
        self.torn = True  # until all of them are there
        with results.writing(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerows(self.rows[self.kept :])
            results.settle(file)
        self.torn, self.kept, self.saved = False, len(self.rows), time.monotonic()

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _rewrite(self) -> None:
        draft = self.path.with_suffix(".tmp")
        with results.writing(self.path):
            with draft.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(self.rows)
                results.settle(file)
            os.replace(draft, self.path)
        self.torn, self.kept, self.saved = False, len(self.rows), time.monotonic()


Make = TypeVar("Make", bound=Callable[..., Any])


def needing(ready: Callable[[], None]) -> Callable[[Make], Make]:
    """Mark what can be built with what raises BadInput where it would fail; esolab.check asks before a run begins."""

    def mark(make: Make) -> Make:
        vars(make)["ready"] = ready
        return make

    return mark


def _tensorboard_is_there() -> None:
    if find_spec("tensorboard") is None and find_spec("tensorboardX") is None:
        raise BadInput(
            "logger=tensorboard: the package is not installed; pip install 'esolab[tensorboard]', or give logger=csv"
        )


def _wandb_knows_us() -> None:
    if os.environ.get("WANDB_MODE", "online") != "online":
        return
    import wandb

    if wandb.setup().settings.mode in ("online", "shared") and not wandb.login(prompt=False, verify=False):
        raise BadInput(
            "logger=wandb: no account is set up; `wandb login` sets one up, WANDB_MODE=offline in the environment "
            "does without"
        )


@needing(_tensorboard_is_there)
def tensorboard_logger(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Event files in the run's folder."""
    return Board(folder, name="tensorboard", version="")


@needing(_wandb_knows_us)
def wandb_logger(
    folder: Path,
    config: Mapping[str, Any],
    project: str = "esolab",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
) -> Logger:
    """A W&B run named like the folder, grouped by experiment, with the whole configuration, so that runs compare. It
    goes on with the run, and begins anew where `rerun` does."""
    choices = {k: v for k, v in config["choices"].items() if v is not None}
    name = folder.name.rpartition("-")[2]
    return Wandb(
        save_dir=folder,
        project=project,
        entity=entity,
        name=folder.name,
        id=name,
        group=group or choices.get("experiments", "single"),
        tags=[*(tags or []), *(f"{k}={choices[k]}" for k in ("method", "model", "data", "reward"))],
        config=dict(config),
        job_type="train",
        resume=None if config.get("rerun") else "allow",
    )


@contextmanager
def closing(loggers: list[Logger]) -> Iterator[None]:
    """Close what has to be closed, a W&B run with the exit code that it deserves."""
    code = 1
    try:
        yield
        code = 0
    finally:
        for logger in loggers:
            logger.finalize("success" if code == 0 else "failed")
            if isinstance(logger, WandbLogger):
                import wandb

                wandb.finish(exit_code=code)

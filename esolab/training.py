"""The Lightning trainer as we use it: settings, checkpoints, and going on from one."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import PositiveInt
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import StrategyRegistry

from esolab.callbacks import AfterEpoch, KeepSamples, ShowProgress, StopAfter
from esolab.data import TrainingData
from esolab.errors import BadInput
from esolab.loggers import MetricsFile, closing
from esolab.methods.base import Method
from esolab.terminal import log


@dataclass(frozen=True)
class Trainer:
    """How training runs on the machine; see conf/trainer/default.yaml."""

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 16
    micro_batch: PositiveInt = 16
    micro_k: PositiveInt | None = None
    max_steps: PositiveInt | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | list[int] | str = 1
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    threads: PositiveInt = 1
    samples_every: PositiveInt = 25

    def __post_init__(self) -> None:
        if self.devices not in (1, "1") and not (isinstance(self.devices, list) and len(self.devices) == 1):
            raise BadInput(f"trainer.devices={self.devices}: a run uses one device for now; give 1 or [N]")
        if self.strategy not in ("auto", *StrategyRegistry.available_strategies()):
            raise BadInput(f"trainer.strategy={self.strategy}: no strategy of Lightning's; give auto, or one as ddp")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise BadInput("trainer.accelerator=gpu: torch finds no GPU here; give auto or cpu")
        if isinstance(self.devices, list) and (self._accelerator == "cpu" or self.devices[0] not in _gpus()):
            found = ", ".join(map(str, _gpus())) if self._accelerator == "gpu" else "none are used"
            raise BadInput(f"trainer.devices={self.devices}: no such GPU (here: {found}); give 1")

    def steps(self, examples: int) -> int:
        """Optimizer steps of the whole run, the length of the learning-rate schedule."""
        steps = self.epochs * self.steps_per_epoch(examples)
        return min(steps, self.max_steps) if self.max_steps else steps

    def steps_per_epoch(self, examples: int) -> int:
        """Optimizer steps of an epoch."""
        return -(-examples // self.batch_size)

    @property
    def device(self) -> torch.device:
        """Where the policy answers outside of training."""
        index = self.devices[0] if isinstance(self.devices, list) else 0
        return torch.device("cuda", index) if self._accelerator == "gpu" else torch.device("cpu")

    @property
    def _accelerator(self) -> str:
        return ("gpu" if torch.cuda.is_available() else "cpu") if self.accelerator == "auto" else self.accelerator

    def build(self, folder: Path, loggers: list[Logger], callbacks: list[pl.Callback]) -> pl.Trainer:
        """Lightning's trainer, writing below the run's folder only.

        Raises:
            BadInput: Lightning refuses these settings, such as a strategy whose package is not installed.
        """
        try:
            return pl.Trainer(
                default_root_dir=folder,
                max_epochs=self.epochs,
                max_steps=self.max_steps or -1,
                accelerator=self._accelerator,
                devices=self.devices,
                strategy=self.strategy,
                precision=self.precision,
                logger=loggers,
                callbacks=callbacks,
                enable_progress_bar=False,  # ours shows the whole run
                enable_model_summary=False,
                num_sanity_val_steps=0,
                log_every_n_steps=1,
                use_distributed_sampler=False,
            )
        except (MisconfigurationException, ImportError, TypeError, ValueError) as error:
            said = f"trainer.strategy={self.strategy} trainer.precision={self.precision}"
            raise BadInput(
                f"{said}: Lightning refuses them ({' '.join(str(error).split())}); give auto, 32-true"
            ) from error


def _gpus() -> range:
    return range(torch.cuda.device_count())


def checkpoint(folder: Path) -> ModelCheckpoint:
    """Everything needed to go on, after every epoch: checkpoints/last.ckpt."""
    return ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False
    )


def fit(
    method: Method,
    trainer: Trainer,
    data: TrainingData,
    folder: Path,
    label: str,
    dev_scores: Callable[[], dict[str, float]],
    logger: Callable[[], Logger] | None = None,
    start: Path | None = None,
    until: int | None = None,
) -> None:
    """Train, or go on from the last checkpoint of this very run; where there is none, from the one in the folder
    `start`, and with its metrics. `until` ends it after so many of the trainer's epochs.
    """
    metrics = MetricsFile(folder / "metrics.csv")
    loggers = [metrics, *([logger()] if logger else [])]
    saved = folder / "checkpoints" / "last.ckpt"
    if not saved.exists() and start is not None:
        saved = start / "checkpoints" / "last.ckpt"
        shutil.copyfile(start / "metrics.csv", metrics.path)
    done = 0
    if saved.exists():
        done = torch.load(saved, mmap=True, weights_only=True)["account"]["counts"]["steps"]
        log.info(f"going on from {saved} after step {done}")
    metrics.start_at(done)
    total = trainer.steps(len(data.rows))
    callbacks = [
        ShowProgress(total if until is None else min(total, until * trainer.steps_per_epoch(len(data.rows))), label),
        KeepSamples(folder / "samples.jsonl", trainer.samples_every),
        AfterEpoch(dev_scores),
        checkpoint(folder),
        *([] if until is None else [StopAfter(until)]),
    ]
    pl.seed_everything(data.seed, verbose=False)  # what dropout draws hangs on nothing that was built before
    with closing(loggers), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")  # a run that goes on
        warnings.filterwarnings("ignore", message=".*The dirpath has changed.*")  # one that goes on from a trunk
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        lightning = trainer.build(folder, loggers, callbacks)
        try:
            lightning.fit(method, data, ckpt_path=saved if done else None)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error

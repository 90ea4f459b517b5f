"""The Lightning trainer as we use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import PositiveInt
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import StrategyRegistry

from esolab.checkpoints import Files
from esolab.errors import BadInput


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
    save_every: PositiveInt = 200

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
                plugins=[Files(), *([SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else [])],
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

"""The Lightning trainer as we use it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import PositiveInt
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy, StrategyRegistry

from esolab import zero_strategy
from esolab.checkpoints import Files
from esolab.errors import BadInput
from esolab.zero_strategy import AsTheyAre, SharedOptimizer

SHARED = ("ddp", "fsdp", "deepspeed")  # strategies that esolab's step has been tried with on several devices


@dataclass(frozen=True)
class Trainer:
    """How training runs on the machine; see conf/trainer/default.yaml."""

    epochs: PositiveInt = 5
    batch_size: PositiveInt = 16
    micro_batch: PositiveInt = 16
    micro_k: PositiveInt | None = None
    gradient_checkpointing: bool = False
    max_steps: PositiveInt | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | list[int] | str = 1
    nodes: PositiveInt = 1
    strategy: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    threads: PositiveInt = 1
    samples_every: PositiveInt = 25
    save_every: PositiveInt = 200

    def __post_init__(self) -> None:
        if isinstance(self.devices, str) and self.devices != "auto" and not self.devices.isdecimal():
            raise BadInput(f"trainer.devices={self.devices}: give a number of devices, a list of GPUs, or auto")
        if self.ranks < 1:
            raise BadInput(f"trainer.devices={self.devices}: give at least one device")
        if self.strategy.startswith("deepspeed"):
            zero_strategy.refuse(self.strategy, self.kind, self.size, self.devices, self.precision)
        if self.strategy not in (*SHARED, "auto") and self.size > 1:
            raise BadInput(
                f"trainer.strategy={self.strategy}: not tried on several devices; give {', '.join(SHARED)}, or "
                "trainer.devices=1"
            )
        if self.strategy not in ("auto", *StrategyRegistry.available_strategies()):
            raise BadInput(f"trainer.strategy={self.strategy}: no strategy of Lightning's; give auto, or one as ddp")
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise BadInput("trainer.accelerator=gpu: torch finds no GPU here; give auto or cpu")
        if self.kind == "gpu" and not isinstance(self.devices, list) and self.ranks > len(_gpus()):
            raise BadInput(f"trainer.devices={self.devices}: there are {len(_gpus())} GPUs here; give at most so many")
        if isinstance(self.devices, list) and (self.kind == "cpu" or not set(self.devices) <= set(_gpus())):
            found = ", ".join(map(str, _gpus())) if self.kind == "gpu" else "none are used"
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
        place = int(os.environ.get("LOCAL_RANK", "0"))
        index = self.devices[place] if isinstance(self.devices, list) else place
        return torch.device("cuda", index) if self.kind == "gpu" else torch.device("cpu")

    @property
    def ranks(self) -> int:
        """How many processes on this machine, one for each device."""
        if isinstance(self.devices, list):
            return len(self.devices)
        return (len(_gpus()) if self.kind == "gpu" else 1) if self.devices == "auto" else int(self.devices)

    @property
    def size(self) -> int:
        """How many processes in all."""
        return self.ranks * self.nodes

    @property
    def narrow(self) -> bool:
        """Whether weights are in bf16, and nothing else is. Lightning's own way would make new tensors bf16, too:
        rewards, advantages, temperatures."""
        return self.precision == "bf16-true"

    @property
    def kind(self) -> str:
        """gpu or cpu."""
        return ("gpu" if torch.cuda.is_available() else "cpu") if self.accelerator == "auto" else self.accelerator

    def build(self, folder: Path, loggers: list[Logger], callbacks: list[pl.Callback]) -> pl.Trainer:
        """Lightning's trainer, writing below the run's folder only.

        Raises:
            BadInput: Lightning refuses these settings, such as a strategy whose package is not installed.
        """
        os.environ.setdefault("OMP_NUM_THREADS", str(self.threads))  # else Lightning sets what threads there are
        try:
            return pl.Trainer(
                default_root_dir=folder,
                max_epochs=self.epochs,
                max_steps=self.max_steps or -1,
                accelerator=self.kind,
                devices=self.devices if isinstance(self.devices, list) else self.ranks,
                num_nodes=self.nodes,
                strategy=self._strategy(),
                logger=loggers,
                callbacks=callbacks,
                **self._precision(),
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

    def _strategy(self) -> str | Strategy:
        """What Lightning is told: FSDP2 by its own name, nothing to share out on one device; DeepSpeed as we use it."""
        if self.strategy == "fsdp":
            return "auto" if self.size == 1 else ModelParallelStrategy(self.size, 1, save_distributed_checkpoint=False)
        return SharedOptimizer(self.narrow, self.micro_batch) if self.strategy == "deepspeed" else self.strategy

    def _precision(self) -> dict[str, Any]:
        """What Lightning is told of precision, and what else is plugged into it."""
        plugins = [Files(), _environment()]
        if self.strategy == "deepspeed":
            return {"plugins": [*plugins, AsTheyAre("32-true")]}
        return {"precision": "32-true" if self.narrow else self.precision, "plugins": plugins}


def _gpus() -> range:
    return range(torch.cuda.device_count())


def _environment() -> ClusterEnvironment:
    """Who has started the ranks: torchrun, or esolab.launch. Never SLURM, whose signals and checkpoints are ours."""
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()

"""The Lightning trainer as we use it: settings, loggers, progress, checkpoints, and what is written while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import PositiveInt
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import StrategyRegistry

from esolab.errors import BadInput
from esolab.methods.base import Method
from esolab.methods.onpolicy import OnPolicy
from esolab.terminal import progress


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
        steps = self.epochs * -(-examples // self.batch_size)
        return min(steps, self.max_steps) if self.max_steps else steps

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


class ShowProgress(pl.Callback):
    """One bar for all steps of a run, with the time left."""

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label = total, label

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where training stands."""
        self.bar = progress()
        self.bar.start()
        self.task = self.bar.add_task(f"{self.label}: train", total=self.total, completed=trainer.global_step, note="")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """One step done."""
        sampling = ", sampling" if isinstance(pl_module, OnPolicy) and pl_module.active else ""
        note = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{sampling}"
        self.bar.update(self.task, completed=trainer.global_step, note=note)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        if hasattr(self, "bar"):
            self.bar.stop()


class AfterEpoch(pl.Callback):
    """Call `score` when an epoch has ended and log what it returns."""

    def __init__(self, score: Callable[[], Mapping[str, float]]) -> None:
        self.score = score

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the policy as it now is."""
        assert isinstance(pl_module, Method)
        if trainer.is_global_zero:
            pl_module.record(dict(self.score()))


class KeepSamples(pl.Callback):
    """Two prompts with their k answers, every so many sampled steps, to samples.jsonl and to W&B as a growing table."""

    columns = ("step", "epoch", "id", "prompt", "reference", "temperature", "response", "reward", "finished")

    def __init__(self, path: Path, every: int, prompts: int = 2) -> None:
        self.path, self.every, self.prompts, self.seen = path, every, prompts, 0
        self.table: Any = None

    def state_dict(self) -> dict[str, Any]:
        """How many sampled steps it has seen."""
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seen = state_dict["seen"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what came after the checkpoint that a resumed run goes on from."""
        assert isinstance(pl_module, Method)
        if self.path.exists() and trainer.is_global_zero:
            rows = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [row for row in rows if json.loads(row)["step"] <= pl_module.counts["steps"]]
            self.path.write_text("".join(kept), encoding="utf-8")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Write the rollout of this step, if there was one and it is its turn."""
        assert isinstance(pl_module, Method)
        if not isinstance(pl_module, OnPolicy) or pl_module.last_rollout is None or not trainer.is_global_zero:
            return
        (batch, rollout), pl_module.last_rollout = pl_module.last_rollout, None
        self.seen += 1
        if (self.seen - 1) % self.every:
            return
        step, epoch = pl_module.counts["steps"], trainer.current_epoch
        rows = [
            (step, epoch, batch.ids[b], batch.prompt_texts[b], batch.reference_texts[b], *answer)
            for b in range(min(self.prompts, len(batch)))
            for answer in zip(
                rollout.temperatures[b].tolist(),
                rollout.texts[b],
                rollout.rewards[b].tolist(),
                rollout.finished[b].tolist(),
                strict=True,
            )
        ]
        with self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(zip(self.columns, row, strict=True)), ensure_ascii=False) + "\n")
        self.to_wandb(trainer, rows)

    def to_wandb(self, trainer: pl.Trainer, rows: list[tuple[Any, ...]]) -> None:
        """Add rows to the run's table of rollouts."""
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":
                import wandb

                self.table = self.table or wandb.Table(columns=list(self.columns), log_mode="INCREMENTAL")
                for row in rows:
                    self.table.add_data(*row)
                logger.experiment.log({"rollouts": self.table})  # type: ignore[attr-defined]


def checkpoint(folder: Path) -> ModelCheckpoint:
    """Everything needed to go on, after every epoch: checkpoints/last.ckpt."""
    return ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False
    )

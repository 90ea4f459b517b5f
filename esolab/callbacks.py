"""What happens while a run trains: the bar, dev scores, and rollouts that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from esolab import ranks, results
from esolab.methods.base import Method
from esolab.methods.onpolicy import OnPolicy
from esolab.mirror import Wandb
from esolab.signals import Told
from esolab.terminal import progress


class ShowProgress(pl.Callback):
    """One bar for all steps of a run, with the time left."""

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label = total, label

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where training stands."""
        self.bar = progress(disable=not trainer.is_global_zero)
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


class AfterEpoch(Checkpoint):
    """Score the policy when an epoch has ended and log what `score` returns; first that of the epoch `owed`, where the
    process before has ended between its checkpoint and that.

    A Checkpoint, as Lightning calls those last, in their order: the epoch is saved by then, and a run that is `told` to
    end does so amid its scores. Not so on several devices: one that ended first would leave the others waiting.
    """

    def __init__(self, score: Callable[[], Mapping[str, float]], told: Told, owed: int | None = None) -> None:
        self.score, self.told, self.owed = score, told, owed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score what is owed: the weights of the checkpoint are there, and where it is the last, no step follows."""
        if not trainer.strategy.restore_checkpoint_after_setup:
            self._pay(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The same for strategies that load the weights later than that, as fsdp."""
        if trainer.strategy.restore_checkpoint_after_setup:
            self._pay(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the policy as it now is."""
        assert isinstance(pl_module, Method)
        self.told.patient = ranks.size() > 1
        try:
            if not self.told or self.told.patient:
                self._score(trainer, pl_module, trainer.current_epoch)
        except KeyboardInterrupt:
            self.told.end(pl_module.account.steps)
        self.told.patient = True
        if ranks.anywhere(bool(self.told)):
            self.told.end(pl_module.account.steps)

    def _pay(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.owed is not None:
            self._score(trainer, pl_module, self.owed)
            self.owed = None

    def _score(self, trainer: pl.Trainer, pl_module: pl.LightningModule, epoch: int) -> None:
        assert isinstance(pl_module, Method)
        scores = self.score()  # all ranks answer, the first has the loggers
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": float(epoch), **scores}, step=pl_module.account.steps)
            logger.save()


class KeepSamples(pl.Callback):
    """Two prompts with their k answers, every so many sampled steps, to samples.jsonl and to W&B as a growing table."""

    columns = ("step", "epoch", "id", "prompt", "reference", "temperature", "response", "reward", "finished")

    def __init__(self, path: Path, every: int, prompts: int = 2) -> None:
        self.path, self.every, self.prompts, self.seen = path, every, prompts, 0

    def state_dict(self) -> dict[str, Any]:
        """How many sampled steps it has seen."""
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seen = state_dict["seen"]

    def start_at(self, step: int) -> list[dict[str, Any]]:
        """Drop the lines after `step`, which a resumed run will write again; those that are left."""
        if not self.path.exists():
            return []
        kept = [row for row in results.whole_lines(self.path) if json.loads(row)["step"] <= step]
        results.write_text(self.path, "".join(kept))
        return [json.loads(row) for row in kept]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Write the rollout of this step, if there was one and it is its turn."""
        assert isinstance(pl_module, Method)
        if not isinstance(pl_module, OnPolicy) or pl_module.last_rollout is None or not trainer.is_global_zero:
            return
        (batch, rollout), pl_module.last_rollout = pl_module.last_rollout, None
        self.seen += 1
        if (self.seen - 1) % self.every:
            return
        step, epoch = pl_module.account.steps, trainer.current_epoch
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
        lines = [dict(zip(self.columns, row, strict=True)) for row in rows]
        results.append(self.path, lines)
        for logger in trainer.loggers:
            if isinstance(logger, Wandb):
                logger.log_rollouts(lines, step)

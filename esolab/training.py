"""The Lightning trainer as we use it: settings, loggers, progress, checkpoints, and what is written while it runs."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

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

SAVE_SECONDS = 2  # how old metrics.csv may be while a run goes on


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


class MetricsFile(Logger):
    """metrics.csv: a row per optimizer step, and one per epoch for the dev scores.

    Columns may join later; a resumed run goes on where its checkpoint stands.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows, self.columns = path, [], ["step", "epoch"]  # type: ignore[var-annotated]
        self.kept = 0  # rows already in the file
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
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.rows = [r for r in reader if int(r["step"]) <= step]
                self.columns = list(reader.fieldnames or self.columns)
            self._rewrite()

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
        """Append the rows that are not in the file yet."""
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerows(self.rows[self.kept :])
        self.kept, self.saved = len(self.rows), time.monotonic()

    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _rewrite(self) -> None:
        draft = self.path.with_suffix(".tmp")
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(draft, self.path)
        self.kept, self.saved = len(self.rows), time.monotonic()


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
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


@needing(_wandb_knows_us)
def wandb_logger(
    folder: Path,
    config: Mapping[str, Any],
    project: str = "esolab",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
) -> Logger:
    """A W&B run named like the folder, grouped by experiment, with the whole configuration, so that runs compare."""
    from pytorch_lightning.loggers import WandbLogger

    choices = {k: v for k, v in config["choices"].items() if v is not None}
    return WandbLogger(
        save_dir=folder,
        project=project,
        entity=entity,
        name=folder.name,
        id=folder.name.rpartition("-")[2],
        group=group or choices.get("experiments", "single"),
        tags=[*(tags or []), *(f"{k}={choices[k]}" for k in ("method", "model", "data", "reward"))],
        config=dict(config),
        job_type="train",
        resume="allow",
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
            if type(logger).__name__ == "WandbLogger":
                import wandb

                wandb.finish(exit_code=code)


def checkpoint(folder: Path) -> ModelCheckpoint:
    """Everything needed to go on, after every epoch: checkpoints/last.ckpt."""
    return ModelCheckpoint(
        dirpath=folder / "checkpoints", filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False
    )

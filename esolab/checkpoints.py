"""Checkpoints: everything that training needs to go on, in files that are whole or not there, the last two of them."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from esolab.errors import BadInput
from esolab.methods.base import Method
from esolab.results import differing
from esolab.terminal import log

LAST, PREVIOUS = "checkpoints/last.ckpt", "checkpoints/previous.ckpt"  # in the folder of a run


class Files(TorchCheckpointIO):
    """How Lightning writes a checkpoint: to a draft that takes its place when it is whole and on disk; the one that was
    there stays beside it as `previous.ckpt`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write it. Raises BadInput where the disk is full or cannot be written; what was there is left as it was."""
        target = Path(path)
        draft = target.with_name(f"{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch makes the latter of what a full disk says
            draft.unlink(missing_ok=True)
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise BadInput(
                f"outputs: cannot write {str(target)!r} ({reason}); the checkpoint before it is whole: make room, and "
                "the same command goes on from there"
            ) from error
        if target.exists():
            os.replace(target, target.with_name(Path(PREVIOUS).name))
        os.replace(draft, target)


def begun(folder: Path) -> bool:
    """Whether a run has left a checkpoint, whole or not."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def latest(folder: Path) -> Path | None:
    """The last whole checkpoint of a run; None where there is none. One that is torn is named, and left out."""
    for file in (folder / LAST, folder / PREVIOUS):
        if file.exists():
            if whole(file):
                return file
            log.warning(f"{file}: torn or damaged, and not used")
    return None


def whole(file: Path) -> bool:
    """Whether every part of a checkpoint has the checksum that was written with it."""
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):  # whatever a broken directory leads to
        return False


def step_of(file: Path) -> int:
    """The optimizer step after which a checkpoint was written.

    Raises:
        BadInput: it holds more than weights, numbers and words, such as code, or is none of ours.
    """
    try:
        return int(torch.load(file, mmap=True, weights_only=True)["account"]["counts"]["steps"])
    except (pickle.UnpicklingError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{file}: no checkpoint of esolab's, and nothing of it was run ({reason}); remove it") from error


class Checkpoints(Checkpoint):
    """Write a checkpoint every so many steps and at the end of each epoch; and, where signals have been `told`, after
    the step that was being made, which ends the run.

    `config` goes into each. One of another configuration is refused, unless it is what several runs begin with
    (`shared`).
    """

    def __init__(
        self, folder: Path, every: int, config: Mapping[str, Any], told: Sequence[signal.Signals], shared: bool
    ) -> None:
        self.path, self.every, self.config, self.told, self.shared = folder / LAST, every, config, told, shared

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say whose it is."""
        checkpoint["config"] = dict(self.config)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse what is not ours. Raises BadInput with the settings that differ."""
        if not self.shared and (keys := differing(self.config, checkpoint["config"])):
            raise BadInput(
                f"{self.path}: of a run with other settings ({', '.join(keys)}); put it back where it belongs, or "
                "rerun=true begins anew"
            )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Write one where it is time to. The end of an epoch writes its own, after the dev scores."""
        assert isinstance(pl_module, Method)
        steps = pl_module.counts["steps"]
        if (self.told or steps % self.every == 0) and not trainer.fit_loop.epoch_loop._is_training_done:
            self.save(trainer, steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write one."""
        assert isinstance(pl_module, Method)
        self.save(trainer, pl_module.counts["steps"])

    def save(self, trainer: pl.Trainer, steps: int) -> None:
        """Write one now. Raises KeyboardInterrupt where the run has been told to end."""
        trainer.save_checkpoint(self.path)
        if self.told:
            log.info(f"{self.told[0].name}: stopped after step {steps}, which is saved")
            raise KeyboardInterrupt


@contextmanager
def signals() -> Iterator[list[signal.Signals]]:
    """Inside, Ctrl-C, SIGTERM and SIGUSR1 are taken down, for a callback to end the run after a checkpoint; a second
    Ctrl-C ends it at once. In a thread there is nothing to take down."""
    told: list[signal.Signals] = []

    def take_down(number: int, frame: object) -> None:
        again = signal.SIGINT in told
        told.append(signal.Signals(number))
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            log.info("stopping after this step; Ctrl-C again stops at once, and loses what was not saved")

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {sign: signal.signal(sign, take_down) for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield told
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)

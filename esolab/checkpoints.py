"""Checkpoints: everything that training needs to go on, in files that are whole or not there, the last two of them."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from esolab import ranks
from esolab.errors import BadInput, out_of_memory
from esolab.identity import differing
from esolab.methods.base import Method
from esolab.signals import Told
from esolab.terminal import log

LAST, PREVIOUS = "checkpoints/last.ckpt", "checkpoints/previous.ckpt"  # in the folder of a run
TORN = ".torn"  # in place of .ckpt, what a damaged one ends with
FOLDER = 0x10  # of a part of a zip file: torch then leaves its memory as it is, and zipfile reads it


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
            if out_of_memory(error):
                raise
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


def latest(folder: Path, clear: bool = False) -> Path | None:
    """The last whole checkpoint of a run; None where there is none. One that is torn is named, and `clear`
    puts it out of the way: the next to be written would keep it, as the one before, in place of a whole one.

    Raises:
        BadInput: one cannot be read, which does not say that it is torn.
    """
    for file in (folder / LAST, folder / PREVIOUS):
        if file.exists():
            if whole(file):
                return file
            log.warning(f"{file}: torn or damaged, and not used")
            if clear:
                os.replace(file, file.with_suffix(TORN))
    return None


def clear_torn(folder: Path) -> None:
    """Remove what `latest` has put out of the way: the run has ended."""
    for file in (folder / LAST, folder / PREVIOUS):
        file.with_suffix(TORN).unlink(missing_ok=True)


def whole(file: Path) -> bool:
    """Whether every part of a checkpoint has the checksum that was written with it, and torch finds them.

    Raises:
        BadInput: it cannot be read, or there is too little memory to: that does not say that it is torn.
    """
    try:
        with zipfile.ZipFile(file) as parts:
            if parts.testzip() is not None or any(part.external_attr & FOLDER for part in parts.infolist()):
                return False
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # a broken directory leads to no place in the file
            raise _unread(file, error) from error
        return False
    except Exception:  # whatever else a broken directory leads to
        return False
    try:
        torch.load(file, mmap=True, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:  # none of ours, but as it was written
        return True
    except Exception as error:
        if "PytorchStreamReader" not in str(error):
            raise _unread(file, error) from error
        return False
    return True


def _unread(file: Path, error: Exception) -> BadInput:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
    return BadInput(
        f"{file}: cannot be read ({reason}); once it can, the same command goes on from it; moved away, from the one "
        "before"
    )


def opened(file: Path) -> tuple[int, dict[str, Any], set[str]]:
    """The optimizer step after which a checkpoint was written, the configuration of its run, and the names of its
    weights.

    Raises:
        BadInput: it holds more than weights, numbers and words, such as code, or is none of ours.
    """
    try:
        found = torch.load(file, mmap=True, weights_only=True, map_location="cpu")
        return int(found["account"]["counts"]["steps"]), dict(found["config"]), set(found["state_dict"])
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError) as error:
        code = isinstance(error, pickle.UnpicklingError)  # torch's message explains how to run it
        reason = "more than weights, numbers and words" if code else str(error).splitlines()[0]
        raise BadInput(f"{file}: no checkpoint of esolab's, and nothing of it was run ({reason}); remove it") from error


def refuse_other(file: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises BadInput where a checkpoint is of a run with other settings, with their keys."""
    if keys := differing(ours, theirs):
        raise BadInput(
            f"{file}: of a run with other settings ({', '.join(keys)}); put it back where it belongs, or rerun=true "
            "begins anew"
        )


def refuse_partial(file: Path, saved: set[str], method: Method) -> None:
    """Raises BadInput where weights that are trained are not among those of a checkpoint."""
    if lacking := sorted(method.state_dict().keys() - set(method.frozen()) - saved):
        raise BadInput(
            f"{file}: lacks {len(lacking)} weights that are trained, as {lacking[0]}; rerun=true begins anew"
        )


class Checkpoints(Checkpoint):
    """Write a checkpoint every so many steps and at the end of each epoch; and, where signals have `told` the run to
    end, after the step that was being made, which ends it. `config` goes into each."""

    def __init__(self, folder: Path, every: int, config: Mapping[str, Any], told: Told) -> None:
        self.path, self.every, self.config, self.told = folder / LAST, every, config, told
        self.ending = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say whose it is."""
        checkpoint["config"] = dict(self.config)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hear signals in place of Lightning, which would speak to the other ranks from inside of the handler."""
        self.told.listen()
        self.told.patient = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Write one where it is time to. The end of an epoch writes its own, before the dev scores."""
        assert isinstance(pl_module, Method)
        steps, self.ending = pl_module.account.steps, ranks.anywhere(bool(self.told))
        if (self.ending or steps % self.every == 0) and not trainer.fit_loop.epoch_loop._is_training_done:
            self.save(trainer, steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write one."""
        assert isinstance(pl_module, Method)
        self.ending = ranks.anywhere(bool(self.told))
        self.save(trainer, pl_module.account.steps)

    def save(self, trainer: pl.Trainer, steps: int) -> None:
        """Write one now. Raises KeyboardInterrupt where the run has been told to end."""
        trainer.save_checkpoint(self.path)
        if self.ending:
            self.told.end(steps)

"""Training a run to its end, from wherever it stands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger

from esolab.assembly import Assembly
from esolab.callbacks import AfterEpoch, KeepSamples, ShowProgress, StopAfter
from esolab.checkpoints import LAST, Checkpoints, latest, signals, step_of
from esolab.loggers import MetricsFile, closing
from esolab.terminal import log

QUIETED = (  # warnings of Lightning's that say nothing here
    (".*does not have many workers.*", UserWarning),
    (".*exists and is not empty.*", UserWarning),  # a run that goes on
    (".*your dataloader is not resumable.*", UserWarning),  # its order is told where to begin
    (".*LeafSpec.*", FutureWarning),
)


def fit(
    run: Assembly,
    folder: Path,
    logger: Callable[[], Logger] | None = None,
    start: Path | None = None,
    until: int | None = None,
    label: str | None = None,
) -> None:
    """Train, or go on from the last whole checkpoint of this very run; where there is none, from the one in the folder
    `start`, and with its metrics. `until` ends it after so many of the trainer's epochs. `label` stands before the bar.

    Raises:
        BadInput: a checkpoint is none of this run's, or one cannot be written; the last one that was is whole.
        KeyboardInterrupt: by Ctrl-C, SIGTERM or SIGUSR1, after a checkpoint.
    """
    metrics, data, per_epoch = (
        MetricsFile(folder / "metrics.csv"),
        run.data,
        run.trainer.steps_per_epoch(len(run.train)),
    )
    loggers = [metrics, *([logger()] if logger else [])]
    saved = latest(folder)
    if saved is None and start is not None:
        saved = start / LAST
        shutil.copyfile(start / "metrics.csv", metrics.path)
    if saved is not None:
        data.steps = step_of(saved)
        log.info(f"going on from {saved} after step {data.steps}")
    metrics.start_at(data.steps)
    total = run.trainer.steps(len(run.train))
    shared = saved is not None and saved.parent.parent != folder
    with signals() as told, closing(loggers), warnings.catch_warnings():
        for message, category in QUIETED:
            warnings.filterwarnings("ignore", message=message, category=category)
        callbacks = [
            ShowProgress(total if until is None else min(total, until * per_epoch), label or run.label),
            KeepSamples(folder / "samples.jsonl", run.trainer.samples_every),
            AfterEpoch(run.dev_scores),
            Checkpoints(folder, run.trainer.save_every, run.config, told, shared),
            *([] if until is None else [StopAfter(until)]),
        ]
        pl.seed_everything(data.seed, verbose=False)  # what dropout draws hangs on nothing that was built before
        lightning = run.trainer.build(folder, loggers, callbacks)
        try:
            lightning.fit(run.method, data, ckpt_path=saved if data.steps else None, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error
        finally:
            if signal.SIGUSR1 in told and "SLURM_JOB_ID" in os.environ:
                subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)

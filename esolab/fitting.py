"""Training a run to its end, from wherever it stands."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from esolab import ranks, results
from esolab.assembly import Assembly
from esolab.callbacks import AfterEpoch, KeepSamples, ShowProgress
from esolab.checkpoints import Checkpoints, latest, opened, refuse_other, refuse_partial
from esolab.identity import HOW, flat
from esolab.loggers import MetricsFile, closing
from esolab.mirror import Mirror
from esolab.signals import Told
from esolab.terminal import log
from esolab.training import Trainer

TRUNK = "trunk.json"  # what a trunk says of itself once it is finished, kept by the runs that begin with it
MANY = 10_000  # rows, which take a logger some time
QUIETED = (  # warnings of Lightning's that say nothing here
    (".*does not have many workers.*", UserWarning),
    (".*exists and is not empty.*", UserWarning),  # a run that goes on
    (".*your dataloader is not resumable.*", UserWarning),  # its order is told where to begin
    (".*LeafSpec.*", FutureWarning),
    (".*all_gather_into_tensor.*", FutureWarning),  # DeepSpeed's call of torch
)


def fit(
    run: Assembly,
    folder: Path,
    told: Told,
    logger: Callable[[], Logger] | None = None,
    start: Path | None = None,
    until: int | None = None,
    label: str | None = None,
) -> None:
    """Train, or go on from the last whole checkpoint of this very run; where there is none, from that in the folder
    `start`, and with its metrics. `until` ends it after so many of the trainer's epochs, `told` after a checkpoint.
    `label` stands before the bar.

    Raises:
        BadInput: a checkpoint is none of this run's, or one cannot be written; the last one that was is whole.
        KeyboardInterrupt: as `told`.
    """
    # Lightning takes it from SLURM, which may have started runs side by side
    rank_zero_only.rank = ranks.number()  # type: ignore[attr-defined]
    trainer = run.trainer if until is None else replace(run.trainer, epochs=until)
    metrics, data = MetricsFile(folder / "metrics.csv"), run.data
    loggers = [metrics, *([logger()] if logger else [])] if ranks.lead() else []
    saved = ranks.gathered(_where_it_stands(folder, start, metrics) if ranks.lead() else None)[0]
    if saved is not None:
        data.steps = _taken_up(saved, folder, run)
    samples, kept = KeepSamples(folder / "samples.jsonl", trainer.samples_every), []
    if ranks.lead():
        metrics.start_at(data.steps)
        kept = samples.start_at(data.steps)
    owed = ranks.gathered(_owed(trainer, len(run.train), metrics, data.steps) if ranks.lead() else None)[0]
    with closing(loggers), warnings.catch_warnings():
        for message, category in QUIETED:
            warnings.filterwarnings("ignore", message=message, category=category)
        for mirror in loggers[1:]:
            if isinstance(mirror, Mirror):
                if len(metrics.rows) > MANY:
                    log.info(f"{len(metrics.rows):,} rows of metrics.csv are told to {type(mirror).__name__}")
                mirror.catch_up(metrics.rows, kept)
        callbacks = [
            ShowProgress(trainer.steps(len(run.train)), label or run.label),
            samples,
            Checkpoints(folder, trainer.save_every, run.config, told),
            AfterEpoch(run.dev_scores, told, owed),
        ]
        # what dropout draws hangs on nothing that was built before
        pl.seed_everything(data.seed + ranks.number(), verbose=False)
        lightning = trainer.build(folder, loggers, callbacks)
        try:
            lightning.fit(run.method, data, ckpt_path=saved if data.steps else None, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error
        finally:
            told.patient = False


def _where_it_stands(folder: Path, start: Path | None, metrics: MetricsFile) -> Path | None:
    """The checkpoint to go on from, with the metrics up to there, and TRUNK where it is another folder's."""
    if (own := latest(folder, clear=True)) is not None:
        return own
    (folder / TRUNK).unlink(missing_ok=True)
    shared = None if start is None else latest(start)
    if start is not None and shared is None:
        (start / TRUNK).unlink(missing_ok=True)  # it is not finished any more, and will be trained again
    if start is not None and shared is not None:
        shutil.copyfile(start / "metrics.csv", metrics.path)
        said = json.loads((start / TRUNK).read_text(encoding="utf-8"))
        results.write_json(folder / TRUNK, {"hash": start.name, **said})
    return shared


def _taken_up(saved: Path, folder: Path, run: Assembly) -> int:
    """The step to go on after, of a checkpoint that is this run's in its `folder`, or of a trunk. Raises BadInput where
    it is neither."""
    step, theirs, weights = opened(saved)
    if saved.parent.parent == folder:
        refuse_other(saved, theirs, run.config)
    before, now = dict(flat(theirs)), dict(flat(run.config))
    other = [f"{key}={now.get(key)} in place of {before.get(key)}" for key in HOW if now.get(key) != before.get(key)]
    refuse_partial(saved, weights, run.method)
    log.info(f"going on from {saved} after step {step}{' with ' * bool(other)}{', '.join(other)}")
    return step


def _owed(trainer: Trainer, examples: int, metrics: MetricsFile, step: int) -> int | None:
    """The epoch that has ended with this step and is not scored yet; None where there is none."""
    each, total = trainer.steps_per_epoch(examples), trainer.steps(examples)
    ended = step > 0 and (step % each == 0 or step == total)
    return (step - 1) // each if ended and not metrics.scored(step) else None


def began_with(folder: Path) -> dict[str, Any] | None:
    """What the trunk that a run began with says of itself, with its hash; None for a run that was trained alone."""
    file = folder / TRUNK
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

"""Where a run goes, whether it has begun, and what it will write there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esolab import inputs, trunks
from esolab.assembly import Assembly, Place
from esolab.checkpoints import latest, opened
from esolab.errors import BadInput
from esolab.methods.onpolicy import OnPolicy
from esolab.methods.reward_model import RewardModel
from esolab.preflight.memory import gigabytes


def heading(config: Mapping[str, Any], place: Place) -> list[str]:
    """What is asked, and where it goes.

    Raises:
        BadInput: nothing can be written there.
    """
    above = _there(place.folder)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(
            f"outputs: cannot write {str(place.folder)!r} ({above} is no folder to write to); give outputs=DIR"
        )
    asked = ", ".join(f"{key}={config['choices'][key]}" for key in ("method", "model", "data", "reward", "protocol"))
    return [f"{asked}, seed={config['seed']}", f"folder: {place.folder} ({state(config, place)})"]


def state(config: Mapping[str, Any], place: Place) -> str:
    """Whether the run is new, done, or goes on."""
    if config["rerun"]:
        return "begins anew: rerun=true"
    if (place.folder / "result.json").exists():
        return "already done; rerun=true repeats it"
    if saved := latest(place.folder):
        return f"goes on from step {opened(saved)[0]}"
    if trunk := _trunk(config, place):
        return f"new; its first {trunks.shared_epochs(config)} epochs are those of {trunk}"
    return "new"


def done(config: Mapping[str, Any], place: Place, run: Assembly) -> int:
    """Optimizer steps that the run need not make again; 0 of one that is done, as it would be repeated."""
    if config["rerun"] or (place.folder / "result.json").exists():
        return 0
    if saved := latest(place.folder):
        return opened(saved)[0]
    shared = trunks.shared_epochs(config) if _trunk(config, place) else 0
    return shared * run.trainer.steps_per_epoch(len(run.train))


def _trunk(config: Mapping[str, Any], place: Place) -> Path | None:
    return trunks.find(config, place) if config["trunks"] and not config["rerun"] else None


def written(run: Assembly, place: Place, steps: int) -> list[str]:
    """The files of the run with their sizes, those of weights exact to their headers; what disk is free."""
    weights = sum(w.nbytes for w in run.method.policy.parameters())
    learned = sum(w.nbytes for w in run.method.parameters() if w.requires_grad)
    answers = run.evaluation.answers(run.tests)
    kept = "reward_model" if isinstance(run.method, RewardModel) else "policy"
    samples = ["samples.jsonl"] if isinstance(run.method, OnPolicy) else []
    every = f"every {run.trainer.save_every} steps and after each epoch"
    free = shutil.disk_usage(_there(place.folder)).free
    needed = weights + 9 * learned  # three checkpoints while one is written
    lines = [
        f"writes: {kept}/ {gigabytes(weights)}; checkpoints/ 2 x {gigabytes(3 * learned)}, {every}",
        f"  metrics.csv, {steps:,} rows and one an epoch; predictions.jsonl, {answers:,} lines; "
        + ", ".join([*samples, "config.yaml", inputs.FILE, "result.json", "run.log"]),
    ]
    short = f"; not enough: it takes up to {gigabytes(needed)}" if free < needed else ""
    return [*lines, f"  disk: {gigabytes(free)} free{short}"]


def _there(folder: Path) -> Path:
    """The nearest of a folder and those above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())

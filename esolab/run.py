"""One run, top to bottom: configuration in, a folder that explains itself out."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from esolab import results, trunks
from esolab.assembly import Assembly, Place, assemble, locate
from esolab.check import build
from esolab.methods.reward_model import RewardModel, finish
from esolab.record import record
from esolab.terminal import console, log, logged
from esolab.training import fit

LEFT_BY_A_RUN = ("result.json", "metrics.csv", "samples.jsonl", "predictions.jsonl", "checkpoints/last.ckpt")


def run(config: dict[str, Any]) -> Path:
    """Do the run that a resolved configuration describes, unless it is done; returns its folder.

    Raises:
        BadInput: the data, the model or the folder cannot be used.
    """
    place = locate(config)
    with results.locked(place.folder):
        if (place.folder / "result.json").exists() and not config["rerun"]:
            console.print(f"already done (rerun=true repeats it): {place.folder}", highlight=False, soft_wrap=True)
            return place.folder
        with logged(place.folder / "run.log"):
            _run(config, place)
    return place.folder


def _run(config: dict[str, Any], place: Place) -> None:
    begun, folder = time.perf_counter(), place.folder
    if config["rerun"]:
        for name in LEFT_BY_A_RUN:
            (folder / name).unlink(missing_ok=True)
    results.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    run = assemble(config, place)
    before = run.score(f"{run.label}: before training")[0] if run.evaluation.before else None
    logger = partial(build(config["logger"]), folder, config) if config["logger"] else None
    own = (folder / trunks.CHECKPOINT).exists()
    trunk = trunks.find(config, place) if config["trunks"] and not config["rerun"] and not own else None
    fit(run.method, run.trainer, run.data, folder, run.label, run.dev_scores, logger, trunk)
    run.method.policy.to(run.trainer.device)  # Lightning hands it back on the CPU
    if getattr(run.method, "lam", 0) > 0 and not run.method.rewards:
        log.warning(
            f"{run.label}: no epoch was active (see method.active_epochs, trainer.epochs, trainer.max_steps): "
            "this is SFT"
        )
    scores, lines = run.score(f"{run.label}: test")
    results.write_lines(folder / "predictions.jsonl", lines)
    result = record(run, place, scores, before, trunk, time.perf_counter() - begun)
    _save(run, folder, result)
    results.write_json(folder / "result.json", result)
    log.info(f"{run.label}: finished in {result['timing']['wall_seconds']:.0f} s")


def _save(run: Assembly, folder: Path, result: dict[str, Any]) -> None:
    """Leave what was trained: policy/, or reward_model/."""
    if isinstance(run.method, RewardModel):
        replies = (row.example.reference for row in run.train)
        inner = finish(run.method.policy.network, run.tokenizer, replies, run.corpus.max_prompt)
        results.save_reward_model(run.method.policy.network, inner, folder / "reward_model", result)
    else:
        results.save_policy(run.method.policy, run.tokenizer, folder / "policy", result)

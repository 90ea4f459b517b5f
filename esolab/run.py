"""One run, top to bottom: configuration in, a folder that explains itself out."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from esolab import inputs, ranks, results, sharding, trunks
from esolab.answered import files
from esolab.assembly import Assembly, Place, assemble, locate
from esolab.check import build
from esolab.checkpoints import LAST, PREVIOUS, clear_torn
from esolab.fitting import fit
from esolab.jobs import RERUN, life, started_again
from esolab.lora import merge
from esolab.methods.reward_model import RewardModel, finish
from esolab.record import record
from esolab.shortage import explained
from esolab.signals import Told, signals
from esolab.terminal import console, log, logged

PARTIAL = "predictions.part.jsonl"  # answers of a run that is not done
LEFT_BY_A_RUN = ("result.json", "metrics.csv", "samples.jsonl", "predictions.jsonl", LAST, PREVIOUS)


def run(config: dict[str, Any]) -> Path:
    """Do the run that a resolved configuration describes, unless it is done; returns its folder.

    Raises:
        BadInput: the data, the model or the folder cannot be used, or the machine has too little memory or room.
    """
    place = locate(config)
    ranks.join(build(config["trainer"]))
    if again := config["rerun"] and ranks.gathered(started_again(place.folder))[0]:
        config = {**config, "rerun": False, "trunks": False}  # it was begun anew, and goes on
    with results.locked(place.folder) if ranks.lead() else nullcontext():
        if again and ranks.lead():
            results.write_json(place.folder / RERUN, life())
        if ranks.gathered((place.folder / "result.json").exists() and not config["rerun"])[0]:
            way = "begun anew by this job before" if again else "rerun=true repeats it"
            console.print(f"already done ({way}): {place.folder}", highlight=False, soft_wrap=True)
            return place.folder
        if ranks.lead():
            inputs.refuse_changed(config, place)
        with (
            explained(place.folder, config),
            logged(place.folder / "run.log") if ranks.lead() else nullcontext(),
            signals() as told,
        ):
            _run(config, place, told)
    return place.folder


def _run(config: dict[str, Any], place: Place, told: Told) -> None:
    started, folder = time.perf_counter(), place.folder
    if ranks.lead():
        _open(config, place)
    ranks.gathered(None)  # before that nobody reads what is there
    run = assemble(config, place)
    before = run.score(f"{run.label}: before training")[0] if run.evaluation.before else None
    logger = partial(build(config["logger"]), folder, config) if config["logger"] else None
    trunk = trunks.find(config, place) if config["trunks"] and not config["rerun"] else None
    fit(run, folder, told, logger, trunk)
    run.method.policy.to(run.trainer.device)  # Lightning hands it back on the CPU
    if getattr(run.method, "lam", 0) > 0 and not run.method.account.rewards:
        log.warning(
            f"{run.label}: no epoch was active (see method.active_epochs, trainer.epochs, trainer.max_steps): "
            "this is SFT"
        )
    with sharding.whole(run.method.policy):
        merge(run.method.policy.network)
        scores, lines = run.score(f"{run.label}: test", folder / PARTIAL)
        run.method.account.counts = run.method.account.total()
        if ranks.lead():
            result = record(run, place, scores, before, time.perf_counter() - started)
            _close(run, folder, lines, result)


def _open(config: dict[str, Any], place: Place) -> None:
    """Say in the folder what is run there; forget what was left there, where that is wanted."""
    if config["rerun"]:
        for file in (*(place.folder / name for name in LEFT_BY_A_RUN), *files(place.folder / PARTIAL)):
            file.unlink(missing_ok=True)
        results.write_json(place.folder / RERUN, life())
    results.write_text(place.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    inputs.keep(config, place)


def _close(run: Assembly, folder: Path, lines: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Leave the answers, the weights, and last of all the result."""
    results.write_lines(folder / "predictions.jsonl", lines)
    _save(run, folder, result)
    results.write_json(folder / "result.json", result)
    for file in (folder / PREVIOUS, *files(folder / PARTIAL)):  # what only a run that goes on has use for
        file.unlink(missing_ok=True)
    clear_torn(folder)
    log.info(f"{run.label}: finished in {result['timing']['wall_seconds']:.0f} s")


def _save(run: Assembly, folder: Path, result: dict[str, Any]) -> None:
    """Leave what was trained: policy/, or reward_model/."""
    if isinstance(run.method, RewardModel):
        replies = (row.example.reference for row in run.train)
        inner = finish(run.method.policy.network, run.tokenizer, replies, run.corpus.max_prompt)
        results.save_reward_model(run.method.policy.network, inner, folder / "reward_model", result)
    else:
        results.save_policy(run.method.policy, run.tokenizer, folder / "policy", result)

"""One run, top to bottom: configuration in, a folder that explains itself out."""

from __future__ import annotations

import json
import time
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from esolab import results, trunks
from esolab.assembly import Assembly, Place, assemble, locate
from esolab.check import build
from esolab.checkpoints import LAST, PREVIOUS, begun
from esolab.errors import BadInput
from esolab.fitting import fit
from esolab.methods.reward_model import RewardModel, finish
from esolab.record import record
from esolab.results import differing
from esolab.terminal import console, log, logged

INPUTS = "inputs.json"  # hashes of the local files that a run reads
PARTIAL = "predictions.part.jsonl"  # answers of a run that is not done
LEFT_BY_A_RUN = ("result.json", "metrics.csv", "samples.jsonl", "predictions.jsonl", PARTIAL, LAST, PREVIOUS)


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
        if not config["rerun"]:
            _refuse_changed_inputs(config, place)
        with logged(place.folder / "run.log"):
            _run(config, place)
    return place.folder


def _refuse_changed_inputs(config: dict[str, Any], place: Place) -> None:
    """A run that has begun on other files of the same names has another identity, and would be left behind unsaid.

    Raises:
        BadInput: there is one; with the hashes of what it has read, and of what is there now.
    """
    now = place.inputs(config["choices"]["data"])
    for file in place.folder.parent.glob(f"{escape(config['slug'])}-*/{INPUTS}"):
        theirs: Any = OmegaConf.to_container(OmegaConf.load(file.with_name("config.yaml")))
        if (file.with_name("result.json")).exists() or not begun(file.parent) or differing(config, theirs):
            continue
        before = json.loads(file.read_text(encoding="utf-8"))
        for name in [name for name in now if before.get(name) != now[name]][:1]:
            raise BadInput(
                f"{name}: has changed since this run began (sha256 {before.get(name, '')[:12] or 'of nothing'} then, "
                f"{now[name][:12] or 'of nothing'} now); put the files back and it goes on, or delete "
                f"{file.parent} (or give rerun=true) to begin anew"
            )


def _run(config: dict[str, Any], place: Place) -> None:
    started, folder = time.perf_counter(), place.folder
    if config["rerun"]:
        for name in LEFT_BY_A_RUN:
            (folder / name).unlink(missing_ok=True)
    results.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    results.write_json(folder / INPUTS, place.inputs(config["choices"]["data"]))
    run = assemble(config, place)
    before = run.score(f"{run.label}: before training")[0] if run.evaluation.before else None
    logger = partial(build(config["logger"]), folder, config) if config["logger"] else None
    own = begun(folder)
    trunk = trunks.find(config, place) if config["trunks"] and not config["rerun"] and not own else None
    fit(run, folder, logger, trunk)
    run.method.policy.to(run.trainer.device)  # Lightning hands it back on the CPU
    if getattr(run.method, "lam", 0) > 0 and not run.method.rewards:
        log.warning(
            f"{run.label}: no epoch was active (see method.active_epochs, trainer.epochs, trainer.max_steps): "
            "this is SFT"
        )
    scores, lines = run.score(f"{run.label}: test", folder / PARTIAL)
    results.write_lines(folder / "predictions.jsonl", lines)
    result = record(run, place, scores, before, trunk, time.perf_counter() - started)
    _save(run, folder, result)
    results.write_json(folder / "result.json", result)
    for name in (PARTIAL, PREVIOUS):  # what only a run that goes on has use for
        (folder / name).unlink(missing_ok=True)
    log.info(f"{run.label}: finished in {result['timing']['wall_seconds']:.0f} s")


def _save(run: Assembly, folder: Path, result: dict[str, Any]) -> None:
    """Leave what was trained: policy/, or reward_model/."""
    if isinstance(run.method, RewardModel):
        replies = (row.example.reference for row in run.train)
        inner = finish(run.method.policy.network, run.tokenizer, replies, run.corpus.max_prompt)
        results.save_reward_model(run.method.policy.network, inner, folder / "reward_model", result)
    else:
        results.save_policy(run.method.policy, run.tokenizer, folder / "policy", result)

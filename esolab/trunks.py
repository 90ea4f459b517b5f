"""Trunks: the SFT epochs that several runs begin with, trained once and kept.

Runs that differ only in what comes after (the method, its lambda, the answers sampled, the reward) are the same up to
there. A trunk is a run that has stopped at that point: a checkpoint, and the metrics so far. A run that finds its trunk
goes on from it as it would from a checkpoint of its own, and ends byte for byte as if it had been trained alone (where
it gives another trainer.micro_batch or micro_k than the trunk had, but for rounding).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from esolab import ranks, results
from esolab.assembly import Place, assemble, locate
from esolab.check import build
from esolab.checkpoints import LAST, clear_torn
from esolab.config import resolve
from esolab.errors import BadInput
from esolab.fitting import TRUNK, fit
from esolab.identity import identity
from esolab.shortage import explained
from esolab.signals import Told, signals
from esolab.terminal import log, logged

AFTER = ("method", "reward", "sampling")  # groups that the shared epochs do not read
PROTOCOL = ("lam", "active_epochs", "temperatures", "reward_threshold", "batch_reduction", "keep_eos")  # nor these
POLL_SECONDS = 1.0  # between two looks at whether another process has finished one


def shared_epochs(config: Mapping[str, Any]) -> int:
    """How many epochs a run begins with that are SFT whatever its method; 0 where there is nothing to share.

    The last epoch is always the run's own, so that SFT shares the others' trunk. A run that `trainer.max_steps` cuts
    short shares nothing.
    """
    make = build(config["method"])
    if config["trainer"]["max_steps"] is not None or config["trainer"]["epochs"] < 2:
        return 0
    return int(config["trainer"]["epochs"]) - 1 if make.func.begins_as_sft(make.keywords) else 0


def folder(config: Mapping[str, Any], place: Place) -> Path | None:
    """Where the trunk of a run belongs, whether it is there or not; None for a run that shares nothing. Other versions
    of the libraries train another."""
    if not shared_epochs(config):
        return None
    read_by_it = place.fingerprints[:2]  # of the model and of the corpus
    name = identity(_plain(config), [*read_by_it, json.dumps(results.versions())])
    return Path(config["outputs"]) / "trunks" / name


def ready(trunk: Path) -> bool:
    """Whether a trunk is finished and whole."""
    return all((trunk / name).exists() for name in (TRUNK, "metrics.csv", LAST))


def find(config: Mapping[str, Any], place: Place) -> Path | None:
    """The folder of the finished trunk of a run; None where there is none."""
    found = folder(config, place)
    return found if found is not None and ready(found) else None


def train(config: Mapping[str, Any]) -> Path:
    """Train the trunk of the run that a resolved configuration describes, unless it is there; its folder.

    Raises:
        BadInput: the run shares nothing, or its data, its model or the folder cannot be used.
    """
    plain = _plain(config)
    place = locate(plain)
    target = folder(config, place)
    if target is None:
        raise BadInput("--trunk: this run shares no epochs with others; give --resolved and its file")
    ranks.join(build(config["trainer"]))
    with _alone(target):
        if not any(ranks.gathered(ready(target))):  # the first looks once it has the lock
            with (
                explained(target, plain),
                logged(target / "run.log") if ranks.lead() else nullcontext(),
                signals() as told,
            ):
                _train(plain, place, target, shared_epochs(config), told)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Inside, no other process trains it. Ranks that wait for one say so to each other, as silence ends them."""
    with ExitStack() as held:
        waits = 0
        while not ranks.gathered(_entered(held, target) if ranks.lead() else True)[0]:
            if not waits:
                log.info(f"trunk: another process trains {target}; waiting for it")
            waits += 1
            time.sleep(POLL_SECONDS)
        yield


def _entered(held: ExitStack, target: Path) -> bool:
    try:
        held.enter_context(results.locked(target))
    except results.Busy:
        return False
    return True


def _train(config: dict[str, Any], place: Place, target: Path, epochs: int, told: Told) -> None:
    begun = time.perf_counter()
    if ranks.lead():
        results.write_text(target / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    run = assemble(config, place)
    fit(run, target, told, until=epochs, label="trunk")
    wall = time.perf_counter() - begun
    made = {"versions": results.versions(), "git_commit": results.git_commit(), "device": str(run.trainer.device)}
    if ranks.lead():
        results.write_json(target / TRUNK, {"schema": results.SCHEMA, "epochs": epochs, "wall_seconds": wall, **made})
        clear_torn(target)
    log.info(f"trunk: {epochs} epochs finished in {wall:.0f} s")


def seconds(trunk: Path) -> float:
    """What the process that finished a trunk took."""
    return float(json.loads((trunk / TRUNK).read_text(encoding="utf-8"))["wall_seconds"])


@cache
def _sft() -> dict[str, Any]:
    return resolve(["method=sft"])


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the shared epochs: SFT's, where the run says what comes after them."""
    sft = _sft()
    own = {**config, **{key: sft[key] for key in AFTER}, "corpora": {}, "logger": None}
    own["choices"] = {**config["choices"], **{key: sft["choices"][key] for key in ("method", "reward")}}
    own["protocol"] = {**config["protocol"], **{key: sft["protocol"][key] for key in PROTOCOL}}
    own["choices"]["protocol"] = ""  # its values are told apart above
    own["evaluation"] = {**config["evaluation"], "data": [config["choices"]["data"]], "before": False}
    return own

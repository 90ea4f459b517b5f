"""What result.json says of a run."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from esolab import results
from esolab.assembly import Assembly, Place, parameters
from esolab.corpora.base import Splits
from esolab.fitting import began_with
from esolab.identity import identity
from esolab.methods.account import Account
from esolab.training import Trainer


def record(run: Assembly, place: Place, scores: Any, before: Any, wall: float) -> dict[str, Any]:
    """The contents of result.json (see design, section 5). `before` are scores before training, if any; `wall` are
    seconds of this process."""
    config, method = run.config, run.method
    return {
        "schema": results.SCHEMA,
        **{key: config["choices"][key] for key in ("method", "model", "data", "reward", "protocol")},
        "experiment": results.experiment(config),
        "seed": config["seed"],
        "config_hash": place.hash,
        "setting": _setting(config, place),
        "but_for_seed": identity({**config, "seed": None}, place.fingerprints),
        "scores": scores,
        "before": before,
        "train": {**_train_record(method.account, len(run.train), run.dropped, run.trainer), "shortened": run.cut},
        "trunk": began_with(place.folder),
        "corpora": {name: _origin(run.splits[name]) for name in (config["choices"]["data"], *run.tests)},
        "dropped_overlong_dev": run.dropped_dev,
        "shortened_prompts": {name: test.shortened for name, test in run.tests.items()},
        "parameters": parameters(method.policy),
        "trained": run.trained,
        "models": method.held(),
        "timing": _timing(method.account, wall),
        "peak_rss_bytes": results.peak_rss_bytes(),
        "versions": results.versions(),
        "git_commit": results.git_commit(),
        "device": str(method.policy.device),
        "threads": run.trainer.threads,
    }


def _setting(config: Mapping[str, Any], place: Place) -> str:
    """The identity of a run but for its method: runs that share it can be compared as methods."""
    rest = {k: v for k, v in config.items() if k not in ("method", "sampling", "reward", "protocol")}
    rest["choices"] = {**config["choices"], "method": "", "reward": ""}
    return identity(rest, place.fingerprints[:2])


def _train_record(account: Account, examples: int, dropped: int, trainer: Trainer) -> dict[str, Any]:
    """The part `train` of result.json. `final_reward` is the mean reward over the last epoch that sampled."""
    last = account.rewards[max(account.rewards)] if account.rewards else []
    return {
        "epochs": -(-account.steps // -(-examples // trainer.batch_size)),  # begun
        "steps": account.steps,
        "examples": examples,
        "dropped_overlong": dropped,
        "sampled_tokens": account.counts["sampled_tokens"],
        "scored_tokens": account.counts["scored_tokens"],
        "forward_tokens": account.counts["forward_tokens"],
        "backward_tokens": account.counts["backward_tokens"],
        "bad_rewards": account.counts["bad_rewards"],
        "clipped_rewards": account.counts["clipped_rewards"],
        "shortened_rewards": account.counts["shortened_rewards"],
        "final_reward": sum(last) / len(last) if last else None,
    }


def _timing(account: Account, wall: float) -> dict[str, Any]:
    """The part `timing` of result.json, in seconds: the wall time of the process that finished, and sums by phase over
    all steps of the run, those before a resume included."""
    return {
        "wall_seconds": wall,
        "step_seconds_median": median(account.step_seconds) if account.step_seconds else None,
        "phases": {phase: account.spent.get(phase, 0.0) for phase in ("reference", "sample", "reward", "update")},
    }


def _origin(splits: Splits) -> dict[str, Any]:
    """Where a corpus came from and how it was cut, for result.json."""
    sizes = {"train": len(splits.train), "dev": len(splits.dev), "test": len(splits.test)}
    broken = sum(bool(example.broken) for example in splits.test)
    return {"origin": splits.origin, "cut": splits.cut, "skipped": splits.skipped, **sizes, "broken": broken}

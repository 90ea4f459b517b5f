"""The numbers of a step, for metrics.csv and dashboards."""

from __future__ import annotations

import math

from esolab import ranks
from esolab.batch import Rollout


def describe(rollout: Rollout) -> dict[str, float]:
    """What a rollout looks like: rewards, lengths in tokens, and entropy in nats per token.

    The entropy is that of the tempered distributions sampled from (the policy's own where the temperature is 1), a
    consistent estimate by the mean of -log p over their own samples, greedy answers left out. `reward/flat` is the
    share of prompts whose answers all have the same reward, `reward/<name>` the mean of a part of the reward.
    """
    rewards, lengths = rollout.rewards, rollout.branches.lengths.float()
    drawn = rollout.temperatures > 0
    surprise = -rollout.logprobs.sum(-1)
    numbers = {
        "reward/mean": rewards.mean(),
        "reward/spread": rewards.std(1, correction=0).mean(),
        "reward/flat": (rewards == rewards[:, :1]).all(1).float().mean(),
        "length/mean": lengths.mean(),
        "length/finished": rollout.finished.float().mean(),
        "entropy": (surprise * drawn).sum() / (lengths * drawn).sum().clamp(min=1),
    }
    for j, temperature in enumerate(rollout.temperatures[0].tolist()):
        place = f"{j}_t{temperature:g}"  # a ladder may hold a temperature twice
        numbers[f"reward/{place}"] = rewards[:, j].mean()
        numbers[f"length/{place}"] = lengths[:, j].mean()
        if temperature > 0:
            numbers[f"entropy/{place}"] = surprise[:, j].sum() / lengths[:, j].sum().clamp(min=1)
    numbers |= {f"reward/{name}": values.nanmean() for name, values in rollout.parts.items()}
    return {name: float(value) for name, value in numbers.items()}


def of_all_ranks(metrics: dict[str, float], prompts: int) -> dict[str, float]:
    """Numbers of this step over all ranks: losses, which are weighted already, as plain means, tokens a second as
    their sum, and what describes prompts by how many each rank has; `prompts` are this one's."""
    found = ranks.gathered((metrics, prompts))
    if len(found) == 1:
        return metrics
    of_all = dict(metrics)  # with this rank's seconds, and what all share
    total = sum(prompts for _, prompts in found)
    for name in metrics:
        values = [(own.get(name, math.nan), prompts) for own, prompts in found]
        if name == "tokens_per_second":
            of_all[name] = sum(value for value, _ in values)
        elif name.startswith(("loss", "preference/")):
            of_all[name] = sum(value for value, _ in values) / len(values)
        elif name not in ("lr", "grad_norm") and not name.startswith("seconds/"):
            of_all[name] = sum(value * prompts for value, prompts in values if prompts) / total
    return of_all

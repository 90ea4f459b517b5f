"""How many seeds or prompts a difference needs to be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

Z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)  # two-sided 5%, seen in 80% of repetitions: 2.80


@dataclass(frozen=True)
class Components:
    """What differences vary by, as variances in the squared unit of the scores: from one training seed to another, from
    one prompt to another, and what is left (a seed on a prompt, the noise of sampling included)."""

    seed: float
    prompt: float
    residual: float

    def variance(self, seeds: int, prompts: int) -> float:
        """Of the mean over so many seeds, each on the same prompts."""
        return self.seed / seeds + self.prompt / prompts + self.residual / (seeds * prompts)


def components(differences: Float[np.ndarray, "S N"]) -> Components:
    """The variance components of a crossed design without repetition, from its mean squares; negative ones become 0.

    (Searle, Casella and McCulloch 1992, chapter 4.) One seed alone cannot tell the three apart: all is the prompts'.
    """
    s, n = differences.shape
    by_seed, by_prompt = differences.mean(axis=1), differences.mean(axis=0)
    if s == 1:
        return Components(0.0, float(by_prompt.var(ddof=1)), 0.0)
    left = differences - by_seed[:, None] - by_prompt + differences.mean()
    residual = float((left**2).sum()) / ((s - 1) * (n - 1))
    seed = float(by_seed.var(ddof=1)) - residual / n
    prompt = float(by_prompt.var(ddof=1)) - residual / s
    return Components(max(0.0, seed), max(0.0, prompt), residual)


def seeds_needed(effect: float, varies: Components, prompts: int) -> int | None:
    """How many seeds, on so many prompts, let a true difference of `effect` be seen at 5% in 80% of repetitions.

    By the normal distribution, so a little few where it says fewer than ten, and of a test that knows the variance.
    None where no number would. The effect just measured is a rough guess of the true one, and the answer as rough: a
    plan, no result.
    """
    return _needed(effect, varies.seed + varies.residual / prompts, varies.prompt / prompts, 1)


def prompts_needed(effect: float, varies: Components, seeds: int) -> int | None:
    """How many prompts, answered by so many seeds, do what `seeds_needed` says of seeds; at least 2."""
    return _needed(effect, varies.prompt + varies.residual / seeds, varies.seed / seeds, 2)


def _needed(effect: float, shrinks: float, stays: float, least: int) -> int | None:
    """The smallest n >= least with shrinks / n + stays <= (effect / Z)^2."""
    room = (effect / Z) ** 2 - stays
    if room <= 0 or not math.isfinite(shrinks / room):
        return None
    return max(least, math.ceil(shrinks / room))

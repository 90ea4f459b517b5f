"""How sure a difference or a share is: intervals and what they say in words; win rates; agreement."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

WORTH = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a valid verdict, to a
CHUNK = 1 << 20  # resampled indices held at once, about 16 MB


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, in the unit of what was measured; n are the pairs it rests on."""

    estimate: float
    low: float
    high: float
    n: int
    level: float


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of a - b over prompts, with its percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    `a` and `b` are scores of the same n prompts in the same order, as lists or arrays. Prompts are resampled, so the
    interval is about other prompts of the same kind, not about other training seeds. Equal to `scipy.stats.bootstrap`
    with `method="percentile"` and the same generator.

    Raises ValueError where the pairs do not match, are fewer than 2 or not finite, or level is not inside (0, 1).
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size < 2:
        raise ValueError(f"need two lists of equally many scores, at least 2: shapes {first.shape} and {second.shape}")
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        raise ValueError("scores must be finite")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"need a level inside (0, 1) and at least one resample: level={level}, resamples={resamples}")
    differences = first - second
    n, rng, means = differences.size, np.random.default_rng(seed), np.empty(resamples)
    rows = max(1, CHUNK // n)
    for start in range(0, resamples, rows):  # in chunks only for memory: the stream of indices is the same
        chunk = means[start : start + rows]
        chunk[:] = differences[rng.integers(0, n, (chunk.size, n))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high), n, level)


def verdict(interval: Interval, a_name: str, b_name: str, metric: str) -> str:
    """The interval of a - b as a sentence. Give it in points (scores times 100) and the metric as people write it.

    "ESO scores 2.31 ROUGE-L points above SFT, 95% interval 1.80 to 2.83 (1,000 prompts): distinguishable."
    The interval is always that of a - b, so below 0 where a is worse; one that contains 0 is "not distinguishable".
    """
    side = "above" if interval.estimate >= 0 else "below"
    gap = f"{a_name} scores {abs(interval.estimate):.2f} {metric} points {side} {b_name}"
    span = f"{100 * interval.level:g}% interval {interval.low:z.2f} to {interval.high:z.2f}"
    prompts = f"({interval.n:,} prompts)"
    if interval.low <= 0 <= interval.high:
        return f"{gap}, {span} contains 0 {prompts}: not distinguishable."
    return f"{gap}, {span} {prompts}: distinguishable."


def wilson(successes: float | int, n: int, level: float = 0.95) -> Interval:
    """The share successes / n with Wilson's score interval (Wilson 1927).

    A tie may count as half a success; the interval is then a little wide, as a half varies less than a whole.

    Raises ValueError where n is not positive, successes are not within [0, n], or level is not inside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n or not 0 < level < 1:
        raise ValueError(f"need 0 <= successes <= n, n > 0, 0 < level < 1: {successes}, {n}, {level}")
    share, z = successes / n, NormalDist().inv_cdf((1 + level) / 2)
    shrink = 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / shrink
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n, level)


def length_controlled(outcomes: ArrayLike, differences: ArrayLike) -> float | None:
    """The win rate at equal lengths: the logistic regression of outcomes on differences of lengths, read at 0.

    `outcomes` [n] are 1 for a win, 0.5 for a tie and 0 for a loss; `differences` [n] the lengths of the one answer
    minus those of the other, in any unit. These are scaled to a root mean square of 1 and not centred, so that 0
    remains equal length. The fit is the mode under the scales of Gelman et al. 2008 (intercept 10, slope 2.5, here of
    normal priors): it is finite where length decides everything, and hardly moves where verdicts are many. In the
    spirit of AlpacaEval 2 (Dubois et al. 2024), without its terms for models and instructions. None where one
    side is always the longer: 0 then lies outside of the data.

    Raises ValueError where the lists do not match, are empty or not finite, or outcomes are not within [0, 1].
    """
    y, d = np.asarray(outcomes, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    if y.ndim != 1 or y.shape != d.shape or not y.size or not np.isfinite(d).all() or not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"need as many outcomes in [0, 1] as finite differences: shapes {y.shape} and {d.shape}")
    if (d > 0).all() or (d < 0).all():
        return None
    rms = np.sqrt(np.mean(d**2))
    x = np.stack([np.ones_like(d), d / rms if rms > 0 else d])
    precision = np.diag([10.0**-2, 2.5**-2])

    def loss(beta: NDArray[np.float64]) -> float:
        t = beta @ x
        return float(np.logaddexp(0, t).sum() - y @ t + beta @ precision @ beta / 2)

    beta = np.zeros(2)
    for _ in range(50):  # Newton's method; the loss is strictly convex
        p = _logistic(beta @ x)
        step = np.linalg.solve((x * p * (1 - p)) @ x.T + precision, x @ (p - y) + precision @ beta)
        while loss(beta - step) > loss(beta):
            step = step / 2
        beta = beta - step
    return float(_logistic(beta[0]))


def _logistic(t: Any) -> Any:
    """1 / (1 + exp(-t)), without overflow."""
    return (1 + np.tanh(t / 2)) / 2


def cohens_kappa(a: Sequence[str], b: Sequence[str]) -> float | None:
    """The agreement of two raters of the same items beyond chance (Cohen 1960); None where chance explains all of it.

    Raises ValueError where they rate no items, or not equally many.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"need two ratings of the same items: {len(a)} and {len(b)}")
    n, mine, theirs = len(a), Counter(a), Counter(b)
    observed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    chance = sum(mine[label] * theirs[label] for label in mine) / n**2
    return None if chance == 1 else (observed - chance) / (1 - chance)

"""How sure a difference or a share is: intervals, and what they say in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

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
    with `method="percentile"` and the same generator. `comparison.compare` on one seed resamples the same way, corrects
    the percentiles (BCa) and adds a test; this remains for what has prompts only, as win rates.

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
    gap, span = phrases(interval.estimate, interval.low, interval.high, interval.level, (a_name, b_name, metric))
    prompts = f"({interval.n:,} prompts)"
    if interval.low <= 0 <= interval.high:
        return f"{gap}, {span} contains 0 {prompts}: not distinguishable."
    return f"{gap}, {span} {prompts}: distinguishable."


def phrases(estimate: float, low: float, high: float, level: float, names: tuple[str, str, str]) -> tuple[str, str]:
    """A difference in points and its interval, in words; `names` are those of a, of b and of the metric."""
    side = "above" if estimate >= 0 else "below"
    a, b, metric = names
    gap = f"{a} scores {abs(estimate):.2f} {metric} points {side} {b}"
    return gap, f"{100 * level:g}% interval {low:z.2f} to {high:z.2f}"


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

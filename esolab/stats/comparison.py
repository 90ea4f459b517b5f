"""One method less another on the same seeds and prompts: how much, how sure, and what it would take to know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esolab.stats.intervals import phrases
from esolab.stats.power import components, prompts_needed, seeds_needed
from esolab.stats.resampling import ROUNDING, bca, holm, sign_flip

FLIPS = 1000  # sign patterns for each comparison of a family: the lowest p, 1 / (1 + flips), times all is below 0.001


@dataclass(frozen=True)
class Comparison:
    """One method less another on the same seeds and prompts, in the unit of the scores.

    Args:
        estimate: the mean difference over seeds and prompts.
        low: lower bound of the BCa interval at `level`, seeds and prompts resampled; of this comparison alone.
        high: its upper bound.
        p: of the two-sided sign-flip test of the prompts' differences, each the mean over seeds.
        adjusted: p after Holm's correction over all that was compared at once.
        effect: Cohen's d of the prompts' differences; infinite where all are the same and not 0, 0 where all are 0.
        seeds: how many training seeds.
        prompts: how many prompts each of them answered.
        level: of the interval.
        seeds_above: in how many seeds the one's mean is above the other's.
        more_seeds: how many in all, on these prompts, would give 80% power at 5% for the effect seen; None: no number.
        more_prompts: how many in all, with these seeds.
    """

    estimate: float
    low: float
    high: float
    p: float
    adjusted: float
    effect: float
    seeds: int
    prompts: int
    level: float
    seeds_above: int
    more_seeds: int | None
    more_prompts: int | None

    @property
    def distinguishable(self) -> bool:
        """Whether both agree that the two differ: the corrected test, and the interval, which must exclude 0."""
        return self.adjusted < round(1 - self.level, 12) and not self.low <= 0 <= self.high


def compare(
    differences: ArrayLike | Sequence[ArrayLike], level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Compare scores of one method less those of another, [S, N] each, as one family; the shapes may differ.

    Rows are training seeds, columns prompts: both methods trained with that seed, and answered that prompt.

    The unit of the test is the prompt, with its mean over seeds: 5 seeds alone cannot reach p < 0.05 by flipping signs
    (2 of 32 patterns are as extreme as all 5 above). It is therefore conditional on the seeds trained, and rejects too
    often where a method is lucky in its seeds; this is why `distinguishable` also asks the interval over seeds and
    prompts to exclude 0. With one seed neither says anything of other seeds. `resamples` are of the intervals; signs
    are flipped as often, or more where the family is large: Holm's correction would else leave nothing below a level.

    Returns a comparison for each, in order. Raises ValueError where one is not a finite array [S, N] with N > 1, level
    is not inside (0, 1), or there is no resample.
    """
    arrays = [_checked(i, one) for i, one in enumerate(differences)]  # type: ignore[arg-type]
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"need a level inside (0, 1) and at least one resample: level={level}, resamples={resamples}")
    flips = max(resamples, FLIPS * len(arrays))
    p, bounds = np.empty(len(arrays)), np.empty((len(arrays), 2))
    for shape in {array.shape for array in arrays}:
        members = [i for i, array in enumerate(arrays) if array.shape == shape]
        stack = np.stack([arrays[i] for i in members])
        p[members] = sign_flip(stack.mean(axis=1), flips, seed)
        bounds[members] = bca(stack, level, resamples, seed)
    tests = zip(arrays, bounds.tolist(), p.tolist(), holm(p).tolist(), strict=True)
    return [_comparison(array, low, high, one, adjusted, level) for array, (low, high), one, adjusted in tests]


def _checked(i: int, one: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(one, dtype=np.float64)
    if array.ndim != 2 or not array.shape[0] or array.shape[1] < 2 or not np.isfinite(array).all():
        raise ValueError(f"comparison {i}: need finite differences of seeds x prompts, at least 1 x 2: {array.shape}")
    return array


def _comparison(
    differences: NDArray[np.float64], low: float, high: float, p: float, adjusted: float, level: float
) -> Comparison:
    (seeds, prompts), estimate, varies = differences.shape, float(differences.mean()), components(differences)
    return Comparison(
        estimate=estimate,
        low=low,
        high=high,
        p=p,
        adjusted=adjusted,
        effect=_cohens_d(differences.mean(axis=0)),
        seeds=seeds,
        prompts=prompts,
        level=level,
        seeds_above=int((differences.mean(axis=1) > 0).sum()),
        more_seeds=seeds_needed(estimate, varies, prompts),
        more_prompts=prompts_needed(estimate, varies, seeds),
    )


def _cohens_d(differences: NDArray[np.float64]) -> float:
    """The mean over the standard deviation of paired differences [N] (Cohen 1988, d_z)."""
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation > ROUNDING * abs(mean):
        return mean / deviation
    return math.copysign(math.inf, mean) if mean else 0.0


def sentence(comparison: Comparison, a_name: str, b_name: str, metric: str) -> str:
    """A comparison of a - b in words. Give it in points (scores times 100) and the metric as people write it.

    "ESO scores 2.31 ROUGE-L points above SFT, 95% interval 1.80 to 2.83 (5 seeds x 1,000 prompts), p = 0.0004 (Holm),
    d = 0.21, above in 5 of 5 seeds: distinguishable." Where it is not, what would be needed, prompts to two digits.
    """
    it = comparison
    gap, span = phrases(it.estimate, it.low, it.high, it.level, (a_name, b_name, metric))
    design = f"({it.seeds} {'seed' if it.seeds == 1 else 'seeds'} x {it.prompts:,} prompts)"
    p = "p < 0.0001" if it.adjusted < 0.00005 else f"p = {it.adjusted:.{4 if it.adjusted < 0.01 else 3}f}"
    above = f"above in {it.seeds_above} of {it.seeds} {'seed' if it.seeds == 1 else 'seeds'}"
    words = "distinguishable" if it.distinguishable else f"not distinguishable{_missing(it)}"
    return f"{gap}, {span} {design}, {p} (Holm), d = {it.effect:z.2f}, {above}: {words}."


def _missing(it: Comparison) -> str:
    """What would let the effect be seen; nothing where the design has that already, and the correction hides it."""
    seeds, prompts = it.more_seeds, it.more_prompts
    if seeds is None and prompts is None:
        return "; no number of seeds or of prompts alone would give 80% power"
    if (seeds is not None and seeds <= it.seeds) or (prompts is not None and prompts <= it.prompts):
        return ""
    if prompts is None:
        return f"; 80% power would need {seeds:,} seeds; no number of prompts alone would do"
    more = f"{_two_digits(prompts):,} prompts"
    if seeds is not None:
        return f"; 80% power would need {seeds:,} seeds or {more}"
    alone = "; no number of seeds alone would do" if it.seeds > 1 else ""  # one seed does not tell what others would do
    return f"; 80% power would need {more}{alone}"


def _two_digits(n: int) -> int:
    """Rounded up to two digits: 9,217 is 9,300."""
    unit = int(10 ** max(0, len(str(n)) - 2))
    return -(-n // unit) * unit


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean and the sample's standard deviation (n - 1 below) of scores of seeds; None for that of one value.

    Raises ValueError where there is no value.
    """
    numbers = list(values)
    if not numbers:
        raise ValueError("need at least one value")
    return fmean(numbers), stdev(numbers) if len(numbers) > 1 else None

"""What verdicts come to: win rates at equal lengths, and the agreement of two raters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

WORTH = {"a": 1.0, "tie": 0.5, "b": 0.0}  # of a valid verdict, to a


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

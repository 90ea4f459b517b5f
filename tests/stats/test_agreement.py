import math

import numpy as np
import pytest
from scipy.optimize import minimize

from esolab.stats import cohens_kappa, length_controlled


def test_length_controlled_is_the_mode_of_the_penalised_likelihood():
    """The equations of the docstring, by an optimiser that knows nothing of Newton's method."""
    rng = np.random.default_rng(0)
    d = rng.normal(5, 12, 40).round()
    y = rng.choice([0.0, 0.5, 1.0], 40)

    def loss(beta):
        t = beta[0] + beta[1] * d / math.sqrt((d**2).mean())
        return (np.log1p(np.exp(t)) - y * t).sum() + (beta[0] / 10) ** 2 / 2 + (beta[1] / 2.5) ** 2 / 2

    reference = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert length_controlled(y, d) == pytest.approx(1 / (1 + math.exp(-reference.x[0])), abs=1e-6)
    assert length_controlled(y, 7 * d) == pytest.approx(length_controlled(y, d), abs=1e-9)
    assert length_controlled(1 - y, -d) == pytest.approx(1 - length_controlled(y, d), abs=1e-9)


def test_length_controlled_takes_out_what_length_explains():
    rng = np.random.default_rng(1)
    d = rng.normal(10, 10, 2000)  # a is longer in five of six
    assert length_controlled((d > 0).astype(float), d) == pytest.approx(0.5, abs=0.06)  # and wins by length alone
    better = rng.random(2000) < 1 / (1 + np.exp(-(0.8 + 0.1 * d)))
    assert better.mean() > 0.8
    assert length_controlled(better, d) == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.04)


def test_length_controlled_is_the_win_rate_where_lengths_are_equal_and_finite_where_one_side_always_wins():
    assert length_controlled([1, 1, 1, 0], [0, 0, 0, 0]) == pytest.approx(0.75, abs=0.005)
    assert 0.95 < length_controlled([1] * 100, [0] * 100) < 1
    assert 0.5 < length_controlled([1] * 100, [3] * 99 + [-3]) < 1


@pytest.mark.parametrize(("d", "there"), [([3, 1], False), ([-3, -1], False), ([3, 0], True), ([3, -1], True)])
def test_length_controlled_is_none_where_one_side_is_always_longer(d, there):
    assert (length_controlled([1, 0], d) is not None) is there


@pytest.mark.parametrize(("y", "d"), [([], []), ([1.0], [1.0, 2.0]), ([2.0], [1.0]), ([1.0], [math.nan])])
def test_length_controlled_refuses_what_does_not_match(y, d):
    with pytest.raises(ValueError, match="as many outcomes"):
        length_controlled(y, d)


def test_cohens_kappa_by_hand():
    """20 of 50 both yes, 15 both no, 5 and 10 apart: 0.7 agree, 0.5 would by chance."""
    a, b = ["yes"] * 25 + ["no"] * 25, ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(a, b) == pytest.approx(0.4)
    assert cohens_kappa(a, a) == pytest.approx(1.0)
    assert cohens_kappa(["x", "y"], ["y", "x"]) == pytest.approx(-1.0)
    assert cohens_kappa(["x", "x"], ["x", "x"]) is None
    with pytest.raises(ValueError, match="same items"):
        cohens_kappa(["x"], [])

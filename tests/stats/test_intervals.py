import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from esolab.stats import CHUNK, Interval, paired_bootstrap, verdict, wilson


def scores(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Skewed paired scores, as ROUGE has them."""
    rng = np.random.default_rng(seed)
    shared = rng.beta(2, 5, n)
    return shared + 0.1 * rng.exponential(1, n), shared


@pytest.mark.parametrize("n", [2, 30, 1000])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_equal_to_scipy_percentile(n, level):
    a, b = scores(n)
    resamples = 2 * (CHUNK // n) + 7 if n == 1000 else 999  # more than one chunk
    found = paired_bootstrap(a, b, level, resamples, seed=3)

    def difference(a, b, axis):
        return (a - b).mean(axis=axis)

    options = {"paired": True, "vectorized": True, "confidence_level": level, "n_resamples": resamples}
    reference = bootstrap((a, b), difference, method="percentile", rng=np.random.default_rng(3), **options)
    assert found.estimate == pytest.approx((a - b).mean(), abs=1e-12)
    assert found.low == pytest.approx(reference.confidence_interval.low, abs=1e-12)
    assert found.high == pytest.approx(reference.confidence_interval.high, abs=1e-12)
    assert (found.n, found.level) == (n, level)


def test_close_to_bca_where_there_are_enough_prompts():
    a, b = scores(1000)
    found = paired_bootstrap(a, b)
    reference = bootstrap((a - b,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(9))
    width = found.high - found.low
    assert found.low == pytest.approx(reference.confidence_interval.low, abs=0.05 * width)
    assert found.high == pytest.approx(reference.confidence_interval.high, abs=0.05 * width)


def test_close_to_the_normal_interval_where_there_are_enough_prompts():
    a, b = scores(4000)
    found = paired_bootstrap(a, b)
    half = 1.959964 * (a - b).std(ddof=1) / math.sqrt(4000)
    assert found.low == pytest.approx((a - b).mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx((a - b).mean() + half, abs=0.05 * half)


def test_two_pairs_by_hand():
    """Differences 0 and 1: a resample's mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4."""
    assert paired_bootstrap([1, 1], [1, 0]) == Interval(0.5, 0.0, 1.0, 2, 0.95)
    assert paired_bootstrap([1, 1], [1, 0], level=0.4) == Interval(0.5, 0.5, 0.5, 2, 0.4)


def test_a_constant_difference_is_certain():
    found = paired_bootstrap([3.0, 5.0, 9.0], [1.0, 3.0, 7.0])
    assert found == Interval(2.0, 2.0, 2.0, 3, 0.95)


def test_pairing_takes_out_what_the_prompts_have_in_common():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, 200)
    better = difficulty + 0.5 + rng.normal(0, 0.5, 200)
    assert paired_bootstrap(better, difficulty).low > 0
    shuffled = paired_bootstrap(better, rng.permutation(difficulty))
    assert shuffled.low < 0 < shuffled.high


def test_signs_shifts_and_scales():
    a, b = scores(100)
    found, turned = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert turned.estimate == -found.estimate
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    points = paired_bootstrap(100 * a + 7, 100 * b + 7)
    assert (points.low, points.high) == pytest.approx((100 * found.low, 100 * found.high), abs=1e-9)


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.exponential(1, (400, 60))
    found = [paired_bootstrap(row, np.zeros(60), resamples=500, seed=i) for i, row in enumerate(samples)]
    share = np.mean([interval.low <= 1 <= interval.high for interval in found])
    assert 0.90 < share < 0.97  # the percentile interval is a little short at 60 skewed prompts


def test_the_seed_decides():
    a, b = scores(50)
    assert paired_bootstrap(a, b, seed=1) == paired_bootstrap(list(a), list(b), seed=1)
    assert paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b, seed=2)


def test_more_prompts_than_fit_into_a_chunk():
    a, b = scores(CHUNK + 1)
    found = paired_bootstrap(a, b, resamples=3)
    assert found.low <= found.high
    assert found.estimate == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([1.0, 2.0], [1.0], {}, "equally many"),
        ([1.0], [1.0], {}, "at least 2"),
        ([[1.0, 2.0]], [[1.0, 2.0]], {}, "two lists"),
        ([1.0, math.nan], [1.0, 2.0], {}, "finite"),
        ([1.0, 2.0], [1.0, math.inf], {}, "finite"),
        ([1.0, 2.0], [1.0, 2.0], {"level": 1.0}, "level"),
        ([1.0, 2.0], [1.0, 2.0], {"resamples": 0}, "resample"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, b, **options)


@pytest.mark.parametrize(
    ("interval", "sentence"),
    [
        (
            Interval(2.314, 1.8, 2.834, 1000, 0.95),
            "ESO scores 2.31 ROUGE-L points above SFT, 95% interval 1.80 to 2.83 (1,000 prompts): distinguishable.",
        ),
        (
            Interval(-2.314, -2.834, -1.8, 1000, 0.95),
            "ESO scores 2.31 ROUGE-L points below SFT, 95% interval -2.83 to -1.80 (1,000 prompts): distinguishable.",
        ),
        (
            Interval(0.05, -0.31, 0.42, 60, 0.999),
            "ESO scores 0.05 ROUGE-L points above SFT, 99.9% interval -0.31 to 0.42 contains 0 (60 prompts): "
            "not distinguishable.",
        ),
        (
            Interval(-0.2, -0.4, -0.0, 60, 0.9),  # a bound at 0 is 0, and is not printed as -0.00
            "ESO scores 0.20 ROUGE-L points below SFT, 90% interval -0.40 to 0.00 contains 0 (60 prompts): "
            "not distinguishable.",
        ),
    ],
)
def test_verdict(interval, sentence):
    assert verdict(interval, "ESO", "SFT", "ROUGE-L") == sentence


def test_an_interval_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Interval(0.0, 0.0, 0.0, 2, 0.95).low = 1.0


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_printed_by_newcombe_1998(successes, n, low, high):
    """Table I, method 3."""
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert (found.estimate, found.n, found.level) == (successes / n, n, 0.95)
    turned = wilson(n - successes, n)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-12)


@pytest.mark.parametrize(("wins", "low", "high"), [(407, 37.70, 43.77), (402, 37.20, 43.27)])
def test_wilson_of_win_rates_as_printed_by_methods_md(wins, low, high):
    """O-WIN."""
    found = wilson(wins, 1000)
    assert (100 * found.low, 100 * found.high) == pytest.approx((low, high), abs=5e-3)


def test_wilson_equals_scipy_and_a_tie_is_half_a_success():
    reference = binomtest(402, 1000).proportion_ci(0.9, method="wilson")
    found = wilson(402, 1000, level=0.9)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert wilson(1.5, 10).estimate == 0.15
    assert wilson(1, 10).low < wilson(1.5, 10).low < wilson(2, 10).low


@pytest.mark.parametrize(("successes", "n", "level"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_what_is_no_share(successes, n, level):
    with pytest.raises(ValueError, match="need 0 <= successes <= n"):
        wilson(successes, n, level)

"""Two methods over seeds and prompts, as one family, and in words."""

import dataclasses
import math
from statistics import stdev

import numpy as np
import pytest
from scipy.stats import binom, permutation_test
from test_resampling import crossed

from esolab.stats import Comparison, bca, compare, components, holm, mean_and_deviation, prompts_needed, seeds_needed
from esolab.stats import sentence as words

SEEN = Comparison(2.314, 1.8, 2.834, 0.0001, 0.0004, 0.21, 5, 1000, 0.95, 5, 3, 400)
UNSEEN = Comparison(0.4, -0.604, 1.479, 0.156, 0.3121, 0.045, 5, 1000, 0.95, 3, 14, 9217)


def test_a_comparison_is_made_of_its_parts():
    d = crossed(3, 5, 40, 0.25)
    found = compare(d, level=0.9, resamples=999, seed=4)
    for one, array, bounds in zip(found, d, bca(d, 0.9, 999, 4), strict=True):
        by_prompt, varies = array.mean(axis=0), components(array)
        assert one.estimate == pytest.approx(array.mean(), abs=1e-12)
        assert (one.low, one.high) == tuple(bounds)
        assert one.effect == pytest.approx(by_prompt.mean() / stdev(by_prompt))
        assert (one.seeds, one.prompts, one.level) == (5, 40, 0.9)
        assert one.seeds_above == sum(row.mean() > 0 for row in array)
        assert one.more_seeds == seeds_needed(one.estimate, varies, 40)
        assert one.more_prompts == prompts_needed(one.estimate, varies, 5)
    assert [one.adjusted for one in found] == holm([one.p for one in found]).tolist()


def test_by_hand():
    """Seeds' means 2 and 1; prompts' means 1, 1, 2.5: mean 1.5, deviation sqrt((0.25 + 0.25 + 1) / 2), so d = sqrt(3).
    All three are above 0, so 2 of 8 patterns are as far from 0."""
    (found,) = compare([[[1, 2, 3], [1, 0, 2]]])
    assert (found.estimate, found.seeds_above, found.p, found.adjusted) == (1.5, 2, 0.25, 0.25)
    assert found.effect == pytest.approx(math.sqrt(3))
    assert not found.distinguishable


def test_the_unit_of_the_test_is_the_prompt():
    d = crossed(1, 5, 12, 0.6)
    reference = permutation_test((d[0].mean(axis=0),), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert compare(d)[0].p == pytest.approx(reference.pvalue, abs=1e-12)
    assert reference.pvalue < 0.05  # which five seeds alone cannot reach


def test_shapes_may_differ_and_order_is_kept():
    one, two, three = crossed(1, 5, 30, 1.0)[0], crossed(1, 3, 50, 0.5)[0], crossed(1, 5, 30, -0.4, seed=1)[0]
    found = compare([one, two, three], resamples=5000)  # more than FLIPS for each
    assert [(f.seeds, f.prompts) for f in found] == [(5, 30), (3, 50), (5, 30)]
    alone = [compare([array], resamples=5000)[0] for array in (one, two, three)]
    for f, a in zip(found, alone, strict=True):
        assert (f.p, f.estimate, f.effect) == (a.p, a.estimate, a.effect)
        assert (f.low, f.high) == pytest.approx((a.low, a.high), abs=1e-12)
        assert a.adjusted == a.p
    assert [f.adjusted for f in found] == holm([a.p for a in alone]).tolist()
    assert compare([]) == []


def test_a_large_family_has_signs_flipped_often_enough_for_holm():
    """20 comparisons as sure as can be: with 10,000 flips the lowest adjusted p would be 20 / 10,001."""
    found = compare(crossed(20, 2, 40, 3.0, seed=1), resamples=100)
    assert [f.adjusted for f in found] == pytest.approx([20 / 20_001] * 20)


def test_swapping_the_two_mirrors():
    d = crossed(1, 5, 60, 0.2)
    (found,), (turned,) = compare(d, resamples=2000), compare(-d, resamples=2000)
    assert (turned.estimate, turned.effect, turned.p) == (-found.estimate, -found.effect, found.p)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert (turned.more_seeds, turned.more_prompts) == (found.more_seeds, found.more_prompts)
    assert turned.seeds_above == 5 - found.seeds_above


def test_scales_and_shifts():
    d = crossed(1, 5, 60, 0.2)
    (found,), (points,), (higher,) = compare(d), compare(100 * d), compare(d + 3)
    assert (points.estimate, points.low, points.high) == pytest.approx(
        (100 * found.estimate, 100 * found.low, 100 * found.high), abs=1e-9
    )
    assert (points.p, points.more_prompts, points.more_seeds) == (found.p, found.more_prompts, found.more_seeds)
    assert points.effect == pytest.approx(found.effect)
    assert (higher.estimate, higher.low, higher.high) == pytest.approx(
        (found.estimate + 3, found.low + 3, found.high + 3), abs=1e-9
    )


def test_the_order_of_seeds_and_prompts_says_nothing():
    d, rng = crossed(1, 5, 60, 0.2)[0], np.random.default_rng(0)
    found, other = compare([d, d[rng.permutation(5)][:, rng.permutation(60)]])
    assert (other.estimate, other.effect) == pytest.approx((found.estimate, found.effect), abs=1e-12)
    assert (other.seeds_above, other.more_seeds) == (found.seeds_above, found.more_seeds)
    width = found.high - found.low
    assert (other.low, other.high) == pytest.approx((found.low, found.high), abs=0.05 * width)
    assert other.p == pytest.approx(found.p, abs=0.02)


def test_luck_of_the_seeds_is_not_called_a_difference():
    """All prompts are above by the luck of two of five seeds: the test is sure, the interval over seeds is not."""
    rng = np.random.default_rng(0)
    d = np.array([[3.0], [3.0], [-1.0], [-1.0], [-1.0]]) + 0.1 * rng.normal(size=(5, 200))
    (found,) = compare([d])
    assert found.p == pytest.approx(1 / 10_001)
    assert found.low < 0 < found.high
    assert (found.distinguishable, found.seeds_above) == (False, 2)
    assert found.more_prompts is None  # more prompts do not show other seeds
    assert found.more_seeds == math.ceil(2.8015853**2 * d.mean(axis=1).var(ddof=1) / found.estimate**2)


def test_distinguishable_asks_for_both():
    assert SEEN.distinguishable
    assert not dataclasses.replace(SEEN, low=-0.1).distinguishable
    assert not dataclasses.replace(SEEN, low=0.0).distinguishable
    assert not dataclasses.replace(SEEN, adjusted=0.06).distinguishable
    assert not dataclasses.replace(SEEN, adjusted=0.05).distinguishable  # 1 - 0.95 is a little above 0.05
    assert not dataclasses.replace(SEEN, adjusted=0.02, level=0.99).distinguishable


def test_no_spread():
    nothing, something = compare([np.zeros((2, 20)), np.full((2, 20), -0.1)])
    assert (nothing.effect, nothing.p, nothing.low, nothing.high) == (0.0, 1.0, 0.0, 0.0)
    assert (nothing.more_seeds, nothing.more_prompts, nothing.distinguishable) == (None, None, False)
    assert something.effect == -math.inf
    assert something.distinguishable


@pytest.mark.parametrize(
    ("differences", "options", "message"),
    [
        ([np.zeros((2, 5)), np.zeros((2, 1))], {}, r"comparison 1: .* \(2, 1\)"),
        ([np.zeros(5)], {}, r"comparison 0: need finite differences of seeds x prompts, at least 1 x 2: \(5,\)"),
        ([np.zeros((0, 5))], {}, "comparison 0"),
        ([np.array([[1.0, math.nan]])], {}, "finite"),
        ([np.zeros((2, 5))], {"level": 1.0}, "level"),
        ([np.zeros((2, 5))], {"resamples": 0}, "resample"),
    ],
)
def test_what_cannot_be_compared_is_refused(differences, options, message):
    with pytest.raises(ValueError, match=message):
        compare(differences, **options)


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (
            SEEN,
            "ESO scores 2.31 ROUGE-L points above SFT, 95% interval 1.80 to 2.83 (5 seeds x 1,000 prompts), p = 0.0004 "
            "(Holm), d = 0.21, above in 5 of 5 seeds: distinguishable.",
        ),
        (
            dataclasses.replace(SEEN, estimate=-2.3, low=-2.8, high=-1.8, effect=-0.2, seeds=1, seeds_above=0),
            "ESO scores 2.30 ROUGE-L points below SFT, 95% interval -2.80 to -1.80 (1 seed x 1,000 prompts), "
            "p = 0.0004 (Holm), d = -0.20, above in 0 of 1 seed: distinguishable.",
        ),
        (
            UNSEEN,
            "ESO scores 0.40 ROUGE-L points above SFT, 95% interval -0.60 to 1.48 (5 seeds x 1,000 prompts), p = 0.312 "
            "(Holm), d = 0.04, above in 3 of 5 seeds: not distinguishable; 80% power would need 14 seeds or "
            "9,300 prompts.",
        ),
    ],
)
def test_a_sentence(comparison, expected):
    assert words(comparison, "ESO", "SFT", "ROUGE-L") == expected


@pytest.mark.parametrize(
    ("change", "end"),
    [
        ({"more_prompts": None}, "; 80% power would need 14 seeds; no number of prompts alone would do."),
        ({"more_seeds": None}, "; 80% power would need 9,300 prompts; no number of seeds alone would do."),
        ({"more_seeds": None, "seeds": 1}, "; 80% power would need 9,300 prompts."),
        (
            {"more_seeds": None, "more_prompts": None},
            "; no number of seeds or of prompts alone would give 80% power.",
        ),
        (
            {"more_seeds": 4, "more_prompts": 700},
            ": not distinguishable.",
        ),  # of many, and only Holm's correction hides it
        ({"more_prompts": 1_234_567}, "14 seeds or 1,300,000 prompts."),
    ],
)
def test_what_an_unseen_difference_would_need(change, end):
    found = words(dataclasses.replace(UNSEEN, **change), "ESO", "SFT", "ROUGE-L")
    assert ": not distinguishable" in found
    assert found.endswith(end)


def test_a_small_p_is_not_zero():
    found = words(dataclasses.replace(SEEN, adjusted=1e-6), "ESO", "SFT", "ROUGE-L")
    assert "p < 0.0001 (Holm)" in found


def test_mean_and_deviation():
    """Deviations -1, 0, 1 from 3: sqrt(2 / 2)."""
    assert mean_and_deviation([2.0, 3.0, 4.0]) == (3.0, 1.0)
    assert mean_and_deviation([7.0]) == (7.0, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_and_deviation([])


@pytest.mark.parametrize(("seeds", "noise"), [(1, 0.0), (5, 1.0)])
def test_two_methods_that_do_not_differ_are_told_apart_as_often_as_is_said(seeds, noise):
    """400 independent repetitions without a difference, of skewed prompts: 5% within its exact 99% binomial band."""
    rng = np.random.default_rng(seeds)
    a, b = (rng.exponential(1, (400, seeds, 100)) for _ in range(2))
    prompts = rng.exponential(1, (400, 1, 100)) * rng.choice([-1, 1], (400, 1, 100))
    found = compare(prompts + noise * (a - b), resamples=400)
    low, high = binom.ppf([0.005, 0.995], 400, 0.05)
    assert low <= sum(one.p < 0.05 for one in found) <= high
    assert low <= sum(not one.low <= 0 <= one.high for one in found) <= high
    assert sum(one.distinguishable for one in found) == 0  # Holm's correction over 400


def test_seeds_that_differ_widen_the_interval_and_not_the_test():
    """Methods that differ by the luck of seeds only, as large as that of prompts: the test, which takes the seeds as
    given, is wrong three times too often; the interval, which does not, about as often as it says."""
    rng = np.random.default_rng(0)
    found = compare(rng.normal(0, math.sqrt(5 / 100), (400, 5, 1)) + rng.normal(size=(400, 1, 100)), resamples=400)
    assert np.mean([one.p < 0.05 for one in found]) == pytest.approx(0.17, abs=0.06)
    assert np.mean([not one.low <= 0 <= one.high for one in found]) == pytest.approx(0.055, abs=0.03)

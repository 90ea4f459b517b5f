"""Holm's correction, the sign-flip test and the BCa interval against scipy and by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, permutation_test, t

from esolab.stats import bca, bca_limits, components, holm, resampled_means, sign_flip, stretch
from esolab.stats.intervals import CHUNK


def crossed(c: int, s: int, n: int, effect: float = 0.0, seed: int = 0) -> np.ndarray:
    """Differences [c, s, n] with a part of the seed, a skewed part of the prompt, and noise."""
    rng = np.random.default_rng(seed)
    prompt = rng.exponential(1, (c, 1, n)) - 1
    return effect + 0.1 * rng.normal(size=(c, s, 1)) + prompt + rng.normal(size=(c, s, n))


def test_holm_by_hand():
    """0.005 x 4 = 0.02; 0.01 x 3 = 0.03; 0.03 x 2 = 0.06; 0.04 x 1 is below the one before it, so 0.06, too."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.4]) == pytest.approx([0.8, 0.8])  # 0.4 x 2; 0.6 is below it
    assert holm([0.7, 0.9]) == pytest.approx([1.0, 1.0])  # at most 1
    assert holm([0.03]) == pytest.approx([0.03])
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06, 0.06, 0.06])
    assert holm([]).shape == (0,)


def test_holm_equals_the_formula_of_statsmodels():
    """multipletests(method="holm"): sorted p times arange(n, 0, -1), running maximum, cut at 1, unsorted."""
    p = np.random.default_rng(0).random(50) ** 3
    order = p.argsort()
    expected = np.empty(50)
    expected[order] = np.clip(np.maximum.accumulate(p[order] * np.arange(50, 0, -1)), 0, 1)
    assert holm(p) == pytest.approx(expected, abs=1e-15)
    assert (holm(p) >= p).all()
    assert (holm(p) <= np.minimum(1, 50 * p)).all()  # never above Bonferroni's


@pytest.mark.parametrize("p", [[-0.1], [1.1], [math.nan], [[0.1]]])
def test_holm_refuses_what_is_no_list_of_p_values(p):
    with pytest.raises(ValueError, match="p-values"):
        holm(p)


@pytest.mark.parametrize(
    ("row", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # +++ and --- of 8
        ([1.0, 1.0, 1.0, 1.0, 1.0], 2 / 32),  # five seeds alone never reach 5%
        ([1.0, -1.0], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([0.1, 0.2, -0.3], 1.0),  # a sum of 0 but for rounding
        ([0.1, 0.2, 0.3, -0.6, 0.6], 20 / 32),
    ],
)
def test_sign_flips_by_hand(row, p):
    """The last, a sum of 0.6: 0.1, 0.2, 0.3 sum to at most 0.6 either way, the two of 0.6 to 1.2, 0, 0, -1.2: with 1.2
    or -1.2 all 8 are as far from 0, with 0 only +++ and ---; 8 + 2 + 2 + 8."""
    assert sign_flip(np.array([row])) == pytest.approx([p], abs=1e-15)


@pytest.mark.parametrize("n", [2, 7, 13])
def test_all_sign_flips_equal_scipy(n):
    d = np.random.default_rng(n).normal(0.3, 1, (4, n))
    for row, found in zip(d, sign_flip(d), strict=True):
        reference = permutation_test((row,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert found == pytest.approx(reference.pvalue, abs=1e-12)


def test_random_sign_flips_are_close_to_scipy():
    d = np.random.default_rng(1).normal([[0.0], [0.1], [0.2], [0.3]], 1, (4, 100))
    for row, found in zip(d, sign_flip(d), strict=True):
        reference = permutation_test((row,), np.mean, permutation_type="samples", rng=np.random.default_rng(2))
        error = math.sqrt(2 * found * (1 - found) / 9999) + 2e-4
        assert found == pytest.approx(reference.pvalue, abs=4 * error)


def test_random_sign_flips_are_close_to_all_of_them():
    d = crossed(3, 1, 13, 0.4)[:, 0]
    assert sign_flip(d, resamples=8191) == pytest.approx(sign_flip(d, resamples=8192), abs=4 * math.sqrt(0.25 / 8191))
    assert (sign_flip(d, resamples=8192) * 8192 % 2 == 0).all()  # a pattern and its mirror count alike


def test_the_pattern_observed_counts_as_one():
    assert sign_flip(np.ones((1, 60)), resamples=99) == pytest.approx([1 / 100])


def test_signs_come_from_a_stream_that_chunks_do_not_break():
    few = crossed(3, 1, 500)[:, 0]
    many = np.concatenate([few, np.random.default_rng(0).normal(size=(4000, 500))])
    assert CHUNK // len(many) < CHUNK // 500  # fewer rows at once
    assert (sign_flip(few, 999) == sign_flip(many, 999)[:3]).all()
    assert (sign_flip(few, 999) == sign_flip(-few, 999)).all()
    assert (sign_flip(few, 999) != sign_flip(few, 999, seed=1)).any()


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_of_one_seed_the_interval_equals_scipys_of_paired_prompts(level):
    d = crossed(2, 1, 40)
    for row, found in zip(d[:, 0], bca(d, level, 2000, seed=3), strict=True):
        options = {"method": "BCa", "n_resamples": 2000, "confidence_level": level}
        reference = bootstrap((row,), np.mean, rng=np.random.default_rng([3, 0]), **options).confidence_interval
        assert found == pytest.approx([reference.low, reference.high], abs=1e-12)


@pytest.mark.parametrize(("s", "n"), [(2, 16), (4, 32)])
def test_the_limits_equal_scipys_of_two_samples_with_the_same_distribution(s, n):
    """scipy resamples the numbers of the seeds and of the prompts; n_resamples=0 takes the distribution it is given."""
    d = np.round(16 * crossed(1, s, n, 0.2)) / 16  # sums are exact, so that a tie is a tie there, too
    means = resampled_means(d, 1500, seed=1)
    given = SimpleNamespace(bootstrap_distribution=means[0])

    def mean(seeds, prompts):
        return d[0][np.ix_(seeds.astype(int), prompts.astype(int))].mean()

    reference = bootstrap(
        (np.arange(s), np.arange(n)), mean, n_resamples=0, bootstrap_result=given, method="BCa", vectorized=False
    ).confidence_interval
    assert bca_limits(means, d, 0.95)[0] == pytest.approx([reference.low, reference.high], abs=1e-12)


def test_seeds_and_prompts_resampled_are_close_to_scipys():
    d = crossed(1, 5, 60, 0.2)

    def mean(seeds, prompts):
        return d[0][np.ix_(seeds.astype(int), prompts.astype(int))].mean()

    reference = bootstrap(
        (np.arange(5), np.arange(60)), mean, n_resamples=5000, vectorized=False, rng=np.random.default_rng(0)
    )
    low, high = reference.confidence_interval
    assert bca_limits(resampled_means(d, 10_000, 0), d, 0.95)[0] == pytest.approx([low, high], abs=0.05 * (high - low))
    assert resampled_means(d, 10_000, 0).std() == pytest.approx(reference.standard_error, rel=0.05)


def test_a_resamples_mean_by_hand():
    """One seed of two and one prompt of two, each drawn twice: 16 resamples alike, a corner alone in 1 of them."""
    d = np.array([[[16.0, 0.0], [0.0, 0.0]]])  # the mean is 16 x (share of seed 0) x (share of prompt 0)
    means = resampled_means(d, 40_000, 0)[0]
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 4.0, 8.0, 16.0]  # shares are 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    assert counts / 40_000 == pytest.approx([7 / 16, 4 / 16, 4 / 16, 1 / 16], abs=0.01)


def test_the_spread_of_resamples_is_that_of_seeds_and_of_prompts():
    """Without noise D = u + v, and a mean's variance is that of u (n below) / S + that of v / N."""
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(6, 1)), rng.normal(size=(1, 50))
    expected = u.var() / 6 + v.var() / 50
    assert resampled_means((u + v)[None], 40_000, 0).var() == pytest.approx(expected, rel=0.03)


def test_one_seed_is_not_stretched():
    assert stretch(crossed(3, 1, 20), 0.95).tolist() == [1.0, 1.0, 1.0]


def test_a_stretch_by_hand():
    """Two seeds, two prompts. Means of seeds 4 and 0, of prompts 3 and 1, no noise: as variances of the mean
    8 / 2 = 4 with 1 degree of freedom and 2 / 2 = 1 with 1, so 5 with 25 / (16 + 1); resampled half of it."""
    d = np.array([[[5.0, 3.0], [1.0, -1.0]]])
    expected = math.sqrt(5 / 2.5) * t.ppf(0.975, 25 / 17) / norm.ppf(0.975)
    assert stretch(d, 0.95) == pytest.approx([expected])


def test_noise_alone_is_stretched_to_what_it_is():
    """Rows and columns sum to 0, so all is noise, of (1 x 2) degrees of freedom: 12 / 2 = 6, of the mean 6 / 6 = 1.
    Resampling sees 12 / 36 of it."""
    d = np.array([[[2.0, -1.0, -1.0], [-2.0, 1.0, 1.0]]])
    expected = math.sqrt(1 / (1 / 3)) * t.ppf(0.95, 2) / norm.ppf(0.95)
    assert stretch(d, 0.9) == pytest.approx([expected])


@pytest.mark.parametrize(("s", "n"), [(2, 30), (5, 60), (20, 10)])
def test_the_spread_of_stretched_resamples_is_that_of_the_components(s, n):
    d = crossed(4, s, n)
    resampled = resampled_means(d, 20_000, 0).std(axis=1)
    wide = stretch(d, 0.95)
    for one, spread, factor in zip(d, resampled, wide, strict=True):
        true = math.sqrt(components(one).variance(s, n))
        assert 0.97 * true < spread * factor < 0.03 * true + true * t.ppf(0.975, min(s, n) - 1) / norm.ppf(0.975)


def test_intervals_of_many_are_those_of_each_alone():
    many = crossed(600, 5, 40)
    assert CHUNK // (600 * 5) < 400  # more than one chunk
    found = bca(many, resamples=400)
    assert found[7] == pytest.approx(bca(many[7:8], resamples=400)[0], abs=1e-12)


def test_signs_shifts_and_scales():
    d = crossed(3, 5, 50, 0.3)
    found = bca(d, resamples=2000)
    assert bca(-d, resamples=2000) == pytest.approx(-found[:, ::-1], abs=1e-9)
    assert bca(100 * d + 7, resamples=2000) == pytest.approx(100 * found + 7, abs=1e-9)
    assert (bca(d, resamples=2000, seed=1) != found).any()
    assert (bca(d, level=0.8, resamples=2000)[:, 0] > found[:, 0]).all()


def test_no_spread_is_a_point_and_never_a_warning():
    d = np.stack([np.full((3, 20), value) for value in (0.0, 2.1, -0.1)])
    assert bca(d, resamples=500) == pytest.approx(np.array([[0.0, 0.0], [2.1, 2.1], [-0.1, -0.1]]), abs=1e-12)
    assert sign_flip(d.mean(axis=1), 500) == pytest.approx([1.0, 1 / 501, 1 / 501])


def test_resamples_on_one_side_of_the_estimate_leave_finite_bounds():
    d = np.array([[[0.0, 1.0]]])
    assert np.isfinite(bca_limits(np.full((1, 9), 2.0), d, 0.95)).all()
    assert np.isfinite(bca_limits(np.full((1, 9), -2.0), d, 0.999999)).all()

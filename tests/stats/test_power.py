"""Variance components by hand and by simulation; how many seeds or prompts an effect needs."""

import math

import numpy as np
import pytest

from esolab.stats import Components, compare, components, prompts_needed, seeds_needed


def test_components_by_hand():
    """Rows 1 2 6 and 3 8 10: means 3 and 7 of seeds; 2, 5 and 8 of prompts; 5 of all.

    Mean squares: seeds 3 x (4 + 4) / 1 = 24; prompts 2 x (9 + 0 + 9) / 2 = 18; what is left of row 1 is
    1, -1, 0, of row 2 -1, 1, 0: 4 / 2 = 2. So (24 - 2) / 3 of the seed, (18 - 2) / 2 of the prompt, 2 left.
    """
    found = components(np.array([[1.0, 2.0, 6.0], [3.0, 8.0, 10.0]]))
    assert (found.seed, found.prompt, found.residual) == pytest.approx((22 / 3, 8.0, 2.0))
    assert found.variance(2, 3) == pytest.approx(22 / 6 + 8 / 3 + 2 / 6)


def test_a_negative_component_is_none_at_all():
    """Rows 1 -1 and -1 1: all means are 0, and everything is left."""
    assert components(np.array([[1.0, -1.0], [-1.0, 1.0]])) == Components(0.0, 0.0, 4.0)


def test_one_seed_has_prompts_only():
    found = components(np.array([[1.0, 2.0, 6.0]]))  # deviations -2, -1, 3: (4 + 1 + 9) / 2
    assert (found.seed, found.prompt, found.residual) == pytest.approx((0.0, 7.0, 0.0))


def test_components_are_right_on_average():
    rng = np.random.default_rng(0)
    found = np.array(
        [
            (c.seed, c.prompt, c.residual)
            for c in (
                components(
                    0.7 * rng.normal(size=(6, 1)) + 1.5 * rng.normal(size=(1, 40)) + 2 * rng.normal(size=(6, 40))
                )
                for _ in range(600)
            )
        ]
    )
    assert found.mean(axis=0) == pytest.approx([0.49, 2.25, 4.0], rel=0.06)


def test_what_is_needed_by_hand():
    """Z = 1.95996 + 0.84162 = 2.80159. An effect of 2.80159 has room for a variance of 1.

    Prompts' share 50 / 100 leaves 0.5 for seeds: (2 + 100 / 100) / 0.5 = 6. Of 8 seeds 2 / 8 leaves 0.75 for prompts:
    (50 + 100 / 8) / 0.75 = 83.3.
    """
    varies, effect = Components(2.0, 50.0, 100.0), 2.8015853
    assert seeds_needed(effect, varies, 100) == 6
    assert seeds_needed(-effect, varies, 100) == 6
    assert prompts_needed(effect, varies, 8) == 84
    assert seeds_needed(effect, varies, 49) is None  # the prompts alone are as noisy as is allowed
    assert prompts_needed(effect, varies, 1) is None
    assert prompts_needed(effect, varies, 3) == math.ceil((50 + 100 / 3) / (1 - 2 / 3))
    assert seeds_needed(0.0, varies, 100) is None
    assert prompts_needed(0.0, Components(0.0, 0.0, 0.0), 5) is None
    assert (seeds_needed(1.0, Components(0.0, 0.0, 0.0), 5), prompts_needed(1.0, Components(0.0, 0.0, 0.0), 5)) == (
        1,
        2,
    )
    assert prompts_needed(1e-200, Components(0.0, 1.0, 0.0), 1) is None  # more than can be counted


def test_as_many_prompts_as_are_said_give_80_percent_power():
    rng, varies = np.random.default_rng(0), Components(0.0, 1.0, 1.0)
    n = prompts_needed(0.2, varies, 4)
    assert n == math.ceil(1.25 * (2.8015853 / 0.2) ** 2)
    d = 0.2 + rng.normal(size=(400, 1, n)) + rng.normal(size=(400, 4, n))
    share = np.mean([found.p < 0.05 for found in compare(d, resamples=400)])
    assert share == pytest.approx(0.8, abs=0.06)  # three standard errors of 400

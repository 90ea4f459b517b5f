"""What a reward may return, and what becomes of it."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from esolab.rewards.base import usable

NOT_NUMBERS = [
    *(math.nan, math.inf, -math.inf, None, "0.5", "", b"1", True, False, 1j, [0.5], (), {}, object()),
    *(np.float32("nan"), np.float64("inf"), np.bool_(True), 1e39),  # more than float32 holds
]
NUMBERS = [0, 1, -3, 0.5, -2.5e30, Fraction(1, 4), np.float64(0.5), np.float32(-0.25), np.float16(2), np.int64(7)]


def random_rewards(seed, prompts=5, k=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(prompts, k, generator=generator), torch.rand(prompts, k, generator=generator) < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_kept_as_they_are(seed):
    rewards, _ = random_rewards(seed)
    for raw in (rewards, rewards.double(), rewards.tolist(), [tuple(row) for row in rewards.tolist()]):
        found, good = usable(raw, 5, 4)
        assert torch.equal(found, rewards)
        assert found.dtype == torch.float32
        assert good.all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.long, torch.uint8])
def test_a_tensor_of_any_number_type_will_do_and_needs_no_detaching(dtype):
    raw = torch.tensor([[0, 1], [3, 2]]).to(dtype)
    found, good = usable(raw.requires_grad_() if dtype.is_floating_point else raw, 2, 2)
    assert found.tolist() == [[0.0, 1.0], [3.0, 2.0]]
    assert not found.requires_grad
    assert good.all()


@pytest.mark.parametrize("number", NUMBERS, ids=lambda x: f"{type(x).__name__} {x}")
def test_any_real_number_will_do(number):
    found, good = usable([[number, 0.5]], 1, 2)
    assert good.all()
    assert found.tolist() == [[pytest.approx(float(number)), 0.5]]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda x: type(x).__name__)
def test_what_is_no_finite_number_gets_the_mean_of_the_others(value):
    found, good = usable([[0.2, value, 0.5, 0.8], [0.1, 0.2, 0.3, 0.4]], 2, 4)
    assert good.tolist() == [[True, False, True, True], [True] * 4]
    assert found[0].tolist() == pytest.approx([0.2, 0.5, 0.5, 0.8])
    assert found[1].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", [math.nan, math.inf, None, "x"], ids=str)
def test_a_hole_moves_no_mean_and_no_other_reward(value, seed):
    """The others of a prompt stand where they stood, and so does their mean: against it, a hole is worth 0."""
    rewards, holes = random_rewards(seed)
    holes[0] = torch.tensor([True, True, True, False])
    raw = [
        [value if h else x for x, h in zip(*pair, strict=True)] for pair in zip(rewards.tolist(), holes, strict=True)
    ]
    found, good = usable(raw, 5, 4)
    assert torch.equal(good, ~holes)
    assert torch.equal(found[good], rewards[good])
    for b in range(5):
        mean = rewards[b][~holes[b]].mean() if (~holes[b]).any() else torch.tensor(0.0)
        torch.testing.assert_close(found[b][holes[b]], mean.expand(int(holes[b].sum())))
        torch.testing.assert_close(found[b].mean(), mean)


@pytest.mark.parametrize("value", [math.nan, -math.inf], ids=str)
def test_holes_in_a_tensor_are_those_of_a_list(value):
    rewards, holes = random_rewards(7)
    rewards[holes] = value
    as_tensor, as_list = usable(rewards, 5, 4), usable(rewards.tolist(), 5, 4)
    assert all(torch.equal(a, b) for a, b in zip(as_tensor, as_list, strict=True))
    assert torch.equal(as_tensor[1], ~holes)


@pytest.mark.parametrize("value", [None, math.nan, "x"], ids=str)
def test_a_prompt_without_any_number_is_worth_nothing(value):
    found, good = usable([[value] * 3, [0.1, 0.2, 0.3]], 2, 3)
    assert found[0].tolist() == [0.0, 0.0, 0.0]
    assert good.tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize(
    "raw",
    [
        [[0.1, 0.2]],  # too few prompts
        [[0.1, 0.2]] * 3,
        [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],  # too many answers
        [[0.1, 0.2], [0.1]],
        [[0.1, 0.2], []],
        [0.1, 0.2],  # one a prompt
        [0.1, 0.2, 0.3, 0.4],  # flat
        [[[0.1], [0.2]], [[0.3], [0.4]]],  # too deep
        ["ab", "cd"],  # not even two letters a prompt
        [{0: 0.1, 1: 0.2}, {0: 0.3, 1: 0.4}],
        [None, [0.1, 0.2]],
        {"a": [0.1, 0.2], "b": [0.3, 0.4]},
        [],
        None,
        0.5,
        "ab",
        torch.tensor(0.5),
        torch.zeros(4),
        torch.zeros(2, 3),
        torch.zeros(2, 2, 1),
        torch.zeros(2, 2, dtype=torch.bool),
        torch.zeros(2, 2, dtype=torch.complex64),
    ],
    ids=str,
)
def test_a_result_of_another_shape_has_no_number_at_all(raw):
    found, good = usable(raw, 2, 2)
    assert found.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert not good.any()


def test_arrays_rows_and_single_tensors_are_read_too():
    rows = [[0.25, 0.5], [0.75, 1.0]]
    for raw in (
        np.array(rows),
        np.array(rows, dtype=np.float32),
        [np.array(row) for row in rows],
        [torch.tensor(row) for row in rows],
        [[torch.tensor(x) for x in row] for row in rows],
    ):
        found, good = usable(raw, 2, 2)
        assert found.tolist() == rows
        assert good.all()


def test_numbers_beyond_float_are_not_numbers_and_large_ones_keep_a_finite_mean():
    found, good = usable([[10**400, 0.5], [Fraction(10**400), 0.25]], 2, 2)
    assert good.tolist() == [[False, True], [False, True]]
    assert found.tolist() == [[0.5, 0.5], [0.25, 0.25]]
    found, good = usable([[3e38, 3e38, None]], 1, 3)
    assert good.tolist() == [[True, True, False]]
    assert found.isfinite().all()

import pytest
import torch

from esolab.config import build, resolve
from esolab.errors import BadInput
from esolab.rewards.base import Reward
from esolab.rewards.length import Length, length_penalty

REFERENCES = ["one two three four", "one"]
RESPONSES = [
    ["w " * 4, "w " * 5, "w " * 6, "w " * 8, "w " * 80, ""],
    ["w", "w w", "w w w", "", "  w\n", "a-b"],
]


@pytest.mark.parametrize(
    ("words", "penalty"), [(0, 0), (9, 0), (10, 0), (11, -0.25), (12, -0.5), (13, -0.75), (14, -1), (15, -1), (999, -1)]
)
def test_nothing_up_to_the_target_then_a_line_to_minus_one_at_the_limit(words, penalty):
    assert length_penalty(words, 10, 14) == penalty
    assert Length(10, 14)(["p"], [["w " * words]], ["r"]).tolist() == [[penalty]]


def test_without_a_target_it_is_the_length_of_each_reference_and_the_limit_twice_that():
    found = Length()(["p", "q"], RESPONSES, REFERENCES)
    assert found.dtype == torch.float32
    assert found.tolist() == [[0, -0.25, -0.5, -1, -1, 0], [0, -1, -1, 0, 0, 0]]


def test_an_empty_reference_counts_as_a_word():
    assert Length()(["p"], [["", "w", "w w"]], [""]).tolist() == [[0, 0, -1]]


def test_without_a_limit_it_is_twice_the_target():
    assert Length(4)(["p"], [["w " * n for n in (4, 5, 8, 9)]], ["r"]).tolist() == [[0, -0.25, -1, -1]]


@pytest.mark.parametrize(("target", "limit"), [(10, 10), (10, 9), (None, 10)])
def test_a_limit_stands_above_a_target(target, limit):
    with pytest.raises(BadInput, match=rf"reward\.limit={limit}: .* reward\.target, not with {target}; .*limit=null"):
        Length(target, limit)


def test_the_yaml_goes_by_the_reference():
    reward = build(resolve(["reward=length"])["reward"])
    assert isinstance(reward, Reward)
    assert torch.equal(reward(["p", "q"], RESPONSES, REFERENCES), Length()(["p", "q"], RESPONSES, REFERENCES))
    assert reward.max_bad_share == 0.1


def test_lists_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="a reward needs"):
        Length()(["p"], RESPONSES, REFERENCES)

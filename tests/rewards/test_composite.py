"""A sum of rewards: what it adds, what it keeps of each part, and what becomes of a part without a number."""

import math

import pytest
import torch

from esolab.config import build, resolve
from esolab.errors import BadInput
from esolab.rewards.base import Reward, usable
from esolab.rewards.composite import Composite, normalised
from esolab.rewards.length import Length
from esolab.rewards.rouge import Rouge

NAN = math.nan
PROMPTS, REFERENCES = ["p", "q"], ["the cat sat", "it rained"]
RESPONSES = [["the cat sat", "a cat", "the cat sat on the mat"], ["it rained", "it rained it rained", ""]]


def giving(*rows):
    """A reward of these rows, whatever the answers."""
    return lambda prompts, responses, references: list(rows)


def composite(parts, normalise="none"):
    """composite({"a": ([[...], ...], weight)}): a sum of such rewards, called."""
    made = {name: {"reward": giving(*rows), "weight": weight} for name, (rows, weight) in parts.items()}
    reward = Composite(made, normalise)
    k = max(len(row) for row in next(iter(parts.values()))[0])
    texts = [["-"] * k] * len(next(iter(parts.values()))[0])
    return reward, reward(["p"] * len(texts), texts, ["r"] * len(texts))


def same(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), equal_nan=True)


# normalisation


def test_as_they_are():
    values = torch.tensor([[0.1, NAN, 0.7]], dtype=torch.float64)
    assert normalised(values, "none") is values


def test_center_takes_away_the_mean_of_the_prompt_and_z_divides_by_its_standard_deviation_too():
    """Of 1, 3, 8 the mean is 4 and the variance (9 + 1 + 16) / 3; each prompt by itself."""
    values = torch.tensor([[1.0, 3, 8], [100, 300, 800]], dtype=torch.float64)
    same(normalised(values, "center"), [[-3.0, -1, 4], [-300, -100, 400]])
    deviation = math.sqrt(26 / 3)
    same(normalised(values, "z"), [[-3 / deviation, -1 / deviation, 4 / deviation]] * 2)


@pytest.mark.parametrize("how", ["center", "z"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.7e9, 0.0, 1e-30])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_equal_scores_are_exactly_nothing(how, value, k):
    values = torch.full((2, k), value, dtype=torch.float64)
    assert normalised(values, how).tolist() == [[0.0] * k] * 2
    values[1, k // 2] = NAN
    assert normalised(values, how).nan_to_num(5).tolist()[1] == [5 if j == k // 2 else 0 for j in range(k)]


@pytest.mark.parametrize("how", ["center", "z"])
def test_a_score_that_is_none_moves_no_other(how):
    found = normalised(torch.tensor([[NAN, 1, 3, NAN, 8], [NAN] * 5], dtype=torch.float64), how)
    alone = normalised(torch.tensor([[1.0, 3, 8]], dtype=torch.float64), how)[0].tolist()
    same(found, [[NAN, alone[0], alone[1], NAN, alone[2]], [NAN] * 5])


# the sum


def test_the_sum_of_weighted_parts():
    parts = {"a": ([[1.0, 2, 4], [0, 0, 1]], 2.0), "b": ([[10.0, 0, 5], [1, 2, 3]], -0.5)}
    reward, found = composite(parts)
    assert found.dtype == torch.float32
    assert found.tolist() == [[-3, 4, 5.5], [-0.5, -1, 0.5]]
    assert {name: values.tolist() for name, values in reward.parts.items()} == {n: r for n, (r, _) in parts.items()}


def test_each_part_is_normalised_before_its_weight_and_kept_as_it_was():
    """However large a part, it counts as its weight says; one that tells no answers apart counts nothing."""
    parts = {"a": ([[0.0, 0.002]], 1.0), "b": ([[5000.0, 0]], 0.25), "same": ([[0.3, 0.3]], 9.0)}
    reward, found = composite(parts, "z")
    same(found, [[-0.75, 0.75]])
    assert reward.parts["b"].tolist() == [[5000, 0]]
    same(composite(parts, "center")[1], [[-0.001 + 625, 0.001 - 625]])


@pytest.mark.parametrize("how", ["none", "center", "z"])
@pytest.mark.parametrize("bad", [NAN, math.inf, None, "x"], ids=str)
def test_an_answer_without_a_number_in_one_part_has_none_in_the_sum(how, bad, caplog):
    reward, found = composite({"a": ([[1.0, bad, 3], [1, 2, 3]], 1.0), "b": ([[1.0, 1, 1], [2, 2, 2]], 0.0)}, how)
    good = [[True, False, True], [True, True, True]]
    assert usable(found, 2, 3)[1].tolist() == good
    assert reward.parts["a"].isfinite().tolist() == good
    assert reward.parts["b"].isfinite().all()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("reward.parts.a: no usable number for 1 of 6 answers")
    assert str(bad) in line
    reward(["p"] * 2, [["-"] * 3] * 2, ["r"] * 2)
    assert len(caplog.records) == 1  # said once


def test_a_part_of_another_shape_has_no_number_at_all():
    reward = Composite({"a": {"reward": giving([1.0, 2.0]), "weight": 1}, "b": {"reward": Length(), "weight": 1}})
    found = reward(PROMPTS, RESPONSES, REFERENCES)
    assert not usable(found, 2, 3)[1].any()
    assert reward.parts["a"].isnan().all()
    assert reward.parts["b"].isfinite().all()


def test_what_parts_clip_and_shorten_is_summed():
    def part(**counts):
        reward = giving([1.0])
        vars(reward).update(counts)
        return {"reward": reward, "weight": 1}

    inner = Composite({"a": part(clipped=2), "b": part(shortened=3)})
    outer = Composite({"in": {"reward": inner, "weight": 1}, "c": part(clipped=5, shortened=7), "d": part()})
    assert (outer.clipped, outer.shortened) == (7, 10)


def test_a_sum_may_be_a_part():
    inner = Composite({"a": {"reward": giving([1.0, NAN, 3]), "weight": 2}})
    outer = Composite({"in": {"reward": inner, "weight": 10}, "b": {"reward": giving([1, 1, 1]), "weight": 1}})
    same(outer(["p"], [["-"] * 3], ["r"]), [[21.0, NAN, 61]])


def test_lists_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="a reward needs"):
        Composite({"a": {"reward": Rouge(), "weight": 1}})(PROMPTS, RESPONSES, REFERENCES[:1])


# the configuration


def misfits(*overrides):
    with pytest.raises(BadInput) as caught:
        resolve(["reward=composite", *overrides])
    return str(caught.value).splitlines()


def test_the_yaml_is_rouge_l_and_a_tenth_of_a_penalty_on_answers_longer_than_the_reference():
    reward = build(resolve(["reward=composite"])["reward"])
    assert isinstance(reward, Reward)
    found = reward(PROMPTS, RESPONSES, REFERENCES)
    texts = (PROMPTS, RESPONSES, REFERENCES)
    assert torch.equal(reward.parts["rougeL"], Rouge()(*texts))
    assert torch.equal(reward.parts["length"], Length()(*texts))
    torch.testing.assert_close(found, Rouge()(*texts) + 0.1 * Length()(*texts))
    assert found[0, 2] < Rouge()(*texts)[0, 2]
    assert reward.max_bad_share == 0.1


def test_parts_join_leave_and_change_on_the_command_line():
    short = "+reward.parts.short={reward:{_target_:esolab.rewards.length.Length,target:1},weight:0.5}"
    config = resolve(["reward=composite", short, "~reward.parts.length", "reward.parts.rougeL.weight=2"])
    reward = build(config["reward"])
    found = reward(PROMPTS, RESPONSES, REFERENCES)
    assert list(reward.parts) == ["rougeL", "short"]
    texts = (PROMPTS, RESPONSES, REFERENCES)
    torch.testing.assert_close(found, 2 * Rouge()(*texts) + 0.5 * Length(1)(*texts))


def test_what_does_not_fit_is_said_at_once_and_with_its_place():
    found = misfits(
        "reward.normalise=zz",
        "reward.parts.rougeL.weight=heavy",
        "reward.parts.rougeL.reward.stem=3",
        "reward.parts.length.reward.limit=5",
        "+reward.parts.rougeL.wieght=1",
        "+reward.parts.a={reward:{_target_:esolab.rewards.length.Length,goal:3}}",
        "+reward.parts.b={reward:{_target_:esolab.rewards.nowhere.Length},weight:inf}",
        "method.lam=-1",
    )
    starts = [
        "reward.normalise=zz: input should be 'none', 'center' or 'z'",
        "reward.parts.rougeL.weight=heavy: input should be a valid number",
        "reward.parts.rougeL.reward.stem=3: input should be a valid boolean",
        "reward.parts.length.reward.limit=5: goes with a smaller reward.parts.length.reward.target, not with None",
        "reward.parts.rougeL.wieght: unknown key",
        "reward.parts.a.weight: no value; give reward.parts.a.weight=...",
        "reward.parts.a.reward.goal: unknown key",
        "reward.parts.b.reward._target_: 'esolab.rewards.nowhere.Length' cannot be imported",
        "reward.parts.b.weight=inf: input should be a finite number",
        "method.lam=-1: ",
    ]
    assert [start for start in starts if not any(line.startswith(start) for line in found)] == []
    assert len(found) == len(starts), found


def test_names_and_parts_that_will_not_do():
    length = "{reward:{_target_:esolab.rewards.length.Length},weight:1}"
    found = misfits(f"+reward.parts.flat={length}", "+reward.parts.a.reward=rouge")
    assert found == ["reward.parts.a.weight: no value; give reward.parts.a.weight=..."]
    found = misfits(f"+reward.parts.flat={length}", "+reward.parts.a={reward:rouge,weight:1}")
    assert found == [
        "reward.parts.flat: reward/flat cannot be its column in metrics.csv; give a name of letters, digits and _ that "
        "is none of mean, spread, flat",
        "reward.parts.a.reward=rouge: no reward; give {_target_:...} with its settings",
    ]


@pytest.mark.parametrize("name", ["mean", "0_t0.5", "a/b", ""])
def test_no_part_takes_the_column_of_another_number(name):
    with pytest.raises(BadInput, match=r"cannot be its column in metrics\.csv"):
        Composite({name: {"reward": Length(), "weight": 1}})


def test_one_part_is_needed():
    assert misfits("~reward.parts.length", "~reward.parts.rougeL") == [
        "reward.parts: there is none; give +reward.parts.NAME={reward:{_target_:...},weight:1}"
    ]


def test_a_function_of_a_part_is_refused_with_its_place():
    part = "{reward:{_target_:esolab.rewards.callable.Function,function:'no.such:fn'},weight:1}"
    (found,) = misfits(f"+reward.parts.mine={part}")
    assert found.startswith("reward.parts.mine.reward.function=no.such:fn: no.such cannot be imported")

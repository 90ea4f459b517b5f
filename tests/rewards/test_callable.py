import sys

import pytest
import torch

from esolab.config import build, resolve
from esolab.errors import BadInput
from esolab.rewards.base import Reward
from esolab.rewards.callable import Function

MODULE = """
class Judge:
    def score(self, prompts, responses, references):
        return [[-1.0 for _ in answers] for answers in responses]

def words(prompts, responses, references, scale=1.0):
    return [[scale * len(answer.split()) for answer in answers] for answers in responses]

def seen(*texts):
    return texts

judge, number = Judge(), 3
"""
TEXTS = (["p", "q"], [["a", "a b"], ["", "a b c"]], ["r", "s"])


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """Modules that PYTHONPATH would find: `scoring`, and `scoring_broken`, whose import fails."""
    (tmp_path / "scoring.py").write_text(MODULE)
    (tmp_path / "scoring_broken.py").write_text("import json\njson.loads('[')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("scoring", "scoring_broken"):
        sys.modules.pop(name, None)


def test_it_is_what_the_function_says():
    assert Function("scoring:words")(*TEXTS) == [[1, 2], [0, 3]]
    assert Function("scoring:words", {"scale": 0.5})(*TEXTS) == [[0.5, 1], [0, 1.5]]
    assert Function("scoring:seen")(*TEXTS) == TEXTS
    assert Function("scoring:judge.score")(*TEXTS) == [[-1, -1], [-1, -1]]


def test_on_the_command_line():
    config = resolve(["reward=callable", "reward.function=scoring:words", "+reward.settings.scale=2"])
    reward = build(config["reward"])
    assert isinstance(reward, Reward)
    assert torch.tensor(reward(*TEXTS)).tolist() == [[2, 4], [0, 6]]
    assert reward.max_bad_share == 0.1


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("scoring", "not of the form package.module:name"),
        (":words", "not of the form package.module:name"),
        ("scoring:", "not of the form package.module:name"),
        ("nowhere.x:words", "nowhere.x cannot be imported (ModuleNotFoundError: No module named 'nowhere')"),
        ("scoring_broken:words", "scoring_broken cannot be imported (JSONDecodeError: "),
        ("scoring:word", "scoring has no word; give the name of"),
        ("scoring:judge.scores", "scoring has no judge.scores; give the name of"),
        ("scoring:number", "of type int, which cannot be called; give the name of"),
        ("scoring:Judge", "cannot be called with (prompts, responses, references) and reward.settings={}"),
    ],
)
def test_what_is_not_there_or_cannot_be_called_is_one_line(function, said):
    with pytest.raises(BadInput) as caught:
        Function(function)
    assert str(caught.value).startswith(f"reward.function={function}: {said}")
    with pytest.raises(BadInput) as caught:  # before a run begins
        resolve(["reward=callable", f"reward.function='{function}'", "method.lam=-1"])
    (first, second) = sorted(str(caught.value).splitlines())
    assert first.startswith("method.lam=-1: ")
    assert second.startswith(f"reward.function={function}: {said}")


def test_settings_that_it_does_not_take_are_said_before_a_run():
    said = r"reward\.function=scoring:words: .*settings={'size': 2} \(got an unexpected keyword argument 'size'\)"
    with pytest.raises(BadInput, match=said):
        Function("scoring:words", {"size": 2})
    with pytest.raises(BadInput, match=said):
        resolve(["reward=callable", "reward.function=scoring:words", "+reward.settings.size=2"])


def test_a_function_is_needed():
    with pytest.raises(BadInput, match=r"^reward\.function: no value; give reward\.function=\.\.\.$"):
        resolve(["reward=callable"])


def test_lists_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="a reward needs"):
        Function("scoring:words")(*TEXTS[:2], ["r"])

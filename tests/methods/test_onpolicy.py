"""A reward that returns what is no number: counted while it is seldom, the end of the run where it is not."""

import csv
import json
from pathlib import Path

import pytest
import torch

import esolab.run
from esolab.config import resolve
from esolab.data import collate
from esolab.errors import BadInput
from esolab.methods.eso import ESO
from esolab.methods.step_metrics import describe
from esolab.rewards.composite import Composite
from esolab.rewards.rouge import Rouge
from esolab.run import run

TINY = [  # 32 examples in two steps an epoch; the second epoch samples
    *("data=newswire", "data.train=32", "data.dev=2", "data.test=4", "data.max_prompt=120", "data.max_response=40"),
    *("model.architecture.n_layer=1", "model.architecture.n_embd=16", "model.architecture.n_head=2"),
    *("model.vocab_size=700", "trainer.epochs=2", "trainer.threads=1", "evaluation.decodings=[greedy]"),
]


def a_quarter(value):
    """A reward that has no number for the second of four answers."""

    def reward(self, prompts, responses, references):
        return [[0.1, value, 0.3, 0.4] for _ in responses]

    return reward


def test_a_reward_that_is_bad_too_often_ends_the_run_and_its_last_checkpoint_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve([*TINY, f"outputs={tmp_path}", "reward.max_bad_share=0.2"])
    with monkeypatch.context() as patched:
        patched.setattr(Rouge, "__call__", a_quarter(float("nan")))
        with pytest.raises(BadInput) as caught:
            run(config)
    (message,) = str(caught.value).splitlines()
    for part in ("reward: Rouge", "25%", "reward.max_bad_share=0.2", "[[0.1, nan, 0.3, 0.4]"):
        assert part in message
    folder = esolab.run.locate(config).folder
    assert not (folder / "result.json").exists()
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["account"]["counts"]["steps"] == 2  # the epoch before
    assert message in (folder / "run.log").read_text()

    assert run(config) == folder  # with the reward mended
    assert "going on from" in (folder / "run.log").read_text()
    train = json.loads((folder / "result.json").read_text())["train"]
    assert (train["steps"], train["bad_rewards"]) == (4, 0)


def test_a_reward_that_is_bad_as_often_as_it_may_be_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rouge, "__call__", a_quarter(None))
    folder = run(resolve([*TINY, f"outputs={tmp_path}", "reward.max_bad_share=0.25"]))
    train = json.loads((folder / "result.json").read_text())["train"]
    assert train["bad_rewards"] == 32  # one of four answers to each prompt of the epoch that sampled
    assert train["final_reward"] is not None


# what is judged, batch by batch


@pytest.fixture
def judge(make_parts, rows):
    """judge(reward, ...): judge a batch of sixteen prompts with four answers by each of these rewards in turn."""

    def judge(*rewards, most=None):
        batch, seen = collate(rows), []

        def reward(prompts, responses, references):
            return seen.pop()

        if most is not None:
            reward.max_bad_share = most
        method = ESO(make_parts(reward=reward), lam=1.0)
        for result in rewards:
            seen.append(result)
            method.judge(batch, [["-"] * 4] * 16)
        return method.account.counts["bad_rewards"], method.account.counts["rewards"]

    return judge


def with_bad(n):
    """Rewards of 64 answers, n of which are no numbers."""
    flat = [None] * n + [0.5] * (64 - n)
    return [flat[i : i + 4] for i in range(0, 64, 4)]


@pytest.mark.parametrize("most", [0.0, 0.125, 0.5, 1.0])
def test_more_than_the_share_is_too_much_and_the_share_is_not(most, judge):
    assert judge(with_bad(int(64 * most)), most=most) == (int(64 * most), 64)
    if most < 1:
        with pytest.raises(BadInput, match=rf"reward: function .*reward\.max_bad_share={most}"):
            judge(with_bad(int(64 * most) + 1), most=most)


def test_a_reward_without_a_share_of_its_own_may_miss_a_tenth(judge):
    assert judge(with_bad(6)) == (6, 64)
    with pytest.raises(BadInput, match=r"11% of the answers so far, more than reward\.max_bad_share=0\.1"):
        judge(with_bad(7))


def test_the_share_is_that_of_all_answers_so_far(judge):
    assert judge(with_bad(0), with_bad(12)) == (12, 128)
    with pytest.raises(BadInput, match="19%"):
        judge(with_bad(12), with_bad(0))
    with pytest.raises(BadInput, match="12% of the answers so far"):
        judge(with_bad(0), with_bad(6), with_bad(18))


@pytest.mark.parametrize(
    "raw", [None, [0.5] * 16, [[0.5] * 3] * 16, torch.zeros(4, 16)], ids=["none", "16", "16x3", "4x16"]
)
def test_a_result_of_another_shape_is_bad_whole(raw, judge):
    with pytest.raises(BadInput, match="reward: function gave no usable number for 100% of the answers"):
        judge(raw, most=0.99)
    assert judge(raw, most=1.0) == (64, 64)


# a reward of several parts


def test_the_mean_of_each_part_is_logged(tmp_path: Path) -> None:
    config = resolve([*TINY, f"outputs={tmp_path}", "reward=composite", "reward.parts.length.weight=0.25"])
    with (run(config) / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["reward/mean"]]
    assert len(rows) == 2
    for row in rows:
        mean, rouge, length = (float(row[f"reward/{name}"]) for name in ("mean", "rougeL", "length"))
        assert length < 0 < rouge
        assert mean == pytest.approx(rouge + 0.25 * length, abs=1e-6)


def test_a_rollout_keeps_the_parts_of_its_reward_and_describes_them_where_they_are_numbers(make_parts, rows):
    def a(prompts, responses, references):
        return [[1.0, float("nan"), 3.0, 5.0] for _ in responses]

    def b(prompts, responses, references):
        return [[0.5] * 4 for _ in responses]

    reward = Composite({"a": {"reward": a, "weight": 1.0}, "b": {"reward": b, "weight": 2.0}}, max_bad_share=0.25)
    method = ESO(make_parts(reward=reward), lam=1.0)
    rollout = method.rollout(collate(rows))
    assert rollout.good.tolist() == [[True, False, True, True]] * 16
    assert rollout.rewards.tolist() == [[2.0, 4.0, 4.0, 6.0]] * 16  # the second: the mean of the others
    assert rollout[:3].parts["b"].tolist() == [[0.5] * 4] * 3
    found = describe(rollout)
    assert (found["reward/a"], found["reward/b"], found["reward/mean"]) == (3.0, 0.5, 4.0)

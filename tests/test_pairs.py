"""Runs that learn from pairs, whole: a reward model, the reward that it is, and DPO."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_run import SMALL, Stopped, assert_same_run, at_epoch_end, at_step, lines, metrics, result, write_rows
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from esolab.config import resolve
from esolab.errors import BadInput
from esolab.run import run

TINY = [
    *("data=preferences", "data.train=64", "data.dev=8", "data.test=16", "data.max_prompt=120", "data.max_response=40"),
    *SMALL,
]


def tiny(outputs: Path, *overrides: str) -> dict[str, Any]:
    return resolve([*TINY, f"outputs={outputs}", *overrides])


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(tmp_path_factory.mktemp("judge"), "method=reward_model", "evaluation.before=true"))


@pytest.fixture(scope="module")
def dpo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(tmp_path_factory.mktemp("dpo"), "method=dpo"))


def test_a_reward_model_is_scored_by_the_pairs_it_tells_apart(judge: Path) -> None:
    found, pairs = result(judge), lines(judge)
    assert list(found["scores"]) == ["preferences"]
    (row,) = found["scores"]["preferences"].values()
    assert list(found["scores"]["preferences"]) == list(found["before"]["preferences"]) == ["preference"]
    assert (row["n"], row["left_out"], len(pairs)) == (16, 0, 16)
    margins = [pair["reward_chosen"] - pair["reward_rejected"] for pair in pairs]
    assert row["margin"] == pytest.approx(sum(margins) / 16)
    assert row["accuracy"] == sum(m > 0 for m in margins) / 16
    assert row["margin"] != found["before"]["preferences"]["preference"]["margin"]
    assert (judge / "policy").exists() is False
    assert "of preferences" in (judge / "reward_model" / "README.md").read_text()


@pytest.mark.slow
def test_a_small_reward_model_tells_held_out_pairs_apart(tmp_path: Path) -> None:
    """README's run, a minute on one core. Chance is within 0.05 of a half, by three standard errors."""
    training = ("model.architecture.n_embd=64", "optimizer.lr=3e-3", "trainer.epochs=4", "trainer.threads=1")
    folder = run(resolve(["method=reward_model", "data=preferences", *training, f"outputs={tmp_path}"]))
    row = result(folder)["scores"]["preferences"]["preference"]
    assert row["n"] == 1000
    assert row["accuracy"] >= 0.57  # 0.631 where it was measured


def test_its_metrics_have_loss_margin_and_accuracy_of_steps_and_of_dev(judge: Path) -> None:
    steps = [row for row in metrics(judge) if row["loss"]]
    dev = [row for row in metrics(judge) if row["dev/loss"]]
    assert (len(steps), len(dev)) == (8, 2)
    assert all(row["loss"] == row["loss/own"] and row["preference/accuracy"] for row in steps)
    assert all(0 <= float(row["dev/preference/accuracy"]) <= 1 for row in dev)
    assert float(dev[0]["dev/loss"]) != float(dev[1]["dev/loss"])


def test_the_reward_model_opens_with_transformers_alone_and_scores_the_same(judge: Path) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(judge / "reward_model").eval()
    tokenizer = AutoTokenizer.from_pretrained(judge / "reward_model")
    pair = lines(judge)[0]
    for side in ("chosen", "rejected"):
        text = pair["prompt"] + pair[side] + tokenizer.eos_token  # newswire's boundary splits no token
        with torch.no_grad():
            score = network(**tokenizer(text, return_tensors="pt")).logits
        assert score.shape == (1, 1)
        assert score.item() == pytest.approx(pair[f"reward_{side}"], abs=1e-5)


def test_a_policy_learns_from_the_reward_model(judge: Path, tmp_path: Path) -> None:
    settings = ("method=eso", "method.active_epochs=all", "reward=preference", "trainer.max_steps=2", "sampling.k=2")
    folder = run(tiny(tmp_path, *settings, f"reward.path={judge}", "reward.clip=0.05"))
    found = result(folder)
    assert found["reward"] == "preference"
    assert 0 < found["train"]["clipped_rewards"] <= 64
    assert found["train"]["bad_rewards"] == 0
    rows = lines(folder, "samples.jsonl")
    assert rows
    assert all(abs(row["reward"]) <= 0.05 + 1e-7 for row in rows)
    assert found["train"]["shortened_rewards"] == 0
    kept = torch.load(folder / "checkpoints/last.ckpt")["state_dict"].values()
    its = load_file(judge / "reward_model" / "model.safetensors").values()
    assert not any(torch.equal(one, other) for one in kept for other in its)


def test_dpo_leaves_a_policy_and_its_implicit_rewards(dpo: Path) -> None:
    AutoModelForCausalLM.from_pretrained(dpo / "policy")
    assert list(result(dpo)["scores"]["preferences"]) == ["sample", "greedy"]
    steps = [row for row in metrics(dpo) if row["loss"]]
    assert float(steps[0]["loss/own"]) == pytest.approx(0.6931471805599453, abs=1e-5)
    assert float(steps[0]["preference/margin"]) == pytest.approx(0, abs=1e-4)
    assert float(steps[-1]["preference/margin"]) > 0.01
    assert result(dpo)["train"]["sampled_tokens"] == 0
    train = result(dpo)["train"]
    assert train["forward_tokens"] == train["backward_tokens"] * 3 // 2  # two epochs, and the reference once
    assert result(dpo)["timing"]["phases"]["reference"] > 0


@pytest.mark.parametrize("method", ["dpo", "reward_model"])
@pytest.mark.parametrize("stop", [at_step(2), at_step(6), at_epoch_end(1)])
def test_a_run_that_goes_on_is_the_run_that_did_not_stop(
    stop: Any, method: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DPO against the same reference, which is asked once more only where there is no checkpoint yet."""
    whole = request.getfixturevalue({"dpo": "dpo", "reward_model": "judge"}[method])
    config = tiny(tmp_path, f"method={method}")
    with monkeypatch.context() as patched:
        stop(patched)
        with pytest.raises(Stopped):
            run(config)
    torch.manual_seed(5)  # another process
    folder = run(config)
    assert_same_run(folder, whole)
    asked = (folder / "run.log").read_text().count("under the starting policy, once")
    began = 2 if "going on from" not in (folder / "run.log").read_text() else 1
    assert asked == (began if method == "dpo" else 0)


@pytest.mark.parametrize("method", ["reward_model", "dpo"])
def test_data_without_pairs_is_one_message_before_a_model_is_read(method: str, tmp_path: Path) -> None:
    config = resolve([*TINY[1:], "data=newswire", f"method={method}", f"outputs={tmp_path}"])
    with pytest.raises(BadInput) as caught:
        run(config)
    assert str(caught.value) == (
        f"data=newswire: {72 if method == 'dpo' else 88} of {72 if method == 'dpo' else 88} examples have no rejected "
        f"reply, and method={method} compares pairs; take data=preferences, data=hh, or data=file with "
        "data.rejected=COLUMN"
    )


def test_a_reward_model_is_tested_on_pairs_only(tmp_path: Path) -> None:
    write_rows(tmp_path / "vicuna" / "valid.jsonl", [{"instruction": "Name it.", "output": "It."}])
    settings = ("evaluation.data=[preferences,vicuna]", f"data_root={tmp_path}", "model.architecture.n_positions=1024")
    with pytest.raises(BadInput, match=r"data=vicuna: 1 of 1 examples have no rejected reply"):
        run(tiny(tmp_path / "out", "method=reward_model", *settings))


def test_test_pairs_with_an_over_long_reply_are_left_out_and_counted(tmp_path: Path) -> None:
    pairs = [
        {"prompt": f"Day {10 + i}?", "reference": "Yes.", "worse": "no " * (60 if i == 2 else 1 + i % 3)}
        for i in range(60)
    ]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    own = ("data=file", f"data.path={tmp_path / 'pairs.jsonl'}", "data.rejected=worse", "data.max_response=30")
    training = ("data.max_prompt=60", "method=reward_model", "trainer.epochs=8", f"outputs={tmp_path / 'out'}")
    folder = run(resolve([*SMALL, *own, *training]))
    row = result(folder)["scores"]["file"]["preference"]
    assert (row["n"], row["left_out"]) == (5, 1)
    assert row["accuracy"] == 1.0  # as easy as can be
    assert result(folder)["train"]["dropped_overlong"] == 0


def test_a_test_set_without_a_pair_to_score_is_refused_before_a_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pair(i: int, chosen: str) -> dict[str, str]:
        return {"chosen": f"\n\nHuman: {i}?\n\nAssistant:{chosen}", "rejected": f"\n\nHuman: {i}?\n\nAssistant: No."}

    folder = tmp_path / "hh" / "harmless-base"
    write_rows(folder / "train.jsonl", [pair(i, " Yes.") for i in range(40)])
    write_rows(folder / "test.jsonl", [pair(1, ""), pair(2, " Yes." * 90), pair(3, "")])
    hh = (f"data_root={tmp_path}", "data=hh", "data.subset=harmless-base", "data.max_prompt=60", "data.max_response=20")
    monkeypatch.delattr("esolab.models.Model.load_policy")
    with pytest.raises(BadInput) as caught:
        run(resolve([*SMALL, *hh, f"outputs={tmp_path / 'out'}", "method=reward_model"]))
    assert str(caught.value) == (
        "data=hh: none of 3 test pairs can be scored: broken (empty reply, two prompts) 2, a reply over "
        "data.max_response=20 tokens 1; raise data.max_response or evaluation.limit, or take other data"
    )


def test_only_pairs_lose_examples_to_an_over_long_rejected_reply(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "reference": "Yes.", "worse": "no " * (60 if i % 2 else 1)} for i in range(60)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    own = ("data=file", f"data.path={tmp_path / 'pairs.jsonl'}", "data.rejected=worse", "data.max_response=30")
    dropped = {}
    for method in ("sft", "dpo"):
        settings = ("data.max_prompt=60", f"method={method}", "trainer.max_steps=1", f"outputs={tmp_path / 'out'}")
        dropped[method] = result(run(resolve([*SMALL, *own, *settings])))["train"]["dropped_overlong"]
    assert dropped["sft"] == 0 < dropped["dpo"]


def test_dialogues_lose_their_left_and_broken_pairs_are_told_apart(tmp_path: Path) -> None:
    def pair(i: int, turns: int = 1, chosen: str = " Yes.") -> dict[str, str]:
        prompt = "".join(f"\n\nHuman: Is it {i} or {turn}?\n\nAssistant:" for turn in range(turns))
        return {"chosen": prompt + chosen, "rejected": prompt + " No."}

    folder = tmp_path / "hh" / "harmless-base"
    write_rows(folder / "train.jsonl", [pair(i, 20 if i == 3 else 1, "" if i == 5 else " Yes.") for i in range(40)])
    write_rows(folder / "test.jsonl", [pair(0), pair(1, chosen=""), pair(2, 20)])
    hh = (f"data_root={tmp_path}", "data=hh", "data.subset=harmless-base", "data.max_prompt=60", "data.max_response=20")
    made = {}
    for method in ("sft", "reward_model"):
        made[method] = run(
            resolve([*SMALL, *hh, f"outputs={tmp_path / 'out'}", f"method={method}", "trainer.epochs=1"])
        )
        train, corpus = result(made[method])["train"], result(made[method])["corpora"]["hh"]
        assert (train["examples"] + corpus["dev"], train["dropped_overlong"], train["shortened"]) == (39, 0, 1)
        assert (corpus["skipped"], corpus["broken"], result(made[method])["shortened_prompts"]) == (1, 1, {"hh": 1})
    answers = [line for line in lines(made["sft"]) if line["decoding"] == "greedy"]
    assert [line.get("broken") for line in answers] == [None, "empty chosen reply", None]
    assert "35 training examples, 0 over-long ones dropped, 1 shortened" in (made["sft"] / "run.log").read_text()
    row = result(made["reward_model"])["scores"]["hh"]["preference"]
    assert (row["n"], row["left_out"]) == (2, 1)

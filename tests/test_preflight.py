"""Preflight: what it says of a run before it runs, by hand, and beside what the run then does."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import esolab.run
from esolab.assembly import Assembly, assemble, locate
from esolab.batch import Batch, Example, Tokens
from esolab.config import resolve
from esolab.data import Encoded, collate
from esolab.evaluate import TestSet as Answered
from esolab.logprobs import branch_logprobs, plant
from esolab.lora import Lora
from esolab.methods.base import Parts
from esolab.methods.eso import ESO
from esolab.methods.onpolicy import OnPolicy
from esolab.models import fuse
from esolab.policy import WHOLE, Policy, Tokenizer
from esolab.preflight import example, loading, plan
from esolab.preflight.__main__ import main, verdict
from esolab.preflight.dry import shared_out
from esolab.preflight.estimate import answers, expected
from esolab.preflight.memory import (
    Fixed,
    Shape,
    Step,
    again,
    answering,
    branching,
    evaluating,
    meeting,
    phases,
    reading,
    scored,
    shape_of,
    waiting,
)
from esolab.preflight.rehearsal import rehearse

TINY = [
    *("data.train=64", "data.dev=8", "data.test=16", "data.max_prompt=120", "data.max_response=40"),
    *("model.architecture.n_layer=1", "model.architecture.n_embd=32", "model.architecture.n_head=2"),
    *("model.vocab_size=700", "trainer.epochs=2", "trainer.threads=1"),
]
ONE = Shape("gpt2", layers=1, width=2, inner=8, keys=2, vocabulary=3, parameters=100, largest=10)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """ask("method=sft"): the exit code and what was said, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*overrides: str) -> tuple[int, str]:
        code = main(list(overrides))
        out, err = capsys.readouterr()
        return code, out + err

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Assembly]:
    """tiny("trainer.micro_batch=2"): a run of 64 examples, put together."""

    def make(*overrides: str) -> Assembly:
        config = resolve([*TINY, f"outputs={tmp_path}", *overrides])
        return assemble(config, locate(config))

    return make


def encoded(prompt: int, reference: int, name: str = "x") -> Encoded:
    return Encoded(Example(name, "", "", (0, 0)), [1] * prompt, [2] * reference)


# what the run sees


def test_the_example_is_masked_as_the_likelihood_is(rows: list[Encoded], tokenizer: Tokenizer) -> None:
    """What is called learned is what the tree of branches scores, token by token; all else is read, or masked."""
    batch = collate(rows[:8])
    for row in range(8):
        prompt, reference = example.parts(batch, batch.references.unsqueeze(), row, ["reference"])
        length, width = len(rows[row].prompt), batch.prompts.ids.shape[1]
        assert prompt.marks == ["prompt"] * length + ["masked"] * (width - length)
        assert prompt.ids[:length] == rows[row].prompt
        learned = [id for id, mark in zip(reference.ids, reference.marks, strict=True) if mark == "learned"]
        tree = plant(batch.prompts.lengths[[row]], batch.references[[row]].unsqueeze())
        assert learned == tree.targets.tolist() == rows[row].reference
        assert reference.count("masked") == batch.references.ids.shape[1] - len(learned)


def test_a_pair_has_two_branches(pairs: list[Encoded]) -> None:
    batch = collate(pairs[:4])
    _, chosen, rejected = example.parts(batch, batch.pairs, 1, ["chosen", "rejected"])
    assert [chosen.count("learned"), rejected.count("learned")] == [len(pairs[1].reference), len(pairs[1].rejected)]


def test_it_reads_without_colour(tokenizer: Tokenizer) -> None:
    part = example.Part("reference", [1, 2, 0, 0, 0], ["learned"] * 3 + ["masked"] * 2)
    assert example.shown(part, tokenizer).plain == "a|b|<end>|[2 masked]"
    spans = [(span.start, span.end, span.style) for span in example.shown(part, tokenizer).spans]
    assert spans == [(0, 10, "green"), (10, 20, "bright_black")]
    long = example.Part("prompt", [1] * 60, ["prompt"] * 60)
    assert example.shown(long, tokenizer).plain == "a|" * 24 + " ... 12 more ... " + "a|" * 24


def test_the_reference_is_rewarded_as_itself(tiny: Callable[..., Assembly]) -> None:
    run = tiny()
    batch = collate(run.train[:2])
    weights = {name: value.clone() for name, value in run.method.state_dict().items()}
    reference, *drawn = example.rewards(run, batch, 1, drawn=True)
    assert (reference.text, reference.reward) == (run.train[1].example.reference.strip(), 1.0)
    assert [one.name for one in drawn] == [f"answer at T={t}" for t in ("0.5", "1", "1.5", "2")]
    assert all(0 <= one.reward < 0.5 for one in drawn)
    assert all(torch.equal(weights[name], value) for name, value in run.method.state_dict().items())


# what it will do


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["method=sft"], {"sft": 8}),
        (["method=eso"], {"SFT": 4, "sampling": 4}),
        (["method=eso", "protocol=released", "sampling.temperatures=null"], {"SFT": 4, "sampling": 4}),
        (["method=eso", "trainer.max_steps=5"], {"SFT": 4, "sampling": 1}),
        (["method=eso", "method.lam=0.0"], {"SFT": 8}),
        (["method=ppo"], {"sampling": 8}),
        (["method=dpo", "data=preferences"], {"dpo": 8}),
    ],
)
def test_the_kinds_of_steps(tiny: Callable[..., Assembly], overrides: list[str], steps: dict[str, int]) -> None:
    run = tiny(*overrides)
    found = plan.kinds(run, done=0)
    total = sum(steps.values())
    if len(run.train) == 64:
        assert {kind.name: kind.steps for kind in found} == steps
    assert sum(kind.steps for kind in found) == run.trainer.steps(len(run.train)) <= total
    assert sum(kind.left for kind in plan.kinds(run, done=1)) == run.trainer.steps(len(run.train)) - 1


def test_the_worst_batch_is_one_that_comes(tiny: Callable[..., Assembly]) -> None:
    run = tiny("method=sft", "trainer.max_steps=3", "trainer.micro_batch=16")
    (kind,) = plan.kinds(run, done=0)
    seen = [rows for _, rows in plan.batches(run)]
    burden = [plan.tokens(rows, 0, 0) + 16 * max(len(row.prompt) for row in rows) for rows in seen]
    assert len(seen) == 3
    assert kind.worst == seen[burden.index(max(burden))]
    assert kind.most == plan.tokens(kind.worst, 0, 0)
    loader = iter(run.data.train_dataloader())
    assert [[row.example.id for row in rows] for rows in seen] == [next(loader).ids for _ in range(3)]


def test_tokens_by_hand() -> None:
    """Prompts 3 + 5, references 2 + 1, three answers of 4 to each."""
    assert plan.tokens([encoded(3, 2), encoded(5, 1)], 3, 4) == 8 + 3 + 24


def test_the_forecast_by_hand() -> None:
    """Sampling 4 s, forward and backward of two of six like micro-batches 2 + 3 s, the optimizer 1 s: 4 + 3 x 5 + 1;
    a mean batch has half the tokens of the worst."""
    measured = {"sample": 4.0, "score": 2.0, "backward": 3.0, "optimizer": 1.0}
    assert plan.step_seconds(measured, parts=3.0, share=0.5) == 10.0
    worst = Answered("test", [encoded(6, 1), encoded(4, 1)], 5, 0)  # 20 tokens in 2 s
    dev = [encoded(7, 3)]  # 10 tokens in 1 s
    left = plan.Answering(answers=40, tokens=200, worst=worst, told=50, dev=dev)
    assert plan.scoring_seconds(left, answer=2.0, told=1.0) == 2 * 10 + 1 * 5


def test_what_is_answered(tiny: Callable[..., Assembly]) -> None:
    """16 test prompts, and 8 dev prompts after each of two epochs, under two decodings; one epoch is over."""
    run = tiny()
    assert plan.answering(run, done=0).answers == 2 * (16 + 2 * 8)
    assert plan.answering(run, done=4).answers == 2 * (16 + 8)


def test_when_eso_measures_its_gradients(tiny: Callable[..., Assembly]) -> None:
    assert not plan.watches(tiny("method=eso"))  # after 25 steps, and there are eight
    assert plan.watches(tiny("method=eso", "method.watch_every=6"))
    assert not plan.watches(tiny("method=eso", "method.watch_every=4", "trainer.max_steps=4"))  # SFT until then


# what it holds: one layer of width 2, feed-forward width 8, 3 words


def test_reading_by_hand() -> None:
    """8 x 2 + 2 x 8 numbers, and 2 x 2 of keys and values, for each of 5 places, 4 bytes each."""
    assert reading(ONE, 5) == 4 * 5 * (16 + 16 + 4)


def test_branching_by_hand() -> None:
    """2 rows of 6 places after 5: 6 x 32 numbers of their own, 11 keys and values of 2, and 6 x 11 of a mask."""
    assert branching(ONE, 2, 5, 6) == 4 * 2 * (6 * 32 + 11 * 4 + 66)


def test_logits_by_hand() -> None:
    assert meeting(ONE, 7) == 2 * 4 * 3 * 7
    most = WHOLE // 12
    assert meeting(ONE, most) == 2 * 12 * most
    assert meeting(ONE, most + 1) == 2 * (WHOLE // 8)


def test_a_step_by_hand() -> None:
    """Two prompts at a time of four, the longest of 5; branches of 4, 4 and 3 tokens take 3 + 3 + 2 places and meet the
    vocabulary at 11. Weights, moments and gradients: 400, 800, 400."""
    step = Step([5, 3, 2, 4], [3, 1, 2, 2], micro_batch=2, drawn=2, answers=2, limit=4)
    kept = reading(ONE, 10) + branching(ONE, 2, 5, 8) + meeting(ONE, 22)
    assert scored(ONE, step) == kept
    reads = 4 * 20 * 4 + 4 * 20 * (4 + 16)  # keys, and what reading has in hand
    grown = 4 * 4 * 8 * 4 + 5 * 4 * 3 * 8  # keys of the answers, logits
    sample = max(reads, 2 * 4 * 20 * 4 + grown)
    found = phases(ONE, step, Fixed(trained=400, base=1000, others=50))
    held = 1000 + 50 + 3 * 400
    assert found == {
        "sample": held + sample,
        "score": held + 400 + kept,
        "backward": held + 400 + kept,
        "optimizer": held + 400 + 2 * 40,
    }
    gpu = phases(ONE, step, Fixed(trained=400, base=1000, others=50), gpu=True)
    assert gpu["sample"] == held + max(reads, 4 * 20 * 4 + grown)
    assert gpu["optimizer"] == held + 400 + 400


def test_read_once_by_hand() -> None:
    """All prompts are kept with what their gradients need; no gradients are there before the only backward."""
    step = Step([5, 3], [3, 1], micro_batch=2, drawn=2, answers=2, limit=4, read_once=True)
    found = phases(ONE, step, Fixed(trained=400))
    assert found["sample"] == 1200 + reading(ONE, 10) + 4 * 10 * 4 + 4 * 4 * 4 * 4 + 5 * 4 * 3 * 4
    assert found["score"] == 1200 + scored(ONE, step)


def test_fewer_branches_at_a_time_take_less() -> None:
    step = Step([5], [3], micro_batch=1, micro_k=1, answers=2, limit=4)
    assert scored(ONE, step) == reading(ONE, 5) + branching(ONE, 1, 5, 3) + meeting(ONE, 4)


def test_layers_that_are_computed_again_by_hand() -> None:
    """Of 5 places the inputs, 2 wide, and keys and values; while the backward goes through a layer, all of that one."""
    lean = replace(ONE, layers=3, recomputed=True)
    assert reading(lean, 5) == 3 * 4 * 5 * (2 + 4)
    assert branching(lean, 2, 5, 6) == 3 * 4 * 2 * 6 * 2
    step = Step([5, 3], [3, 1], micro_batch=1, answers=2, limit=4)
    assert again(lean, step) == branching(ONE, 1, 5, 8) > reading(ONE, 5)
    assert again(ONE, step) == 0
    found = phases(lean, step, Fixed(trained=400))
    left = reading(lean, 5) + branching(lean, 1, 5, 8)
    assert found["score"] == 1200 + 400 + left + max(meeting(ONE, 11), again(lean, step))
    rest = reading(lean, 5) + 3 * 4 * (5 + 8) * 2 * 2  # of prompts, and gradients of keys and values
    assert waiting(lean, step) == rest
    assert found["backward"] == 1200 + 2 * 400 + rest + again(lean, step)
    lean = replace(lean, keys=0)
    left, few = 3 * 4 * (5 + 8) * 2, phases(lean, step, Fixed(trained=4))
    assert few["backward"] == 12 + 40 + left + again(lean, step)  # 40: the largest weight


def test_adapters_are_counted_by_what_they_train(
    tiny: Callable[..., Assembly], make_policy: Callable[..., Policy]
) -> None:
    """Moments and gradients of the adapters alone, weights of all; of a token the ranks of each layer's four."""
    policy = make_policy("gpt2")
    frozen = sum(weight.nbytes for weight in policy.parameters())
    Lora(r=3).adapt(policy.network, 0.0)
    shape = shape_of(policy.network, "32-true")
    assert (shape.ranks, shape.layers) == (4 * 3, 2)
    assert shape.kept == 4 * (6 * 16 + 2 * 64 + 12) + 4 * 2 * 16
    assert shape.largest == 3 * 64  # B of the first feed-forward layer
    run = tiny("model.lora.r=4", "method=sft")
    found = expected(run, plan.kinds(run, 0), plan.answering(run, 0), base=0)
    weights = sum(weight.nbytes for weight in run.method.policy.parameters())
    assert found["load"] == weights
    largest = max(weight.nbytes for weight in run.method.policy.parameters() if weight.requires_grad)
    assert found["optimizer"] == weights + 3 * 4 * run.trained + 2 * largest
    assert frozen < sum(weight.nbytes for weight in policy.parameters())


def test_scoring_by_hand() -> None:
    """Prompts of 5 and 4 tokens are answered; with references of 3 they are told."""
    fixed = Fixed(trained=400)
    answered = answering(ONE, 2, 5, 1, 4)
    assert evaluating(ONE, (2, 5, 4), (0, 0, 0), fixed) == 1200 + answered
    told = 4 * 4 * (200 * 4) + 4 * 4 * (200 * 7) + 2 * 12 * 600
    reads = 4 * 4 * 800 + 4 * 800 * 20
    assert evaluating(ONE, (2, 5, 4), (200, 4, 3), fixed) == 1200 + max(told, reads)


class Kept:
    """Bytes of all that torch's graph has kept, weights left out, each storage once."""

    def __init__(self, policy: Policy) -> None:
        self.weights = {w.untyped_storage().data_ptr() for w in policy.parameters()}
        self.found: dict[int, torch.Tensor] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in self.weights:
            self.found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def of(self, forward: Callable[[], Any]) -> tuple[int, Any]:
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            result = forward()
        return sum(t.untyped_storage().nbytes() for t in self.found.values()), result


def test_what_each_family_keeps_is_what_its_graph_holds(
    family: str, make_policy: Callable[..., Policy], ragged: Callable[..., Tokens]
) -> None:
    """Beyond the count lie the statistics of norms and of attention, positions, and the last norm's input."""
    layers = {"n_layer": 6} if family == "gpt2" else {"num_hidden_layers": 6}
    width = {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64}
    policy = make_policy(family, **layers, **width).train()
    fuse(policy.network)
    shape = shape_of(policy.network, "32-true")
    assert (shape.parameters, shape.layers, shape.width) == (sum(w.numel() for w in policy.parameters()), 6, 64)
    prompts, branches = ragged([9, 9]), ragged([[6, 6, 6], [6, 6, 6]])
    found, read = Kept(policy).of(lambda: policy.read(prompts))
    assert found == pytest.approx(reading(shape, 18), rel=0.06)
    found, _ = Kept(policy).of(lambda: branch_logprobs(policy, prompts, branches, None, read))
    logits = meeting(shape, 36) // 2
    assert found == pytest.approx(branching(shape, 2, 9, 15) + logits, rel=0.06)


def test_what_adapters_keep_is_what_their_graph_holds(
    family: str, make_policy: Callable[..., Policy], ragged: Callable[..., Tokens]
) -> None:
    layers = {"n_layer": 6} if family == "gpt2" else {"num_hidden_layers": 6}
    width = {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64}
    policy = make_policy(family, **layers, **width).train()
    fuse(policy.network)
    Lora(r=8).adapt(policy.network, 0.0)
    found, _ = Kept(policy).of(lambda: policy.read(ragged([9, 9])))
    assert found == pytest.approx(reading(shape_of(policy.network, "32-true"), 18), rel=0.1)


def test_how_many_answers_are_scored(make_parts: Callable[..., Parts], tiny: Callable[..., Assembly]) -> None:
    assert answers(ESO(make_parts(), lam=0.5, active_epochs="all", keep_eos=True)) == 4
    assert answers(tiny("method=rrhf").method) == 4
    assert answers(tiny("method=unlike").method) == 1
    assert answers(tiny("method=nes").method) == 0


# steps for real


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=sft"],
        ["method=eso", "trainer.micro_batch=4"],
        ["method=eso", "method.active_epochs=all"],
        ["method=nes"],
        ["method=ppo"],
        ["method=dpo", "data=preferences"],
        ["method=reward_model", "data=preferences"],
    ],
)
def test_a_rehearsal_changes_no_weight(tiny: Callable[..., Assembly], overrides: list[str]) -> None:
    run = tiny(*overrides)
    weights = {name: value.clone() for name, value in run.method.state_dict().items()}
    own = run.method.parts
    kinds, asked = plan.kinds(run, 0), plan.answering(run, 0)
    measured = rehearse(run, kinds, asked)
    assert all(torch.equal(weights[name], value) for name, value in run.method.state_dict().items())
    assert run.method.parts is own
    assert set(measured.steps) == {kind.name for kind in kinds}
    assert {"load", "score", "backward", "optimizer", "evaluate"} <= set(measured.peaks)
    assert all(seconds["backward"] > 0 for seconds in measured.steps.values())
    assert measured.answer > 0


def test_a_rehearsal_scores_the_answers_of_a_policy_that_gets_nothing_yet(
    tiny: Callable[..., Assembly], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny("method=eso", "method.active_epochs=all")
    asked = []

    def nothing(self: OnPolicy, batch: Batch, texts: list[list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(batch)
        return torch.zeros(len(texts), len(texts[0])), torch.zeros(len(texts), len(texts[0]), dtype=torch.bool)

    monkeypatch.setattr(OnPolicy, "judge", nothing)
    kinds = plan.kinds(run, 0)
    rehearse(run, kinds, plan.answering(run, 0))
    assert len(asked) == 2
    (kind,) = kinds
    answers = len(kind.worst) * run.method.parts.sampling.k * run.method.parts.sampling.max_new_tokens
    references = sum(row.response for row in kind.worst)
    assert run.method.account.counts["scored_tokens"] == 2 * (answers + references)
    assert run.method.judge.__func__ is nothing


def test_of_many_micro_batches_two_are_made(tiny: Callable[..., Assembly], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen prompts, four at a time: the longest four twice, and the time is that of about two micro-batches more."""
    run = tiny("method=sft", "trainer.micro_batch=4")
    seen: list[Batch] = []
    step = type(run.method).backward_all
    monkeypatch.setattr(
        type(run.method),
        "backward_all",
        lambda self, batch, *rest, **others: seen.append(batch) or step(self, batch, *rest, **others),
    )
    (kind,) = plan.kinds(run, 0)
    measured = rehearse(run, [kind], plan.answering(run, 0))
    sizes = sorted((len(row.prompt), len(row.reference)) for row in kind.worst)
    assert [len(batch) for batch in seen] == [16, 16]
    assert 1 < measured.parts["sft"] <= 2
    assert sum(map(sum, sizes)) / measured.parts["sft"] == pytest.approx(2 * sum(map(sum, sizes[-4:])), rel=0.1)


# several devices

TWO = ("trainer.devices=2", "trainer.accelerator=cpu")
WIDE = ("model.architecture.n_layer=4", "model.architecture.n_embd=512", "model.architecture.n_head=8")


def test_of_two_ranks_the_one_with_more_is_looked_at(tiny: Callable[..., Assembly]) -> None:
    alone, shared = tiny("method=eso"), tiny("method=eso", "trainer=ddp", *TWO)
    whole, half = plan.kinds(alone, 0)[0], plan.kinds(shared, 0)[0]
    assert (whole.steps, len(whole.worst)) == (half.steps, 2 * len(half.worst)) == (4, 16)
    assert whole.tokens / 2 <= half.tokens < whole.tokens
    asked, theirs = plan.answering(alone, 0), plan.answering(shared, 0)
    assert (asked.answers, asked.tokens // 2) == (theirs.answers, theirs.tokens)


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=eso", "method.active_epochs=all"),
        ("method=eso", "method.active_epochs=all", "trainer.micro_batch=1"),
        ("method=eso", "method.active_epochs=all", "trainer.gradient_checkpointing=true"),
        ("method=eso", "method.active_epochs=all", "trainer.micro_batch=1", "trainer.micro_k=1"),
        ("method=sft", "trainer.precision=bf16-mixed"),
        ("method=eso", "method.active_epochs=all", "model.lora.r=8", "trainer.precision=bf16-mixed"),
        ("method=eso", "method.active_epochs=all", "model.lora.r=8", "trainer.gradient_checkpointing=true"),
        ("method=reward_model", "data=preferences", "data.max_response=80"),
    ],
    ids=" ".join,
)
def test_a_dry_run_holds_what_arithmetic_says(tiny: Callable[..., Assembly], overrides: tuple[str, ...]) -> None:
    """On four ranks that are not there; the arithmetic knows of no more than torch's tensors here, its base is 0."""
    config = resolve(
        [
            *TINY,
            *WIDE,
            "trainer=fsdp",
            "trainer.devices=4",
            "trainer.accelerator=cpu",
            "trainer.batch_size=8",
            *overrides,
        ]
    )
    place = locate(config)
    run = assemble(config, replace(place, model=loading.of(loading.Shapes, place.model)))
    kinds = plan.kinds(run, 0)
    weights = sum(weight.nbytes for weight in run.method.policy.parameters())
    estimated = expected(run, kinds, plan.answering(run, 0), 0)
    found = shared_out(run, kinds)
    assert not torch.distributed.is_initialized()
    for phase in set(found) & {"sample", "score", "backward", "average"}:
        assert estimated[phase] == pytest.approx(found[phase], rel=0.15), (phase, estimated, found)
    assert weights < found["score"]  # all weights, and a quarter of them and of their moments
    trained = sum(weight.nbytes for weight in run.method.policy.parameters() if weight.requires_grad)
    # quarters of weights, of gradients and of both moments; torch does not say what the norm and AdamW work on
    assert (weights + 3 * trained) / 4 <= found["optimizer"] <= estimated["optimizer"]


def test_ranks_are_not_started(ask: Callable[..., Any]) -> None:
    code, said = ask(*TINY, "method=sft", "trainer=fsdp", *TWO)
    assert code == 0, said
    assert said.count("memory, one of 2 ranks, cpu") == 1
    assert "measured" not in said
    code, said = ask("--no-measure", *TINY, "method=sft", "trainer=fsdp", *TWO)
    assert code == 0, said
    assert re.search(r"average .*\d MB +\d\S* (MB|GB)", said)


# the command


def test_it_says_all_and_writes_nothing(ask: Callable[..., Any], tmp_path: Path) -> None:
    code, said = ask(*TINY, "method=eso", "seed=3")
    assert code == 0, said
    assert list(tmp_path.iterdir()) == []
    assert "method=eso, model=tiny, data=newswire, reward=rouge, protocol=paper, seed=3" in said
    assert re.search(r"folder: outputs/single/data.train=64\S* \(new\)", said)
    assert "reward 1.000 of reference: " in said
    assert re.search(r"SFT epochs +4 steps ", said)
    assert re.search(r"sampling epochs +4 steps ", said)
    assert re.search(r"evaluation +64 answers ", said)
    for phase in ("sample", "score", "backward", "optimizer", "evaluate", "peak"):
        assert re.search(rf"^ *{phase} .*\d (GB|MB) +\d\S* (GB|MB) *$", said, re.MULTILINE), phase
    assert "fits" in said
    assert "writes: policy/ " in said


@pytest.mark.parametrize(
    ("sample", "evaluate", "advice"),
    [
        (
            3,
            2,
            "lower trainer.micro_batch, trainer.micro_k (or give trainer.gradient_checkpointing=true), then trainer.pr",
        ),
        (1, 3, "lower evaluation.batch_size, which changes no answer"),
        (
            2.5,
            3,
            "lower evaluation.batch_size, which changes no answer, and trainer.micro_batch, trainer.micro_k (or give ",
        ),
    ],
)
def test_what_to_lower_is_of_the_phase_that_does_not_fit(sample: float, evaluate: float, advice: str) -> None:
    said = verdict({"sample": int(sample * 1e9), "evaluate": int(evaluate * 1e9)}, int(2e9))
    assert said.startswith(f"peak 3.00 GB, and there is room for 2.00 GB: does not fit; {advice}")
    assert ("trainer." in said) == (sample > 2)


def test_a_run_whose_answers_take_most_is_told_so(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esolab.preflight.__main__.room", lambda device: 1000)
    code, said = ask("--no-measure", *TINY, "method=sft", "evaluation.batch_size=4096", "data.test=4000")
    assert code == 0, said
    assert "does not fit; lower evaluation.batch_size, which changes no answer, and trainer.micro_batch" in said


def test_no_measure_allocates_no_weight(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """39 billion weights are 155 GB, and with gradients and moments 619."""
    big = ["model.architecture.n_embd=8192", "model.architecture.n_layer=48", "model.architecture.n_head=64"]
    code, said = ask("--no-measure", *TINY, *big, "method=eso")
    assert code == 0, said
    weights = 12 * 48 * 8192**2 * 4 / 1e9
    (load,) = re.findall(r"load .* (\d+\.\d\d) GB", said)
    (peak,) = re.findall(r"^ *peak +(\d+\.\d\d) GB *$", said, re.MULTILINE)
    assert float(load) == pytest.approx(weights, rel=0.02)
    assert 4 * weights < float(peak) < 4.5 * weights  # what is more is activations
    assert "does not fit; lower trainer.micro_batch, trainer.micro_k" in said
    assert "not measured" in said


def test_whether_it_goes_on(ask: Callable[..., Any], tmp_path: Path) -> None:
    config = resolve([*TINY, "method=sft"])
    folder = locate(config).folder
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    assert "(already done; rerun=true repeats it)" in ask("--no-measure", *TINY, "method=sft")[1]
    assert "(begins anew: rerun=true)" in ask("--no-measure", *TINY, "method=sft", "rerun=true")[1]
    (folder / "result.json").unlink()
    (folder / "checkpoints").mkdir()
    torch.save(
        {"account": {"counts": {"steps": 5}}, "config": {}, "state_dict": {}}, folder / "checkpoints" / "last.ckpt"
    )
    code, said = ask("--no-measure", *TINY, "method=sft")
    assert code == 0
    assert "(goes on from step 5)" in said
    assert "3 steps of 8" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nomeasure"], "--nomeasure: no flag of preflight; give overrides of one run, and --no-measure or nothing"),
        (["method.lam=-1"], "method.lam=-1: input should be greater than or equal to 0"),
        (
            ["experiments=figure2"],
            "experiments=figure2: has stages, and preflight is of one run; give the overrides of a",
        ),
        (["outputs=/dev/null"], "outputs: cannot write '/dev/null/single/default-"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(ask: Callable[..., Any], arguments: list[str], message: str) -> None:
    code, said = ask(*arguments)
    assert code == 2
    assert said.startswith(f"esolab: {message}")
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_the_peak_is_within_15_percent_of_the_run(tmp_path: Path) -> None:
    """A GPT-2 of 17 million random weights, eight prompts a step, each process fresh. Answers have rewards of their
    own, as those of a policy that has learned something do."""
    (tmp_path / "own_crc.py").write_text(
        "from zlib import crc32\n\ndef score(prompts, responses, references):\n"
        "    return [[crc32(text.encode()) / 2**32 for text in texts] for texts in responses]\n"
    )
    overrides = [
        *("--allow", "own_crc", "reward=callable", "reward.function=own_crc:score"),
        *("data.train=64", "data.dev=8", "data.test=16", "model.architecture.n_layer=6", "trainer.threads=2"),
        *("model.architecture.n_embd=512", "model.architecture.n_head=8", "trainer.max_steps=2", "method=eso"),
        *("method.active_epochs=all", f"outputs={tmp_path}"),
    ]
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(esolab.run.__file__).parents[1])])}
    done = subprocess.run(
        [sys.executable, "-m", "esolab.preflight", *overrides], capture_output=True, text=True, check=True, env=where
    )
    found = re.search(r"^ *peak +(\d\S* [MG]B) +(\d\S* [MG]B)", done.stderr, re.MULTILINE)
    assert found, done.stderr
    measured, estimated = (float(x.split()[0]) * {"GB": 1e9, "MB": 1e6}[x.split()[1]] for x in found.groups())
    subprocess.run([sys.executable, "-m", "esolab", *overrides], capture_output=True, check=True, env=where)
    (result,) = tmp_path.glob("single/*/result.json")
    peak = json.loads(result.read_text())["peak_rss_bytes"]
    assert measured == pytest.approx(peak, rel=0.15)
    assert estimated == pytest.approx(peak, rel=0.15)

"""Contenders do the same work, and two of them arrive at esolab's gradients."""

from dataclasses import replace

import pytest
import torch

from esolab.bench.authors import Authors
from esolab.bench.job import PHASES, Job
from esolab.bench.ours import Esolab
from esolab.bench.plain import Plain
from esolab.bench.setting import prepare
from esolab.bench.twopass import TwoPass

TINY = Job("xsum", "", model="tiny", prompts=3, k=4, max_new=6, max_prompt=20)


@pytest.fixture(scope="module", params=["fixed", "ragged"])
def setting(request):
    setting = prepare(replace(TINY, lengths=request.param))
    stops = None if request.param == "fixed" else torch.tensor([[6, 1, 3, 2], [5, 6, 6, 4], [1, 2, 1, 1]])
    return replace(setting, workload=replace(setting.workload, stops=stops))


def gradients(setting):
    return {name: weight.grad.clone() for name, weight in setting.policy.named_parameters()}


@pytest.fixture(scope="module")
def ours(setting):
    """esolab's step: what was measured, its batch and rollout, its gradients."""
    setting.policy.zero_grad()
    contender = Esolab(setting)
    measured = contender.step()
    return measured, *contender.method.last_rollout, gradients(setting)


def test_answers_of_esolab_have_the_lengths_of_the_workload(setting, ours):
    rollout = ours[2]
    assert torch.equal(rollout.branches.lengths, setting.workload.lengths(4))
    assert not (rollout.rewards == rollout.rewards[:, :1]).all(1).any()  # no prompt could be left out


@pytest.mark.parametrize("contender", [Plain, Authors])
def test_equal_tokens(setting, ours, contender: type[TwoPass]):
    raced = contender(setting)
    raced.warm_up()
    measured = raced.step()
    assert measured.tokens == ours[0].tokens
    assert measured.tokens.sampled == int(setting.workload.lengths(4).sum())
    assert measured.seconds == pytest.approx(sum(measured.phases.values()))
    assert tuple(measured.phases) == PHASES
    assert set(ours[0].phases) == set(PHASES)


@pytest.mark.parametrize("contender", [Plain, Authors])
def test_equal_gradients(setting, ours, contender: type[TwoPass]):
    _, batch, rollout, expected = ours
    setting.policy.zero_grad()
    contender(setting).update(batch, rollout.branches, rollout.advantages)
    found = gradients(setting)
    for name, gradient in expected.items():
        assert gradient.any()
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_every_answer_is_felt_in_the_gradient(setting, ours):
    """Without the answers' worth the gradient is another one: the equality above is not the references' alone."""
    _, batch, rollout, expected = ours
    setting.policy.zero_grad()
    Plain(setting).update(batch, rollout.branches, 0 * rollout.advantages)
    found = gradients(setting)
    assert all((found[name] - gradient).norm() > 1e-3 * gradient.norm() for name, gradient in expected.items())


def test_made_lengths_of_generate(setting):
    """Rows end with the end token where they were told to and nowhere else; padding follows."""
    if setting.workload.stops is None:
        pytest.skip("no answer ends")
    raced = Plain(setting)
    answers = raced.sample(raced.batch, raced.lengths)
    eos = setting.tokenizer.eos[0]
    ends = (answers.ids == eos) & answers.mask
    assert torch.equal(answers.lengths, raced.lengths)
    assert (answers.ids[~answers.mask] == 0).all()
    assert torch.equal(ends.int().argmax(-1) + 1, raced.lengths)
    assert torch.equal(ends.sum(-1), torch.ones_like(raced.lengths))


def test_temperatures_are_per_row():
    from esolab.bench.generation import Temperatures

    scores = Temperatures(torch.tensor([0.5, 2.0]))(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 3))
    assert scores.tolist() == [[2.0] * 3, [0.5] * 3]


def test_the_others_run_what_transformers_builds_with_the_same_weights():
    gpt2 = replace(TINY, model="gpt2", prompts=1)
    ours, theirs = (prepare(replace(gpt2, contender=name)).policy.network for name in ("esolab", "plain"))
    own, usual = ours.state_dict(), theirs.state_dict()
    assert own.keys() == usual.keys()
    assert all(torch.equal(weight, usual[name]) for name, weight in own.items())
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    assert type(theirs.transformer.h[0].mlp.act) is not type(ours.transformer.h[0].mlp.act)

"""Unlike, DRL and RRHF: arithmetic against oracles.json on fixture F, and what each asks of the sampler."""

from dataclasses import replace

import pytest
import torch

from esolab.batch import Rollout, Tokens
from esolab.data import collate
from esolab.methods.drl import DRL, drl_loss
from esolab.methods.rrhf import RRHF, rrhf_loss
from esolab.methods.unlike import Unlike, direct_loss, welleck_loss


def fixture_rollout(f):
    shape = f["lengths"].shape
    return Rollout(
        branches=Tokens(f["tokens"], f["lengths"]),
        finished=torch.zeros(shape, dtype=torch.bool),
        temperatures=torch.ones(shape),
        logprobs=torch.zeros(f["logprobs"].shape),
        texts=[["-"] * shape[1]] * shape[0],
        rewards=f["rewards"],
        good=torch.ones(shape, dtype=torch.bool),
        advantages=f["rewards"] - f["rewards"].mean(1, keepdim=True),
    )


def of(f, *pairs):
    """The log-probs of some answers, one for each prompt: [B, 1, T]."""
    return torch.stack([f["logprobs"][b, j] for b, j in pairs])[:, None]


# Unlike


def test_a_worst_answer_without_a_usable_reward_is_not_picked(fixture_f, make_parts):
    f = fixture_f()
    rollout = replace(fixture_rollout(f), good=torch.tensor([[True, False, True, True], [False] * 4]))
    method = Unlike(make_parts(), lam=1.0)
    picked = method.scored(rollout)
    assert picked.rewards[0].tolist() == [0.10]
    loss = method.own_loss(picked, of(f, (0, 2), (1, 0)))
    assert loss[0] != 0
    assert loss[1] == 0  # no answer to the second prompt has a reward


def test_pairs_with_an_answer_without_a_usable_reward_are_not_ranked(fixture_f, make_parts):
    f = fixture_f()
    whole = fixture_rollout(f)
    good = torch.tensor([[True, True, True, False], [True] * 4])
    masked = RRHF(make_parts(), lam=1.0).own_loss(replace(whole, good=good), f["logprobs"])
    three = (f["logprobs"].sum(-1) / f["lengths"])[:1, :3]
    assert masked[0].item() == pytest.approx(rrhf_loss(three, f["rewards"][:1, :3])[0].item())
    assert masked[1] == RRHF(make_parts(), lam=1.0).own_loss(whole, f["logprobs"])[1]


def test_the_worst_answer_is_scored_and_no_other(fixture_f, make_parts):
    f = fixture_f()
    rollout = fixture_rollout(f)
    picked = Unlike(make_parts(), lam=1.0).scored(rollout)
    assert rollout.rewards.argmin(1).tolist() == [1, 2]  # unlike.idx
    assert picked.rewards.tolist() == [[0.05], [0.01]]
    assert picked.branches.lengths.tolist() == [[2], [3]]


def test_direct(fixture_f, make_parts):
    f = fixture_f()
    own = Unlike(make_parts(), lam=1.0)
    loss = own.own_loss(own.scored(fixture_rollout(f)), of(f, (0, 1), (1, 2)))
    assert loss.tolist() == pytest.approx([-4.5047528361987315, -8.295399459407705], rel=1e-12)  # unlike.direct sum
    assert loss.mean().item() == pytest.approx(-6.400076147803218, rel=1e-12)  # unlike.direct batch mean
    scaled = Unlike(make_parts(), lam=0.05)
    assert torch.equal(scaled.own_loss(scaled.scored(fixture_rollout(f)), of(f, (0, 1), (1, 2))), 0.05 * loss)


def test_the_floor_stops_a_token_and_its_gradient():
    logprobs = torch.tensor([[-1.0, -25.0]], requires_grad=True)
    direct_loss(logprobs, floor=-20.0).sum().backward()
    assert direct_loss(logprobs, floor=-20.0).item() == -21.0
    assert logprobs.grad.tolist() == [[1.0, 0.0]]


def test_welleck(fixture_f, make_parts):
    f = fixture_f()
    own = Unlike(make_parts(), lam=1.0, loss="welleck")
    loss = own.own_loss(own.scored(fixture_rollout(f)), of(f, (0, 1), (1, 2)))
    assert loss.tolist() == pytest.approx([0.38237051883239487, 0.6755713122039486], rel=1e-10)  # unlike.welleck
    assert loss.mean().item() == pytest.approx(0.5289709155185718, rel=1e-6)  # unlike.welleck seq-sum batch mean
    assert loss.sum().item() / (2 + 3) == pytest.approx(0.2115883662072687, rel=1e-10)  # unlike.welleck token mean
    loss.sum().backward()  # the closed form p / (1 - p) * (onehot - p), for the first token of the first answer
    logits, token = f["logits"].detach()[0, 1, 0], f["tokens"][0, 1, 0]
    p = logits.softmax(-1)
    onehot = torch.nn.functional.one_hot(token, 5)
    torch.testing.assert_close(f["logits"].grad[0, 1, 0], p[token] / (1 - p[token]) * (onehot - p))


def test_welleck_of_a_certain_token_is_finite():
    logprobs = torch.zeros(1, 1, requires_grad=True)
    loss = welleck_loss(logprobs, torch.ones(1, 1, dtype=torch.bool))
    loss.sum().backward()
    assert loss.item() == pytest.approx(46.05, abs=0.01)
    assert logprobs.grad.isfinite().all()


# DRL


def test_drl(fixture_f):
    """O-DRL: samples S[0,3] and S[1,1], rewards .55 and .08 against greedy .40 and .10."""
    f = fixture_f()
    own = torch.stack([f["logprobs"][0, 3].sum(), f["logprobs"][1, 1].sum()])
    loss = drl_loss(own, torch.tensor([0.55 - 0.40, 0.08 - 0.10], dtype=torch.float64))
    assert loss.tolist() == pytest.approx([1.0043933227668258, -0.12774445163414777], rel=1e-12)
    assert loss.mean().item() == pytest.approx(0.43832443556633904, rel=1e-12)  # drl.loss
    assert 2.752226192296045 + 0.05 * loss.mean().item() == pytest.approx(2.7741424140743622, rel=1e-12)
    assert 0.9984 * loss.mean().item() + 0.0016 * 6.880565480740113 == pytest.approx(0.44863202123861734, rel=1e-12)


def test_drl_samples_one_answer_and_the_greedy_one(make_parts):
    method = DRL(make_parts(), lam=0.5)
    assert method.parts.sampling.ladder == [0.0, 1.0]
    worth = method.weigh(torch.tensor([[0.4, 0.55], [0.1, 0.1]]), torch.ones(2, 2, dtype=torch.long))
    assert worth[:, 1].tolist() == pytest.approx([0.15, 0.0])  # identity 14: the greedy answer again is worth nothing


def test_drl_raises_a_sample_better_than_the_greedy_answer():
    logprobs = torch.tensor([-2.0], requires_grad=True)
    drl_loss(logprobs, torch.tensor([0.3])).sum().backward()
    assert logprobs.grad.item() < 0  # descent raises it


@pytest.mark.parametrize("seed", range(5))
def test_identity_14_only_what_differs_from_the_greedy_answer_teaches(seed, make_parts, judged, ragged):
    """A sample that is the greedy answer again gets no gradient at all; a better one rises, a worse one falls."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.rand(6, 2, generator=generator, dtype=torch.float64)
    branches = ragged([[3, 2]] * 6, seed=seed)
    rewards[:2, 1] = rewards[:2, 0]
    method = DRL(make_parts(), lam=0.5)
    logprobs = (-torch.rand(6, 2, 3, generator=generator, dtype=torch.float64) * branches.mask).requires_grad_()
    rollout = method.scored(judged(method, branches, rewards, logprobs))
    method.own_loss(rollout, logprobs[:, 1:]).sum().backward()
    better = rewards[:, 1] - rewards[:, 0]
    assert (logprobs.grad[:2] == 0).all()
    assert (better[2:] != 0).all()
    assert torch.equal(-logprobs.grad[:, 1].sign(), better.sign()[:, None] * branches.mask[:, 1])  # descent
    torch.testing.assert_close(-logprobs.grad[:, 1, 0], 0.5 * better)
    assert (logprobs.grad[:, 0] == 0).all()  # the greedy answer is never pushed


def test_identity_14_a_sample_without_noise_is_the_greedy_answer(make_parts, rows):
    method = DRL(make_parts(), lam=0.5, temperature=1e-4)
    rollout = method.rollout(collate(rows))
    assert [answers[0] for answers in rollout.texts] == [answers[1] for answers in rollout.texts]
    assert (rollout.advantages == 0).all()


def test_drl_convex_weighs_the_likelihood_down(make_parts):
    assert DRL(make_parts(), lam=0.05).sft_weight == 1.0
    convex = DRL(make_parts(), lam=0.05, combine="convex", gamma=0.9)
    assert (convex.weight, convex.sft_weight) == (0.9, pytest.approx(0.1))


# RRHF


def test_rrhf(fixture_f, make_parts):
    f = fixture_f()
    loss = RRHF(make_parts(), lam=1.0).own_loss(fixture_rollout(f), f["logprobs"])
    assert loss.tolist() == pytest.approx([1.6464856850383818, 0.877611515773415], rel=1e-12)  # rrhf.rank per prompt
    assert loss.mean().item() == pytest.approx(1.2620486004058984, rel=1e-12)  # rrhf.rank batch mean
    author = RRHF(make_parts(), lam=1.0, pairs="author").own_loss(fixture_rollout(f), f["logprobs"])
    assert author[0].item() == pytest.approx(1.6464856850383818, rel=1e-12)  # rrhf.rank prompt0 restricted


def test_rrhf_pairs(fixture_f):
    """Prompt 0 of fixture F: rrhf.all pairs, rrhf.author find_pairs and rrhf.pairs_active, each (worse, better)."""
    f = fixture_f()
    rewards, scores = f["rewards"][:1], (f["logprobs"].sum(-1) / f["lengths"])[:1].detach().requires_grad_()
    one = torch.eye(4, dtype=torch.float64)
    every = {(0, 3), (1, 0), (1, 2), (1, 3), (2, 0), (2, 3)}
    for pairs, expected in (("all", every), ("author", {(0, 3), (1, 2), (1, 3), (2, 3)})):
        for i in range(4):  # an answer one nat above all others pays for each better one, below them each worse one
            assert rrhf_loss(one[i : i + 1], rewards, pairs).item() == sum(worse == i for worse, _ in expected)
            assert rrhf_loss(-one[i : i + 1], rewards, pairs).item() == sum(better == i for _, better in expected)
    rrhf_loss(scores, rewards).sum().backward()
    assert scores.grad.tolist() == [[1.0, 1.0, -1.0, -1.0]]  # active: (0, 3) and (1, 2)


def test_rrhf_with_the_best_answer_as_target(fixture_f, make_parts):
    f = fixture_f()
    original = RRHF(make_parts(), lam=1.0, ft_target="best")
    loss = original.own_loss(fixture_rollout(f), f["logprobs"])
    assert loss.mean().item() == pytest.approx(7.803637633815677, rel=1e-12)  # rrhf.rank+sft_best(sum), batch mean
    target = loss - rrhf_loss((f["logprobs"].sum(-1) / f["lengths"]), f["rewards"])
    assert target.tolist() == pytest.approx([6.6959554851121705, 6.387222581707387])  # rrhf.sft_best sum per prompt
    means = target / f["lengths"].gather(1, f["rewards"].argmax(1, keepdim=True))[:, 0]
    assert means.tolist() == pytest.approx([2.2319851617040567, 2.129074193902462])  # rrhf.sft_best mean per prompt
    assert original.sft_weight == 0.0
    assert RRHF(make_parts(), lam=1.0, ft_target="both").sft_weight == 1.0


def test_rrhf_has_no_gradient_for_ties_and_for_ranks_that_hold():
    rewards = torch.tensor([[0.2, 0.2, 0.9]])
    for scores, felt in (([-1.0, -3.0, -0.5], False), ([-1.0, -3.0, -2.0], True)):
        scores = torch.tensor([scores], requires_grad=True)
        rrhf_loss(scores, rewards).sum().backward()
        assert bool(scores.grad.abs().sum() > 0) == felt


def test_monotone_maps_of_the_rewards_change_nothing(fixture_f):
    """Identity 2."""
    f = fixture_f()
    scores = f["logprobs"].sum(-1) / f["lengths"]
    assert torch.equal(rrhf_loss(scores, f["rewards"]), rrhf_loss(scores, f["rewards"].exp() * 7))

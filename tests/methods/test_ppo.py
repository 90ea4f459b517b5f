"""PPO: the oracle, what its pieces do, four models of which two learn, and a step by hand."""

from dataclasses import replace

import pytest
import torch

from esolab.batch import Tokens
from esolab.data import collate
from esolab.errors import BadInput
from esolab.logprobs import branch_logprobs
from esolab.methods.base import Optimizer
from esolab.methods.ppo import PPO, ValueModel, gae, policy_loss, token_rewards, value_loss, whitened
from esolab.sampling import Sampling


def row(*values):
    return torch.tensor([[values]], dtype=torch.float64)


OLD, REFERENCE, VALUES = row(-1.0, -0.5, -2.0), row(-1.2, -0.4, -1.5), row(0.2, 0.1, 0.3)
NEW, NEW_VALUES = row(-0.7, -0.6, -1.6), row(0.5, 0.1, -0.1)
THREE, ALL = torch.tensor([[3]]), torch.ones(1, 1, 3, dtype=torch.bool)


def close(found, *values):
    assert found.flatten().tolist() == pytest.approx(values, abs=1e-9)


def test_oracle_ppo():
    """O-PPO of methods.md: score .8 on the last token, beta .05, gamma 1, lambda .95."""
    rewards = token_rewards(torch.tensor([[0.8]], dtype=torch.float64), OLD, REFERENCE, THREE, 0.05)
    close(rewards, -0.01, 0.005, 0.825)
    advantages, returns = gae(rewards, VALUES, ALL, 1.0, 0.95)
    close(advantages, 0.5585625, 0.70375, 0.525)
    close(returns, 0.7585625, 0.80375, 0.825)
    advantages = whitened(advantages, ALL)
    close(advantages, -0.3916396395, 1.1365443739, -0.7449047343)
    pg = policy_loss(NEW, OLD, advantages, 0.2).mean()
    vf = value_loss(NEW_VALUES, VALUES, returns, 0.2).mean()
    close(torch.stack([pg, vf, pg + 0.1 * vf]), 0.2038458734, 0.2465760215, 0.2285034755)


def test_what_lies_beyond_an_answers_end_is_worth_nothing():
    """One answer of two tokens, alone and beside a longer one."""
    junk = torch.full((1, 1, 1), 7.0, dtype=torch.float64)
    short = [torch.cat([x[..., :2], junk], -1) for x in (OLD, REFERENCE, VALUES)]
    mask = torch.tensor([[[True, True, False]]])
    score = torch.tensor([[0.8]], dtype=torch.float64)
    alone = token_rewards(score, OLD[..., :2], REFERENCE[..., :2], torch.tensor([[2]]), 0.05)
    beside = token_rewards(score, short[0], short[1], torch.tensor([[2]]), 0.05)
    close(beside, *alone.flatten().tolist(), 0.0)
    for x, y in zip(
        gae(alone, VALUES[..., :2], ALL[..., :2], 0.9, 0.8), gae(beside, short[2], mask, 0.9, 0.8), strict=True
    ):
        close(y, *x.flatten().tolist(), 0.0)
    close(whitened(short[0], mask), *whitened(OLD[..., :2], ALL[..., :2]).flatten().tolist(), 0.0)


def test_without_price_values_and_discount_the_advantage_is_the_score():
    """Identity 12."""
    scores = torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    logprobs = torch.randn(1, 2, 4, dtype=torch.float64)
    mask = torch.arange(4) < torch.tensor([[4, 2]])[..., None]
    rewards = token_rewards(scores, logprobs, torch.randn_like(logprobs), torch.tensor([[4, 2]]), 0.0)
    advantages, returns = gae(rewards, torch.zeros_like(logprobs), mask, 1.0, 1.0)
    assert torch.allclose(advantages, scores[..., None] * mask)
    assert torch.equal(advantages, returns)


def test_the_first_gradient_is_that_of_reinforce():
    """Identity 12: at ratio 1 the gradient is the token mean of -A grad log pi, clipping or not."""
    advantages = torch.randn(2, 3, 4, dtype=torch.float64)
    logprobs = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(policy_loss(logprobs, logprobs.detach(), advantages, 0.2).mean(), logprobs)
    assert torch.allclose(found, -advantages / advantages.numel())


def test_a_ratio_that_is_beyond_the_clip_in_the_good_direction_has_no_gradient():
    logprobs = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    policy_loss(logprobs, torch.zeros(4), advantages, 0.2).sum().backward()
    assert logprobs.grad[[0, 3]].tolist() == [0, 0]
    assert (logprobs.grad[[1, 2]] * advantages[[1, 2]] < 0).all()


@pytest.fixture
def make(make_parts):
    def made(k=2, **values):
        return PPO(make_parts(sampling=Sampling(6, k=k)), **values)

    return made


def test_values_start_at_0_and_are_read_where_tokens_are_predicted(make_policy, family):
    policy = make_policy(family)
    value = ValueModel(policy)
    prompts, branches = _some(policy)
    assert not branch_logprobs(value, prompts, branches).any()
    with torch.no_grad():
        value.head.normal_(generator=torch.Generator().manual_seed(0))
    found = branch_logprobs(value, prompts, branches)
    for b, k in ((0, 0), (0, 1), (1, 1)):
        ids = torch.cat([prompts.ids[b, : prompts.lengths[b]], branches.ids[b, k, : branches.lengths[b, k]]])
        hidden = policy.network.base_model(ids[None])[0][0]
        size, start = int(branches.lengths[b, k]), int(prompts.lengths[b]) - 1
        plain = hidden[start : start + size] @ value.head[0]
        assert torch.allclose(found[b, k, :size], plain, atol=1e-4)
        assert not found[b, k, size:].any()


def _some(policy):
    prompts = Tokens.pack([[3, 4, 5, 6], [7, 8]])
    ids = torch.tensor([[[9, 10, 11], [12, 0, 0]], [[13, 14, 0], [15, 16, 17]]])
    return prompts, Tokens(ids, torch.tensor([[3, 1], [2, 3]]))


def test_two_of_four_models_learn(make):
    method = make()
    names = {name.partition(".")[0] for name, _ in method.named_parameters()}
    assert names == {"policy", "value"}
    assert not any(name.startswith("_reference") for name in method.state_dict())
    assert list(method.models()) == ["policy", "reference", "value"]
    assert not any(weight.requires_grad for weight in method.reference.parameters())
    ours, theirs = method.policy.state_dict(), method.reference.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(ours[name].data_ptr() != theirs[name].data_ptr() for name in ours)


def test_answers_are_drawn_at_temperature_1(make):
    assert make(k=4).drawn.ladder == [1.0] * 4
    assert make(k=1).drawn.ladder == [1.0]


@pytest.mark.parametrize("change", [{"top_k": 5}, {"top_p": 0.9}, {"greedy": True}])
def test_truncated_answers_are_refused(make_parts, change):
    with pytest.raises(
        BadInput, match=r"^method=ppo: .*take sampling.top_k=0 sampling.top_p=1.0 sampling.greedy=false$"
    ):
        PPO(make_parts(sampling=replace(Sampling(6), **change)))


def test_a_step_is_what_the_pieces_say(make_parts, rows):
    """One inner step on a batch: its losses are those of the oracle's functions on plain forwards."""
    method, batch, rollout = drawn(make_parts, rows, inner_epochs=1, kl=0.3, value_weight=0.5)
    before = method.before(batch, rollout)
    with torch.no_grad():
        for weight in method.policy.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        method.value.head.normal_(generator=torch.Generator().manual_seed(2))
    found = method.turn(batch, rollout, before, 1.0)
    asked, models = (batch.prompts, rollout.branches), (method.policy, method.value, method.reference)
    logprobs, values, reference = (branch_logprobs(model, *asked).detach() for model in models)
    mask = rollout.branches.mask
    rewards = token_rewards(rollout.rewards, before.logprobs, reference, rollout.branches.lengths, 0.3)
    advantages, returns = gae(rewards, torch.zeros_like(rewards), mask, 1.0, 0.95)
    moved = policy_loss(logprobs, before.logprobs, whitened(advantages, mask), 0.2)[mask].mean()
    missed = value_loss(values, torch.zeros_like(values), returns, 0.2)[mask].mean()
    assert found == pytest.approx({"policy": float(moved), "value": 0.5 * float(missed)}, rel=1e-4)
    assert abs(float(moved)) > 1e-3 < float(missed)


ALONE = {"current_epoch": 0, "manual_backward": lambda self, loss: loss.backward()}  # what a trainer has for it


def drawn(make_parts, rows, good=None, **values):
    """A method with a rollout of two answers to each of four prompts."""
    method = PPO(make_parts(sampling=Sampling(6, k=2)), **values)
    method.__class__ = type("Alone", (PPO,), ALONE)
    batch = collate(rows[:4])
    rollout = method.rollout(batch)
    return method, batch, rollout if good is None else replace(rollout, good=good)


def test_an_answer_without_a_reward_takes_no_part(make_parts, rows):
    good = torch.ones(4, 2, dtype=torch.bool)
    good[1, 0] = False
    method, batch, rollout = drawn(make_parts, rows, good=good)
    before = method.before(batch, rollout)
    assert not before.mask[1, 0].any()
    assert not before.advantages[1, 0].any()
    rewarded = method.before(batch, replace(rollout, rewards=rollout.rewards + 9 * (~good)))
    assert torch.equal(before.advantages, rewarded.advantages)


def test_the_price_of_the_kl_follows_its_target_by_at_most_a_fifth_a_horizon(make_parts, rows):
    method, _, rollout = drawn(make_parts, rows, kl=0.1, kl_target=2.0, kl_horizon=80)
    for kl, factor in ((2.2, 1 + 0.1 * 8 / 80), (9.0, 1 + 0.2 * 8 / 80), (0.0, 1 - 0.2 * 8 / 80)):
        method.kl, method.numbers["kl"] = 0.1, kl
        method.follow(rollout)
        assert method.kl == pytest.approx(0.1 * factor)
    fixed, _, rollout = drawn(make_parts, rows, kl=0.1)
    fixed.numbers["kl"] = 9.0
    fixed.follow(rollout)
    assert fixed.kl == 0.1


def test_minibatches_hold_every_prompt_once_in_each_inner_epoch(make):
    method = make(inner_epochs=2, minibatches=3)
    turns = list(method.turns(8))
    assert [len(rows) for rows in turns] == [3, 3, 2] * 2
    assert all(sorted(row for rows in turns[i : i + 3] for row in rows) == list(range(8)) for i in (0, 3))
    assert turns[:3] != turns[3:]
    assert list(method.turns(8)) == turns


def test_inner_steps_are_no_steps_of_the_run(train):
    method, _, steps = train("ppo", epochs=2)
    assert method.trainer.global_step == method.account.steps == len(steps) == 4
    assert steps[0]["lr"] > steps[-1]["lr"]
    assert method.account.counts["sampled_tokens"] > 0


def test_the_policy_moves_with_each_inner_epoch_and_the_reference_never(train):
    moved = {}
    for inner in (1, 4):
        method, _, steps = train("ppo", batch=16, inner_epochs=inner)
        ours, theirs = method.policy.state_dict(), method.reference.state_dict()
        moved[inner] = sum(float((ours[name] - theirs[name]).norm()) for name in ours)
        assert steps[0]["kl"] == pytest.approx(0, abs=1e-4)
        assert steps[0]["value/explained"] == pytest.approx(0, abs=1e-6)
        assert method.value.head.any()
    assert moved[4] > 2 * moved[1]


def test_tokens_are_counted_by_model_and_pass(train):
    method, _, _ = train("ppo", batch=16, inner_epochs=3)
    counts, sampled = method.account.counts, method.account.counts["sampled_tokens"]
    prompts = sum(len(row.prompt) for row in method.trainer.datamodule.rows)
    passed = prompts + sampled - 16 * 4
    assert counts["backward_tokens"] == 3 * 2 * passed
    assert counts["forward_tokens"] == (1 + 3 + 3 * 2) * passed
    assert counts["scored_tokens"] == 3 * sampled


def test_the_likelihood_of_the_references_may_stand_beside_it(train):
    alone, beside = (train("ppo", batch=16, inner_epochs=1, sft_weight=w) for w in (0.0, 0.5))
    sft = train("sft", batch=16)[2][0]["loss/sft"]
    assert "loss/sft" not in alone[2][0]
    assert beside[2][0]["loss/sft"] == pytest.approx(0.5 * sft, rel=1e-4)
    assert beside[0].account.counts["backward_tokens"] > alone[0].account.counts["backward_tokens"]


def test_a_run_that_goes_on_keeps_price_values_and_reference(train):
    method = train("ppo", kl_target=0.5)[0]
    saved = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(saved)
    again = train("ppo", kl_target=0.5)[0]
    again.on_load_checkpoint(saved)
    assert again.kl == method.kl != 0.05
    assert any(name.startswith("value.") for name in saved["state_dict"])
    assert not any("reference" in name for name in saved["state_dict"])


def test_a_price_keeps_the_policy_near_its_reference(train):
    def letter(prompts, responses, references):
        return torch.tensor([[float(a.count("c")) for a in answers] for answers in responses])

    more = {"reward": letter, "optimizer": Optimizer(lr=1e-2)}
    free, held = (train("ppo", epochs=20, kl=kl, more=more)[2] for kl in (0.0, 3.0))
    assert free[-1]["reward/mean"] > free[0]["reward/mean"] + 0.1
    assert held[-1]["kl"] < 0.5 * free[-1]["kl"]


def test_the_price_stays_a_price(make_parts, rows):
    method, _, rollout = drawn(make_parts, rows, kl=0.1, kl_target=6.0, kl_horizon=1)
    method.numbers["kl"] = 0.0
    method.follow(rollout)
    assert method.kl == pytest.approx(0.08)
    with pytest.raises(BadInput, match=r"^method.kl=0.0: a price of 0 never changes"):
        PPO(make_parts(), kl=0.0, kl_target=6.0)


def test_one_answer_to_a_prompt_is_no_cause_for_a_warning(train, caplog):
    train("ppo", more={"sampling": Sampling(6, k=1)})
    assert "nothing was learned" not in caplog.text


def test_models_held_before_a_stop_are_told_after_it(train, make_parts):
    method = train("ppo")[0]
    saved = {"state_dict": method.state_dict()}
    method.account.models = {"reward": {"parameters": 3, "bytes": 12}}
    method.on_save_checkpoint(saved)
    again = train("ppo")[0]
    again.on_load_checkpoint(saved)
    assert set(again.held()) == {"policy", "reference", "value", "reward"}
    assert again.held()["reward"] == {"parameters": 3, "bytes": 12}

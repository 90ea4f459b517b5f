from dataclasses import replace

import pytest
import torch

from esolab.batch import Rollout, Tokens
from esolab.config import resolve
from esolab.errors import BadInput
from esolab.logprobs import branch_logprobs
from esolab.methods import advantages
from esolab.methods.base import Optimizer
from esolab.methods.eso import ESO, eso_loss
from esolab.methods.sft import sft_loss


def population_loss(logprobs, rewards):
    """Equation 10 from rewards."""
    return eso_loss(logprobs, advantages.eso(rewards, torch.ones(rewards.shape, dtype=torch.long), 1))


def fixture_rollout(f, finished=None):
    """Fixture F as a rollout; `finished` where the last token is an end token."""
    shape = f["lengths"].shape
    return Rollout(
        branches=Tokens(f["tokens"], f["lengths"]),
        finished=torch.zeros(shape, dtype=torch.bool) if finished is None else finished,
        temperatures=torch.tensor([0.5, 1.0, 1.5, 2.0]).expand(shape),
        logprobs=torch.zeros(f["logprobs"].shape),
        texts=[["-"] * shape[1]] * shape[0],
        rewards=f["rewards"],
        good=torch.ones(shape, dtype=torch.bool),
        advantages=advantages.eso(f["rewards"], f["lengths"], 3),
    )


def random_rewards(seed, k=4, batch=5):
    return torch.rand(batch, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitness(rewards):
    """Minus dL/dS: what each answer's log-prob is pushed by."""
    logprobs = torch.zeros_like(rewards).requires_grad_()
    population_loss(logprobs, rewards).sum().backward()
    return -logprobs.grad


# oracles


def test_oracle_lp(fixture_f):
    """That fixture F is the one of methods.md."""
    f = fixture_f()
    assert f["logits"][0, 0, 0].tolist() == pytest.approx(  # F.logits[0,0,0]
        [0.958851077208406, 1.0310027436429283, -1.9998465151282017, 0.9882267022772179, 1.0020417129157693], abs=1e-14
    )
    sums = [  # F.S
        [-6.475641623661594, -4.5047528361987315, -3.825424149320889, -6.6959554851121705],
        [-7.285489337818633, -6.387222581707387, -8.295399459407705, -2.1916977154768253],
    ]
    torch.testing.assert_close(f["logprobs"].sum(-1), torch.tensor(sums, dtype=torch.float64), rtol=1e-13, atol=0)


def test_oracle_eso(fixture_f):
    f = fixture_f()
    loss = population_loss(f["logprobs"].sum(-1), f["rewards"])
    assert loss.tolist() == pytest.approx([0.8578045370788516, -0.11716589011554004], rel=1e-12)  # eso.per_prompt_sum
    assert loss.mean().item() == pytest.approx(0.3703193234816558, rel=1e-12)  # eso.sum
    loss.mean().backward()
    grad = f["logits"].grad
    assert grad[0, 3, 0].tolist() == pytest.approx(  # eso.grad[0,3,0]
        [0.002879236049151626, -0.1203052838609994, 0.0838914198433714, 0.0028503993677184546, 0.030684228600757944],
        rel=1e-12,
    )
    assert grad.norm().item() == pytest.approx(0.31215374232968457, rel=1e-12)  # eso.gradnorm
    assert (grad[~f["mask"]] == 0).all()


def test_oracle_eso_closed_form(fixture_f):
    """dL/dz = (u - r) (1[v = a] - p) m / B, eso.analytic_grad_err: 1.4e-17."""
    f = fixture_f()
    population_loss(f["logprobs"].sum(-1), f["rewards"]).mean().backward()
    weights = f["rewards"].mean(1, keepdim=True) - f["rewards"]
    onehot = torch.nn.functional.one_hot(f["tokens"], 5)
    closed = weights[..., None, None] * (onehot - f["logits"].softmax(-1)) * f["mask"][..., None] / 2
    assert (f["logits"].grad - closed).abs().max() < 1e-15


def test_oracle_eso_weights(fixture_f):
    expected = [  # eso.weights(u-r)
        [-0.04999999999999999, 0.2, 0.15, -0.30000000000000004],
        [0.02, -0.04, 0.03, -0.010000000000000002],
    ]
    torch.testing.assert_close(-fitness(fixture_f()["rewards"]), torch.tensor(expected, dtype=torch.float64))


def test_oracle_sft_plus_eso(fixture_f):
    """eso.overall(sft token_mean + .05*eso sum), with branch 0 as the reference, through the method's own numbers."""
    f = fixture_f()
    sft = sft_loss(f["logprobs"][:, 0], f["lengths"][:, 0])
    own = population_loss(f["logprobs"].sum(-1), f["rewards"]).mean()
    assert (sft + 0.05 * own).item() == pytest.approx(2.770742158470128, rel=1e-7)


# the method's own loss: lambda, reductions, threshold, end token


def batch_loss(method, f, finished=None):
    rollout = fixture_rollout(f, finished)
    return (method.shares(rollout) * method.own_loss(rollout, f["logprobs"])).sum().item()


def test_the_batch_is_averaged_and_lambda_scales(make_parts, fixture_f):
    mean = batch_loss(ESO(make_parts(), lam=1.0), fixture_f())
    assert mean == pytest.approx(0.3703193234816558, rel=1e-12)  # eso.sum
    assert batch_loss(ESO(make_parts(), lam=0.05), fixture_f()) == pytest.approx(0.05 * mean, rel=1e-12)


def test_length_norm_and_the_mean_over_answers(make_parts, fixture_f):
    normed = ESO(make_parts(), lam=1.0, logp="mean")
    assert batch_loss(normed, fixture_f()) == pytest.approx(-0.14774747008691308, rel=1e-11)  # eso.mean
    both = ESO(make_parts(), lam=1.0, logp="mean", reward_threshold=0.10)
    assert batch_loss(both, fixture_f()) == pytest.approx(-0.24676599711218275, rel=1e-11)  # eso.mean.thr0.10
    fourth = ESO(make_parts(), lam=1.0, k_reduction="mean")
    assert batch_loss(fourth, fixture_f()) == pytest.approx(0.3703193234816558 / 4, rel=1e-12)  # eso.sum


def test_importance_weights_are_those_of_temperature_1_over_the_sampler(make_parts, fixture_f):
    f = fixture_f()
    rollout = fixture_rollout(f)
    cold = replace(rollout, logprobs=(f["logprobs"] * 0.5).detach().float())
    losses = ESO(make_parts(), lam=1.0, iw=True).own_loss(cold, f["logprobs"])
    sums = f["logprobs"].sum(-1)
    weight = (sums - cold.logprobs.sum(-1)).exp().detach()
    torch.testing.assert_close(losses, -(rollout.advantages * weight * sums).sum(1), rtol=1e-6, atol=1e-9)
    same = replace(rollout, logprobs=f["logprobs"].detach().float())  # sampled at 1: no weight
    plain = ESO(make_parts(), lam=1.0).own_loss(same, f["logprobs"])
    torch.testing.assert_close(
        ESO(make_parts(), lam=1.0, iw=True).own_loss(same, f["logprobs"]), plain, rtol=1e-6, atol=0
    )


def test_the_threshold_leaves_prompts_out_of_the_mean(make_parts, fixture_f):
    """Mean rewards are .25 and .04: eso.u."""
    thresholded = ESO(make_parts(), lam=1.0, reward_threshold=0.10)
    assert thresholded.shares(fixture_rollout(fixture_f())).tolist() == [1.0, 0.0]
    assert batch_loss(thresholded, fixture_f()) == pytest.approx(0.8578045370779938, rel=1e-11)  # eso.sum.thr0.10
    low = ESO(make_parts(), lam=1.0, reward_threshold=0.01)
    assert batch_loss(low, fixture_f()) == pytest.approx(0.3703193234816558, rel=1e-12)  # eso.sum
    high = ESO(make_parts(), lam=1.0, reward_threshold=0.9)
    assert batch_loss(high, fixture_f()) == 0.0  # none is left, and 0 / 0 is not its value


def test_a_mean_reward_at_the_threshold_does_not_pass(make_parts, fixture_f):
    f = fixture_f() | {"rewards": torch.tensor([[0.5, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.5]], dtype=torch.float64)}
    method = ESO(make_parts(), lam=1.0, reward_threshold=0.5)
    assert method.shares(fixture_rollout(f)).tolist() == [0.0, 1.0]


def test_the_release_sums_the_batch_and_its_threshold_cancels(make_parts, fixture_f):
    """(B,) losses times a (B, 1) mask over the count kept, summed: every prompt counts whole if any passes."""
    f = fixture_f()
    losses = population_loss(f["logprobs"].sum(-1), f["rewards"])
    for threshold, kept in ((None, None), (0.10, [1.0, 0.0]), (0.01, [1.0, 1.0])):
        method = ESO(make_parts(), lam=1.0, reward_threshold=threshold, batch_reduction="sum")
        expected = losses.sum()
        if kept is not None:
            mask = torch.tensor(kept, dtype=torch.float64)[:, None]
            torch.testing.assert_close((losses * mask / mask.sum()).sum(), expected)  # what the release computes
        assert batch_loss(method, fixture_f()) == pytest.approx(expected.item(), rel=1e-12)
    none = ESO(make_parts(), lam=1.0, reward_threshold=0.9, batch_reduction="sum")
    assert batch_loss(none, fixture_f()) == 0.0


def test_without_keep_eos_finished_answers_lose_their_end_token_only(make_parts, fixture_f):
    f = fixture_f()
    finished = torch.tensor([[False, True, True, True], [False, False, False, False]])
    rollout, logprobs = fixture_rollout(f, finished), f["logprobs"]
    kept = ESO(make_parts(), lam=1.0).sequence_logprobs(rollout, logprobs)
    stripped = ESO(make_parts(), lam=1.0, keep_eos=False).sequence_logprobs(rollout, logprobs)
    torch.testing.assert_close(kept, logprobs.sum(-1))
    assert kept[0, 3].item() == pytest.approx(-6.6959554851121705, rel=1e-12)  # eos.S[0,3] with
    assert stripped[0, 3].item() == pytest.approx(-2.4029199872704363, rel=1e-12)  # eos.S[0,3] stripped
    assert stripped[0, 2] == 0  # an answer that was an end token only
    assert stripped[0, 1] == logprobs[0, 1, 0]
    assert torch.equal(stripped[~finished], kept[~finished])


def test_without_keep_eos_the_end_token_gets_no_gradient(make_parts, fixture_f):
    f = fixture_f()
    rollout = fixture_rollout(f, torch.ones(2, 4, dtype=torch.bool))
    ESO(make_parts(), lam=1.0, keep_eos=False).own_loss(rollout, f["logprobs"]).sum().backward()
    felt = f["logits"].grad.abs().sum(-1) > 0
    assert torch.equal(felt, torch.arange(3) < f["lengths"][..., None] - 1)


def test_rewards_get_no_gradient(fixture_f):
    f = fixture_f()
    rewards = f["rewards"].requires_grad_()
    population_loss(f["logprobs"].sum(-1), rewards).sum().backward()
    assert rewards.grad is None


# identities of methods.md section 4


@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_1_equal_rewards_have_no_gradient_at_all(k, dtype):
    rewards = random_rewards(1, k=1, batch=1000).to(dtype).expand(-1, k)
    bare = rewards - rewards.mean(1, keepdim=True)
    assert k < 8 or bool((bare != 0).any())  # a bare mean would leave a rest
    assert (fitness(rewards) == 0).all()


@pytest.mark.parametrize("k", [2, 4, 8])
def test_identity_2_a_shift_changes_nothing_and_a_factor_scales(k):
    rewards, shift = random_rewards(2, k), random_rewards(3, 1)
    torch.testing.assert_close(fitness(rewards + 10 * shift), fitness(rewards), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(fitness(-2.5 * rewards), -2.5 * fitness(rewards), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(fitness(8 * rewards), 8 * fitness(rewards), rtol=0, atol=0)


def test_identity_3_gradient_is_that_of_reinforce_with_a_group_mean_baseline(make_policy, ragged):
    """grad L = -k grad (1/k) sum_j (r_j - u) log pi(a_j), through a policy."""
    policy, k = make_policy("gpt2"), 4
    prompts, branches = ragged([3, 5], seed=1), ragged([[2, 4, 1, 3], [3, 3, 5, 1]], seed=2)
    rewards = random_rewards(4, k, 2).float()

    def gradient(objective):
        policy.zero_grad()
        objective(branch_logprobs(policy, prompts, branches).sum(-1)).backward()
        return torch.cat([weight.grad.flatten() for weight in policy.parameters()])

    def reinforce(logprobs):
        total = 0.0
        for b in range(2):
            baseline = sum(rewards[b].tolist()) / k
            total = total + sum((float(rewards[b, j]) - baseline) * logprobs[b, j] for j in range(k)) / k
        return total

    ours = gradient(lambda logprobs: population_loss(logprobs, rewards).sum())
    assert ours.norm() > 0.1
    torch.testing.assert_close(ours, -k * gradient(reinforce), rtol=1e-4, atol=1e-6 * ours.norm().item())


def test_identity_8_one_answer_has_no_loss_and_two_share_their_difference():
    logprobs = torch.tensor([[-3.0]], requires_grad=True)
    loss = population_loss(logprobs, torch.tensor([[0.7]]))
    loss.sum().backward()
    assert loss.item() == 0
    assert logprobs.grad.item() == 0
    rewards = random_rewards(5, k=2)
    half = (rewards[:, 0] - rewards[:, 1]) / 2
    torch.testing.assert_close(fitness(rewards), torch.stack([half, -half], 1), rtol=1e-12, atol=1e-15)


def test_identity_8_one_answer_is_refused():
    with pytest.raises(BadInput, match=r"sampling\.k"):
        resolve(["method=eso", "sampling.k=1"])


def test_identity_9_order_and_padding_of_the_answers_change_nothing(make_policy, ragged):
    policy = make_policy("gpt2")
    prompts, branches = ragged([3, 5], seed=1), ragged([[2, 4, 1, 3], [3, 3, 5, 1]], seed=2)
    rewards = random_rewards(6, 4, 2).float()

    def gradient(branches, rewards):
        policy.zero_grad()
        loss = population_loss(branch_logprobs(policy, prompts, branches).sum(-1), rewards)
        loss.sum().backward()
        return loss.detach(), torch.cat([weight.grad.flatten() for weight in policy.parameters()])

    loss, grad = gradient(branches, rewards)
    order = [2, 0, 3, 1]
    turned = gradient(Tokens(branches.ids[:, order], branches.lengths[:, order]), rewards[:, order])
    torch.testing.assert_close(turned[0], loss, rtol=1e-5, atol=1e-6)
    assert (turned[1] - grad).norm() < 1e-5 * grad.norm()
    wide = torch.nn.functional.pad(branches.ids, (0, 3), value=9)
    padded = gradient(Tokens(wide, branches.lengths), rewards)
    torch.testing.assert_close(padded[0], loss, rtol=1e-6, atol=1e-6)  # a sum over more zeros
    assert torch.equal(padded[1], grad)


def test_identity_9_prompt_and_what_follows_the_end_have_no_weight(make_policy, make_parts):
    """The hidden states that meet the vocabulary: one for each answer token, none for a prompt token as target."""
    policy = make_policy("gpt2")
    prompts = Tokens(torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    branches = Tokens(torch.tensor([[[4, 0, 9], [5, 6, 0]]]), torch.tensor([[2, 3]]))
    targets = []
    hook = policy.register_forward_pre_hook(lambda _, args: targets.append(args[5].tolist()))
    branch_logprobs(policy, prompts, branches)
    hook.remove()
    assert targets == [[4, 0, 5, 6, 0]]


def test_identity_16_sum_and_length_norm_coincide_for_answers_of_one_token(make_parts, make_policy, ragged):
    branches = ragged([[1, 1, 1, 1], [1, 1, 1, 1]], seed=2, width=5)
    logprobs = branch_logprobs(make_policy("gpt2"), ragged([3, 5], seed=1), branches)
    rewards = random_rewards(7, 4, 2).float()
    finished, ones = torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4)
    worth = advantages.eso(rewards, branches.lengths, 1)
    rollout = Rollout(branches, finished, ones, logprobs.detach(), [["-"] * 4] * 2, rewards, ~finished, worth)
    own = ESO(make_parts(), lam=1.0).own_loss(rollout, logprobs)
    assert own.abs().min() > 0
    assert torch.equal(ESO(make_parts(), lam=1.0, logp="mean").own_loss(rollout, logprobs), own)


def test_without_the_likelihood_the_gradient_is_the_methods_own(train):
    """Equation 8: sft_weight=0 is what lambda ESO adds to the likelihood, and the references are not read."""
    settings = {"batch": 16, "lam": 0.5, "active_epochs": "all", "watch_every": 0}
    settings["more"] = {"optimizer": Optimizer(lr=1e-2, clip=1e9)}
    (both, whole, _), (alone, own, steps) = (train("eso", sft_weight=w, **settings) for w in (1.0, 0.0))
    likelihood = train("sft", batch=16, more=settings["more"])[1].gradients[0]
    difference = whole.gradients[0] - own.gradients[0] - likelihood
    assert difference.norm() < 1e-5 * likelihood.norm()
    assert own.gradients[0].norm() > 1e-3
    assert "loss/sft" not in steps[0]
    references = both.account.counts["scored_tokens"] - alone.account.counts["scored_tokens"]
    assert references == sum(len(row.reference) for row in both.trainer.datamodule.rows)
    assert both.account.counts["sampled_tokens"] == alone.account.counts["sampled_tokens"]


def test_equal_rewards_and_no_likelihood_leave_nothing_to_learn(train):
    def same(prompts, responses, references):
        return torch.ones(len(responses), len(responses[0]))

    _, watch, steps = train("eso", batch=16, lam=0.5, active_epochs="all", sft_weight=0.0, more={"reward": same})
    assert not watch.gradients[0].any()
    assert steps[0]["loss"] == 0

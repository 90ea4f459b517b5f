"""Identities 1, 2, 4, 5 and 6 of methods.md 4 on random fixtures: what the methods' own losses push each token by.

GRPO and its relatives are written down once more here as they were published, ratio, clipping and all; at the first
inner step their gradients are ours, times the factors of methods.md 1.6.
"""

from functools import cache

import pytest
import torch

from esolab.batch import Tokens
from esolab.config import build, resolve
from esolab.methods import advantages

B, K, T = 3, 4, 6
LIMIT = 6  # max_new_tokens of make_parts
SEEDS = range(4)
NAMES = sorted(advantages.BY_NAME)


@pytest.fixture
def answers():
    """answers(seed): ragged branches [B, K, T], rewards, token log-probs with a gradient, log-probs of a sampler."""

    def make(seed):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, T + 1, (B, K), generator=generator)
        lengths[0, 0] = T
        branches = Tokens(torch.randint(23, (B, K, T), generator=generator), lengths)
        rewards = torch.rand(B, K, generator=generator, dtype=torch.float64)
        scores, sampled = (-3 * torch.rand(2, B, K, T, generator=generator, dtype=torch.float64)) * branches.mask
        return branches, rewards, scores.requires_grad_(), sampled

    return make


@pytest.fixture
def push(judged):
    """push(method, answers): minus the gradient of the method's own loss by each token's log-prob, [B, K, T]."""

    def measure(method, case):
        branches, rewards, scores, sampled = case
        rollout = judged(method, branches, rewards, sampled)
        loss = (method.shares(rollout) * method.own_loss(rollout, scores)).sum()
        return -torch.autograd.grad(loss, scores)[0]

    return measure


@cache
def values_of(name):
    return resolve([f"method={name}"])["method"]


@pytest.fixture
def variant(make_parts):
    """variant("grpo", logp="sum"): what its yaml makes with these values, at lambda 1."""
    return lambda name="eso", **values: build({**values_of(name), "lam": 1.0, **values})(make_parts())


def with_rewards(case, rewards):
    return case[0], rewards, *case[2:]


# identity 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("logp", ["sum", "mean"])
@pytest.mark.parametrize("name", NAMES)
def test_identity_1_equal_rewards_push_nothing(name, logp, seed, answers, push, variant):
    """Exactly, beside a prompt whose rewards spread; but for rounding where the batch is centred, too."""
    case = answers(seed)
    rewards = torch.cat([case[1][:2, :1].expand(2, K), case[1][2:]])
    pushed = push(variant(advantage=name, logp=logp), with_rewards(case, rewards))
    assert pushed[:2].abs().max() <= (1e-12 if name == "reinforce_pp" else 0.0)
    assert pushed[2].abs().max() > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_identity_1_equal_rewards_rank_nothing_but_the_first_answer_is_still_unlearned(
    seed, answers, push, judged, variant
):
    case = answers(seed)
    equal = with_rewards(case, case[1][:, :1].expand(B, K))
    assert (push(variant("rrhf"), equal) == 0).all()
    assert push(variant("rrhf"), case).abs().max() > 0
    branches, rewards, scores, sampled = equal
    method = variant("unlike")
    picked = method.scored(judged(method, branches, rewards, sampled))
    (grad,) = torch.autograd.grad(method.own_loss(picked, scores[:, :1]).sum(), scores)
    assert torch.equal(grad[:, 0], branches.mask[:, 0].double())  # descent lowers each token of it
    assert (grad[:, 1:] == 0).all()


# identity 2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("iw", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_identity_2_shifts_change_nothing_and_factors_what_they_should(name, iw, seed, answers, push, variant):
    """A shift of its own for each prompt, under importance weights and a sampler of its own, too; a factor scales what
    is linear in the rewards and leaves the rest (1e-4 beside GRPO's deviation aside)."""
    case, method = answers(seed), variant(advantage=name, iw=iw)
    pushed, shift = push(method, case), torch.tensor([[3.0], [-1.0], [0.5]], dtype=torch.float64)
    torch.testing.assert_close(push(method, with_rewards(case, case[1] + shift)), pushed, rtol=1e-9, atol=1e-12)
    scaled = push(method, with_rewards(case, 8 * case[1]))
    linear = name in ("eso", "rloo", "dr_grpo", "bnpo")
    tolerance = 2e-3 if name == "grpo" else 1e-6
    torch.testing.assert_close(scaled, 8 * pushed if linear else pushed, rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "curve", [torch.exp, lambda r: r**3 - 5, lambda r: -1 / (r + 1e-3)], ids=["exp", "cube", "1/r"]
)
def test_identity_2_only_the_order_matters_to_ranks(curve, seed, answers, push, judged, variant):
    case = answers(seed)
    bent = with_rewards(case, curve(case[1]))
    for method in (variant(advantage="rank"), variant(advantage="nes"), variant("rrhf")):
        torch.testing.assert_close(push(method, bent), push(method, case), rtol=1e-12, atol=0)
    assert not torch.allclose(push(variant(), bent), push(variant(), case))
    unlike = variant("unlike")
    first, second = (unlike.scored(judged(unlike, c[0], c[1], c[3])) for c in (case, bent))
    assert torch.equal(first.branches.ids, second.branches.ids)
    assert torch.equal(first.rewards[:, 0], case[1].min(1).values)


# identity 4


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("logp", ["sum", "mean"])
def test_identity_4_rloo_is_eso_over_k_minus_1(logp, seed, answers, push, variant):
    """method=rloo averages over the k answers: grad = 1 / (k - 1) grad L_eso; summed, k / (k - 1)."""
    case = answers(seed)
    eso = push(variant(logp=logp), case)
    torch.testing.assert_close(push(variant("rloo", logp=logp), case), eso / (K - 1))
    torch.testing.assert_close(push(variant(advantage="rloo", logp=logp), case), eso * K / (K - 1))


# identities 5 and 6


def surrogate(kind, scores, old, worth, mask, clip=0.2, limit=LIMIT):
    """The clipped objectives as published, to be descended: rewards' worth [B, K], log-probs old and new [B, K, T].

    The ratio is a token's (grpo, dr_grpo, bnpo) or the whole answer's (rloo). They are averaged over the answers; a
    token's share is 1 / its answer's length in grpo and 1 / the limit in dr_grpo. bnpo is the mean over all tokens.
    """
    log_ratio = (scores - old) * mask
    ratio = log_ratio.sum(-1, keepdim=True).exp() if kind == "rloo" else log_ratio.exp()
    worth = worth[..., None]
    loss = -torch.min(ratio * worth, ratio.clamp(1 - clip, 1 + clip) * worth)
    if kind == "rloo":
        return loss.mean()
    total = (loss * mask).sum(-1)
    if kind == "grpo":
        return (total / mask.sum(-1)).mean()
    return total.sum() / (mask.sum() if kind == "bnpo" else limit * worth.numel())


OURS = {  # the reference, the rewards' worth there, and our method with its values that is said to be the same
    "grpo without std": ("grpo", "eso", {"name": "grpo", "advantage": "eso"}),
    "grpo": ("grpo", "grpo", {"name": "grpo"}),
    "dr_grpo": ("dr_grpo", "eso", {"advantage": "dr_grpo", "k_reduction": "mean"}),
    "bnpo": ("bnpo", "eso", {"advantage": "bnpo"}),
    "rloo": ("rloo", "rloo", {"name": "rloo"}),
    "reinforce": ("rloo", "eso", {"k_reduction": "mean"}),  # a group-mean baseline
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("clip", [0.2, 1e-3, 1e9], ids=["clip", "tight", "none"])
@pytest.mark.parametrize("name", OURS)
def test_identity_6_clipping_is_inert_at_the_first_inner_step(name, clip, seed, answers, push, variant):
    """Ratio 1: the gradient of the clipped objective is ours, whatever the clipping."""
    kind, worth, values = OURS[name]
    branches, rewards, scores, _ = case = answers(seed)
    worth = advantages.BY_NAME[worth](rewards, branches.lengths, LIMIT)
    reference = surrogate(kind, scores, scores.detach(), worth, branches.mask, clip)
    torch.testing.assert_close(push(variant(**values), case), -torch.autograd.grad(reference, scores)[0])


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "bnpo", "rloo"])
def test_clipping_is_felt_after_the_first_inner_step(kind, answers):
    """That the reference clips at all: a fit answer that has risen by more than its ratio may is left alone, an unfit
    one is not, and the other way round."""
    branches, rewards, scores, _ = answers(0)
    worth = advantages.eso(rewards, branches.lengths, LIMIT)
    for moved in (0.5, -0.5):  # nats a token, up or down
        loss = surrogate(kind, scores, scores.detach() - moved, worth, branches.mask)
        felt = torch.autograd.grad(loss, scores)[0].abs().sum(-1) > 0
        assert torch.equal(felt, worth < 0 if moved > 0 else worth > 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_identity_5_the_cousins_are_multiples_of_eso(seed, answers, push, variant):
    """GRPO without the deviation is length-normalised ESO / k, Dr.GRPO ESO / (k L_max), BNPO B / N_tok ESO."""
    case = answers(seed)
    eso, normed, tokens = push(variant(), case), push(variant(logp="mean"), case), int(case[0].lengths.sum())
    torch.testing.assert_close(push(variant("grpo", advantage="eso"), case), normed / K)
    torch.testing.assert_close(push(variant(advantage="dr_grpo", k_reduction="mean"), case), eso / (K * LIMIT))
    torch.testing.assert_close(push(variant(advantage="bnpo"), case), eso * B / tokens)
    deviation = case[1].std(1)[:, None, None] + 1e-4
    torch.testing.assert_close(push(variant("grpo"), case) * deviation, normed / K)


@pytest.mark.parametrize("seed", SEEDS)
def test_identity_3_reinforce_with_a_group_mean_baseline_is_eso_over_k(seed, answers, push, variant):
    """grad L_eso = -k grad of the mean over the k answers of (r - mean r) log pi."""
    branches, rewards, scores, _ = case = answers(seed)
    objective = ((rewards - rewards.mean(1, keepdim=True)) * scores.sum(-1)).mean(1).mean()
    (slope,) = torch.autograd.grad(objective, scores)
    torch.testing.assert_close(push(variant(), case), K * slope * branches.mask)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("grpo", -6.938893903907228e-18),  # grpo(no std).loss
        ("bnpo", -0.027777777777777776),  # bnpo.loss
        ("dr_grpo", -0.020833333333333332),  # dr_grpo.loss
    ],
)
def test_oracles_of_the_references(kind, value, fixture_f):
    """Their loss values at ratio 1 on fixture F, whose limit is 3: unlike the gradients, these are not ESO's."""
    f = fixture_f()
    worth = advantages.eso(f["rewards"], f["lengths"], 3)
    loss = surrogate(kind, f["logprobs"], f["logprobs"].detach(), worth, f["mask"], limit=3)
    assert loss.item() == pytest.approx(value, abs=1e-15)


def test_oracle_deviation(fixture_f):
    """grpo.std(ddof=1), seen in what method=grpo makes of a reward."""
    f = fixture_f()
    ratio = advantages.eso(f["rewards"], f["lengths"], 3) / advantages.grpo(f["rewards"], f["lengths"], 3) - 1e-4
    expected = torch.tensor([[0.22730302828309762], [0.03162277660168379]], dtype=torch.float64)
    torch.testing.assert_close(ratio, expected.expand(2, 4))

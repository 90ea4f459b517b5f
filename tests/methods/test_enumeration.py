"""What ESO's gradient is on average, exactly: every population that a tiny policy can sample, times its probability.

O-ENUM and O-MIX of methods.md 4, and identity 7, with numbers of oracles.json by their names.
"""

from itertools import product

import pytest
import torch

from esolab.batch import Tokens
from esolab.methods import advantages
from esolab.methods.eso import ESO, eso_loss, temperature_pull
from esolab.sampling import Sampling, truncate

THETA = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)  # a policy of one token
R = torch.tensor([1.0, 0.2, 0.5], dtype=torch.float64)
LADDER = [0.5, 1.0, 1.5, 2.0]
SLOPE = [0.1544059334569491, -0.10701581040154619, -0.04739012305540294]  # enum.grad E[R]
TOTAL = [0.46732575114370667, -0.32398341513178874, -0.1433423360119178]  # mix.total
WITHIN = [0.4565804279390369, -0.3156543807454768, -0.14092604719356008]  # mix.within
BETWEEN = [0.010745323204669737, -0.008329034386311975, -0.0024162888183577613]  # mix.between


def close(values, rel=1e-12, abs=1e-15):
    return pytest.approx(values, rel=rel, abs=abs)


def times(factor, values):
    return [factor * value for value in values]


def tempered(logits, temperature):
    """Log-probs that the sampler draws from at a temperature."""
    return truncate(logits[None], logits.new_tensor([temperature]), Sampling(1, k=1)).log_softmax(-1)[0]


def populations(ladder):
    """All populations [N, K] of one token each, and their probabilities [N]."""
    tokens = torch.tensor([*product(range(3), repeat=len(ladder))])
    chance = torch.stack([tempered(THETA, t).exp()[tokens[:, j]] for j, t in enumerate(ladder)])
    return tokens, chance.prod(0)


def worth(rewards, name="eso"):
    return advantages.BY_NAME[name](rewards, torch.ones(rewards.shape, dtype=torch.long), 1)


def ascent(tokens, weights, fitness):
    """Minus the gradient of the weighted ESO losses of populations, log-probs at temperature 1."""
    theta = THETA.clone().requires_grad_()
    (weights * eso_loss(theta.log_softmax(-1)[tokens], fitness)).sum().backward()
    return -theta.grad


def expected(ladder, rewards=R):
    tokens, chance = populations(ladder)
    return ascent(tokens, chance, worth(rewards[tokens]))


# O-ENUM


def test_the_expected_reward_and_its_gradient():
    theta = THETA.clone().requires_grad_()
    mean = theta.softmax(-1) @ R
    mean.backward()
    assert theta.softmax(-1).tolist() == close(
        [0.4367518169107908, 0.23969447920584977, 0.32355370388335947]
    )  # enum.pi
    assert mean.item() == close(0.6464675646936404)  # enum.E[R]
    assert theta.grad.tolist() == close(SLOPE)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_identity_7_at_temperature_1_eso_climbs_the_expected_reward(k):
    """E grad L_eso = -(k - 1) grad E[R]."""
    assert populations([1.0] * k)[1].sum().item() == close(1.0)
    assert expected([1.0] * k).tolist() == close(times(k - 1, SLOPE))


def test_oracle_enum():
    two = [0.15440593345694914, -0.10701581040154619, -0.04739012305540294]  # enum.E[sum_j A_j g_j] T=1,k=2
    four = [0.46321780037084714, -0.3210474312046387, -0.14217036916620873]  # enum.E[sum_j A_j g_j] T=1,k=4
    assert expected([1.0] * 2).tolist() == close(two)
    assert expected([1.0] * 4).tolist() == close(four)


# O-MIX

GRADIENT = torch.eye(3).double() - THETA.softmax(-1)  # of log pi at temperature 1, by token


def formulas(chance):
    """The two parts by methods.md 1.2, from each temperature's probabilities [K, 3]: (1 - 1/k) sum_j Cov_j(R, g) and
    sum_j (mu_j - mean mu) E_j g."""
    mu = chance @ R
    covariance = (chance * (R - mu[:, None])) @ GRADIENT
    return (1 - 1 / len(chance)) * covariance.sum(0), (mu - mu.mean()) @ (chance @ GRADIENT)


def test_oracle_mix():
    """Under the ladder: a policy gradient and a pull towards the temperatures that score well, which add up."""
    chance = torch.stack([tempered(THETA, temperature).exp() for temperature in LADDER])
    mu, gbar = chance @ R, chance @ GRADIENT
    assert mu.tolist() == close([0.7214272656855732, 0.6464675646936404, 0.6200875395133564, 0.606765995323969])
    assert gbar[0].tolist() == close([0.10378701494085497, -0.07688731173835102, -0.026899703202503945])  # mix.gbar_T
    assert gbar[1].abs().max() < 1e-15
    assert gbar[2].tolist() == close([-0.03499223837743532, 0.029613019971888074, 0.005379218405547226])
    assert gbar[3].tolist() == close([-0.05236206864989463, 0.0450684501490808, 0.007293618500813806])
    within, between = formulas(chance)
    assert within.tolist() == close(WITHIN)
    assert between.tolist() == close(BETWEEN)
    assert expected(LADDER).tolist() == close(TOTAL)
    assert expected(LADDER).tolist() == close((within + between).tolist())  # mix.decomp_err: 5.8e-17


def test_the_pull_sharpens():
    """Against the gradient of the entropy: mix.entropy grad, mix.between . gradH, mix.within . gradH, mix.cos."""
    theta = THETA.clone().requires_grad_()
    (-(theta.softmax(-1) * theta.log_softmax(-1)).sum()).backward()
    assert theta.grad.tolist() == close([-0.10520599998976636, 0.08607841054221808, 0.019127589447548273])
    within, between, slope = (torch.tensor(v, dtype=torch.float64) for v in (WITHIN, BETWEEN, SLOPE))
    assert (between @ theta.grad).item() == close(-0.001893640294789983)
    assert (within @ theta.grad).item() == close(-0.07790160344552484)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(expected(LADDER), slope, dim=0).item() == close(0.9999999781362536)
    assert cosine(expected([1.0] * 4), slope, dim=0).item() == close(1.0)


def test_a_constant_reward_has_no_gradient_under_any_ladder():
    """mix.const reward."""
    assert (expected(LADDER, torch.full_like(R, 0.3)) == 0).all()


# the two parts, as they are measured from a batch


def parts(tokens, rewards=R):
    """The measured policy gradient and pull of a batch of populations, each prompt weighing the same."""
    fitness = worth(rewards[tokens])
    pull, share = temperature_pull(fitness), torch.full((len(tokens),), 1 / len(tokens), dtype=torch.float64)
    return ascent(tokens, share, fitness - pull), ascent(tokens, share, pull)


def test_the_measured_parts_of_a_batch_that_is_the_distribution_are_exact():
    """Probabilities 1/2, 1/3, 1/6; at T=1/2 they are 9, 4 and 1 of 14, at T=1/3 27, 8 and 1 of 36: a batch of
    6 * 14 * 36 prompts holds every population exactly as often as it is sampled."""
    logits = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64).log()
    counts = [[3, 2, 1], [9, 4, 1], [27, 8, 1]]
    for temperature, count in zip((1.0, 1 / 2, 1 / 3), counts, strict=True):
        seen = torch.tensor(count, dtype=torch.float64)
        torch.testing.assert_close(tempered(logits, temperature).exp(), seen / seen.sum())
    columns = [[token for token in range(3) for _ in range(count[token])] for count in counts]
    tokens = torch.tensor([*product(*columns)])
    assert len(tokens) == 6 * 14 * 36

    chance = torch.tensor(counts, dtype=torch.float64)
    within, between = formulas(chance / chance.sum(1, keepdim=True))
    policy, pull = parts(tokens)
    size = len(tokens)  # for this batch the correction for a batch's own mean is not needed, but made
    assert policy.tolist() == close((within * size / (size - 1)).tolist())
    assert pull.tolist() == close((between - within / (size - 1)).tolist())
    assert pull.norm() > 0.05 * policy.norm()


def test_the_measured_parts_of_a_large_batch_are_those_of_oracle_mix():
    """Two million prompts, every population as often as its probability says, to the nearest integer."""
    tokens, chance = populations(LADDER)
    policy, pull = parts(tokens.repeat_interleave((2_000_000 * chance).round().long(), 0))
    assert policy.tolist() == close(WITHIN, abs=1e-5)
    assert pull.tolist() == close(BETWEEN, rel=0, abs=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_the_measured_parts_of_small_batches_are_right_on_average(size):
    """Over all batches of B populations of two answers, T = .5 and 2."""
    tokens, chance = populations([0.5, 2.0])
    policy, pull = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for batch in product(range(len(tokens)), repeat=size):
        for total, part in zip((policy, pull), parts(tokens[list(batch)]), strict=True):
            total += chance[list(batch)].prod() * part
    within, between = formulas(torch.stack([tempered(THETA, temperature).exp() for temperature in (0.5, 2.0)]))
    assert policy.tolist() == close(within.tolist())
    assert pull.tolist() == close(between.tolist())


# importance weights, through the method's own loss


def expected_own(method, judged, branches, chance, sampled, logprobs, rewards):
    """Minus the expectation of the method's own loss over populations with these probabilities, one a prompt."""
    rollout = judged(method, branches, rewards, sampled)
    return -(chance * method.own_loss(rollout, logprobs)).sum()


@pytest.mark.parametrize("ladder", [LADDER, [0.5, 2.0], [1.0, 1.0, 3.0]], ids=str)
@pytest.mark.parametrize("name", ["eso", "rloo"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_importance_weights_make_the_ladder_unbiased(name, ladder, reduction, judged, make_parts):
    """mix.iw_loo == 4*gradE[R]: a summed rloo is k grad E[R], eso (k - 1) grad E[R], whatever the temperatures."""
    k = len(ladder)
    tokens, chance = populations(ladder)
    theta = THETA.clone().requires_grad_()
    sampled = torch.stack([tempered(THETA, t)[tokens[:, j]] for j, t in enumerate(ladder)], 1)[..., None]
    branches = Tokens(tokens[..., None], torch.ones(tokens.shape, dtype=torch.long))
    method = ESO(make_parts(), lam=1.0, advantage=name, k_reduction=reduction, iw=True)
    own = expected_own(method, judged, branches, chance, sampled, theta.log_softmax(-1)[tokens][..., None], R[tokens])
    own.backward()
    factor = (k if name == "rloo" else k - 1) / (k if reduction == "mean" else 1)
    assert theta.grad.tolist() == close(times(factor, SLOPE))
    if (name, k, reduction) == ("rloo", 4, "sum"):  # mix.iw_loo == 4*gradE[R]?
        assert theta.grad.tolist() == close([0.6176237338277966, -0.42806324160618464, -0.18956049222161173])


# answers of one or two tokens: token 0 ends

FIRST = torch.tensor([0.2, -0.3, 0.5], dtype=torch.float64)
THEN = torch.tensor([[0.1, 0.7, -0.4], [-0.6, 0.3, 0.2]], dtype=torch.float64)  # after tokens 1 and 2
ANSWERS = [[0], *([a, b] for a in (1, 2) for b in range(3))]
WORTH = torch.tensor([0.1, 0.9, 0.3, 0.4, 0.0, 0.6, 1.0], dtype=torch.float64)


def answer_logprobs(first, then, temperature=1.0):
    """Token log-probs [7, 2] of all answers; 0 beyond their ends."""
    start, go_on = tempered(first, temperature), [tempered(row, temperature) for row in then]
    rows = [torch.stack([start[a[0]], go_on[a[0] - 1][a[1]] if len(a) == 2 else start.new_zeros(())]) for a in ANSWERS]
    return torch.stack(rows)


def own_and_true_slopes(ladder, judged, parts, **settings):
    """Minus the expected gradient of the method's own loss by the logits, and the gradient of the expected reward."""
    packed, first, then = Tokens.pack(ANSWERS), FIRST.clone().requires_grad_(), THEN.clone().requires_grad_()
    chosen = torch.tensor([*product(range(len(ANSWERS)), repeat=len(ladder))])  # [7 ** k, k]
    sampled = torch.stack([answer_logprobs(FIRST, THEN, t)[chosen[:, j]] for j, t in enumerate(ladder)], 1)
    chance = sampled.sum((1, 2)).exp()
    assert chance.sum().item() == close(1.0)
    method, scores = ESO(parts, lam=1.0, **settings), answer_logprobs(first, then)
    branches = Tokens(packed.ids[chosen], packed.lengths[chosen])
    own = expected_own(method, judged, branches, chance, sampled, scores[chosen], WORTH[chosen])
    objectives = (own, scores.sum(1).exp() @ WORTH)
    return [
        torch.cat([g.flatten() for g in torch.autograd.grad(objective, (first, then), retain_graph=True)])
        for objective in objectives
    ]


@pytest.mark.parametrize(("ladder", "iw"), [([1.0, 1.0], False), ([1.0] * 3, False), ([0.5, 2.0], True)], ids=str)
@pytest.mark.parametrize("name", ["eso", "rloo"])
def test_answers_of_several_tokens_are_weighed_whole(name, ladder, iw, judged, make_parts):
    """k grad E[R] for rloo, (k - 1) grad E[R] for eso, where an answer's probability is a product over its tokens."""
    found, slope = own_and_true_slopes(ladder, judged, make_parts(), advantage=name, iw=iw)
    torch.testing.assert_close(found, (len(ladder) - (name == "eso")) * slope, rtol=1e-10, atol=1e-14)


def test_without_importance_weights_a_ladder_is_biased(judged, make_parts):
    """What the weights are for."""
    found, slope = own_and_true_slopes([0.5, 2.0], judged, make_parts())
    assert (found - slope).norm() > 0.05 * slope.norm()

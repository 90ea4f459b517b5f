"""NES: the oracles of equations 5 to 7, and weights that come back exactly."""

import math

import pytest
import torch

from esolab.data import collate
from esolab.methods.nes import NES, search_weights

THETA = torch.tensor([0.3, -0.1, 0.7], dtype=torch.float64)
A = torch.tensor([[2, 0.5, 0], [0.5, 1, -0.3], [0, -0.3, 1.5]], dtype=torch.float64)
SLOPE = torch.tensor([1, -2, 0.5], dtype=torch.float64)
NOISE = math.sqrt(3) * torch.cat([torch.eye(3), -torch.eye(3)]).double()  # sums to 0, variance 1 in each direction
SIGMA = 0.1


def gradient(fitness):
    return search_weights(fitness, SIGMA, "eso") @ NOISE


def test_linear_fitness_gives_its_slope():
    """nes.linear: equations 6 and 7 agree (identity 13)."""
    fitness = (THETA + SIGMA * NOISE) @ SLOPE + 4
    assert gradient(fitness).tolist() == pytest.approx([1.0, -2.0, 0.5], rel=1e-9)
    assert (fitness @ NOISE / (SIGMA * 6)).tolist() == pytest.approx([1.0, -2.0, 0.5], rel=1e-9)


def test_quadratic_fitness_gives_its_gradient():
    """nes.quad: even terms cancel for antithetic noise."""
    points = THETA + SIGMA * NOISE
    fitness = 0.5 * (points @ A * points).sum(1) + points @ SLOPE
    assert gradient(fitness).tolist() == pytest.approx([1.55, -2.16, 1.58], rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_identity_13_the_mean_is_no_matter_for_noise_that_sums_to_0(seed):
    """Equation 7, with the mean fitness taken off, is equation 6, without, for any fitness."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(0)
    fitness = torch.randn(7, generator=generator, dtype=torch.float64) + 5
    torch.testing.assert_close(search_weights(fitness, SIGMA, "eso") @ noise, fitness @ noise / (SIGMA * 7))


@pytest.mark.parametrize("seed", range(5))
def test_identity_13_antithetic_pairs_cancel_terms_of_even_order(seed):
    """cos(a eps) + (b eps)^4 beside an odd sin(c eps): only the odd part is seen, and of the even alone nothing."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    noise = torch.stack([half, -half], 1).flatten(0, 1)  # pair by pair, as NES perturbs
    a, b, c = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    even, odd = (noise @ a).cos() + (noise @ b) ** 4, (noise @ c).sin()
    alone = search_weights(even, SIGMA, "eso") @ noise
    assert alone.abs().max() < 1e-12 * even.abs().max() / SIGMA
    both, only = (search_weights(fitness, SIGMA, "eso") @ noise for fitness in (even + odd, odd))
    torch.testing.assert_close(both, only)
    assert only.norm() > 0.1


def test_noise_that_is_not_antithetic_loses_one_part_in_n():
    """nes.linear iid k=4: the mean contains the member itself, so E = 3/4 of the slope."""
    noise = torch.randn(20_000, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fitness = (THETA + SIGMA * noise) @ SLOPE
    weights = torch.stack([search_weights(f, SIGMA, "eso") for f in fitness[:4000]])
    mean = (weights[:, :, None] * noise[:4000]).sum(1).mean(0)
    assert mean.tolist() == pytest.approx([0.75, -1.5, 0.375], abs=0.08)


def test_weights_come_back_exactly_and_noise_is_the_same_twice(make_parts, make_policy):
    policy = make_policy("gpt2")
    method = NES(make_parts(policy=policy), lam=1.0)
    first = [noise.clone() for _, noise in method.noise(1)]
    again = [noise for _, noise in method.noise(1)]
    other = [noise for _, noise in method.noise(0)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert abs(float(torch.cat([n.flatten() for n in first]).std()) - 1) < 0.05
    assert not torch.equal(first[0].flatten()[:8], first[1].flatten()[:8])  # no two tensors share their noise


def test_answering_leaves_the_weights_as_they_were(make_parts, rows):
    method = NES(make_parts(), lam=1.0, sigma=0.5)
    before = [weight.clone() for weight in method.policy.parameters()]
    rollout = method.rollout(collate(rows))
    assert rollout.rewards.shape == (16, 4)
    assert not torch.equal(rollout.branches.ids[:, 0], rollout.branches.ids[:, 1])  # perturbed up and down
    assert all(torch.equal(a, b) for a, b in zip(before, method.policy.parameters(), strict=True))

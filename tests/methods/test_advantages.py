"""Every advantage against oracles.json (fixture F: R and len of methods.md 4) and its law."""

import pytest
import torch

from esolab.methods import advantages

R = torch.tensor([[0.30, 0.05, 0.10, 0.55], [0.02, 0.08, 0.01, 0.05]], dtype=torch.float64)
LENGTHS = torch.tensor([[3, 2, 1, 3], [2, 3, 3, 1]])
LIMIT = 3


def weigh(name, rewards=R, lengths=LENGTHS):
    return advantages.BY_NAME[name](rewards, lengths, LIMIT)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eso", [0.05, -0.2, -0.15, 0.3]),  # minus eso.weights(u-r)
        ("rloo", [0.06666666666666668, -0.26666666666666666, -0.2, 0.4]),  # rloo.adv
        ("grpo", [0.21987394089472811, -0.8794957635789127, -0.6596218226841845, 1.3192436454683691]),  # grpo.adv
        ("reinforce_pp", [0.33280548924392156, -1.3312219569756867, -0.9984164677317650, 1.9968329354635304]),
        ("z", [0.2540002410971558, -1.0160009643886234, -0.7620007233214675, 1.5240014466429351]),  # z.adv
        ("rank", [1 / 6, -0.5, -1 / 6, 0.5]),  # shape.centered_rank
        ("nes", [0.01957728969081496, -0.25, -0.25, 0.48042271030918515]),  # shape.nes_utility
        ("dr_grpo", [0.05 / 3, -0.2 / 3, -0.05, 0.1]),  # eso over the limit
        ("bnpo", [0.05 / 9, -0.2 / 9, -0.15 / 9, 0.3 / 9]),  # times B = 2 over 18 tokens
    ],
)
def test_oracles(name, expected):
    assert weigh(name)[0].tolist() == pytest.approx(expected, rel=1e-7)


def test_reinforce_pp_beside_trls_batch_std():
    """batch_std.adv: TRL divides by the standard deviation of the rewards, this one of the centred rewards."""
    expected = [0.26646703408037575, -1.0658681363215032, -0.7994011022411274, 1.598802204482255]
    assert (weigh("eso") / (R.std() + 1e-4))[0].tolist() == pytest.approx(expected, rel=1e-10)


def test_ties_in_the_order_of_the_answers_would_be_other_ranks():
    """shape.centered_rank.ties(argsort): what OpenAI's ES does; here ties share their rank."""
    rewards = torch.tensor([[0.2, 0.2, 0.5, 0.1]], dtype=torch.float64)
    places = rewards.argsort(stable=True).argsort() / 3 - 0.5
    assert places[0].tolist() == pytest.approx([-1 / 6, 1 / 6, 0.5, -0.5])
    shared = weigh("rank", rewards, LENGTHS[:1])
    assert shared[0].tolist() == pytest.approx([0.0, 0.0, 0.5, -0.5])


def test_there_are_no_others():
    assert set(advantages.BY_NAME) == set(advantages.Name.__args__)


def test_ties_share_their_rank():
    """shape.centered_rank.ties(avg)."""
    tied = torch.tensor([[0.2, 0.2, 0.5, 0.1]], dtype=torch.float64)
    assert weigh("rank", tied, LENGTHS[:1])[0].tolist() == pytest.approx([0.0, 0.0, 0.5, -0.5])
    utilities = weigh("nes", tied, LENGTHS[:1])[0]
    assert utilities[0] == utilities[1]
    assert float(utilities.sum()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("name", sorted(advantages.BY_NAME))
def test_equal_rewards_are_worth_nothing(name, k):
    """Identity 1: exactly 0 beside a prompt whose rewards spread; up to rounding under reinforce_pp."""
    spread = torch.rand(1, k, generator=torch.Generator().manual_seed(k))
    rewards = torch.cat([torch.full((3, k), 0.37), torch.full((1, k), 0.1), spread])
    worth = weigh(name, rewards, torch.full((5, k), 4))
    assert worth[:4].abs().max() <= (1e-6 if name == "reinforce_pp" else 0.0)
    assert worth[4].abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(advantages.BY_NAME))
def test_a_shift_changes_nothing_and_a_factor_what_it_should(name):
    """Identity 2."""
    worth = weigh(name)
    torch.testing.assert_close(weigh(name, R + torch.tensor([[3.0], [-1.0]])), worth, rtol=1e-9, atol=1e-12)
    scaled = weigh(name, 5 * R)
    linear = name in ("eso", "rloo", "dr_grpo", "bnpo")
    torch.testing.assert_close(scaled, 5 * worth if linear else worth, rtol=2e-2 if name == "grpo" else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["rank", "nes"])
def test_monotone_maps_leave_ranks_alone(name):
    torch.testing.assert_close(weigh(name, R.exp() ** 3), weigh(name))


@pytest.mark.parametrize("name", sorted(advantages.BY_NAME))
def test_worth_follows_the_answer_not_its_place(name):
    order = [2, 0, 3, 1]
    torch.testing.assert_close(weigh(name, R[:, order], LENGTHS[:, order]), weigh(name)[:, order])


def test_identity_4_rloo_is_a_multiple_of_eso():
    others = (R.sum(1, keepdim=True) - R) / 3
    torch.testing.assert_close(weigh("rloo"), R - others)
    torch.testing.assert_close(weigh("rloo"), weigh("eso") * 4 / 3)

"""A bandit of two arms: whatever the method, the arm that pays is found, from a policy that prefers the other."""

import pytest
import torch

from esolab.batch import Example
from esolab.data import encode
from esolab.methods.base import Optimizer
from esolab.sampling import Sampling

PAYS, OTHER = 3, 7  # token ids: the letters c and g
METHODS = {
    "ppo": {},
    "rloo": {"lam": 1.0, "active_epochs": "all", "sft_weight": 0.0},
    "eso": {"lam": 1.0, "active_epochs": "all", "sft_weight": 0.0},
}


def pays(prompts, responses, references):
    return torch.tensor([[float(answer == "c") for answer in answers] for answers in responses])


@pytest.fixture
def pulls(tokenizer):
    """One prompt sixteen times; the reference, which nothing is to be learned from, is the arm that does not pay."""
    return encode([Example(f"pull {i}", "a b", "g", (0, 0)) for i in range(16)], tokenizer)


@pytest.fixture
def bandit(make_policy):
    """A policy whose answers are c with probability 0.27, otherwise g."""
    policy = make_policy("gpt2")
    head = torch.nn.Linear(policy.network.config.n_embd, policy.vocabulary)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-40.0)
        head.bias[PAYS], head.bias[OTHER] = -1.0, 0.0
    policy.network.config.tie_word_embeddings = False
    policy.network.set_output_embeddings(head)
    return policy


@torch.no_grad()
def chance(policy):
    """The probability of the arm that pays."""
    hidden = policy.network.base_model(torch.tensor([[1, 2]]))[0]
    return float(policy.next(hidden[:, -1]).softmax(-1)[0, PAYS])


@pytest.mark.parametrize("name", METHODS)
def test_the_better_arm_is_found(name, bandit, pulls, train):
    assert chance(bandit) == pytest.approx(0.2689, abs=1e-3)
    more = {"policy": bandit, "reward": pays, "sampling": Sampling(1, k=4), "optimizer": Optimizer(lr=1e-2)}
    _, _, steps = train(name, epochs=20, batch=16, data=pulls, more=more, **METHODS[name])
    assert chance(bandit) > 0.95
    assert steps[-1]["reward/mean"] > 0.9 > 0.5 > steps[0]["reward/mean"]

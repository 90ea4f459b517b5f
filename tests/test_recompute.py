"""Blocks that are computed again in the backward: the same numbers to the bit, for far less kept."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import result, tiny, weights
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import esolab.run
from esolab.batch import Tokens
from esolab.config import slug
from esolab.logprobs import branch_logprobs
from esolab.lora import Lora
from esolab.methods.reward_model import scorer
from esolab.policy import Policy
from esolab.recompute import recompute_blocks
from esolab.run import run
from esolab.sampling import Sampling, noise_keys, sample
from esolab.training import Trainer


@pytest.fixture
def prompts(ragged: Callable[..., Tokens]) -> Tokens:
    return ragged([3, 1, 6], seed=1, width=8)


@pytest.fixture
def branches(ragged: Callable[..., Tokens]) -> Tokens:
    return ragged([[4, 1, 3], [2, 0, 5], [1, 1, 6]], seed=2, width=9)


Scored = tuple[Tensor, dict[str, Tensor]]


def scored(policy: Policy, score: Callable[[], Tensor]) -> Scored:
    """Values from the same noise, and the gradients of their weighted sum, after which the noise goes on the same."""
    policy.zero_grad()
    torch.manual_seed(4)
    values = score()
    grown = torch.arange(1.0, values.numel() + 1).view(values.shape)
    (values * grown).sum().backward()
    found = {name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.grad is not None}
    return values.detach(), found | {"the noise that follows": torch.rand(3)}


def assert_same(one: Scored, other: Scored) -> None:
    assert torch.equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(gradient, other[1][name]) for name, gradient in one[1].items())


def ways(policy: Policy, prompts: Tokens, branches: Tokens) -> dict[str, Callable[[], Tensor]]:
    """Ways of scoring."""

    def shared() -> Tensor:
        parts = [branch_logprobs(policy, prompts[r], branches[r], None, read) for r, read in policy.read_all(prompts)]
        return torch.cat([part.flatten() for part in parts])

    return {
        "whole": lambda: branch_logprobs(policy, prompts, branches),
        "one branch at a time": lambda: branch_logprobs(policy, prompts, branches, 1),
        "after a shared reading": shared,
        "the reading alone": lambda: policy.read(prompts).last,
    }


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_values_gradients_and_noise_are_the_same_to_the_bit(
    family: str, dropout: float, make_policy: Callable[..., Policy], prompts: Tokens, branches: Tokens
) -> None:
    policy = make_policy(family, dropout=dropout).train()
    plain = {way: scored(policy, score) for way, score in ways(policy, prompts, branches).items()}
    recompute_blocks(policy.network)
    for way, score in ways(policy, prompts, branches).items():
        assert_same(scored(policy, score), plain[way])
    assert plain["whole"][1]["network.lm_head.weight" if family == "llama" else next(iter(plain["whole"][1]))].any()


def test_adapters_beside_frozen_weights_get_the_same_gradients(
    policy: Policy, prompts: Tokens, branches: Tokens
) -> None:
    """Nothing that comes into the first block has a gradient."""
    Lora(r=2).adapt(policy.network.train(), 0.1)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    plain = {way: scored(policy, score) for way, score in ways(policy, prompts, branches).items()}
    assert all(gradient.any() for name, gradient in plain["whole"][1].items() if "lora_A" in name)
    recompute_blocks(policy.network)
    for way, score in ways(policy, prompts, branches).items():
        assert_same(scored(policy, score), plain[way])


def test_a_reading_serves_answers_and_their_scores(policy: Policy, prompts: Tokens, branches: Tokens) -> None:
    """Answers that grow from what is kept for gradients, and the scores that follow."""

    def both() -> Scored:
        reads = policy.train().read_all(prompts)
        keys = noise_keys(0, "train", 0, ["a", "b", "c"], 2)
        drawn = sample(policy, prompts, Sampling(max_new_tokens=5, k=2), keys, [0], reads=reads)

        def score() -> Tensor:
            parts = [branch_logprobs(policy, prompts[r], drawn.branches[r], None, read) for r, read in reads]
            return torch.cat([part.flatten() for part in parts])

        return scored(policy, score)

    plain = both()
    recompute_blocks(policy.network)
    assert_same(both(), plain)


def test_a_network_with_a_scalar_head_and_a_copy_are_recomputed_with_their_own_weights(
    policy: Policy, prompts: Tokens
) -> None:
    recompute_blocks(policy.network)
    twin = copy.deepcopy(policy)
    with torch.no_grad():
        next(weight for name, weight in twin.named_parameters() if "mlp" in name or "fc1" in name).mul_(2)
    for one in (twin, Policy(scorer(twin.network, seed=0))):
        assert not torch.equal(one.read(prompts).last, policy.read(prompts).last)
        policy.zero_grad()
        one.zero_grad()
        one.read(prompts).last.sum().backward()
        assert all(weight.grad is None for weight in policy.parameters())
        assert sum(weight.grad is not None for weight in one.parameters()) > 10


class Made(TorchDispatchMode):
    """All storages that are made inside, by their address."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out


def kept(policy: Policy, score: Callable[[], Tensor]) -> int:
    """Bytes beside the weights that are still there when all is computed, as a backward will need them."""
    with Made() as made:
        values = score()
    assert values.requires_grad
    weights = {weight.untyped_storage()._cdata for weight in policy.parameters()}
    found = {address: size for address, (storage, size) in made.storages.items() if not storage.expired()}
    return sum(size for address, size in found.items() if address not in weights)


DEEP = {
    "gpt2": {"n_layer": 12, "n_embd": 64},
    "opt": {"num_hidden_layers": 12, "hidden_size": 64, "ffn_dim": 256, "word_embed_proj_dim": 64},
    "gpt_neox": {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 256},
    "llama": {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 256},
}


def test_far_less_is_kept(family: str, make_policy: Callable[..., Policy], ragged: Callable[..., Tokens]) -> None:
    """Of scoring and of a reading: the inputs of the blocks, and the keys and values of the prompt."""
    policy = make_policy(family, **DEEP[family])
    prompts, branches = ragged([12, 10, 12, 11], seed=1), ragged([[12, 9]] * 4, seed=2)
    both = ways(policy, prompts, branches)
    plain = {way: kept(policy, both[way]) for way in ("whole", "the reading alone")}
    recompute_blocks(policy.network)
    for way, size in plain.items():
        assert 0 < kept(policy, both[way]) < 0.25 * size


def test_without_gradients_nothing_is_kept_or_changed(policy: Policy, prompts: Tokens, branches: Tokens) -> None:
    with torch.no_grad():
        plain = branch_logprobs(policy, prompts, branches)
        recompute_blocks(policy.network)
        assert torch.equal(branch_logprobs(policy, prompts, branches), plain)
        assert len(policy.read(prompts).layers) == 2


ON = "trainer.gradient_checkpointing=true"


def without_repetition(folder: Path) -> dict[str, Any]:
    return {k: v for k, v in result(folder)["train"].items() if k != "forward_tokens"}


def test_a_run_is_the_same_with_it_and_has_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("esolab.assembly.recompute_blocks", lambda network: asked.append(recompute_blocks(network)))
    plain, again = (run(tiny(tmp_path / name, *more)) for name, more in (("plain", ()), ("again", (ON,))))
    assert len(asked) == 1
    assert plain.name == again.name
    assert weights(plain) == weights(again)
    assert (plain / "predictions.jsonl").read_bytes() == (again / "predictions.jsonl").read_bytes()
    assert without_repetition(plain) == without_repetition(again)
    one, other = (result(folder)["train"] for folder in (plain, again))
    assert other["forward_tokens"] == one["forward_tokens"] + one["backward_tokens"]


def test_a_run_that_had_too_little_memory_goes_on_with_it(tmp_path: Path) -> None:
    """It is no other run, by its settings or by the name of its folder."""
    config = tiny(tmp_path, "trainer.max_steps=3")
    assert esolab.run.locate(config).hash == esolab.run.locate(tiny(tmp_path, "trainer.max_steps=3", ON)).hash
    assert slug(["method=eso", ON, "seed=1"]) == "method=eso,seed=1"
    assert slug([ON]) == "default"
    assert replace(Trainer(), gradient_checkpointing=True) != Trainer()

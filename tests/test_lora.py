"""Adapters of low rank: trained alone, merged when training is over."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import ARCHITECTURES
from test_run import result, tiny, weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import esolab.models
from esolab import trunks
from esolab.assembly import assemble
from esolab.batch import Tokens
from esolab.checkpoints import LAST, refuse_partial
from esolab.errors import BadInput
from esolab.evaluate import main as evaluate
from esolab.identity import identity
from esolab.logprobs import branch_logprobs
from esolab.lora import Lora, linear, merge
from esolab.methods.base import Method
from esolab.models import Model
from esolab.policy import Policy
from esolab.run import locate, run
from esolab.sampling import Sampling, noise_keys, sample

LAYERS = {"gpt2": 4, "opt": 6, "gpt_neox": 4, "llama": 7}  # linear ones of a block, of which there are two


@pytest.fixture
def prompts(ragged: Callable[..., Tokens]) -> Tokens:
    return ragged([3, 1, 6], seed=1, width=8)


@pytest.fixture
def branches(ragged: Callable[..., Tokens]) -> Tokens:
    return ragged([[4, 1, 3], [2, 0, 5], [1, 1, 6]], seed=2, width=9)


def felt(policy: Policy) -> None:
    """Give every B numbers, which begin at 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))


@pytest.fixture
def adapted(policy: Policy) -> Policy:
    Lora(r=3, alpha=6).adapt(policy.network, 0.0)
    felt(policy)
    return policy


def test_adapters_change_nothing_at_first(family: str, policy: Policy, prompts: Tokens, branches: Tokens) -> None:
    """And they are all that is trained, beside every linear layer of the blocks."""
    plain, names = branch_logprobs(policy, prompts, branches), [name for name, _ in policy.named_parameters()]
    Lora(r=3).adapt(policy.network, 0.0)
    assert torch.equal(branch_logprobs(policy, prompts, branches), plain)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 2 * LAYERS[family]
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert len(trained) + len(names) == len(list(policy.parameters()))
    branch_logprobs(policy, prompts, branches).sum().backward()
    still = {name for name, weight in policy.named_parameters() if weight.grad is None}
    assert still == {name for name, _ in policy.named_parameters()} - trained


def test_merged_weights_score_alike_and_nothing_is_left(
    adapted: Policy, family: str, make_policy: Callable[..., Policy], prompts: Tokens, branches: Tokens
) -> None:
    with torch.no_grad():
        before = branch_logprobs(adapted, prompts, branches)
        merge(adapted.network)
        after = branch_logprobs(adapted, prompts, branches)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    plain = make_policy(family)
    assert (branch_logprobs(plain, prompts, branches) - after).abs().max() > 0.1
    assert adapted.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in adapted.modules()] == [type(m) for m in plain.modules()]
    merged = {name: weight.clone() for name, weight in adapted.state_dict().items()}
    merge(adapted.network)  # there is nothing to merge any more
    assert all(torch.equal(weight, merged[name]) for name, weight in adapted.state_dict().items())


def test_answers_are_drawn_from_what_is_scored(adapted: Policy, prompts: Tokens) -> None:
    keys = noise_keys(0, "train", 0, ["a", "b", "c"], 4)
    sampling = Sampling(max_new_tokens=6, k=4, temperatures=[1.0] * 4)
    drawn = sample(adapted, prompts, sampling, keys, [0])
    scored = branch_logprobs(adapted, prompts, drawn.branches)
    torch.testing.assert_close(drawn.logprobs, scored.detach(), rtol=1e-5, atol=1e-5)
    assert all(layer.training == adapted.training for layer in adapted.modules())


def test_dropout_of_adapters_is_told(make_policy: Callable[..., Policy]) -> None:
    for family in ARCHITECTURES:
        policy = make_policy(family)
        Lora(r=2).adapt(policy.network, 0.1)
        assert policy.dropout
        found = [m.p for m in policy.modules() if isinstance(m, nn.Dropout) and m.p]
        assert found == [0.1] * 2 * LAYERS[family]
        merge(policy.network)
        assert not policy.dropout


def test_adapters_of_narrow_weights_are_wide(make_policy: Callable[..., Policy], prompts: Tokens) -> None:
    policy = make_policy("llama").to(torch.bfloat16)
    Lora(r=2).adapt(policy.network, 0.0)
    assert {weight.dtype for weight in policy.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in policy.parameters() if not weight.requires_grad} == {torch.bfloat16}
    assert policy.read(prompts).last.dtype == torch.bfloat16
    merge(policy.network)
    assert {weight.dtype for weight in policy.parameters()} == {torch.bfloat16}


def test_targets(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy("gpt2")
    Lora(r=2, targets=["c_attn", "transformer.h.1.mlp.c_fc"]).adapt(policy.network, 0.0)
    found = {name.partition(".lora_")[0] for name, weight in policy.network.named_parameters() if weight.requires_grad}
    assert found == {"transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", "transformer.h.1.mlp.c_fc"}
    with pytest.raises(BadInput, match=r"^model\.lora\.targets: no layer is called 'attn'; the model has c_attn, c_pr"):
        Lora(r=2, targets=["c_fc", "attn"]).adapt(make_policy("gpt2").network, 0.0)


def test_without_peft_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esolab.models, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"^model\.lora\.r=2: needs peft; pip install 'esolab\[peft\]'$"):
        tiny(tmp_path, "model.lora.r=2")
    assert Lora().r == 0


def test_it_is_part_of_what_a_run_is_where_there_are_adapters(tmp_path: Path) -> None:
    plain, none, some, more = (
        tiny(tmp_path, *given)
        for given in ((), ("model.lora.alpha=8",), ("model.lora.r=2",), ("model.lora.r=2", "model.lora.alpha=8"))
    )
    of_old = {**plain, "model": {key: value for key, value in plain["model"].items() if key != "lora"}}
    assert identity(plain, []) == identity(none, []) == identity(of_old, [])
    assert len({identity(config, []) for config in (plain, some, more)}) == 3


# whole runs


def of_family(outputs: Path, family: str, *overrides: str) -> dict[str, Any]:
    """A short run with a policy of a family."""
    config = tiny(outputs, "data.train=32", "data.test=4", "trainer.epochs=1", *overrides)
    architecture = {"model_type": family, **ARCHITECTURES[family]}
    architecture |= {"n_positions": 256} if family == "gpt2" else {"max_position_embeddings": 256}
    config["model"]["architecture"] = architecture
    return config


def start(config: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that training starts from."""
    return dict(assemble(config, locate(config)).method.policy.network.state_dict())


def test_a_run_moves_what_it_adapts_by_its_rank(family: str, tmp_path: Path) -> None:
    """The weights of a plain model, of which those of linear layers have moved by matrices of rank 2, and no other."""
    config = of_family(tmp_path, family, "model.lora.r=2", "model.lora.alpha=8")
    folder = run(config)
    before = start(config)
    network = AutoModelForCausalLM.from_pretrained(folder / "policy")
    layers, after = linear(network), network.state_dict()
    assert sorted(file.name for file in (folder / "policy").glob("*.safetensors")) == ["model.safetensors"]
    assert "peft" not in (folder / "policy" / "config.json").read_text()
    assert len(layers) == 2 * LAYERS[family]
    for name, weight in after.items():
        place, _, what = name.rpartition(".")
        if place in layers and what == "weight":
            found = torch.linalg.svdvals(weight - before[f"{place}.base_layer.weight"])
            assert found[1] > 1e-3 * found[0] > 0
            assert found[2] < 5e-4 * found[0]
        else:
            assert torch.equal(weight, before.get(name, before.get(f"{place}.base_layer.{what}")))
    assert result(folder)["trained"] == sum(2 * sum(layer.weight.shape) for layer in layers.values())
    assert result(folder)["parameters"] == sum(weight.numel() for weight in network.parameters())
    said = (folder / "run.log").read_text()
    assert f", {result(folder)['trained']:,} of them trained; " in said


@pytest.fixture(scope="module")
def eso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tiny(tmp_path_factory.mktemp("eso"), "model.lora.r=2", "model.dropout=0.1"))


def test_the_saved_policy_answers_as_the_run_did(eso: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate([f"policy={eso}", "outputs=again"]) == 0
    (again,) = Path("again").rglob("predictions.jsonl")
    assert again.read_bytes() == (eso / "predictions.jsonl").read_bytes()


def test_a_checkpoint_holds_what_is_trained(eso: Path, tmp_path: Path) -> None:
    saved = torch.load(eso / LAST, weights_only=True)
    assert {name.rpartition(".lora_")[2][:1] for name in saved["state_dict"]} == {"A", "B"}
    whole = run(tiny(tmp_path, "trainer.max_steps=1"))
    assert (eso / LAST).stat().st_size < 0.2 * (whole / LAST).stat().st_size
    assert sum(weight.numel() for weight in saved["state_dict"].values()) == result(eso)["trained"]
    config = tiny(eso.parents[1], "model.lora.r=2", "model.dropout=0.1")
    name = saved["state_dict"].popitem()[0]
    with pytest.raises(BadInput, match=f"lacks 1 weights that are trained, as {name}; rerun=true begins anew"):
        refuse_partial(eso / LAST, set(saved["state_dict"]), assemble(config, locate(config)).method)


def test_a_reward_model_is_whole(tmp_path: Path) -> None:
    folder = run(tiny(tmp_path, "method=reward_model", "data=preferences", "data.train=32", "model.lora.r=2"))
    network, said = AutoModelForSequenceClassification.from_pretrained(
        folder / "reward_model", output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    saved = torch.load(folder / LAST, weights_only=True)["state_dict"]
    assert torch.equal(saved["policy.network.score.weight"], network.score.weight)
    assert result(folder)["trained"] == sum(weight.numel() for weight in saved.values())


def test_epochs_that_runs_share_are_trained_once(tmp_path: Path) -> None:
    """A trunk holds adapters alone, too."""
    alone = run(tiny(tmp_path / "alone", "model.lora.r=2"))
    config = tiny(tmp_path / "shared", "model.lora.r=2")
    trunk = trunks.train(config)
    assert {".lora_" in name for name in torch.load(trunk / LAST, weights_only=True)["state_dict"]} == {True}
    folder = run(config)
    assert result(folder)["trunk"]["hash"] == trunk.name
    assert weights(folder) == weights(alone)
    assert (folder / "predictions.jsonl").read_bytes() == (alone / "predictions.jsonl").read_bytes()


def test_ppo_goes_on_against_the_same_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what the policy was before training, and what it would be without its adapters."""
    config = tiny(tmp_path / "once", "method=ppo", "model.lora.r=2", "trainer.max_steps=3")
    whole = run(config)
    other = tiny(tmp_path / "twice", "method=ppo", "model.lora.r=2", "trainer.max_steps=3", "trainer.save_every=1")
    record = Method.record

    def stop(self: Method, numbers: dict[str, float]) -> None:
        record(self, numbers)
        if self.account.steps == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Method, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            run(other)
    folder = run(other)
    assert weights(folder) == weights(whole)
    assert (folder / "predictions.jsonl").read_bytes() == (whole / "predictions.jsonl").read_bytes()


def test_a_model_without_adapters_does_not_load_peft() -> None:
    assert Model(architecture={"model_type": "gpt2"}, weights="random").lora == Lora()

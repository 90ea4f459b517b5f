"""Every method in bf16, and with adapters, recomputation and accumulation at once: from a configuration to a result."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_run import result, tiny
from torch import Tensor

from esolab.assembly import assemble
from esolab.checkpoints import LAST
from esolab.config import CONF
from esolab.evaluate import main as evaluate
from esolab.run import locate, run

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
PAIRED = ("dpo", "reward_model")
ALWAYS = ("sft", "ppo", *PAIRED)  # have no epochs that they are active in
FEW = [
    *("data.train=16", "data.dev=2", "data.test=2", "trainer.epochs=1", "trainer.batch_size=8"),
    *("sampling.max_new_tokens=16", "evaluation.decodings=[greedy]"),
]
LEAN = [
    *("model.lora.r=2", "trainer.gradient_checkpointing=true", "trainer.micro_batch=3", "trainer.micro_k=1"),
]
MIXED, TRUE = "trainer.precision=bf16-mixed", "trainer.precision=bf16-true"


def of(method: str, outputs: Path, *more: str) -> dict[str, Any]:
    """A run of two steps."""
    own = ["data=preferences"] if method in PAIRED else []
    own += [] if method in ALWAYS else ["method.active_epochs=all"]
    return tiny(outputs, f"method={method}", *own, *FEW, *more)


def before(config: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that training starts from, by the names that they are saved under."""
    found = assemble(config, locate(config)).method.policy.network.state_dict()
    return {name.replace(".base_layer", ""): weight for name, weight in found.items() if ".lora_" not in name}


def assert_learned(folder: Path, config: dict[str, Any]) -> None:
    with (folder / "metrics.csv").open(newline="") as file:
        steps = [row for row in csv.DictReader(file) if row["loss"]]
    assert len(steps) == 2
    assert all(math.isfinite(float(row[name])) for row in steps for name in ("loss", "grad_norm"))
    assert all(float(row["grad_norm"]) > 0 for row in steps)
    assert result(folder)["train"]["steps"] == 2
    (file,) = folder.glob("*/model.safetensors")
    start, end = before(config), load_file(file)
    moved = {name for name in end if name in start and not torch.equal(end[name][: len(start[name])], start[name])}
    assert all(weight.isfinite().all() for weight in end.values())
    adapted = {name for name in end if any(f".{layer}.weight" in name for layer in ("c_attn", "c_fc", "c_proj"))}
    assert moved >= adapted
    if config["model"]["lora"]["r"]:
        assert moved - adapted <= {"score.weight"}
    assert {str(weight.dtype) for weight in end.values()} == {
        "torch.bfloat16" if config["trainer"]["precision"] == "bf16-true" else "torch.float32"
    }


def some(*daily: str) -> list[Any]:
    """All methods, of which these are tried every day."""
    return [pytest.param(name, marks=() if name in daily else pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_in_mixed_precision(method: str, tmp_path: Path) -> None:
    config = of(method, tmp_path, MIXED)
    assert_learned(run(config), config)


@pytest.mark.parametrize("method", some("eso", "nes", "reward_model"))
def test_every_method_learns_with_weights_in_bf16(method: str, tmp_path: Path) -> None:
    config = of(method, tmp_path, TRUE)
    assert_learned(run(config), config)


@pytest.mark.parametrize("method", some("reward_model"))
def test_every_method_learns_with_adapters_recomputation_and_accumulation(method: str, tmp_path: Path) -> None:
    for name, precision in (("single", "trainer.precision=32-true"), ("true", TRUE), ("mixed", MIXED)):
        config = of(method, tmp_path / name, *LEAN, precision)
        assert_learned(run(config), config)


def test_adapters_stay_wide_beside_narrow_weights(tmp_path: Path) -> None:
    folder = run(of("sft", tmp_path, TRUE, "model.lora.r=2"))
    saved = torch.load(folder / LAST, weights_only=True)
    moments = [state["exp_avg"] for state in saved["optimizer_states"][0]["state"].values()]
    assert {weight.dtype for weight in [*saved["state_dict"].values(), *moments]} == {torch.float32}


@pytest.mark.parametrize("more", [(TRUE,), (MIXED,), (TRUE, "model.lora.r=2")], ids=["true", "mixed", "adapters"])
def test_the_saved_policy_answers_as_the_run_did(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the precision that the run answered in."""
    folder = run(of("sft", tmp_path / "run", *more, "data.test=16"))
    monkeypatch.chdir(tmp_path)
    assert evaluate([f"policy={folder}", "outputs=again"]) == 0
    (again,) = Path("again").rglob("predictions.jsonl")
    assert again.read_bytes() == (folder / "predictions.jsonl").read_bytes()

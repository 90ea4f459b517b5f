"""An optimizer shared out by DeepSpeed: what is refused; and, where it is installed, what it does on two CPU ranks.

DeepSpeed runs over gloo there, with the checks taken out that keep Lightning's strategy to CUDA. Nothing here has seen
a GPU.
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_ranks import RAGGED, WAYS, short, stopped, together, two_do_what_one_does, two_learn_what_one_learns
from test_run import tiny

import esolab.run
from esolab import ranks, zero_strategy
from esolab.__main__ import main
from esolab.checkpoints import LAST, opened
from esolab.config import build, resolve
from esolab.errors import BadInput
from esolab.methods.base import Method
from esolab.run import run
from esolab.training import Trainer
from esolab.zero_strategy import configuration

ZERO = ("trainer.devices=2", "trainer.strategy=deepspeed", "trainer.accelerator=cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of what DeepSpeed imports
installed = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="NOT TRIED: deepspeed is not installed, so nothing of trainer=deepspeed has been run (esolab[deepspeed])",
)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA, too."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(zero_strategy, "refuse", lambda *args: None)


def on_cpu(work: Callable[[], Any]) -> Callable[[], Any]:
    """The work of a rank, with what Lightning and DeepSpeed ask of CUDA taken out; over gloo alone."""

    def begun() -> None:
        import deepspeed
        import pytorch_lightning.strategies.deepspeed as lightning

        initialize = deepspeed.initialize
        deepspeed.initialize = lambda args, **kw: initialize(argparse.Namespace(device_rank=0), **kw)
        comm: Any = import_module("deepspeed.comm.torch")
        comm.build_shm_op = lambda: None  # its own all-reduce for CPUs, which it would compile
        lightning._validate_device_index_selection = lambda devices: None
        lightning.CUDAAccelerator = object  # type: ignore[assignment, misc]
        work()

    return begun


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("cpu", 2, 2, "32-true"),
            "its run needs CUDA GPUs, and none is used here; trainer=fsdp shares out on any device",
        ),
        (("gpu", 1, 1, "32-true"), "it shares out between devices, and there is one; take trainer=default"),
        (
            ("gpu", 2, [1, 2], "32-true"),
            r"trainer.devices=\[1, 2\]: DeepSpeed takes the first GPUs only; .*=1,2 before",
        ),
        (("gpu", 2, 2, "bf16-mixed"), "trainer.precision=bf16-mixed: .*; give bf16-true"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused(
    given: tuple[Any, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zero_strategy, "find_spec", lambda name: True)
    monkeypatch.setattr(zero_strategy, "version", lambda name: "0.19.8")
    with pytest.raises(BadInput, match=said):
        zero_strategy.refuse("deepspeed", *given)
    zero_strategy.refuse("deepspeed", "gpu", 2, [0, 1], "bf16-true")


@pytest.mark.parametrize("stage", ["2", "2_offload", "3"])
def test_other_stages_are_refused(stage: str) -> None:
    said = rf"trainer.strategy=deepspeed_stage_{stage}: .* ZeRO's stage 1; give trainer=deepspeed .* or trainer=fsdp"
    with pytest.raises(BadInput, match=said):
        Trainer(strategy=f"deepspeed_stage_{stage}")


def test_deepspeed_that_is_not_there_or_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_strategy, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"it is not installed; pip install 'esolab\[deepspeed\]'"):
        zero_strategy.refuse("deepspeed", "gpu", 2, 2, "32-true")
    monkeypatch.setattr(zero_strategy, "find_spec", lambda name: True)
    monkeypatch.setattr(zero_strategy, "version", lambda name: "0.16.9")
    with pytest.raises(BadInput, match=r"not with deepspeed 0.16.9; pip install 'esolab\[deepspeed\]'"):
        zero_strategy.refuse("deepspeed", "gpu", 2, 2, "32-true")


def test_it_is_refused_at_the_door(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["trainer=deepspeed"]) == 2
    assert capsys.readouterr().err == (
        "esolab: trainer.strategy=deepspeed: its run needs CUDA GPUs, and none is used here; trainer=fsdp shares out "
        "on any device\n"
    )


@pytest.mark.usefixtures("anywhere")
def test_it_is_composed() -> None:
    trainer = build(resolve(["trainer=deepspeed", "trainer.devices=2", "trainer.accelerator=cpu"])["trainer"])
    assert (trainer.strategy, trainer.ranks, trainer.threads, trainer.batch_size) == ("deepspeed", 2, 1, 16)


@installed
@pytest.mark.usefixtures("anywhere")
def test_deepspeed_takes_the_configuration() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    taken = DeepSpeedConfig(configuration(narrow=True, clip=0.7, micro_batch=4))
    assert (taken.zero_optimization_stage, taken.zero_config.overlap_comm) == (1, False)
    assert (taken.gradient_clipping, taken.train_micro_batch_size_per_gpu) == (0.7, 4)
    assert (taken.gradient_accumulation_steps, taken.bfloat16_config.enabled) == (1, True)
    assert not DeepSpeedConfig(configuration(narrow=False, clip=0.7, micro_batch=4)).bfloat16_config.enabled


@pytest.mark.slow
@installed
@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("overrides", [way for way in WAYS if "method=ppo" not in way], ids=short)
def test_two_ranks_do_what_one_does(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    two_do_what_one_does(tmp_path, overrides, ZERO, on_cpu)


@pytest.mark.slow
@installed
@pytest.mark.usefixtures("anywhere")
def test_ppo_is_refused(tmp_path: Path) -> None:
    config = tiny(tmp_path, *ZERO, "method=ppo")

    def refused() -> None:
        with pytest.raises(BadInput, match="ppo makes several optimizer steps of one"):
            run(config)

    assert together(on_cpu(refused)) == [0, 0]


@pytest.mark.slow
@installed
@pytest.mark.usefixtures("anywhere")
def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    two_learn_what_one_learns(tmp_path, ZERO, on_cpu)


@pytest.mark.slow
@installed
@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("more", [(), ("model.lora.r=4",)], ids=["", "lora"])
def test_in_bf16_it_ends_and_small_steps_are_not_lost(tmp_path: Path, more: tuple[str, ...]) -> None:
    config = tiny(tmp_path, *RAGGED, *ZERO, *more, "trainer.precision=bf16-true")
    kept: Path = tmp_path / "kept.json"

    def note(self: Method, numbers: dict[str, float]) -> None:
        before(self, numbers)
        copy = self.trainer.strategy.optimizers[0].single_partition_of_fp32_groups[0].detach()
        lost = float((copy - copy.bfloat16().float()).abs().max())
        dtypes = {str(weight.dtype) for weight in self.policy.parameters()}
        kept.write_text(json.dumps([sorted(dtypes), str(copy.dtype), lost > 0]))

    before = Method.record
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "record", note)
        assert together(on_cpu(lambda: run(config))) == [0, 0]
    folder = esolab.run.locate(config).folder
    assert json.loads(kept.read_text()) == [["torch.bfloat16"], "torch.float32", True]
    assert json.loads((folder / "result.json").read_text())["train"]["steps"] == 8
    assert load_file(folder / "policy/model.safetensors")


@pytest.mark.slow
@installed
@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("more", [(), ("model.lora.r=4",), ("trainer.precision=bf16-true",)], ids=short)
def test_ranks_that_stop_go_on_to_the_same_end(tmp_path: Path, more: tuple[str, ...]) -> None:
    config = tiny(tmp_path, *ZERO, *more)
    assert together(on_cpu(stopped(config, Method, "record", after=6))) == [7, 7]
    folder = esolab.run.locate(config).folder
    assert opened(folder / LAST)[0] == 6
    parts = torch.load(folder / LAST, weights_only=True)["optimizer_states"][0]["zero"]
    assert together(on_cpu(lambda: run(config))) == [0, 0]
    first, second = (sum(copy.numel() for copy in part["masters"]) for part in parts)
    trained = json.loads((folder / "result.json").read_text())["trained"]
    assert first == second
    assert trained <= first + second < trained + 16  # padding
    whole = tiny(tmp_path / "whole", *ZERO, *more)
    assert together(on_cpu(lambda: run(whole))) == [0, 0]
    for name in ("predictions.jsonl", "policy/model.safetensors", "samples.jsonl"):
        assert (folder / name).read_bytes() == (esolab.run.locate(whole).folder / name).read_bytes()


@pytest.mark.slow
@installed
@pytest.mark.usefixtures("anywhere")
def test_training_that_diverges_on_one_rank_ends_on_all_with_a_message(tmp_path: Path) -> None:
    config = tiny(tmp_path, *ZERO, "method=sft")
    average = Method.average

    def spoiled(self: Method, *args: Any) -> float:
        if self.account.steps == 2 and ranks.number() == 1:
            weight = next(w for w in self.parameters() if w.grad is not None)
            assert weight.grad is not None
            weight.grad.view(-1)[0] = float("inf")
        return average(self, *args)

    def diverges() -> None:
        Method.average = spoiled  # type: ignore[method-assign]
        with pytest.raises(BadInput, match=r"training diverged at step 3: loss .* gradient norm nan"):
            run(config)
        sys.exit(5)

    assert together(on_cpu(diverges)) == [5, 5]


def test_a_checkpoint_of_other_ranks_is_refused() -> None:
    strategy = object.__new__(zero_strategy.SharedOptimizer)
    with pytest.raises(BadInput, match=r"3 ranks have written the checkpoint, 1 go on, .*give as many as before"):
        strategy.load_optimizer_state_dict({"optimizer_states": [{"zero": [{}, {}, {}]}]})

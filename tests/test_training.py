"""The trainer's settings and callbacks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger

from esolab.batch import Batch, Rollout, Tokens
from esolab.callbacks import KeepSamples, ShowProgress
from esolab.errors import BadInput
from esolab.loggers import closing, wandb_logger
from esolab.methods.base import Optimizer, Parts
from esolab.methods.eso import ESO
from esolab.methods.sft import SFT
from esolab.policy import Policy, Tokenizer
from esolab.rewards.rouge import Rouge
from esolab.sampling import Sampling
from esolab.training import Trainer

CONFIG = {
    "choices": {"experiments": None, "method": "eso", "model": "tiny", "data": "newswire", "reward": "rouge"},
    "method": {"lam": 0.05},
    "seed": 3,
}


@pytest.mark.parametrize(
    ("examples", "epochs", "batch", "most", "steps"),
    [(64, 2, 16, None, 8), (65, 2, 16, None, 10), (1, 3, 16, None, 3), (64, 5, 16, 7, 7), (16, 1, 16, 7, 1)],
)
def test_steps_of_the_whole_run(examples: int, epochs: int, batch: int, most: int | None, steps: int) -> None:
    """The length of the schedule: as many as Lightning takes, the last batch of an epoch included."""
    assert Trainer(epochs=epochs, batch_size=batch, max_steps=most).steps(examples) == steps


def test_a_trainer_writes_below_its_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(epochs=3, max_steps=5, accelerator="cpu").build(tmp_path / "run", [], [])
    assert (trainer.max_epochs, trainer.max_steps) == (3, 5)
    assert trainer.default_root_dir == str(tmp_path / "run")
    assert trainer.num_sanity_val_steps == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "foo"}, "trainer.strategy=foo: no strategy of Lightning's; give auto"),
        ({"accelerator": "gpu"}, "trainer.accelerator=gpu: torch finds no GPU here; give auto or cpu"),
        ({"devices": [0], "accelerator": "cpu"}, r"trainer.devices=\[0\]: no such GPU \(here: none are used\); give 1"),
    ],
)
def test_a_machine_that_is_not_there_is_refused_before_anything_is_built(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=message):
        Trainer(**settings)


def test_a_gpu_is_one_of_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Trainer(devices=[1]).device.type == "cuda"
    with pytest.raises(BadInput, match=r"trainer.devices=\[2\]: no such GPU \(here: 0, 1\); give 1"):
        Trainer(devices=[2])


def test_what_lightning_refuses_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"trainer.strategy=fsdp_cpu_offload .*: Lightning refuses them \(The strategy `fsdp` requires"
    ):
        Trainer(strategy="fsdp_cpu_offload", accelerator="cpu").build(tmp_path, [], [])


@pytest.fixture
def parts(make_policy: Callable[..., Policy], tokenizer: Tokenizer) -> Parts:
    return Parts(
        policy=make_policy("gpt2"),
        tokenizer=tokenizer,
        reward=Rouge(),
        sampling=Sampling(4, k=3),
        optimizer=Optimizer(lr=1e-3),
        total_steps=10,
    )


@pytest.fixture
def eso(parts: Parts) -> ESO:
    return ESO(parts, lam=0.5)


@pytest.fixture
def step() -> Callable[..., tuple[Batch, Rollout]]:
    """A batch of two prompts with three answers each, made by hand."""

    def make(size: int = 2) -> tuple[Batch, Rollout]:
        batch = Batch(
            ids=[f"id{b}" for b in range(size)],
            prompts=Tokens.pack([[1, 2]] * size),
            references=Tokens.pack([[3, 0]] * size),
            prompt_texts=[f"prompt {b}" for b in range(size)],
            reference_texts=[f"reference {b}" for b in range(size)],
        )
        rollout = Rollout(
            branches=Tokens(torch.ones(size, 3, 2, dtype=torch.long), torch.full((size, 3), 2)),
            finished=torch.tensor([[True, False, True]] * size),
            temperatures=torch.tensor([[0.5, 1.25, 2.0]] * size),
            logprobs=torch.zeros(size, 3, 2),
            texts=[[f"answer {b}{k}" for k in range(3)] for b in range(size)],
            rewards=torch.tensor([[0.0, 0.25, 0.5]] * size) + torch.arange(size)[:, None],
            good=torch.ones(size, 3, dtype=torch.bool),
            advantages=torch.tensor([[-0.25, 0.0, 0.25]] * size),
        )
        return batch, rollout

    return make


def trainer_at(epoch: int, loggers: list[Any] | None = None, zero: bool = True) -> Any:
    trainer = Mock(spec=pl.Trainer)
    trainer.current_epoch, trainer.loggers, trainer.is_global_zero = epoch, loggers or [], zero
    return trainer


def after_step(keep: KeepSamples, trainer: Any, method: Any, number: int, seen: tuple[Batch, Rollout] | None) -> None:
    method.account.counts["steps"] = number
    if seen is not None:
        method.last_rollout = seen
    keep.on_train_batch_end(trainer, method, None, None, 0)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_samples_hold_what_was_asked_answered_and_rewarded(
    tmp_path: Path, eso: ESO, step: Callable[..., tuple[Batch, Rollout]]
) -> None:
    keep = KeepSamples(tmp_path / "samples.jsonl", every=25)
    after_step(keep, trainer_at(4), eso, 17, step(3))
    lines = read(tmp_path / "samples.jsonl")
    assert [(line["id"], line["temperature"]) for line in lines] == [
        (f"id{b}", t) for b in (0, 1) for t in (0.5, 1.25, 2.0)
    ]  # of three prompts the first two, with all their answers
    assert lines[4] == {
        "step": 17,
        "epoch": 4,
        "id": "id1",
        "prompt": "prompt 1",
        "reference": "reference 1",
        "temperature": 1.25,
        "response": "answer 11",
        "reward": 1.25,
        "finished": False,
    }


def test_samples_are_kept_every_so_many_sampled_steps(
    tmp_path: Path, eso: ESO, step: Callable[..., tuple[Batch, Rollout]]
) -> None:
    keep = KeepSamples(tmp_path / "samples.jsonl", every=3)
    for number in range(1, 11):
        after_step(keep, trainer_at(0), eso, number, step() if number > 2 else None)  # the first two do not sample
    assert sorted({line["step"] for line in read(tmp_path / "samples.jsonl")}) == [3, 6, 9]
    assert eso.last_rollout is None  # nothing is kept alive


def test_one_rank_keeps_samples_and_sft_has_none(
    tmp_path: Path, eso: ESO, parts: Parts, step: Callable[..., tuple[Batch, Rollout]]
) -> None:
    keep = KeepSamples(tmp_path / "samples.jsonl", every=1)
    after_step(keep, trainer_at(0, zero=False), eso, 1, step())
    keep.on_train_batch_end(trainer_at(0), SFT(parts), None, None, 0)
    assert not (tmp_path / "samples.jsonl").exists()


def test_progress_gives_the_terminal_back_after_an_error(eso: ESO) -> None:
    show = ShowProgress(10, "eso")
    show.on_exception(trainer_at(0), eso, RuntimeError())  # before the bar is there
    trainer = trainer_at(0)
    trainer.global_step = 4
    show.on_train_start(trainer, eso)
    assert show.bar.tasks[0].completed == 4  # a resumed run starts where it stood
    assert show.bar.live.is_started
    show.on_exception(trainer, eso, RuntimeError())
    assert not show.bar.live.is_started


def test_wandb_runs_of_one_process_are_two_and_comparable(
    tmp_path: Path, wandb: Any, eso: ESO, step: Callable[..., tuple[Batch, Rollout]]
) -> None:
    ids = []
    for name in ("lam=0.1-0123abcd", "lam=0.5-4567cdef"):
        folder = tmp_path / name
        folder.mkdir()
        logger = wandb_logger(folder, CONFIG, tags=["mine"])
        assert isinstance(logger, WandbLogger)
        with closing([logger]):
            run = logger.experiment
            ids.append(run.id)
            assert (run.name, run.group, run.project) == (name, "single", "esolab")
            assert {"mine", "method=eso", "model=tiny", "data=newswire", "reward=rouge"} == set(run.tags)
            config = dict(run.config)
            assert (config["seed"], config["method"]["lam"]) == (3, 0.05)
            logger.log_metrics({"loss": 2.0}, step=1)
            keep = KeepSamples(folder / "samples.jsonl", every=1)
            for number in (1, 2):
                after_step(keep, trainer_at(0, [logger]), eso, number, step())
                assert len(logger.table.data) == 6 * number  # the table grows
            assert logger.table.data == [list(line.values()) for line in read(folder / "samples.jsonl")]
        assert (folder / "wandb").is_dir()
    assert ids == ["0123abcd", "4567cdef"]
    assert wandb.codes == [0, 0]
    assert wandb.run is None
    assert not (tmp_path / "wandb").exists()

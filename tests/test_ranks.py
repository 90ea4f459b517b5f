"""Two processes of one run, over gloo: together they do what one does alone."""

import csv
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_run import tiny

import esolab.run
from esolab import ranks
from esolab.__main__ import main
from esolab.assembly import Assembly
from esolab.checkpoints import LAST, opened
from esolab.config import resolve
from esolab.errors import BadInput
from esolab.methods.base import Method
from esolab.methods.onpolicy import OnPolicy
from esolab.run import run
from esolab.sharding import local

STILL = ("optimizer.lr=1e-12", "optimizer.lr_min=0.0", "method.active_epochs=all")  # weights that stay comparable
RAGGED = ("data.train=49", "data.test=17", "evaluation.batch_size=4")  # 16, 16, 16, 1: a rank has none of the last
PAIRS = ("data=preferences", "data.train=49", "data.test=17", "data.max_prompt=96", "data.max_response=24")
DDP = ("trainer.devices=2", "trainer.strategy=ddp")
SPENT = ("seconds", "tokens_per_second")  # columns of metrics.csv
FSDP = ("trainer.devices=2", "trainer.strategy=fsdp")
WAYS = [
    ("method=eso", *STILL),
    ("method=eso", "method.batch_reduction=sum", "method.reward_threshold=0.02", *STILL),
    ("method=eso", "method.reward_threshold=0.02", "sft.reduction=seq_mean", "trainer.micro_batch=3", *STILL),
    ("method=eso", "model.lora.r=4", "trainer.gradient_checkpointing=true", "trainer.micro_batch=3", *STILL),
    ("method=eso", "trainer.gradient_checkpointing=true", "trainer.micro_k=1", *STILL),
    ("method=rrhf", "sft.reduction=seq_sum", *STILL),
    ("method=drl", *STILL),
    ("method=unlike", *STILL),
    ("method=grpo", *STILL),
    ("method=eso", "method.advantage=bnpo", "method.lam=10.0", *STILL),
    ("method=eso", "method.advantage=reinforce_pp", "method.sft_weight=0.0", *STILL),
    ("method=nes", "method.sigma=0.1", *STILL),
    ("method=nes", "model.lora.r=4", *STILL),
    ("method=ppo", "method.kl_target=0.1", "method.inner_epochs=2", *STILL[:2]),
    ("method=ppo", "model.lora.r=4", "trainer.gradient_checkpointing=true", "trainer.micro_batch=3", *STILL[:2]),
    ("method=ppo", "method.inner_epochs=1", "method.minibatches=8", "method.sft_weight=0.5", *STILL[:2]),
    ("method=sft", *STILL[:2]),
    ("method=dpo", *PAIRS, *STILL[:2]),
    ("method=reward_model", *PAIRS, *STILL[:2]),
]


def short(overrides: tuple[str, ...]) -> str:
    """What of them a test goes by."""
    return " ".join(o for o in overrides if o.startswith(("method", "model", "sft", "trainer")))


def together(work: Callable[[], Any], n: int = 2) -> list[int | None]:
    """Do it in n processes that know of each other; their exit codes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]

    def one(rank: int) -> None:
        where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in where.items()})
        work()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=one, args=(rank,)) for rank in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
        process.join()
    return [process.exitcode for process in processes]


def gradients(method: Method) -> dict[str, torch.Tensor]:
    """Those of a step, whole, by weight."""
    if method.engine is None:
        return {name: local(p.grad).clone() for name, p in method.named_parameters() if p.grad is not None}
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p).clone() for name, p in method.named_parameters() if p.requires_grad}


def watched(config: dict[str, Any], keep: Path) -> None:
    """Run it, and keep the gradients of each step and the answers of each rank."""
    found: list[dict[str, torch.Tensor]] = []
    answers: dict[str, list[str]] = {}
    norm, note = Method.checked_norm, OnPolicy.rollout

    def checked_norm(self: Method, *args: Any) -> float:
        found.append(gradients(self))
        return norm(self, *args)

    def rollout(self: OnPolicy, batch: Any) -> Any:
        made = note(self, batch)
        answers.update({f"{self.current_epoch} {id}": texts for id, texts in zip(batch.ids, made.texts, strict=True)})
        return made

    Method.checked_norm, OnPolicy.rollout = checked_norm, rollout  # type: ignore[method-assign]
    try:
        run(config)
    finally:
        Method.checked_norm, OnPolicy.rollout = norm, note  # type: ignore[method-assign]
    torch.save({"gradients": found, "answers": answers}, keep / f"{ranks.number()}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("overrides", WAYS, ids=short)
def test_two_ranks_do_what_one_does(tmp_path: Path, overrides: tuple[str, ...], strategy: tuple[str, ...]) -> None:
    two_do_what_one_does(tmp_path, overrides, strategy)


def two_do_what_one_does(
    tmp_path: Path,
    overrides: tuple[str, ...],
    strategy: tuple[str, ...],
    begun: Callable[[Callable[[], Any]], Callable[[], Any]] = lambda work: work,
) -> None:
    """Compare a run with that of two ranks, whose work is `begun` by a function around it."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    data = () if "data=preferences" in overrides else RAGGED
    alone, shared = (tiny(tmp_path / name, *data, *overrides, *more) for name, more in (("one", ()), ("two", strategy)))
    watched(alone, tmp_path / "one")
    assert together(begun(lambda: watched(shared, tmp_path / "two"))) == [0, 0]
    one, first, second = (torch.load(tmp_path / file) for file in ("one/0.pt", "two/0.pt", "two/1.pt"))
    assert one["answers"] == first["answers"] | second["answers"]
    assert len(one["gradients"]) >= 4
    gaps = [gap(a, b) for a, b in zip(one["gradients"], first["gradients"], strict=True)]
    assert max(gaps) < 1e-5
    assert [gap(a, b) for a, b in zip(first["gradients"], second["gradients"], strict=True)] == [0.0] * len(gaps)
    print(f"largest difference of gradients, relative to the largest of the step: {max(gaps):.1e}")
    folders = [next((tmp_path / name / "single").iterdir()) for name in ("one", "two")]
    assert (folders[0] / "predictions.jsonl").read_bytes() == (folders[1] / "predictions.jsonl").read_bytes()
    name = "reward_model" if "method=reward_model" in overrides else "policy"
    weights, shared_out = (load_file(folder / name / "model.safetensors") for folder in folders)
    assert weights.keys() == shared_out.keys()
    assert max(float((weights[key] - shared_out[key]).abs().max()) for key in weights) < 1e-6
    counts, theirs = (json.loads((folder / "result.json").read_text())["train"] for folder in folders)
    assert {k: v for k, v in counts.items() if k != "final_reward"} == {
        k: v for k, v in theirs.items() if k != "final_reward"
    }
    assert counts["final_reward"] == pytest.approx(theirs["final_reward"])


def metrics(folder: Path) -> list[dict[str, float]]:
    """The numbers of each row of metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of two gradients over the largest part of either."""
    assert a.keys() == b.keys()
    largest = max(float(x.abs().max()) for x in (*a.values(), *b.values())) or 1.0  # where nothing is learned
    return max(float((a[name] - b[name]).abs().max()) for name in a) / largest


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_inner_steps_of_ppo_move_two_ranks_as_they_move_one(tmp_path: Path, strategy: tuple[str, ...]) -> None:
    """Weights move at each; of minibatches of one or two prompts a rank may have none."""
    moving = (
        "data.train=10",
        "trainer.batch_size=5",
        "trainer.epochs=1",
        "method=ppo",
        "optimizer.lr=1e-3",
        "method.kl_target=0.1",
    )
    found, rows = [], []
    for name, more in (("one", ()), ("two", strategy)):
        (tmp_path / name).mkdir()
        config = tiny(tmp_path / name, *moving, "method.minibatches=3", "method.inner_epochs=2", *more)
        work = partial(watched, config, tmp_path / name)
        assert together(work, 2) == [0, 0] if more else work() is None
        found.append(torch.load(tmp_path / name / "0.pt")["gradients"])
        rows.append(metrics(esolab.run.locate(config).folder)[:2])
    one, two = found
    assert len(one) == len(two) == 12
    assert max(gap(a, b) for a, b in zip(one, two, strict=True)) < 1e-3
    for ours, theirs in zip(*rows, strict=True):
        assert {k: v for k, v in theirs.items() if not k.startswith(SPENT)} == pytest.approx(
            {k: v for k, v in ours.items() if not k.startswith(SPENT)}, rel=1e-3, abs=1e-6
        )
    first, second = rows[0]
    assert first["clipped"] > 0
    assert second["kl"] > 0.01
    assert second["kl_price"] != first["kl_price"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("more", [("trainer.precision=bf16-mixed",), ("trainer.precision=bf16-true",)])
def test_two_ranks_in_bf16_are_as_near_as_bf16_is(
    tmp_path: Path, strategy: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """Sums of other orders, rounded to 8 bits; the steps before any answer is drawn, which rounding could change."""
    alone, shared = (tiny(tmp_path / n, *RAGGED, *more, *way) for n, way in (("one", ()), ("two", strategy)))
    run(alone)
    assert together(lambda: run(shared)) == [0, 0]
    one, two = (esolab.run.locate(config).folder for config in (alone, shared))
    assert json.loads((two / "result.json").read_text())["train"]["steps"] == 8
    for ours, theirs in zip(steps_of(one)[:4], steps_of(two)[:4], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.01)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=0.1)
    kinds = [
        {value.dtype for value in load_file(folder / "policy/model.safetensors").values()} for folder in (one, two)
    ]
    assert kinds[0] == kinds[1]


def steps_of(folder: Path) -> list[dict[str, float]]:
    """What the steps of a run have said."""
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [{name: float(row[name]) for name in ("lr", "loss", "grad_norm")} for row in rows if row["grad_norm"]]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_two_ranks_learn_what_one_learns(tmp_path: Path, strategy: tuple[str, ...]) -> None:
    two_learn_what_one_learns(tmp_path, strategy)


def two_learn_what_one_learns(
    tmp_path: Path,
    strategy: tuple[str, ...],
    begun: Callable[[Callable[[], Any]], Callable[[], Any]] = lambda work: work,
) -> None:
    """AdamW, its schedule, weight decay and clipping, of which every step has need."""
    learned = ("method=sft", "optimizer.clip=0.5", "optimizer.lr=1e-3", "optimizer.warmup_steps=2")
    alone, shared = (tiny(tmp_path / name, *RAGGED, *learned, *way) for name, way in (("one", ()), ("two", strategy)))
    run(alone)
    assert together(begun(lambda: run(shared))) == [0, 0]
    one, two = (esolab.run.locate(config).folder for config in (alone, shared))
    weights, others = (load_file(folder / "policy/model.safetensors") for folder in (one, two))
    gaps = {name: float((weights[name] - others[name]).abs().max()) for name in weights}
    keys = gaps.pop("transformer.h.0.attn.c_attn.bias")  # of keys' the gradient is rounding, which AdamW makes large
    print(f"largest difference of weights: {max(gaps.values()):.1e}, of the bias of keys {keys:.1e}")
    assert max(gaps.values()) < 5e-6
    assert keys < 5e-5
    for ours, theirs in zip(steps_of(one), steps_of(two), strict=True):
        assert ours["lr"] == pytest.approx(theirs["lr"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
        assert ours["grad_norm"] > 0.5


def stopped(config: dict[str, Any], owner: type, name: str, after: int) -> Callable[[], None]:
    """Run it, in a process of its own, with rank 1 told to end by the call of that number of a method. A rank that ends
    so exits with 7."""
    calls, usual = count(1), getattr(owner, name)

    def tell(self: Any, *args: Any) -> Any:
        if next(calls) == after and ranks.number() == 1:
            os.kill(os.getpid(), 15)
        return usual(self, *args)

    def work() -> None:
        setattr(owner, name, tell)
        try:
            run(config)
        except KeyboardInterrupt:
            sys.exit(7)

    return work


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [(), ("model.lora.r=4",), ("method=ppo", "method.kl_target=1.0")], ids=["", "lora", "ppo"]
)
@pytest.mark.parametrize("strategy", [DDP, FSDP], ids=["ddp", "fsdp"])
def test_a_stop_of_one_rank_stops_all_after_the_same_step_and_they_go_on_to_the_same_end(
    tmp_path: Path, strategy: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """Against a run that the front door has started on two ranks, and nothing has stopped."""
    config = tiny(tmp_path, *strategy, *more, "data.train=64")
    assert together(stopped(config, Method, "record", after=6)) == [7, 7]
    folder = esolab.run.locate(config).folder
    assert opened(folder / LAST)[0] == 6
    assert together(lambda: run(config)) == [0, 0]
    whole = tiny(tmp_path / "whole", *strategy, *more, "data.train=64")
    assert main(["--resolved", str(written(whole, tmp_path))]) == 0
    for name in ("predictions.jsonl", "policy/model.safetensors", "samples.jsonl"):
        assert (folder / name).read_bytes() == (esolab.run.locate(whole).folder / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP], ids=["ddp", "fsdp"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_dev_scores_that_two_ranks_owe_are_given_when_they_go_on(
    tmp_path: Path, strategy: tuple[str, ...], epoch: int
) -> None:
    config, whole = (tiny(tmp_path / name, *strategy, "method=sft") for name in ("stopped", "whole"))
    calls, scores = iter((1, 2)), Assembly.dev_scores

    def leave(self: Assembly) -> dict[str, float]:
        if next(calls) == epoch:
            os._exit(7)
        return scores(self)

    def stopped() -> None:
        Assembly.dev_scores = leave  # type: ignore[method-assign]
        run(config)

    assert 7 in together(stopped)
    assert opened(esolab.run.locate(config).folder / LAST)[0] == 4 * epoch
    for other in (config, whole):
        assert together(lambda other=other: run(other)) == [0, 0]
    rows, theirs = (dev_rows(esolab.run.locate(other).folder) for other in (config, whole))
    assert rows == theirs
    assert [row["step"] for row in rows] == ["4", "8"]


@pytest.mark.slow
def test_ranks_of_which_one_is_told_amid_the_dev_scores_end_together_after_them(tmp_path: Path) -> None:
    config = tiny(tmp_path, *DDP, "method=sft")
    assert together(stopped(config, Assembly, "dev_scores", after=1)) == [7, 7]
    folder = esolab.run.locate(config).folder
    assert opened(folder / LAST)[0] == 4
    assert [row["step"] for row in dev_rows(folder)] == ["4"]


def dev_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["dev/loss"]]


def written(config: dict[str, Any], folder: Path) -> Path:
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


WATCHES = """
import atexit, os
class Last:
    def __init__(self):
        self.rank, self.write = os.environ.get("RANK", "parent"), os.write
        self.file = os.open("ends", os.O_RDWR | os.O_APPEND)
        atexit.register(self.say, "at exit")
    def say(self, what):
        self.write(self.file, f"{self.rank} {what}\\n".encode())
    def __del__(self):
        self.say("torn down")
last = Last()
"""


def test_a_rank_ends_without_its_interpreter_which_threads_may_still_need(tmp_path: Path) -> None:
    config = tiny(tmp_path, *DDP, "method=sft", "trainer.max_steps=2")
    (tmp_path / "sitecustomize.py").write_text(WATCHES)
    (tmp_path / "ends").touch()
    command = [sys.executable, "-m", "esolab", "--resolved", str(written(config, tmp_path))]
    paths = os.pathsep.join([str(tmp_path), str(Path(esolab.run.__file__).parents[1])])
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, check=True)
    ends = sorted((tmp_path / "ends").read_text().splitlines())
    assert ends == ["0 at exit", "1 at exit", "parent at exit", "parent torn down"]


def test_a_rank_that_fails_says_why_and_ends_so_too(tmp_path: Path) -> None:
    bug = "import esolab.config\ndef load(file):\n    raise RuntimeError('a bug')\nesolab.config.load = load\n"
    (tmp_path / "sitecustomize.py").write_text(WATCHES + bug)
    for name in ("ends", "config.yaml"):
        (tmp_path / name).touch()
    paths = os.pathsep.join([str(tmp_path), str(Path(esolab.run.__file__).parents[1])])
    where = {"PYTHONPATH": paths, "RANK": "1", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "esolab", "--resolved", "config.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **where}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: a bug"
    assert (tmp_path / "ends").read_text() == "1 at exit\n"


def test_rows_are_shared_out() -> None:
    rows = list(range(7))
    assert [ranks.part(rows, r, 3) for r in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
    assert [ranks.part([5], r, 2) for r in range(2)] == [[], [5]]
    assert ranks.part(rows) == rows


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer.devices=0"], "at least one device"),
        (["trainer.devices=some"], "give a number of devices"),
        (["trainer.devices=2", "trainer.strategy=ddp_spawn"], "not tried on several devices"),
    ],
)
def test_devices_that_do_not_fit_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        resolve(overrides)

"""`make torture`: a run is killed again and again, and must end byte for byte like one that was never killed.

Each life of a run is a process of its own, forked from one that has loaded everything, so that no kill falls into
imports. It kills itself with SIGKILL the n-th time that it comes to the place that was drawn for it; the same command
follows, until the run is done. Now and then the last checkpoint is damaged between two lives.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

import esolab.checkpoints
import esolab.results
from esolab import trunks
from esolab.__main__ import main as front_door
from esolab.answered import Answered
from esolab.assembly import Assembly, locate
from esolab.config import resolve
from esolab.loggers import MetricsFile
from esolab.methods.base import Method

SETTINGS = [
    *("data=newswire", "data.train=64", "data.dev=8", "data.test=24", "data.max_prompt=120", "data.max_response=40"),
    *("model.architecture.n_layer=1", "model.architecture.n_embd=32", "model.architecture.n_head=2"),
    *("model.vocab_size=700", "trainer.epochs=3", "trainer.threads=1", "trainer.samples_every=2"),
    *("trainer.micro_batch=8", "trainer.save_every=3", "evaluation.batch_size=8"),
]
VARIANTS = (
    ["method=eso", "method.lam=0.5"],
    ["method=rrhf", "method.lam=0.5"],
    ["method=eso", "method.lam=0.5", "protocol=released"],  # dropout, sampling from the second epoch on
    ["method=drl", "method.lam=0.5"],
)


def die() -> None:
    """At once, and nothing can be done about it."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_the(n: int, whole: Callable[..., Any], last: Callable[..., None] = lambda *_, **__: die()) -> Callable[..., Any]:
    """`whole` as it is, but `last` instead the n-th time."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            last(*args, **kwargs)
        return whole(*args, **kwargs)

    return counted


def step(n: int) -> None:
    """After a step, before anything of it is saved; half a line of metrics is."""

    def half(self: MetricsFile, metrics: Any, step: int | None = None) -> None:
        self.save()
        with self.path.open("a") as file:
            file.write(f"{str(step)[:1]},1.0,0.")
        die()

    MetricsFile.log_metrics = at_the(n, MetricsFile.log_metrics, half)  # type: ignore[method-assign]


def before_the_update(n: int) -> None:
    """Answers are sampled and rewarded; no gradient is there."""
    whole, calls = Method.backward_all, 0

    def counted(self: Method, batch: Any, rollout: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += rollout is not None
        if calls == n and rollout is not None:
            die()
        return whole(self, batch, rollout, *args, **kwargs)

    Method.backward_all = counted  # type: ignore[method-assign]


def amid_the_batch(n: int) -> None:
    """The gradients of some micro-batches are there."""
    Method.descend = at_the(n, Method.descend)  # type: ignore[method-assign]


def checkpoint(n: int) -> None:
    """Half of a checkpoint is written."""

    def half(value: Any, file: Any) -> None:
        save(value, buffer := io.BytesIO())
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        file.flush()
        die()

    save = torch.save
    esolab.checkpoints.torch.save = at_the(n, save, half)  # type: ignore[attr-defined]


def between_two_names(n: int) -> None:
    """The checkpoint that was the last has its new name, the new one not yet its own."""

    def half(draft: Any, target: Any) -> None:
        if str(target).endswith("previous.ckpt"):
            replace(draft, target)
        die()

    replace = os.replace
    esolab.checkpoints.os.replace = lambda a, b: watched(a, b) if str(b).endswith(".ckpt") else replace(a, b)  # type: ignore[attr-defined]
    watched = at_the(n, replace, half)


def dev_scores(n: int) -> None:
    """An epoch has ended and is saved; its scores are not there."""
    Assembly.dev_scores = at_the(n, Assembly.dev_scores)  # type: ignore[method-assign]


def answers(n: int) -> None:
    """Amid the answers to the test prompts; half a line of them is written."""

    def half(self: Answered, *args: Any) -> None:
        with self.path.open("a") as file:
            file.write('{"data": "newswire", "ids": ["é')
            file.flush()
            file.buffer.truncate(file.buffer.tell() - 1)  # amid a character
        die()

    Answered.add = at_the(n, Answered.add, half)  # type: ignore[method-assign]


def result(n: int) -> None:
    """Weights are written, result.json is half there; with 2 also predictions.jsonl."""
    name = "result.json" if n % 2 else "predictions.jsonl"

    def half(path: Path, text: str) -> None:
        if path.name == name:
            path.with_name(f"{path.name}.{os.getpid()}.tmp").write_text(text[: len(text) // 2])
            die()
        whole(path, text)

    whole = esolab.results.write_text
    esolab.results.write_text = half


PLACES: dict[str, tuple[Callable[[int], None], int]] = {  # with how often they are passed, at most, before the kill
    "trunk": (step, 4),
    "a step": (step, 3),
    "between sampling and update": (before_the_update, 3),
    "amid a batch": (amid_the_batch, 6),
    "checkpoint write": (checkpoint, 2),
    "checkpoint renamed": (between_two_names, 2),
    "dev scores": (dev_scores, 2),
    "evaluation": (answers, 4),
    "result write": (result, 2),
}


@dataclass
class Summary:
    """What has been done to the runs."""

    kills: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    damaged: int = 0
    used_the_one_before: int = 0
    runs: int = 0
    compared: int = 0

    def __str__(self) -> str:
        fell = "\n".join(f"  {place:28} {self.kills[place]}" for place in PLACES)
        return (
            f"{self.kills.total()} kills by SIGKILL, {self.damaged} checkpoints damaged "
            f"({self.used_the_one_before} times the one before was used):\n{fell}\n"
            f"{self.resumes} lives went on from a checkpoint; {self.runs} runs ended; "
            f"{self.compared} files are byte for byte those of runs that were never killed"
        )


def life(arguments: list[str], place: str | None, n: int, log: Path) -> int:
    """One process of a run; its exit code, -9 where it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if place is not None:
            PLACES[place][0](n)
        code = front_door(arguments)
    finally:
        os._exit(code)


def called(place: str, flag: str) -> str:
    """The place under which a kill is counted."""
    return "trunk" if flag == "--trunk" and place == "a step" else place


def lived(overrides: list[str], outputs: Path, draw: Callable[[str], tuple[str | None, int]], summary: Summary) -> Path:
    """The folder of a run with its trunk, taken up until it is done; `draw` says where each life of a part ends."""
    config = resolve([*SETTINGS, *overrides, f"outputs={outputs}"])
    file, log = outputs / "config.yaml", outputs / "log"
    outputs.mkdir()
    file.write_text(yaml.safe_dump(config))
    place = locate(config)
    trunk = trunks.folder(config, place)
    parts = [("--trunk", trunk, "trunk.json"), ("--resolved", place.folder, "result.json")]
    for flag, folder, end in parts if trunk else parts[1:]:
        assert folder is not None
        while not (folder / end).exists():
            where, n = draw(flag)
            if where is not None and n % 3 == 0:
                damage(folder, n, summary)
            code = life([flag, str(file)], where, n, log)
            assert code in (0, -9), log.read_text()[-3000:]
            if code == -9:
                assert where is not None
                summary.kills[called(where, flag)] += 1
    text = log.read_text()
    summary.resumes += text.count("going on from")
    summary.used_the_one_before += text.count("torn or damaged")
    return place.folder


def damage(folder: Path, n: int, summary: Summary) -> None:
    """Turn a bit of the last checkpoint, or cut it, where there is one before it."""
    last = folder / esolab.checkpoints.LAST
    if last.exists() and (folder / esolab.checkpoints.PREVIOUS).exists():
        content = bytearray(last.read_bytes())
        content[len(content) // 2] ^= 0xFF
        last.write_bytes(content[: len(content) - n % 2 * 99])
        summary.damaged += 1


def kept(folder: Path) -> dict[str, bytes]:
    """What must be the same, by file: weights, answers, samples; metrics and the result but for seconds and memory."""
    names = ("predictions.jsonl", "samples.jsonl", *(f"policy/{f.name}" for f in (folder / "policy").iterdir()))
    found = {name: (folder / name).read_bytes() for name in names if not name.endswith("README.md")}
    heads, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    columns = [i for i, head in enumerate(heads) if "second" not in head]
    found["metrics.csv"] = repr([[row[i] for i in columns] for row in (heads, *rows)]).encode()
    return {**found, "result.json": json.dumps(counted(folder), sort_keys=True).encode()}


def counted(folder: Path) -> dict[str, Any]:
    """What result.json says, but for what no two processes share."""
    result = json.loads((folder / "result.json").read_text())
    del result["timing"], result["peak_rss_bytes"], result["git_commit"]  # somebody may commit meanwhile
    if result["trunk"] is not None:
        del result["trunk"]["wall_seconds"], result["trunk"]["git_commit"]
    return dict(result)


def torture(kills: int, each: int, seed: int = 0) -> Summary:
    """Kill runs until there were so many kills, and so many at each place. Raises AssertionError where one ends other
    than a run that was never killed."""
    rng, summary = random.Random(seed), Summary()
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        whole: dict[int, dict[str, bytes]] = {}
        while summary.kills.total() < kills or any(summary.kills[place] < each for place in PLACES):
            variant = summary.runs % len(VARIANTS)
            if variant not in whole:
                folder = lived(VARIANTS[variant], Path(place) / f"whole-{variant}", lambda flag: (None, 0), Summary())
                whole[variant] = kept(folder)
            lives = {"--trunk": 4, "--resolved": 8}  # at most, before one goes on to the end

            def draw(flag: str, lives: dict[str, int] = lives) -> tuple[str | None, int]:
                lives[flag] -= 1
                if lives[flag] < 0:
                    return None, 0
                there = ["a step", "amid a batch", "checkpoint write", "checkpoint renamed", "dev scores"]
                if flag == "--resolved":
                    there += ["between sampling and update", "evaluation", "result write"]
                few = [place for place in there if summary.kills[called(place, flag)] < each]
                where = rng.choice(few if few and rng.random() < 0.7 else there)
                return where, rng.randint(1, PLACES[where][1])

            folder = lived(VARIANTS[variant], Path(place) / f"run-{summary.runs}", draw, summary)
            found = kept(folder)
            assert found.keys() == whole[variant].keys()
            for name, content in found.items():
                assert content == whole[variant][name], f"{name} of {VARIANTS[variant]} differs"
            summary.runs += 1
            summary.compared += len(found)
            print(f"run {summary.runs}: {summary.kills.total()} kills so far", file=sys.stderr)
    return summary


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=25)
    options.add_argument("--each", type=int, default=3, help="at least so many at each place")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    print(torture(chosen.kills, chosen.each, chosen.seed))

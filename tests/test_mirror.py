"""W&B and TensorBoard have each row of a run once, whatever ended and began again."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from test_loggers import CONFIG
from test_run import tiny

from esolab import trunks
from esolab.loggers import MetricsFile, closing, wandb_logger
from esolab.mirror import Wandb
from esolab.run import run

BLOCK, HEAD = 32768, struct.Struct("<IHB")  # of the logs of LevelDB, which W&B writes: checksum, length, which part


def histories(folder: Path) -> list[dict[str, Any]]:
    """The rows that the W&B runs in a folder hold, in the order that they were told."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # a run that is finished may not be on disk before its service has ended
    found = []
    for file in sorted(folder.glob("wandb/*run-*/run-*.wandb")):
        for content in records(file.read_bytes()):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                found.append({item.key or "/".join(item.nested_key): item.value_json for item in record.history.item})
    return [{key: json.loads(value) for key, value in row.items()} for row in found]


def records(content: bytes) -> Iterator[bytes]:
    place, parts = 7, b""  # after the header of the file
    while place + HEAD.size <= len(content):
        if (left := BLOCK - place % BLOCK) < HEAD.size:
            place += left
            continue
        _, length, part = HEAD.unpack_from(content, place)
        place += HEAD.size + length
        parts += content[place - length : place]
        if part in (1, 4):  # the whole, or its last part
            yield parts
            parts = b""


def shown(folder: Path) -> list[tuple[int, str]]:
    """The step of each row that TensorBoard's event files hold, and what the row is, as `told` says it of W&B."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), {"scalars": 0}, purge_orphaned_data=False).Reload()
    return sorted((event.step, kind) for kind in ("loss", "dev/loss") for event in board.Scalars(kind))


def told(folder: Path) -> list[tuple[int, str]]:
    """The step of each row with what it holds."""
    kinds = ("loss", "rollouts/_type", "dev/loss")
    held = [(row["trainer/global_step"], [kind for kind in kinds if kind in row]) for row in histories(folder)]
    return [(step, kind.partition("/_")[0]) for step, row in held for kind in row]


def sample(step: int) -> dict[str, Any]:
    return {"step": step, "response": f"answer {step}"}


def log(logger: Any, steps: range) -> None:
    for step in steps:
        logger.log_metrics({"epoch": 0.0, "loss": step / 4}, step)
        if step % 2:
            logger.log_rollouts([sample(step)], step)
        if step % 3 == 0:
            logger.log_metrics({"epoch": 0.0, "dev/loss": step / 2}, step)


WHOLE = [(1, "loss"), (1, "rollouts"), (2, "loss"), (3, "loss"), (3, "rollouts"), (3, "dev/loss"), (4, "loss")]


def rows(until: int) -> list[dict[str, str]]:
    """Of metrics.csv, as they are read."""
    dev = {"step": "3", "epoch": "0.0", "loss": "", "dev/loss": "1.5"}
    steps = [{"step": f"{n}", "epoch": "0.0", "loss": f"{n / 4}", "dev/loss": ""} for n in range(1, until + 1)]
    return [*steps[:3], *[dev][: until >= 3], *steps[3:]]


@pytest.mark.parametrize("saved", [0, 1, 3])
@pytest.mark.parametrize("lost", [False, True], ids=["buffer", "nothing"])
def test_a_run_without_a_network_that_goes_on_is_told_whole(tmp_path: Path, wandb: Any, saved: int, lost: bool) -> None:
    folder = tmp_path / "a-00000001"
    folder.mkdir()
    with closing([first := wandb_logger(folder, CONFIG)]):
        log(first, range(1, 5))
    assert told(folder) == WHOLE
    if lost:
        (file,) = folder.glob("wandb/offline-run-*/*.wandb")
        file.write_bytes(file.read_bytes()[:7])  # what a kill leaves, before W&B writes its first block
    with closing([second := wandb_logger(folder, CONFIG)]):
        assert isinstance(second, Wandb)
        second.catch_up(rows(saved), [sample(n) for n in (1, 3) if n <= saved])
        log(second, range(saved + 1, 5))
        assert second.table.data == [[1, "answer 1"], [3, "answer 3"]]
    assert told(folder) == WHOLE
    assert [row["loss"] for row in histories(folder) if "loss" in row] == [0.25, 0.5, 0.75, 1.0]
    steps = [row["_step"] for row in histories(folder)]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("has", range(len(WHOLE) + 1))
def test_a_run_that_its_server_knows_is_told_the_rest(tmp_path: Path, has: int) -> None:
    """`has` of its rows were received; training goes on after step 1."""
    places = {"loss": 0, "rollouts": 1, "dev/loss": 2}
    own = [3 * step + places[kind] for step, kind in WHOLE]
    sent: list[int] = []
    mirror = Wandb(save_dir=tmp_path, project="p")
    mirror._experiment = SimpleNamespace(  # type: ignore[assignment]
        id="p", starting_step=own[has - 1] + 1 if has else 0, log=lambda row, step, commit: sent.append(step)
    )
    mirror.catch_up(rows(1), [sample(1)])
    log(mirror, range(2, 5))
    assert sent == own[has:]


def test_a_rerun_begins_its_wandb_run_anew(tmp_path: Path) -> None:
    for rerun, resume in ((True, None), (False, "allow")):
        logger = wandb_logger(tmp_path / "a-00000001", {**CONFIG, "rerun": rerun})
        assert isinstance(logger, Wandb)
        assert logger._wandb_init["resume"] == resume


def expected(folder: Path) -> list[tuple[int, str]]:
    """What metrics.csv and samples.jsonl hold, as W&B should."""
    sampled = {json.loads(line)["step"] for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()}
    found = []
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            step = int(row["step"])
            found.append((step, "loss" if row["loss"] else "dev/loss"))
            found += [(step, "rollouts")] * (bool(row["loss"]) and step in sampled)
    return found


def test_a_run_from_a_trunk_is_told_the_shared_epochs_too(tmp_path: Path, wandb: Any) -> None:
    config = tiny(tmp_path, "logger=wandb")
    trunks.train(config)
    folder = run(config)
    assert told(folder) == expected(folder)
    assert (1, "loss") in told(folder)
    assert wandb.codes == [0]


def test_tensorboard_has_the_shared_epochs_and_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run that is stopped and taken up again, and of one that is repeated."""
    config = tiny(tmp_path, "logger=tensorboard", "trainer.save_every=3")
    trunks.train(config)
    whole = MetricsFile.log_metrics

    def log_metrics(self: MetricsFile, metrics: Mapping[str, float], step: int | None = None) -> None:
        whole(self, metrics, step)
        if step == 8:
            raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MetricsFile, "log_metrics", log_metrics)
        with pytest.raises(ZeroDivisionError):
            run(config)
    folder = run(config)
    assert "going on from" in (folder / "run.log").read_text()
    rows = sorted(row for row in expected(folder) if row[1] != "rollouts")
    assert [step for step, kind in rows if kind == "loss"] == [*range(1, 9)]
    assert shown(folder) == rows
    monkeypatch.setenv("SLURM_PROCID", "1")  # runs side by side, each for itself
    run({**config, "rerun": True})
    assert shown(folder) == rows


KILLED = """
import os, sys
from esolab.__main__ import main
from esolab.loggers import MetricsFile
whole = MetricsFile.log_metrics
def log_metrics(self, metrics, step=None):
    if step == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    whole(self, metrics, step)
MetricsFile.log_metrics = log_metrics
sys.exit(main(["--resolved", sys.argv[1]]))
"""


@pytest.mark.slow
def test_wandb_has_each_row_of_a_killed_run_once(tmp_path: Path, wandb: Any) -> None:
    config = tiny(tmp_path, "logger=wandb", "trainer.save_every=2", "method.active_epochs=all")
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config))
    for step in (4, 6, 8):  # steps of which 4 ends an epoch
        process = subprocess.run([sys.executable, "-c", KILLED, str(file), str(step)], env={**os.environ}, check=False)
        assert process.returncode == -signal.SIGKILL
    folder = run(config)
    assert expected(folder)[-1] == (8, "dev/loss")
    assert told(folder) == expected(folder)

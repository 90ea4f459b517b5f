"""metrics.csv, TensorBoard and W&B."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning.loggers import WandbLogger

from esolab.config import resolve
from esolab.errors import BadInput
from esolab.loggers import MetricsFile, closing, tensorboard_logger, wandb_logger

CONFIG = {
    "choices": {"experiments": None, "method": "eso", "model": "tiny", "data": "newswire", "reward": "rouge"},
    "method": {"lam": 0.05},
    "seed": 3,
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_file_takes_columns_as_they_come(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"epoch": 0.0, "loss": 2.5}, step=1)
    file.log_metrics({"epoch": 0.0, "loss": 2.25, "reward": 0.5}, step=2)
    file.log_metrics({"epoch": 0.0, "dev/loss": 3.0}, step=2)
    file.log_metrics({"epoch": 1.0, "loss": 2.0}, step=3)
    file.finalize("success")
    assert rows(tmp_path / "metrics.csv") == [
        {"step": "1", "epoch": "0.0", "loss": "2.5", "reward": "", "dev/loss": ""},
        {"step": "2", "epoch": "0.0", "loss": "2.25", "reward": "0.5", "dev/loss": ""},
        {"step": "2", "epoch": "0.0", "loss": "", "reward": "", "dev/loss": "3.0"},
        {"step": "3", "epoch": "1.0", "loss": "2.0", "reward": "", "dev/loss": ""},
    ]
    file.finalize("success")  # Lightning and `closing` both do
    assert len(rows(tmp_path / "metrics.csv")) == 4


def test_metrics_file_is_written_while_it_grows_and_complete_when_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    now = iter(range(0, 10_000, 1))
    monkeypatch.setattr("esolab.loggers.time.monotonic", lambda: float(next(now)))  # each look at the clock: a second
    for step in range(1, 131):
        file.log_metrics({"epoch": 0.0, "loss": step / 4}, step=step)
        assert step - len(rows(tmp_path / "metrics.csv")) < 5  # what a killed run may lose
    file.finalize("failed")
    assert [int(row["step"]) for row in rows(tmp_path / "metrics.csv")] == list(range(1, 131))
    assert [float(row["loss"]) for row in rows(tmp_path / "metrics.csv")] == [step / 4 for step in range(1, 131)]


def test_a_resumed_metrics_file_goes_on_where_its_checkpoint_stands(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path)
    for step in range(1, 6):
        first.log_metrics({"epoch": 0.0, "loss": 1.0 * step, **({"reward": 0.5} if step == 2 else {})}, step=step)
    first.log_metrics({"epoch": 0.0, "dev/loss": 9.0}, step=3)
    first.finalize("failed")

    second = MetricsFile(path)
    second.start_at(3)
    assert [row["step"] for row in rows(path)] == ["1", "2", "3", "3"]
    second.log_metrics({"epoch": 1.0, "loss": 40.0, "entropy": 2.0}, step=4)
    second.finalize("success")
    assert [(row["step"], row["loss"]) for row in rows(path)] == [
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "3.0"),
        ("3", ""),
        ("4", "40.0"),
    ]
    assert rows(path)[-1]["entropy"] == "2.0"
    assert [row["reward"] for row in rows(path)] == ["", "0.5", "", "", ""]  # the columns of the first are kept


def test_a_fresh_start_leaves_no_row_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    MetricsFile(path).start_at(0)  # there is nothing yet
    first = MetricsFile(path)
    first.log_metrics({"epoch": 0.0, "loss": 1.0}, step=1)
    first.finalize("failed")
    second = MetricsFile(path)
    second.start_at(0)
    assert rows(path) == []
    second.log_metrics({"epoch": 0.0, "loss": 2.0}, step=1)
    second.finalize("success")
    assert [row["loss"] for row in rows(path)] == ["2.0"]


def test_tensorboard_makes_event_files_in_the_runs_folder(tmp_path: Path) -> None:
    logger = tensorboard_logger(tmp_path, CONFIG)
    with closing([logger]):
        logger.log_metrics({"loss": 2.0}, step=1)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file() and "tfevents" in path.name]
    assert file.is_relative_to(tmp_path / "tensorboard")
    assert b"loss" in file.read_bytes()


def test_a_logger_that_cannot_work_is_refused_with_the_configuration(
    wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a model is loaded; an account is looked for as W&B does, without a network."""
    monkeypatch.setattr("esolab.loggers.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"logger=tensorboard: .*pip install 'esolab\[tensorboard\]'"):
        resolve(["logger=tensorboard"])
    assert resolve(["logger=wandb"])["logger"]["project"] == "esolab"  # WANDB_MODE=offline
    monkeypatch.delenv("WANDB_MODE")
    settings = SimpleNamespace(settings=SimpleNamespace(mode="online"))
    monkeypatch.setattr(wandb, "setup", lambda: settings)
    for known in (False, True):
        monkeypatch.setattr(wandb, "login", lambda prompt, verify, known=known: known)
        if known:
            assert resolve(["logger=wandb"])
        else:
            with pytest.raises(BadInput, match=r"logger=wandb: no account.*`wandb login`.*WANDB_MODE=offline"):
                resolve(["logger=wandb"])


def test_a_wandb_run_that_dies_is_marked_as_failed_and_makes_way(tmp_path: Path, wandb: Any) -> None:
    ids = []

    def die(logger: WandbLogger) -> None:
        ids.append(logger.experiment.id)
        raise KeyboardInterrupt

    for folder in (tmp_path / "a-00000001", tmp_path / "b-00000002"):
        folder.mkdir()
        logger = wandb_logger(folder, CONFIG)
        with pytest.raises(KeyboardInterrupt), closing([logger]):
            die(logger)
    assert ids == ["00000001", "00000002"]
    assert wandb.codes == [1, 1]
    assert wandb.run is None


def test_the_group_of_a_wandb_run_is_its_experiment(tmp_path: Path, wandb: Any) -> None:
    config = CONFIG | {"choices": CONFIG["choices"] | {"experiments": "table1"}}
    logger = wandb_logger(tmp_path, config)
    with closing([logger]):
        assert logger.experiment.group == "table1"
    logger = wandb_logger(tmp_path, config, group="mine")
    with closing([logger]):
        assert logger.experiment.group == "mine"

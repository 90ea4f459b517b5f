"""SFT epochs that runs share: a run that goes on from a trunk ends as if it had been trained alone."""

import csv
import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from test_run import tiny

from esolab import trunks
from esolab.assembly import locate
from esolab.checkpoints import opened
from esolab.errors import BadInput
from esolab.methods.account import Account
from esolab.run import run

SECONDS = ("seconds/", "tokens_per_second")  # columns of metrics.csv that no two processes share


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(SECONDS) and v} for row in csv.DictReader(file)]


def result(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


@pytest.mark.parametrize(
    "settings",
    [["method=eso", "trainer.epochs=3"], ["method=sft"], ["method=unlike", "model.dropout=0.1", "reward=gleu"]],
    ids=["eso", "sft", "dropout"],
)
def test_a_run_from_a_trunk_is_byte_for_byte_the_run_alone(tmp_path: Path, settings: list[str]) -> None:
    alone = run(tiny(tmp_path / "alone", "trainer.epochs=2", *settings))
    config = tiny(tmp_path / "shared", "trainer.epochs=2", *settings)
    trunk = trunks.train({**config, "seed": config["seed"]})
    shared = run(config)
    assert (result(alone)["trunk"], result(shared)["trunk"]["hash"]) == (None, trunk.name)
    assert (shared / "policy" / "model.safetensors").read_bytes() == (
        alone / "policy" / "model.safetensors"
    ).read_bytes()
    assert (shared / "predictions.jsonl").read_bytes() == (alone / "predictions.jsonl").read_bytes()
    assert metrics(shared) == metrics(alone)
    assert result(shared)["train"] == result(alone)["train"]
    assert result(shared)["config_hash"] == result(alone)["config_hash"]
    assert str(trunk / "checkpoints" / "last.ckpt") in (shared / "run.log").read_text()


def test_a_run_whose_own_checkpoint_is_torn_goes_on_from_its_trunk(tmp_path: Path) -> None:
    config = tiny(tmp_path, "method=sft")
    trunk = trunks.train(config)
    own = locate(config).folder / trunks.LAST
    own.parent.mkdir(parents=True)
    own.write_bytes(b"half of it")
    folder = run(config)
    assert [file.name for file in own.parent.glob("*.torn")] == []
    assert result(folder)["trunk"]["hash"] == trunk.name
    alone = run(tiny(tmp_path / "alone", "method=sft", "trunks=false"))
    assert (folder / "predictions.jsonl").read_bytes() == (alone / "predictions.jsonl").read_bytes()


def test_a_run_that_goes_on_from_its_own_checkpoint_names_its_trunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(tmp_path, "method=sft", "trainer.save_every=2")
    trunk = trunks.train(config)
    made = json.loads((trunk / "trunk.json").read_text())
    whole = Account.end_step

    def die_at_7(account: Account) -> None:
        if account.steps == 6:
            raise KeyboardInterrupt
        whole(account)

    with monkeypatch.context() as patched:
        patched.setattr(Account, "end_step", die_at_7)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    shutil.rmtree(trunk)  # whatever became of it
    folder = run(config)
    assert "last.ckpt after step 6" in (folder / "run.log").read_text()
    assert result(folder)["trunk"] == {"hash": trunk.name, **made}


def test_a_run_that_begins_anew_without_its_trunk_names_none(tmp_path: Path) -> None:
    config = tiny(tmp_path, "method=sft")
    trunks.train(config)
    folder = run(config)
    assert result(folder)["trunk"] is not None
    assert result(run({**config, "rerun": True}))["trunk"] is None
    assert not (folder / "trunk.json").exists()


def test_a_trunk_is_trained_once_and_holds_no_epoch_of_its_runs(tmp_path: Path) -> None:
    config = tiny(tmp_path, "method=eso", "trainer.epochs=3")
    trunk = trunks.train(config)
    assert json.loads((trunk / "trunk.json").read_text())["epochs"] == 2
    assert {row["epoch"] for row in metrics(trunk)} == {"0.0", "1.0"}
    assert not any("reward/mean" in row for row in metrics(trunk))
    before = (trunk / "trunk.json").stat().st_mtime_ns
    assert trunks.train(tiny(tmp_path, "method=rrhf", "trainer.epochs=3", "method.lam=0.7")) == trunk
    assert (trunk / "trunk.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        (["method=eso"], 3),
        (["method=sft"], 3),
        (["method=nes"], 3),
        (["method=drl", "method.combine=convex"], 3),
        (["method=eso", "method.active_epochs=all"], 0),
        (["method=eso", "method.active_epochs=all_but_last"], 0),
        (["method=eso", "method.active_epochs=all", "method.lam=0"], 3),
        (["method=ppo"], 0),
        (["method=dpo"], 0),
        (["method=reward_model"], 0),
        (["method=eso", "trainer.epochs=1"], 0),
        (["method=eso", "trainer.max_steps=9"], 0),
    ],
)
def test_what_a_run_shares_is_what_is_sft_in_any_case(tmp_path: Path, settings: list[str], epochs: int) -> None:
    assert trunks.shared_epochs(tiny(tmp_path, "trainer.epochs=4", *settings)) == epochs


def where(tmp_path: Path, *settings: str) -> Path | None:
    config = tiny(tmp_path, "trainer.epochs=4", *settings)
    return trunks.folder(config, locate(config))


@pytest.mark.parametrize(
    "settings",
    [
        ["method.lam=0.7"],
        ["sampling.k=6"],
        ["protocol.lam=0.7"],
        ["protocol.temperatures=[1.0,1.0,1.0,1.0]"],
        ["protocol.keep_eos=false"],
        ["reward=gleu"],
        ["evaluation.before=true"],
        ["experiments=quickstart", "model=tiny"],
    ],
)
def test_runs_that_differ_in_what_comes_after_share_a_trunk(tmp_path: Path, settings: Sequence[str]) -> None:
    assert where(tmp_path, "method=eso", *settings) == where(tmp_path, "method=sft")


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1",
        "optimizer.lr=0.5",
        "data.train=63",
        "trainer.batch_size=8",
        "trainer.threads=2",
        "trainer.epochs=5",
        "protocol.dropout=0.1",
        "protocol.weight_decay=0.01",
        "sft.reduction=seq_sum",
        "evaluation.dev_limit=3",
        "model.architecture.n_head=1",
    ],
)
def test_runs_that_begin_otherwise_do_not(tmp_path: Path, setting: str) -> None:
    assert where(tmp_path, "method=sft", setting) not in (None, where(tmp_path, "method=sft"))


def test_other_versions_of_the_libraries_train_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = where(tmp_path, "method=sft")
    monkeypatch.setattr(trunks.results, "versions", lambda: {"torch": "0"})
    assert where(tmp_path, "method=sft") not in (None, here)


def test_a_trunk_whose_checkpoint_was_deleted_is_trained_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "method=sft")
    trunk = trunks.train(config)
    (trunk / trunks.LAST).unlink()
    assert trunks.find(config, locate(config)) is None
    assert trunks.train(config) == trunk
    assert trunks.find(config, locate(config)) == trunk


def test_a_trunk_that_was_killed_at_its_very_end_has_no_epoch_more(tmp_path: Path) -> None:
    config = tiny(tmp_path, "method=eso", "trainer.epochs=3")
    trunk = trunks.train(config)
    (trunk / "trunk.json").unlink()  # the last that is written
    assert trunks.train(config) == trunk
    assert opened(trunk / trunks.LAST)[0] == 8
    assert {row["step"] for row in metrics(trunk)} == {f"{n}" for n in range(1, 9)}
    shared, alone = run(config), run(tiny(tmp_path / "alone", "method=eso", "trainer.epochs=3"))
    assert (shared / "predictions.jsonl").read_bytes() == (alone / "predictions.jsonl").read_bytes()


def test_one_that_another_process_trains_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(tmp_path, "method=sft")
    made = trunks.train(tiny(tmp_path / "there", "method=sft"))
    target = trunks.folder(config, locate(config))
    assert target is not None
    waits = iter(range(2))

    def sleep(seconds: float) -> None:
        if next(waits) == 1:  # the other process is done
            shutil.copytree(made, target, dirs_exist_ok=True)
            elsewhere.close()

    with ExitStack() as elsewhere:
        elsewhere.enter_context(trunks.results.locked(target))
        monkeypatch.setattr(trunks.time, "sleep", sleep)
        monkeypatch.setattr(trunks, "_train", None)
        assert trunks.train(config) == target
    assert caplog.text.count(f"another process trains {target}; waiting for it") == 1


def test_a_torn_trunk_is_trained_again(tmp_path: Path) -> None:
    config = tiny(tmp_path, "method=sft")
    trunk = trunks.train(config)
    (trunk / trunks.LAST).write_bytes(b"torn")
    (trunk / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)
    folder = run(config)
    assert "torn or damaged" in (folder / "run.log").read_text()
    assert trunks.find(config, locate(config)) is None
    assert trunks.train(config) == trunk
    assert trunks.find(config, locate(config)) == trunk
    assert [file.name for file in (trunk / "checkpoints").glob("*.torn")] == []


def test_a_run_that_shares_nothing_has_no_trunk(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="shares no epochs"):
        trunks.train(tiny(tmp_path, "method=eso", "trainer.epochs=1"))

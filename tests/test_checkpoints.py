"""Checkpoints that are torn, foreign, malicious or do not fit on the disk, and signals that make one."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_run import SMALL, assert_same_run, tiny, weights

import esolab.run
from esolab.answered import Answered
from esolab.assembly import Assembly
from esolab.checkpoints import LAST, PREVIOUS, Files, latest, opened, whole
from esolab.config import resolve
from esolab.errors import BadInput
from esolab.methods.base import Method
from esolab.preflight.__main__ import main as preflight
from esolab.run import run
from esolab.signals import signals


@pytest.fixture(scope="module")
def eso(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has stopped."""
    return run(tiny(tmp_path_factory.mktemp("eso")))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of a run with two checkpoints, of the steps 1 and 2."""
    for step in (1, 2):
        value = {
            "account": {"counts": {"steps": step}},
            "config": {},
            "state_dict": {},
            "weights": torch.arange(1000.0),
        }
        Files().save_checkpoint(value, tmp_path / LAST)
    return tmp_path


def test_the_last_two_are_kept_and_the_last_is_used(written: Path) -> None:
    assert sorted(file.name for file in (written / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert (opened(written / LAST)[0], opened(written / PREVIOUS)[0]) == (2, 1)
    assert latest(written) == written / LAST


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda file: file.write_bytes(b"")])
def test_a_torn_one_is_named_and_the_one_before_used(
    written: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(written / LAST)
    assert not whole(written / LAST)
    assert latest(written) == written / PREVIOUS
    assert f"{written / LAST}: torn or damaged, and not used" in caplog.text
    assert (written / LAST).exists()
    assert latest(written, clear=True) == written / PREVIOUS
    assert not (written / LAST).exists()
    assert (written / "checkpoints" / "last.torn").exists()  # whoever knows better may still want it
    damage(written / PREVIOUS)
    assert latest(written) is None


def test_whatever_byte_is_damaged_nothing_else_than_what_was_written_is_used(written: Path) -> None:
    """The one before is, unless the byte says nothing."""
    content = (written / LAST).read_bytes()
    found: Counter[str] = Counter()
    for place in range(0, len(content), 5):
        (written / LAST).write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        if latest(written) == written / PREVIOUS:
            found["before"] += 1
            continue
        value = torch.load(written / LAST)
        assert (value["account"]["counts"]["steps"], value["weights"].equal(torch.arange(1000.0))) == (2, True)
        found["last"] += 1
    assert found["before"] > 5 * found["last"] > 0, found


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (zipfile, "ZipFile", OSError(errno.ESTALE, "Stale file handle")),
        (torch, "load", RuntimeError("unable to mmap 99 bytes from file <last.ckpt>: Cannot allocate memory (12)")),
    ],
)
def test_one_that_cannot_be_read_is_not_taken_for_torn(
    written: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception
) -> None:
    def stale(*args: Any, **others: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stale)
        with pytest.raises(BadInput, match=r"last\.ckpt: cannot be read \(.*\); once it can, the same command goes on"):
            latest(written, clear=True)
    assert sorted(file.name for file in (written / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_one_of_a_gpu_is_whole_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"account": {"counts": {"steps": 1}}, "config": {}, "state_dict": {}, "weights": torch.arange(9.0)}
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        Files().save_checkpoint(value, tmp_path / LAST)
    assert latest(tmp_path, clear=True) == tmp_path / LAST
    assert opened(tmp_path / LAST)[0] == 1


def test_a_kill_between_two_names_loses_nothing(written: Path) -> None:
    os.replace(written / LAST, written / PREVIOUS)  # and then it was killed
    assert latest(written) == written / PREVIOUS
    assert opened(written / PREVIOUS)[0] == 2


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert latest(tmp_path) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_on_a_full_disk_the_one_before_stays_whole(written: Path) -> None:
    (written / "checkpoints" / "last.ckpt.tmp").symlink_to("/dev/full")
    with pytest.raises(
        BadInput, match=r"outputs: cannot write .*last\.ckpt' \(.+\); the checkpoint before it is whole"
    ):
        Files().save_checkpoint({"weights": torch.zeros(100_000)}, written / LAST)
    assert opened(written / LAST)[0] == 2
    assert sorted(file.name for file in (written / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]


class Malice:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("what", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny(tmp_path)
    last = esolab.run.locate(config).folder / LAST
    last.parent.mkdir(parents=True)
    if what == "torch":
        torch.save({"account": Malice()}, last)
    else:
        with zipfile.ZipFile(last, "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(Malice(), protocol=2))
            file.writestr("archive/version", "3\n")
    with pytest.raises(BadInput, match=r"last\.ckpt: no checkpoint of esolab's, and nothing of it was run"):
        run(config)
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path, eso: Path) -> None:
    config = tiny(tmp_path, "method.lam=0.3", "seed=4", "trainer.save_every=7")
    last = esolab.run.locate(config).folder / LAST
    last.parent.mkdir(parents=True)
    last.write_bytes((eso / LAST).read_bytes())
    with pytest.raises(BadInput, match=r"of a run with other settings \(method\.lam, seed\); put it back"):
        run(config)


@pytest.mark.parametrize(
    ("sign", "swept"),
    [(signal.SIGTERM, False), (signal.SIGUSR1, False), (signal.SIGUSR1, True), (signal.SIGINT, False)],
)
def test_a_signal_makes_a_checkpoint_and_the_run_ends_the_same(
    tmp_path: Path, eso: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals, swept: bool
) -> None:
    config = tiny(tmp_path)
    folder, record = esolab.run.locate(config).folder, Method.record
    requeued = []

    def tell(self: Any, numbers: dict[str, float]) -> None:
        record(self, numbers)
        if self.account.steps == 6:
            os.kill(os.getpid(), sign)

    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    with monkeypatch.context() as patched:
        patched.setattr(Method, "record", tell)
        patched.setenv("SLURM_JOB_ID", "17")
        if swept:  # it is the sweep that asks
            patched.setenv("ESOLAB_PART_OF_A_SWEEP", "1")
        patched.setattr(subprocess, "run", lambda command, **_: requeued.append(command))
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert {s: signal.getsignal(s) for s in before} == before
    assert opened(folder / LAST)[0] == 6
    assert f"{sign.name}: stopped after step 6, which is saved" in (folder / "run.log").read_text()
    assert (["scontrol", "requeue", "17"] in requeued) == (sign == signal.SIGUSR1 and not swept)
    assert run(config) == folder
    assert "after step 6" in (folder / "run.log").read_text()
    assert weights(folder) == weights(eso)
    assert (folder / "predictions.jsonl").read_bytes() == (eso / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_signal_amid_the_dev_scores_does_not_wait_for_them(
    tmp_path: Path, eso: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    config = tiny(tmp_path)
    folder, scores, calls = esolab.run.locate(config).folder, Assembly.dev_scores, iter((1, 2))

    def tell(self: Assembly) -> dict[str, float]:
        if next(calls) == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the scores were waited for")
        return scores(self)

    with monkeypatch.context() as patched:
        patched.setattr(Assembly, "dev_scores", tell)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert opened(folder / LAST)[0] == 4 * epoch
    assert f"SIGTERM: stopped after step {4 * epoch}, which is saved" in (folder / "run.log").read_text()
    assert run(config) == folder
    assert_same_run(folder, eso)


def test_a_second_ctrl_c_does_not_wait() -> None:
    with signals() as told:
        told.patient = True
        os.kill(os.getpid(), signal.SIGINT)
        assert told == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_of_training_a_signal_does_not_wait() -> None:
    """Answers are kept as they come: there is nothing to wait for."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_a_thread_signals_are_left_alone() -> None:
    def inside() -> None:
        with signals() as told:
            found.append((told, signal.getsignal(signal.SIGTERM)))

    found: list[Any] = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [([], signal.getsignal(signal.SIGTERM))]


def test_a_run_that_a_scheduler_ends_says_how_it_goes_on(tmp_path: Path) -> None:
    """A whole process, told by SIGTERM from outside while it trains."""
    config = tiny(tmp_path, "method=sft", "trainer.epochs=200", "evaluation.dev_limit=0")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    folder = esolab.run.locate(config).folder
    command = [sys.executable, "-m", "esolab", "--resolved", str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (folder / LAST).exists() and process.poll() is None:
            pass
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.endswith("stopped; the same command goes on from the last checkpoint\n")
    assert "Traceback" not in said


def test_a_data_file_that_changed_is_refused_with_both_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"Say {i}.", "reference": f"{i} it is, as you wish."} for i in range(40)]
    data = tmp_path / "rows.jsonl"

    def write() -> str:
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return esolab.run.locate(config).fingerprints[1]

    data.touch()
    file = ["data=file", f"data.path={data}", "data.max_prompt=40", "data.max_response=40"]
    overrides = [*file, f"outputs={tmp_path}", *SMALL, "method=sft"]
    config = resolve(overrides)
    before = write()
    with monkeypatch.context() as patched:
        patched.setattr(Answered, "add", stop)
        with pytest.raises(KeyError):
            run(config)
    rows[3]["reference"] += " Or not."
    after = write()
    begun = esolab.run.locate(config).folder
    with pytest.raises(BadInput) as caught:
        run(config)
    said = str(caught.value)
    assert f"data=file: has changed since this run began (sha256 {before[:12]} then, {after[:12]} now)" in said
    assert preflight(overrides) == 2
    assert capsys.readouterr().err.endswith(f"\nesolab: {said}\n")
    rows[3]["reference"] = rows[3]["reference"].removesuffix(" Or not.")
    assert write() == before
    assert (run(config) / "result.json").exists()
    assert "going on from" in (esolab.run.locate(config).folder / "run.log").read_text()
    rows[3]["reference"] += " Or not."
    write()
    assert preflight(["--no-measure", *overrides]) == 0
    assert run(config) == begun  # what is finished stands in nobody's way


def stop(*_: Any) -> None:
    raise KeyError

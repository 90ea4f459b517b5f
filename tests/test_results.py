"""What a run leaves on disk: files that are whole or not there, and the lock on its folder."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esolab import results
from esolab.config import resolve
from esolab.errors import BadInput


def test_a_runs_folder_has_experiment_slug_and_hash_in_its_name() -> None:
    assert results.run_folder(resolve(["seed=3", "outputs=out"]), "0123abcd") == Path("out/single/seed=3-0123abcd")
    config = resolve(["outputs=out"])
    config["choices"]["experiments"] = "table1"
    assert results.run_folder(config, "0123abcd") == Path("out/table1/default-0123abcd")


def broken(*args: object) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize("what", ["fsync", "replace"])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: results.write_text(path, "new"),
        lambda path: results.write_json(path, {"new": 1}),
        lambda path: results.write_lines(path, [{"new": 1}]),
    ],
)
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    monkeypatch.setattr(results.os, what, broken)
    with pytest.raises(OSError, match="no space"):
        write(path)
    assert path.read_text() == "old"
    monkeypatch.undo()
    write(path)
    assert "new" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]  # and no draft stays


def test_rows_that_fail_halfway_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("old")

    def rows() -> Iterator[dict[str, object]]:
        yield {"id": 1}
        raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        results.write_lines(path, rows())
    assert path.read_text() == "old"


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [{"id": "a", "prediction": 'é "\n\u2028 漢'}, {"id": "b", "prediction": ""}]
    results.write_lines(tmp_path / "rows.jsonl", rows)
    assert results.read_lines(tmp_path / "rows.jsonl") == rows
    assert "é" in (tmp_path / "rows.jsonl").read_text("utf-8")  # to be read by people, too


@contextmanager
def child_inside(folder: Path) -> Iterator[int]:
    """A process that is in the folder, by its id; ended when the block is left if it still lives."""
    said, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with results.locked(folder):
                os.write(say, b"in")
                signal.pause()
        finally:
            os._exit(1)
    os.close(say)
    try:
        assert os.read(said, 2) == b"in"
        yield child
    finally:
        os.close(said)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_second_process_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    folder = tmp_path / "single" / "run"
    with (
        child_inside(folder),
        pytest.raises(BadInput, match=f"another process is running '{folder}'"),
        results.locked(folder),
    ):
        pytest.fail("both are in the folder")
    with results.locked(folder):  # killed, it could not have cleaned up
        assert folder.is_dir()


def test_the_lock_is_free_after_its_block_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), results.locked(tmp_path):
        raise RuntimeError
    with results.locked(tmp_path), results.locked(tmp_path / "another"):
        pass
    with results.locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(results.fcntl, "flock", flock)
    with (
        pytest.raises(
            BadInput, match=r"cannot be locked \(No locks available\), .*; give outputs=DIR on a file system"
        ),
        results.locked(tmp_path),
    ):
        pytest.fail("it is not locked")


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadInput, match=r"outputs: cannot write .*; give outputs=DIR"),
        results.locked(tmp_path / "file"),
    ):
        pass


def test_peak_memory_is_in_bytes() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(status["VmRSS"].split()[0]) * 1024
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert now / 2 < results.peak_rss_bytes() < total
    before = results.peak_rss_bytes()
    size = before - now + (64 << 20)
    block = bytearray(os.urandom(4096) * (size // 4096))  # every page is touched
    assert results.peak_rss_bytes() > before + (32 << 20)
    assert len(block) > 0


def test_versions_and_commit() -> None:
    versions = results.versions()
    assert versions.keys() >= {"python", "esolab", "torch", "transformers", "pytorch-lightning"}
    assert all(versions.values())
    commit = results.git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


def test_a_commit_is_that_of_esolab_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed in a .venv inside somebody's repository, esolab must not report that repository's commit."""
    package = tmp_path / ".venv" / "lib" / "site-packages" / "esolab" / "results.py"
    package.parent.mkdir(parents=True)
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m theirs"):
        results.subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    monkeypatch.setattr(results, "__file__", str(package))
    assert results.git_commit() is None

"""The ranks of a run as processes of this machine: what one of them says, and what becomes of the others."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from esolab import launch

SLEEPS = "import time; time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + SLEEPS
FAILS = "import sys; print('esolab: why', file=sys.stderr); sys.exit(2)"


Ranks = Callable[..., list[subprocess.Popen[bytes]]]


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    """Processes that do this, a rank each."""
    processes = []

    def start(*texts: str) -> list[subprocess.Popen[bytes]]:
        for rank, text in enumerate(texts):
            out = tmp_path / f"{rank}.out"
            with (tmp_path / f"{rank}").open("wb") as said, out.open("wb") as file:
                processes.append(subprocess.Popen([sys.executable, "-c", text], stderr=said, stdout=file))
            while text == DEAF and not out.read_bytes() and processes[-1].poll() is None:
                time.sleep(0.05)
        return processes

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("others", [SLEEPS, DEAF], ids=["told", "killed"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_where_one_fails_the_others_end_and_its_reason_is_said(
    ranks: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: int,
    others: str,
) -> None:
    monkeypatch.setattr(launch, "PATIENCE", 0.2)
    processes = ranks(*[FAILS if rank == n else others for n in range(3)])
    assert launch._wait(processes, tmp_path) == 2
    assert all(process.returncode is not None for process in processes)
    assert capsys.readouterr().err == (f"rank {rank} failed:\nesolab: why\n" if rank else "")


def test_of_several_that_fail_at_once_all_are_heard_and_a_message_gives_the_code(
    ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = ranks("raise SystemExit(1)", FAILS, "raise SystemExit(1)")
    for process in processes:
        process.wait()
    assert launch._wait(processes, tmp_path) == 2
    assert capsys.readouterr().err == "rank 1 failed:\nesolab: why\nrank 2 failed:\n"


def test_a_signal_that_ended_one_is_the_code_of_a_shell(ranks: Ranks, tmp_path: Path) -> None:
    assert launch._wait(ranks("import os; os.kill(os.getpid(), 9)", SLEEPS), tmp_path) == 137


@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((130, 130), 130), ((0, 130), 130)])
def test_ranks_that_end_or_stop_give_their_code(
    ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str], codes: tuple[int, ...], code: int
) -> None:
    assert launch._wait(ranks(*[f"raise SystemExit({code})" for code in codes]), tmp_path) == code
    assert capsys.readouterr().err == ""


def test_those_that_hang_when_another_has_stopped_are_killed_in_the_end_and_have_not_failed(
    ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them dies long after the others, as one may whose memory takes its time."""
    monkeypatch.setattr(launch, "SAVING", 0.5)
    processes = ranks(DEAF, "raise SystemExit(130)", DEAF)
    tell, told = launch._tell, count()
    monkeypatch.setattr(launch, "_tell", lambda alive, sign: tell(alive if next(told) > 3 else alive[1:], sign))
    assert launch._wait(processes, tmp_path) == 130
    assert [process.returncode for process in processes] == [-9, 130, -9]
    assert capsys.readouterr().err == ""

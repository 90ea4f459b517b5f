"""The ranks of a run as processes of this machine: what one of them says, and what becomes of the others."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from esolab import launch

SLEEPS = "import time; time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); " + SLEEPS
FAILS = "import sys; print('esolab: why', file=sys.stderr); sys.exit(2)"


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[..., int]:
    """Wait for processes that do this, a rank each; the exit code."""

    def wait(*texts: str) -> int:
        processes = []
        for rank, text in enumerate(texts):
            with (tmp_path / f"{rank}").open("wb") as said, (tmp_path / f"{rank}.out").open("wb") as out:
                processes.append(subprocess.Popen([sys.executable, "-c", text], stderr=said, stdout=out))
            while text == DEAF and not (tmp_path / f"{rank}.out").read_bytes():
                time.sleep(0.05)
        code = launch._wait(processes, tmp_path)
        assert all(process.returncode is not None for process in processes)
        return code

    return wait


@pytest.mark.parametrize("others", [SLEEPS, DEAF], ids=["told", "killed"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_where_one_fails_the_others_end_and_its_reason_is_said(
    ranks: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rank: int,
    others: str,
) -> None:
    monkeypatch.setattr(launch, "PATIENCE", 0.2)
    assert ranks(*[FAILS if rank == n else others for n in range(3)]) == 2
    assert capsys.readouterr().err == (f"rank {rank} failed:\nesolab: why\n" if rank else "")


def test_of_several_that_fail_at_once_all_are_heard_and_a_message_gives_the_code(
    ranks: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch.time, "sleep", lambda _, sleep=time.sleep: sleep(1.0))
    assert ranks("raise SystemExit(1)", FAILS, "raise SystemExit(1)") == 2
    assert capsys.readouterr().err == "rank 1 failed:\nesolab: why\nrank 2 failed:\n"


def test_a_signal_that_ended_one_is_the_code_of_a_shell(ranks: Callable[..., int]) -> None:
    assert ranks("import os; os.kill(os.getpid(), 9)", SLEEPS) == 137


@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((130, 130), 130), ((0, 130), 130)])
def test_ranks_that_end_or_stop_give_their_code(
    ranks: Callable[..., int], capsys: pytest.CaptureFixture[str], codes: tuple[int, ...], code: int
) -> None:
    assert ranks(*[f"raise SystemExit({code})" for code in codes]) == code
    assert capsys.readouterr().err == ""


def test_one_that_hangs_when_another_has_stopped_is_killed_in_the_end(
    ranks: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "SAVING", 0.5)
    assert ranks(DEAF, "raise SystemExit(130)") == 130

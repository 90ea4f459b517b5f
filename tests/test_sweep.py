"""Sweeps: what is skipped, shared, linked, taken up, and what is said of jobs that fail."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_main import TINY, finished

import esolab.jobs
import esolab.sweep
from esolab.__main__ import main
from esolab.errors import BadInput
from esolab.processes import Ended, Local, Submitted
from esolab.tasks import Ledger, Task

PYTHON = [sys.executable, "-c"]


def states(folder: Path) -> dict[str, str]:
    """What the ledger says of each job, by the words that tell it from others."""
    rows = json.loads((folder / "outputs" / "single" / "sweep.json").read_text())["jobs"]
    return {row["name"].partition(" data=")[0]: row["state"] for row in rows}


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """killed("seed: 3"): jobs run in this process, but one whose configuration says so is killed the first time."""

    def prepare(said: str) -> list[list[str]]:
        started: list[list[str]] = []
        left = [said]

        class Here(Local):
            def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
                started.append(list(command))
                if left and f"\n{left[0]}\n" in Path(command[-1]).read_text():
                    left.clear()
                    return Ended(-signal.SIGKILL, ["step 3 of 8", "step 4 of 8"])
                return Ended(main(list(command[3:])))

        monkeypatch.setattr(esolab.sweep, "Local", Here)
        return started

    return prepare


def test_of_six_jobs_four_finish_two_are_named_and_a_second_call_repeats_nothing(
    front_door: Callable[..., int],
    killed: Callable[..., list[list[str]]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    started = killed("seed: 3")
    command = ["-m", *TINY, "trainer.epochs=1", "method=sft", "seed=0,1,2,3,4,-1"]
    assert front_door(*command) == 1
    err = capsys.readouterr().err
    assert len(finished(tmp_path)) == 4
    assert len(started) == 5
    assert "seed=3: was killed by SIGKILL\n    step 3 of 8\n    step 4 of 8\n" in err
    assert "seed=-1: does not fit\n    seed=-1: input should be greater than or equal to 0" in err
    assert sorted(states(tmp_path).values()) == ["does not fit", *["done"] * 4, "failed"]
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    started.clear()
    assert front_door(*command) == 1
    assert len(started) == 1
    assert len(finished(tmp_path)) == 5
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert sorted(states(tmp_path).values()) == ["does not fit", *["done"] * 5]


def test_the_epochs_that_runs_share_are_trained_once_and_what_that_saves_is_said(
    front_door: Callable[..., int], jobs_here: list[list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert front_door("-m", *TINY, "method=sft,eso", "seed=0,1") == 0
    assert [command[3] for command in jobs_here].count("--trunk") == 2
    assert [command[3] for command in jobs_here].count("--resolved") == 4
    assert "2 trunks served 4 runs: " in capsys.readouterr().err
    results = [json.loads(file.read_text()) for file in (tmp_path / "outputs" / "single").glob("*/result.json")]
    assert len({result["trunk"]["hash"] for result in results}) == 2
    ledger = json.loads((tmp_path / "outputs" / "single" / "sweep.json").read_text())
    assert [row["runs"] for row in ledger["trunks"]] == [2, 2]


def test_runs_of_a_trunk_that_failed_do_without(
    front_door: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class NoTrunks(Local):
        def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
            return Ended(1, ["no"]) if "--trunk" in command else Ended(main(list(command[3:])))

    monkeypatch.setattr(esolab.sweep, "Local", NoTrunks)
    assert front_door("-m", *TINY, "method=sft,unlike") == 0
    assert "failed with exit code 1; its 2 runs do without" in capsys.readouterr().err
    assert len(finished(tmp_path)) == 2


def test_runs_that_find_their_trunk_torn_do_without(
    front_door: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Tearing(Local):
        def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
            code = main(list(command[3:]))
            for file in tmp_path.glob("outputs/trunks/*/checkpoints/*.ckpt") if "--trunk" in command else ():
                file.write_bytes(b"torn")
            return Ended(code)

    monkeypatch.setattr(esolab.sweep, "Local", Tearing)
    assert front_door("-m", *TINY, "method=sft,unlike") == 0
    assert "were not repeated" not in capsys.readouterr().err
    assert len(finished(tmp_path)) == 2


def test_a_run_that_another_experiment_has_done_is_linked(
    front_door: Callable[..., int], jobs_here: list[list[str]], tmp_path: Path
) -> None:
    (done,) = [tmp_path / "outputs" / "single", front_door("-m", *TINY, "method=sft", "seed=0")][:1]
    jobs_here.clear()
    assert front_door("-m", *TINY, "experiments=seeds", "scale.run=[]", "scale.summaries=[]", "seed=0") == 0
    linked = [path for path in (tmp_path / "outputs" / "seeds").iterdir() if path.is_symlink()]
    assert len(linked) == 1
    assert linked[0].resolve().parent == done.resolve()
    assert not os.path.isabs(os.readlink(linked[0]))
    assert sum("--resolved" in command for command in jobs_here) == 1  # ESO's


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_jobs_end_keeps_what_is_done_and_says_how_to_go_on(
    front_door: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    sign: signal.Signals,
) -> None:
    started, stops, queued = [], [], []

    class Stopped(Local):
        def stop(self) -> None:
            stops.append(len(started))
            super().stop()

        def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
            started.append(command)
            if len(started) == 2:
                os.kill(os.getpid(), sign)
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGTERM)  # as SLURM does after SIGUSR1
            time.sleep(0.5)
            return Ended(130)

    monkeypatch.setattr(esolab.sweep, "Local", Stopped)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setattr(esolab.jobs.subprocess, "run", lambda command, **_: queued.append(command))
    assert front_door("-m", *TINY, "method=sft", "seed=0,1,2", "sweep.jobs=2") == 130
    assert len(stops) == 1
    assert (["scontrol", "requeue", "17"] in queued) == (sign == signal.SIGUSR1)
    assert capsys.readouterr().err.endswith("stopped; the same command skips finished jobs and takes up this one\n")
    assert sorted(states(tmp_path).values()) == ["stopped", "stopped", "waiting"]


def test_a_process_is_heard_to_its_end() -> None:
    text = "import sys; [print(i, file=sys.stderr) for i in range(30)]; sys.stderr.write('a\\rb'); sys.exit(3)"
    ended = Local()([*PYTHON, text], aloud=False)
    assert (ended.code, ended.said) == (3, [*map(str, range(11, 30)), "b"])
    assert Local()([*PYTHON, "import os; os.kill(os.getpid(), 9)"], aloud=False).code == -9


def test_what_it_says_is_passed_on_where_that_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    for aloud in (True, False):
        Local()([*PYTHON, "import sys; print('here', file=sys.stderr)"], aloud)
        assert capfd.readouterr().err == ("here\n" if aloud else "")


@pytest.mark.skipif(
    sys.platform != "linux", reason="PARENTS THAT ARE KILLED NOT CHECKED: this is the kernel's, on Linux"
)
def test_side_by_side_each_process_sees_the_gpu_that_fewest_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7b")
    text = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], file=sys.stderr); time.sleep(0.5)"
    local = Local()
    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(lambda _: local([*PYTHON, text], aloud=False), range(4)))
    assert sorted(line for one in ended for line in one.said) == ["4", "4", "GPU-7b", "GPU-7b"]
    assert local([*PYTHON, text], aloud=True).said == ["4,GPU-7b"]


def test_two_sweeps_at_once_keep_both_ledgers(tmp_path: Path) -> None:
    first, second = (Ledger([Task(name, tmp_path, state="done")]) for name in ("a", "b"))
    first.save()
    second.save()
    first.save()
    assert {row["name"] for row in json.loads((tmp_path / "sweep.json").read_text())["jobs"]} == {"a", "b"}


def test_processes_end_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"from esolab.processes import Local; Local()([{sys.executable!r}, '-c', {child!r}], False)"
    process = subprocess.Popen([*PYTHON, parent], cwd=Path(__file__).parents[1])
    for _ in range(600):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    pid = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent")


def submitted(folder: Path, **settings: Any) -> Submitted:
    return Submitted("local", str(folder / "slurm"), {"timeout_min": 5, **settings})


def test_the_cluster_s_stand_in_here_runs_jobs_and_says_how_they_ended(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launch = submitted(tmp_path)
    assert launch([*PYTHON, f"open({str(tmp_path / 'there')!r}, 'w')"], False) == Ended(0, [])
    assert (tmp_path / "there").exists()
    ended = launch([*PYTHON, "import sys; print('why', file=sys.stderr); sys.exit(2)"], False)
    assert ended.code == 2
    assert "why" in ended.said


def test_a_cluster_that_is_not_there_and_settings_it_has_not_are_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="no SLURM here"):
        Submitted("slurm", str(tmp_path), {})
    with pytest.raises(BadInput, match=r"hydra\.launcher\.settings: .*gpus"):
        submitted(tmp_path, gpus=3)

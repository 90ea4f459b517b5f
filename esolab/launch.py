"""A run on several devices of this machine: a process for each, all of one resolved configuration file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from esolab import ranks
from esolab.allowed import trusted
from esolab.processes import mortal
from esolab.training import Trainer

BAD_INPUT, STOPPED = 2, 130  # exit codes; the latter of a run that goes on another time
PATIENCE, SAVING = 30, 600  # seconds that the others have to end after one has failed, or has stopped as it was told


def apart(trainer: Trainer) -> bool:
    """Whether this process should start the ranks of a run, and is none of them."""
    return trainer.ranks > 1 and trainer.nodes == 1 and not ranks.several()


def launch(config: Mapping[str, Any], trainer: Trainer, flag: str) -> int:
    """Start `python -m esolab FLAG FILE` once for each device, and wait; the exit code, see `_wait`. What the first
    rank says is shown, of the others only why they failed."""
    with tempfile.TemporaryDirectory(prefix="esolab-") as place:
        file = Path(place) / "config.yaml"
        file.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), encoding="utf-8")
        port = _free_port()
        command = [sys.executable, "-m", "esolab", flag, str(file), *trusted(config)]
        meeting = {"WORLD_SIZE": f"{trainer.ranks}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
        processes = []
        for rank in range(trainer.ranks):
            where = {**meeting, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"}
            processes.append(_start(command, where, Path(place) / f"{rank}" if rank else None))
        with _passed_on(processes):
            return _wait(processes, Path(place))


def _start(command: list[str], where: dict[str, str], said: Path | None) -> subprocess.Popen[bytes]:
    """A rank that is heard, or that writes what it says to a file."""
    with said.open("wb") if said else nullcontext() as file:
        return subprocess.Popen(
            command,
            env={**os.environ, **where},
            stdout=subprocess.DEVNULL if said else None,
            stderr=file,
            start_new_session=True,
            preexec_fn=mortal(),
        )


def _wait(processes: list[subprocess.Popen[bytes]], place: Path) -> int:
    """Until all have ended. Where one fails the others are told to end; where one has stopped as it was told they have
    time to save. Those that take longer are killed.

    Returns the exit code as a shell says it: 2 where one of the first to fail has said why, else that of the first to
    fail, STOPPED where one has stopped, or 0.
    """
    first: list[int] = []  # the ranks that failed before the others were told
    until, killed = float("inf"), False
    while alive := [process for process in processes if process.poll() is None]:
        codes = [process.returncode for process in processes]
        if not first and not killed and (first := _failed(codes)):
            until = time.monotonic() + PATIENCE
            _tell(alive, signal.SIGTERM)
        elif STOPPED in codes and until == float("inf"):
            until = time.monotonic() + SAVING
        if time.monotonic() > until:
            killed = True
            _tell(alive, signal.SIGKILL)
        time.sleep(0.05)
    codes = [process.returncode for process in processes]
    first = first or ([] if killed else _failed(codes))
    for rank in filter(None, first):
        last = (place / f"{rank}").read_text(errors="replace").splitlines()[-20:]
        print(f"rank {rank} failed:", *last, sep="\n", file=sys.stderr)
    if not first:
        return STOPPED if STOPPED in codes else 0
    code = BAD_INPUT if BAD_INPUT in (codes[rank] for rank in first) else codes[first[0]]
    return code if code > 0 else 128 - code


def _failed(codes: list[int | None]) -> list[int]:
    """The ranks that have ended as none should."""
    return [rank for rank, code in enumerate(codes) if code not in (None, 0, STOPPED)]


def _tell(processes: list[subprocess.Popen[bytes]], sign: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(sign)


@contextmanager
def _passed_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Inside, the signals that end a run reach its ranks."""
    signs = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {sign: signal.signal(sign, lambda number, _: _tell(processes, number)) for sign in signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

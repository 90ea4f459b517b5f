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

STOPPED = 130  # the exit code of a run that goes on another time
PATIENCE = 30  # seconds that the others have to end after one has failed


def apart(trainer: Trainer) -> bool:
    """Whether this process should start the ranks of a run, and is none of them."""
    return trainer.ranks > 1 and trainer.nodes == 1 and not ranks.several()


def launch(config: Mapping[str, Any], trainer: Trainer, flag: str) -> int:
    """Start `python -m esolab FLAG FILE` once for each device, and wait; the exit code of the first that failed, or 0.
    Where one fails the others are ended. What the first rank says is shown, of the others only why they failed."""
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
    """Until all have ended; the exit code, as a shell says it. One that stops as it was told to ends no other."""
    until = float("inf")
    while any(process.poll() is None for process in processes):
        if until == float("inf") and any(process.returncode not in (None, 0, STOPPED) for process in processes):
            until = time.monotonic() + PATIENCE
            _tell(processes, signal.SIGTERM)
        if time.monotonic() > until:
            _tell(processes, signal.SIGKILL)
        time.sleep(0.05)
    codes = [process.returncode for process in processes]
    first = next((rank for rank, code in enumerate(codes) if code not in (0, STOPPED)), None)
    if first is None:
        return max(codes)
    if first:
        last = (place / f"{first}").read_text(errors="replace").splitlines()[-20:]
        print(f"rank {first} failed:", *last, sep="\n", file=sys.stderr)
    return codes[first] if codes[first] > 0 else 128 - codes[first]


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

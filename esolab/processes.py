"""Where the jobs of a sweep run: each in a process of its own, here, or where a cluster's scheduler puts it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

from esolab.errors import BadInput

STOPPED = (130, -signal.SIGINT)  # exit codes of Ctrl-C
LINES = 20  # the last so many that a job has said are kept
PART = "ESOLAB_PART_OF_A_SWEEP"  # in the environment of its jobs
PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, minus a signal's number where that ended it, and the last lines it said."""

    code: int
    said: list[str] = field(default_factory=list)


@runtime_checkable
class Launcher(Protocol):
    """Anything that runs a command to its end, called from several threads at once. What a command reads lies in
    `drafts`."""

    drafts: Path | None

    def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
        """Run it; `aloud` shows what it says while it says it."""
        ...

    def stop(self) -> None:
        """Ask what is running to end in a way that can be taken up; a second time, end it."""
        ...


class Local:
    """Processes on this machine. They end when this one does, however it ends. Of those that run side by side each sees
    one GPU, where there are several: the one that fewest of them have."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False
        self.gpus = Counter(dict.fromkeys(_gpus(), 0))
        self.choosing = threading.Lock()
        self.drafts: Path | None = None  # wherever temporary files are

    def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
        """Run it in a session of its own, so that Ctrl-C reaches it through `stop` alone."""
        if self.stopped:
            return Ended(STOPPED[0])
        with (
            self._gpu(alone=aloud) as gpu,
            subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                env=_environment(aloud) | gpu,
                start_new_session=True,
                preexec_fn=mortal(),
            ) as process,
        ):
            self.running.add(process)
            if self.stopped:  # while it was starting
                _signal(process, signal.SIGINT)
            try:
                assert process.stderr is not None
                said = _listen(process.stderr, aloud)
                return Ended(process.wait(), said)
            finally:
                self.running.discard(process)

    @contextmanager
    def _gpu(self, alone: bool) -> Iterator[dict[str, str]]:
        """The environment that shows a process its GPU; empty where it may see all."""
        if alone or len(self.gpus) < 2:
            yield {}
            return
        with self.choosing:
            gpu = min(self.gpus, key=lambda gpu: self.gpus[gpu])
            self.gpus[gpu] += 1
        try:
            yield {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            with self.choosing:
                self.gpus[gpu] -= 1

    def stop(self) -> None:
        """Ctrl-C to each, and to what it has started; nothing starts after that. A second time they are killed."""
        sign = signal.SIGKILL if self.stopped else signal.SIGINT
        self.stopped = True
        for process in list(self.running):
            _signal(process, sign)


def _signal(process: subprocess.Popen[bytes], sign: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)


def _gpus() -> list[str]:
    """The names of the GPUs that this process may use."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name.strip() for name in said.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


def _environment(aloud: bool) -> dict[str, str]:
    """Bars are drawn where they will be seen. It is the sweep that asks SLURM to queue its job again."""
    shown = aloud and sys.stderr.isatty()
    size = shutil.get_terminal_size()
    return {**os.environ, PART: "1", **({"TTY_COMPATIBLE": "1", "COLUMNS": str(size.columns)} if shown else {})}


def mortal() -> Callable[[], Any] | None:
    """What a process does first, so that the kernel ends it with its parent, even if that is killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _listen(stream: IO[bytes], aloud: bool) -> list[str]:
    """Take what a process says until it ends, pass it on if that is wanted; its last lines."""
    lines: deque[str] = deque(maxlen=LINES)
    rest = b""
    while chunk := stream.read1() if hasattr(stream, "read1") else stream.read(1):
        if aloud:
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()
        *whole, rest = (rest + chunk).split(b"\n")
        lines.extend(text for line in whole if (text := _plain(line)))
    return [*lines, *([_plain(rest)] if _plain(rest) else [])][-LINES:]


def _plain(line: bytes) -> str:
    """A line as it stands at the end, after what carriage returns have overwritten."""
    return line.decode(errors="replace").rstrip().rpartition("\r")[2]


@dataclass
class Submitted:
    """Jobs of a cluster through submitit (SLURM), or of its stand-in on this machine.

    Args:
        cluster: slurm | local.
        folder: where submitit keeps its scripts and logs.
        settings: of submitit's executor, as timeout_min, slurm_partition, gpus_per_node, cpus_per_task, mem_gb.
    """

    cluster: str
    folder: str
    settings: dict[str, Any]
    running: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        try:
            import submitit
        except ImportError as error:
            raise BadInput("hydra/launcher=slurm: submitit is not installed; pip install 'esolab[slurm]'") from error
        if self.cluster == "slurm" and shutil.which("srun") is None:
            raise BadInput(
                "hydra/launcher=slurm: there is no SLURM here (no srun); start the sweep on a login node, or give "
                "hydra.launcher.cluster=local"
            )
        self.drafts = Path(self.folder)  # which the nodes see, too
        self.drafts.mkdir(parents=True, exist_ok=True)
        self.stopped = False
        self.executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        try:
            self.executor.update_parameters(**self.settings)
        except (TypeError, NameError, ValueError) as error:
            raise BadInput(f"hydra.launcher.settings: {' '.join(str(error).split())}") from error

    def __call__(self, command: Sequence[str], aloud: bool) -> Ended:
        """Submit it and wait for its end."""
        job = self.executor.submit(subprocess.call, [*command], cwd=os.getcwd())
        self.running.add(job)
        try:
            code = int(job.result())
        except Exception as error:  # the scheduler's: time-out, node failure, cancellation
            return Ended(
                STOPPED[0] if self.stopped else 1, [line for line in str(error).splitlines() if line.strip()][-LINES:]
            )
        finally:
            self.running.discard(job)
        log = Path(job.paths.stderr)
        said = log.read_text(errors="replace").splitlines() if code and log.exists() else []
        return Ended(code, said[-LINES:])

    def stop(self) -> None:
        """Cancel what is submitted."""
        self.stopped = True
        for job in list(self.running):
            job.cancel()

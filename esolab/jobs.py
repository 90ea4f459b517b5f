"""The job that a run is part of, where SLURM or torchrun has started it: queued again, and started another time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from esolab.processes import PART
from esolab.terminal import log

RERUN = ".rerun"  # in the folder of a run: the life of the job that has begun it anew
RESTARTS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")


def life() -> tuple[str | None, int]:
    """The job of this process, None without one, and how often it was started again."""
    agent = f"torchrun {os.getppid()}" if "TORCHELASTIC_RUN_ID" in os.environ else None
    return os.environ.get("SLURM_JOB_ID", agent), sum(int(os.environ.get(name) or 0) for name in RESTARTS)


def started_again(folder: Path) -> bool:
    """Whether this job has begun the run of a folder anew, and was started another time since."""
    try:
        job, starts = json.loads((folder / RERUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    ours, now = life()
    return bool(job is not None and job == ours and starts < now)


def requeue(heard: Sequence[int]) -> None:
    """Ask SLURM to queue this job again, where it is one and SIGUSR1 was heard; a sweep asks for its jobs."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or signal.SIGUSR1 not in heard or PART in os.environ:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning(f"scontrol requeue {job}: {error}; submit the job again, and it goes on")

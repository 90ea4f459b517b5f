"""The machine that a race ran on. Light to import."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe(threads: int) -> dict[str, object]:
    """Processor, cores, threads, and the versions of what races."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "threads": threads,
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "trl")},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""The most memory and the seconds of each phase, read from the process or the GPU while they happen."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from esolab.results import peak_rss_bytes
from esolab.training import Trainer


class Gauge:
    """Told which phase begins, it keeps the peak of each (bytes, the highest of all times) and the seconds of each
    since `clear`. On the CPU a peak is that of the process's resident memory; where the system cannot start it anew
    (anything but Linux), it is the highest so far."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.now, self.since = device, "load", time.perf_counter()
        self.peaks: dict[str, int] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def enter(self, phase: str) -> None:
        """The phase that was is over, this one begins."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.peaks[self.now] = max(self.peaks.get(self.now, 0), self._peak())
        self.seconds[self.now] += time.perf_counter() - self.since
        self.now, self.since = phase, time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """This phase inside, and after it the one that was."""
        before = self.now
        self.enter(name)
        try:
            yield
        finally:
            self.enter(before)

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, and while it runs this phase."""

        def measured(*args: Any, **others: Any) -> Any:
            with self.phase(phase):
                return function(*args, **others)

        return measured

    def clear(self) -> dict[str, float]:
        """The seconds of each phase so far; they begin anew, peaks do not."""
        self.enter(self.now)
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds

    def _peak(self) -> int:
        """Bytes held at most since it was last asked."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return peak
        peak = peak_rss_bytes()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): start the peak anew
        return peak


def resident() -> int:
    """Bytes of this process that are in memory now; the most so far where the system does not say."""
    with suppress(OSError):
        return int(_kilobytes("/proc/self/status", "VmRSS")) * 1024
    return peak_rss_bytes()


def room(trainer: Trainer) -> int | None:
    """Bytes that a rank could hold on its device, what this process holds included; None where the system does not say.
    Ranks on the CPU of one machine share its memory."""
    if trainer.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(trainer.device)
        return int(free) + torch.cuda.memory_reserved(trainer.device)
    with suppress(OSError):
        return (int(_kilobytes("/proc/meminfo", "MemAvailable")) * 1024 + resident()) // trainer.ranks
    return None


def _kilobytes(file: str, key: str) -> str:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path(file).read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{file} has no {key}")
    return found[1]

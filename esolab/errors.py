"""The one exception that a person is meant to read, and how several become one message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


class BadInput(ValueError):
    """Input that cannot be used: a file, a row, a setting, a place that cannot be reached.

    The message names the place, the value and the way out. The front door prints it alone, without a traceback,
    and exits with code 2.
    """

    def shown(self) -> str:
        """The message as it is printed."""
        lines = str(self).splitlines()
        return "esolab: " + lines[0] if len(lines) == 1 else "\n  ".join(["esolab:", *lines])


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, of a GPU or of the machine."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = "not enough memory|allocate memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED"
    return isinstance(error, RuntimeError) and re.search(said, str(error)) is not None


def too_little_memory(error: BaseException, way_out: str) -> BadInput:
    """What to say where there is no more memory."""
    said = " ".join(str(error).split())[:160] or type(error).__name__
    return BadInput(f"out of memory ({said}); {way_out}")


@contextmanager
def memory_needed(way_out: str) -> Iterator[None]:
    """Inside, too little memory is bad input. Raises BadInput with the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise too_little_memory(error, way_out) from error


def gather(jobs: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Do the jobs at once and return what they return, by name.

    Raises:
        BadInput: one or more jobs did; all that they say, a line each.
    """
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        futures = {name: pool.submit(job) for name, job in jobs.items()}
    problems = [error for future in futures.values() if (error := future.exception()) is not None]
    for error in problems:
        if not isinstance(error, BadInput):
            raise error
    if problems:
        raise BadInput("\n".join(dict.fromkeys(map(str, problems))))
    return {name: future.result() for name, future in futures.items()}

"""What a person sees while it runs: bars with the time left, and the lines that also go to run.log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from esolab.errors import BadInput

console = Console(stderr=True)
log = logging.getLogger("esolab")


def progress(disable: bool = False) -> Progress:
    """The bar of every long phase: done, elapsed, left, and a `note`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=disable,
    )


class _Say(logging.Handler):
    """Log lines on the terminal, around the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)


class _Keep(logging.FileHandler):
    """Log lines in a file. Where the disk is full the run fails over what it must keep, not over these."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lose the line; logging would print a traceback."""

    def close(self) -> None:
        """Lose what cannot be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def logged(file: Path) -> Iterator[None]:
    """Keep what the run says in a file, and say it on the terminal. An error is kept before it goes on."""
    keep = _Keep(file, encoding="utf-8")
    keep.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    say = _Say()
    log.setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its advertisements are not ours
    log.addHandler(keep)
    log.addHandler(say)
    try:
        yield
    except BaseException as error:
        log.removeHandler(say)  # the front door speaks to the terminal
        log.error(f"stopped: {type(error).__name__}: {error}", exc_info=not isinstance(error, BadInput))
        raise
    finally:
        for handler in (keep, say):
            log.removeHandler(handler)
            handler.close()

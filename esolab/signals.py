"""The signals that end a run, and what it does when it hears them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from esolab import ranks
from esolab.jobs import requeue
from esolab.terminal import log


class Told(list[signal.Signals]):
    """The signals that have told a run to end. Where it is `patient`, it does so after the step that it is in and a
    checkpoint, unless Ctrl-C comes twice; else at once. In a thread there is nothing to hear."""

    signs = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    patient = False

    def listen(self) -> None:
        """Hear them, whoever has heard them before."""
        if threading.current_thread() is threading.main_thread():
            for sign in self.signs:
                signal.signal(sign, self._hear)

    def end(self, step: int) -> NoReturn:
        """End the run after a step that is saved. Raises KeyboardInterrupt."""
        sign = self[0].name if self else "told by another rank"
        log.info(f"{sign}: stopped after step {step}, which is saved")
        raise KeyboardInterrupt

    def _hear(self, number: int, frame: object) -> None:
        again = number == signal.SIGINT in self
        self.append(signal.Signals(number))
        if again or not self.patient:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            log.info("stopping after this step; Ctrl-C again stops at once, and loses what was not saved")


@contextmanager
def signals() -> Iterator[Told]:
    """Inside, they are heard. After SIGUSR1 SLURM is asked to queue the job again, where it is one."""
    told = Told()
    before = {sign: signal.getsignal(sign) for sign in told.signs}
    told.listen()
    try:
        yield told
    finally:
        if threading.current_thread() is threading.main_thread():
            for sign, handler in before.items():
                signal.signal(sign, handler)
        if ranks.lead():
            requeue(told)

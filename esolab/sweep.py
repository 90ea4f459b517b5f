"""A sweep: one process tree per job, each from a fully resolved configuration file, so that nothing is composed twice.

Jobs that are done are skipped, SFT epochs that several of them begin with are trained once (see esolab.trunks), and a
run that another experiment has done is linked.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from esolab import trunks
from esolab.check import build
from esolab.checkpoints import begun
from esolab.errors import BadInput
from esolab.jobs import requeue
from esolab.processes import STOPPED, Ended, Launcher, Local
from esolab.report import show
from esolab.report.findings import findings
from esolab.report.writing import write
from esolab.signals import Told
from esolab.tasks import OVER, Ledger, Task, tasks_of
from esolab.terminal import console, progress

FEW = 12  # runs that fit into tables on the terminal


def sweep(commands: Sequence[Sequence[str]], launcher: Launcher | None = None) -> int:
    """Do what commands, given as overrides, describe: a run each, or the stages of an experiment, `sweep.jobs` at a
    time. Print their states and their results side by side.

    A job that does not fit or fails is named and the others go on, but for stages that refer to it. The exit code: 0 if
    all finished, 2 if no command's configuration fits (nothing is started then), 1 otherwise. Ctrl-C ends the sweep,
    lets running jobs end in a way that can be taken up, and says how to go on.
    """
    tasks = tasks_of(commands)
    Scheduler(tasks, launcher or Local()).run()
    _show(tasks)
    _report(tasks)
    return 0 if all(task.state == "done" for task in tasks) else 1


class Scheduler:
    """Starts tasks as soon as what they need is there, so many at a time, trunks before the runs that share them."""

    def __init__(self, tasks: Sequence[Task], launcher: Launcher) -> None:
        self.tasks, self.launcher, self.ledger = tasks, launcher, Ledger(tasks)
        for task in tasks:
            if task.state == "waiting" and not task.needs:
                self._locate(task)
        settings = next((task.config for task in tasks if "sweep" in task.config), {"sweep": {"jobs": 1}})
        self.at_once: int = settings["sweep"]["jobs"]
        if self.at_once > 1 and isinstance(launcher, Local) and build(settings["trainer"]).ranks > 1:
            raise BadInput(
                f"sweep.jobs={self.at_once}: runs on several devices go one at a time; give sweep.jobs=1, or "
                "trainer.devices=1 for runs side by side"
            )
        self.running: dict[Future[Ended], tuple[Task | Path, float]] = {}  # with the time they were started
        self.stopped = False
        self.served: Counter[Path] = Counter()  # runs that have gone on from a trunk
        self.ill: set[Path] = set()  # trunks that failed: their runs do without
        open_ = {(t.trunk, t.hash) for t in tasks if t.trunk and t.state == "waiting" and not _there(t)}
        self.shared = Counter(trunk for trunk, _ in open_)
        threads = settings.get("trainer", {}).get("threads", 1)
        if isinstance(self.launcher, Local) and self.at_once * threads > (cores := len(os.sched_getaffinity(0))):
            _say(f"{self.at_once} jobs of {threads} threads on {cores} cores: fewer of either would be faster")

    def run(self) -> None:
        """Do all tasks. Raises KeyboardInterrupt with the way to go on."""
        with (
            _interrupted(self.stop),
            tempfile.TemporaryDirectory(prefix="esolab-", dir=self.launcher.drafts) as drafts,
            ThreadPoolExecutor(self.at_once) as pool,
            progress(disable=self.at_once == 1) as bar,
        ):
            self.drafts = Path(drafts)
            line = bar.add_task("sweep", total=len(self.tasks), note="")
            self.advance: Callable[[], None] = lambda: bar.update(
                line,
                completed=sum(task.state not in ("waiting", "running") for task in self.tasks),
                note=f"{len(self.running)} running",
            )
            while self._fill(pool) or self.running:
                if self._settle(wait(self.running, return_when=FIRST_COMPLETED).done) and not self.stopped:
                    self.stop()
        if self.stopped:
            raise KeyboardInterrupt(self._way_on())
        self._say_what_was_saved()

    def stop(self) -> None:
        """Start nothing more, and ask what is running to end; a second time, end it."""
        self.stopped = True
        self.launcher.stop()

    def _fill(self, pool: ThreadPoolExecutor) -> bool:
        """Start what can be started; whether anything has changed."""
        changed = False
        for task in self.tasks:
            if task.state != "waiting" or len(self.running) >= self.at_once or self.stopped:
                continue
            changed = self._settled_at_once(task) or self._start(task, pool) or changed
        if changed:
            self.ledger.save()
            self.advance()
        return changed

    def _settled_at_once(self, task: Task) -> bool:
        """Whether nothing has to be run for a task: what it needs is not there, it does not fit, or it is done."""
        if lost := [need for need in task.needs if need.state in OVER]:
            task.state = "not run"
            task.said = [f"it needs {', '.join(f'stage {need.job.stage}' for need in lost if need.job)}"]
        elif all(need.state == "done" for need in task.needs) and (task.folder is not None or self._locate(task)):
            if self._busy(task) or not task.is_done():
                return False
            task.state = "done"
            _say(f"already done: {task.folder}")
        return task.state != "waiting"

    def _locate(self, task: Task) -> bool:
        try:
            task.locate()
        except BadInput as error:
            print(error.shown(), file=sys.stderr)
            task.state, task.code, task.said = "failed", 2, str(error).splitlines()
        return task.state == "waiting"

    def _busy(self, task: Task) -> bool:
        """Whether an equal task is running."""
        return any(isinstance(other, Task) and other.hash == task.hash for other, _ in self.running.values())

    def _start(self, task: Task, pool: ThreadPoolExecutor) -> bool:
        """Start a task, or the trunk that it shares with others; whether either was started."""
        if task.folder is None or self._busy(task):
            return False
        file = self.drafts / f"{len(list(self.drafts.iterdir()))}.yaml"
        trunk = task.trunk if task.trunk and self.shared[task.trunk] > 1 and task.trunk not in self.ill else None
        if trunk is not None and not trunks.ready(trunk):
            if trunk in (other for other, _ in self.running.values()):
                return False
            self._announce(f"trunk of {self.shared[trunk]} runs", task)
            started: Task | Path = trunk
            command = task.command(file, "--trunk")
        else:
            self._announce(f"job {self.tasks.index(task) + 1} of {len(self.tasks)}", task)
            started, task.state = task, "running"
            if trunk is not None and not begun(task.folder):
                self.served[trunk] += 1
            command = task.command(file)
        file.write_text(OmegaConf.to_yaml(OmegaConf.create(task.config)), encoding="utf-8")
        self.running[pool.submit(self.launcher, command, self.at_once == 1)] = started, time.perf_counter()
        return True

    def _announce(self, what: str, task: Task) -> None:
        if self.at_once == 1:
            _say(f"{what}: {task.name}")

    def _settle(self, ended: set[Future[Ended]]) -> bool:
        """Take note of what has ended; whether a person has ended one."""
        stopped = False
        for future in ended:
            (task, begun), end = self.running.pop(future), future.result()
            seconds = time.perf_counter() - begun
            stopped |= end.code in STOPPED
            if isinstance(task, Path):
                self._note_trunk(task, end, seconds)
                continue
            task.code, task.seconds = end.code, round(seconds, 1)
            task.state = "done" if end.code == 0 else "stopped" if end.code in STOPPED else "failed"
            task.said = [] if end.code == 0 else end.said
            if self.at_once > 1:
                _say(f"{task.outcome} after {seconds:.0f} s: {task.name}", *task.said)
        self.ledger.save()
        self.advance()
        return stopped

    def _note_trunk(self, trunk: Path, end: Ended, seconds: float) -> None:
        runs = self.shared[trunk]
        self.ledger.trunks[trunk] = {"folder": str(trunk), "runs": runs, "seconds": round(seconds, 1), "exit": end.code}
        if end.code in STOPPED:
            _say(f"stopped after {seconds:.0f} s: trunk of {runs} runs, {trunk}")
        elif end.code:
            self.ill.add(trunk)
            _say(f"trunk {trunk}: failed with exit code {end.code}; its {runs} runs do without", *end.said)
        elif self.at_once > 1:
            _say(f"done after {seconds:.0f} s: trunk of {runs} runs, {trunk}")

    def _way_on(self) -> str:
        without = " without rerun=true" if any(task.config.get("rerun") for task in self.tasks) else ""
        return f"stopped; the same command{without} skips finished jobs and takes up this one"

    def _say_what_was_saved(self) -> None:
        """What training trunks once has saved, in seconds as they were measured."""
        there = {trunk: runs for trunk, runs in self.served.items() if trunks.ready(trunk)}  # none that was torn
        saved = sum((runs - 1) * trunks.seconds(trunk) for trunk, runs in there.items())
        if saved:
            _say(
                f"{len(self.served)} trunks served {self.served.total()} runs: {saved:,.0f} s of SFT were not repeated"
            )


def _report(tasks: Sequence[Task]) -> None:
    """What the runs say together: a few as tables here, the many runs of an experiment as a report in its folder."""
    done = [task for task in tasks if task.state == "done" and task.folder is not None]
    folders = list(dict.fromkeys(task.folder for task in done if task.folder is not None))
    if 0 < len(folders) <= FEW:
        show(folders)
    for home in dict.fromkeys(task.home for task in done) if len(folders) > FEW else ():
        try:
            found = findings([home])
            page, *_ = write(found, home)
        except BadInput as error:  # of another run there
            print(error.shown(), file=sys.stderr)
        else:
            print(*[f"\n{home}", *found.verdicts, f"more: {page}"], sep="\n")


def _there(task: Task) -> bool:
    return task.folder is not None and (task.folder / "result.json").exists() and not task.config.get("rerun")


@contextmanager
def _interrupted(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, the signals that end a run call `stop`, and nothing is torn out of what it is doing; after SIGUSR1 SLURM
    is asked to queue the job again, where it is one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def hear(sign: int, _: object) -> None:
        if sign == signal.SIGINT or not heard:  # SLURM sends SIGTERM after SIGUSR1
            stop()
        heard.append(sign)

    before = {sign: signal.signal(sign, hear) for sign in Told.signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        requeue(heard)


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(tasks: Sequence[Task]) -> None:
    if all(task.state == "done" for task in tasks):
        return
    for task in tasks:
        print(f"{task.name}: {task.outcome}" + "".join(f"\n    {line}" for line in task.said), file=sys.stderr)

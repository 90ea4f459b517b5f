"""The tasks of a sweep, what became of each, and the ledger that keeps it: `outputs/<experiment>/sweep.json`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from esolab import results, trunks
from esolab.allowed import given, named
from esolab.assembly import Place, locate
from esolab.check import build
from esolab.errors import BadInput
from esolab.judge import __main__ as judgement
from esolab.judge.pairs import read_pairs
from esolab.stages import Job, plan

State = Literal["waiting", "running", "done", "failed", "stopped", "not run", "does not fit"]
OVER: tuple[State, ...] = ("failed", "stopped", "not run", "does not fit")  # and not done


@dataclass(eq=False)
class Task:
    """A job of a sweep and what became of it.

    Args:
        name: what tells it from the others.
        home: the folder of its experiment.
        job: what it does; None where its configuration does not fit.
        needs: the tasks whose folders it refers to.
        code: its exit code.
        seconds: how long it took in this sweep.
        said: why it was not done, or the last lines that it said.
        folder: of what it leaves.
        trunk: the folder of the epochs that it may share, there or not.
        hash: its identity; of a judgement, its folder.
    """

    name: str
    home: Path
    job: Job | None = None
    needs: list[Task] = field(default_factory=list)
    state: State = "waiting"
    code: int | None = None
    seconds: float | None = None
    said: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    trunk: Path | None = None
    hash: str = ""

    def locate(self) -> None:
        """Compose its configuration, now that what it needs is there, and see where it belongs. Raises BadInput."""
        assert self.job is not None
        self.config = self.job.config(self.left)
        if self.job.judges:
            pairs = read_pairs(str(self.config["a"]), str(self.config["b"]), build(self.config["rows"]))
            self.folder = judgement.locate(dict(self.config), pairs, build(self.config["judge"]))
            self.hash = str(self.folder)
            return
        place: Place = locate(self.config)
        self.folder, self.hash = place.folder, place.hash
        shares = self.config["trunks"] and not self.config["rerun"]
        self.trunk = trunks.folder(self.config, place) if shares else None

    @property
    def left(self) -> dict[str, Path]:
        """What the stages that it refers to have left."""
        return {need.job.stage: need.folder for need in self.needs if need.job and need.folder}

    def is_done(self) -> bool:
        """Whether its result is there already and is not to be repeated; a run of another experiment is linked."""
        assert self.job is not None
        assert self.folder is not None
        again = self.config.get("rerun") or self.config.get("agreement") is not None
        if self.folder.is_symlink() and (again or not self.folder.exists()):
            self.folder.unlink()  # what is another experiment's stays, and what is gone is made again
        if again:
            return False
        if (self.folder / "result.json").exists():
            return True
        found = None if self.job.judges else self._elsewhere()
        if found is None:
            return False
        if self.folder.exists():
            self.folder = found
        else:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another sweep was faster
                self.folder.symlink_to(os.path.relpath(found, self.folder.parent), target_is_directory=True)
        return True

    def _elsewhere(self) -> Path | None:
        """The folder of a finished run with this identity."""
        for file in sorted(Path(self.config["outputs"]).glob(f"*/*-{self.hash}/result.json")):
            if json.loads(file.read_text(encoding="utf-8"))["config_hash"] == self.hash:
                return file.parent.resolve()
        return None

    def command(self, file: Path, flag: str = "--resolved") -> list[str]:
        """What is run; `file` holds its configuration."""
        assert self.job is not None
        if self.job.judges:
            return [sys.executable, "-m", "esolab.judge", *self.job.arguments(self.left)]
        trusted = [word for module in (*given(), *named(self.job.overrides)) for word in ("--allow", module)]
        return [sys.executable, "-m", "esolab", flag, str(file), *trusted]

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        if self.state == "failed" and self.code is not None:
            ended = f"was killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"
            return f"failed with {ended}" if self.code >= 0 else ended
        return self.state

    def row(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        folder = None if self.folder is None else os.path.relpath(self.folder, self.home)
        rest = {"exit": self.code, "seconds": self.seconds, "said": self.said}
        return {"name": self.name, "folder": folder, "state": self.state, **rest}


def tasks_of(commands: Sequence[Sequence[str]]) -> list[Task]:
    """The tasks of a sweep, in order.

    Raises:
        BadInput: no command's configuration fits.
    """
    plans = [_try(overrides) for overrides in commands]
    problems = [problem for problem in plans if isinstance(problem, BadInput)]
    if len(problems) == len(plans):
        lines = dict.fromkeys(line for problem in problems for line in str(problem).splitlines())
        raise BadInput("\n".join(lines))
    tasks: list[Task] = []
    for overrides, planned in zip(commands, plans, strict=True):
        home = _home(overrides)
        name = " ".join(o for o in overrides if not re.match(r"(experiments|scale|stages|sweep\.jobs|outputs)=", o))
        if isinstance(planned, BadInput):
            tasks.append(Task(name, home, state="does not fit", said=str(planned).splitlines()))
            continue
        chain: dict[str, Task] = {}
        for job in planned:
            said = " ".join(filter(None, [name, job.stage and f"stage {job.stage}", *job.words]))
            task = Task(said, home, job, [chain[stage] for stage in job.needs])
            chain[job.stage] = task
            tasks.append(task)
    return tasks


def _try(overrides: Sequence[str]) -> list[Job] | BadInput:
    try:
        return plan(overrides)
    except BadInput as error:
        return error


def _home(overrides: Sequence[str]) -> Path:
    """The folder of the experiment that overrides name."""
    said = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    return Path(said.get("outputs", "outputs")) / said.get("experiments", "single")


class Ledger:
    """What became of the tasks, kept on disk while the sweep goes on; what other sweeps have left there stays."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.tasks, self.trunks = list(tasks), dict[Path, dict[str, Any]]()
        trusted = [f"--allow={module}" for module in given()]
        self.asked = "python -m esolab " + shlex.join([*trusted, *sys.argv[1:]])

    def save(self) -> None:
        """Write it, for each experiment."""
        for home in dict.fromkeys(task.home for task in self.tasks):
            own = [task.row() for task in self.tasks if task.home == home]
            folders, names = {row["folder"] for row in own} - {None}, {row["name"] for row in own}
            kept = [row for row in _rows(home) if row["folder"] not in folders and row["name"] not in names]
            home.mkdir(parents=True, exist_ok=True)
            shared = [row for trunk, row in self.trunks.items() if trunk in self._used(home)]
            about = next((t.config["about"] for t in self.tasks if t.home == home and t.config.get("about")), None)
            rows = {"schema": results.SCHEMA, "command": self.asked, "about": about}
            rows |= {"jobs": [*kept, *own], "trunks": shared}
            results.write_json(home / "sweep.json", rows)

    def _used(self, home: Path) -> set[Path]:
        return {task.trunk for task in self.tasks if task.home == home and task.trunk is not None}


def _rows(home: Path) -> list[Mapping[str, Any]]:
    try:
        return list(json.loads((home / "sweep.json").read_text(encoding="utf-8"))["jobs"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # none yet, or not ours: what is there on disk counts, not what was said of it

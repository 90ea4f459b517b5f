"""A sweep: one process per job, each from a fully resolved configuration file, so that nothing is composed twice."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from esolab.config import build
from esolab.errors import BadInput
from esolab.judge import __main__ as judgement
from esolab.judge.pairs import read_pairs
from esolab.report import show
from esolab.run import locate
from esolab.stages import Job, plan


def sweep(commands: Sequence[Sequence[str]]) -> int:
    """Do what commands, given as overrides, describe, one after the other: a run each, or the stages of an experiment.
    Print their states and their results side by side.

    A job that does not fit or fails is named and the others go on, but for stages that refer to it. The exit code: 0 if
    all finished, 2 if no command's configuration fits (nothing is started then), 1 otherwise. Ctrl-C ends the sweep and
    says how to go on.
    """
    plans = [_try(overrides) for overrides in commands]
    problems = [problem for problem in plans if isinstance(problem, BadInput)]
    if len(problems) == len(plans):
        lines = dict.fromkeys(line for problem in problems for line in str(problem).splitlines())
        raise BadInput("\n".join(lines))
    states, folders = [], []
    for number, (overrides, planned) in enumerate(zip(commands, plans, strict=True)):
        name = " ".join(o for o in overrides if not o.startswith("experiments="))
        if isinstance(planned, BadInput):
            states.append((name, "does not fit", str(planned)))
            continue
        print(f"job {number + 1} of {len(commands)}: {name}", file=sys.stderr, flush=True)
        left: dict[str, Path] = {}
        for job in planned:
            said = f"{name} stage {job.stage}".strip() if job.stage else name
            if lacking := [stage for stage in job.needs if stage not in left]:
                states.append((said, "not run", f"it needs {', '.join(f'stage {stage}' for stage in lacking)}"))
                continue
            if job.stage:
                print(f"stage {job.stage}: {' '.join(job.arguments(left))}", file=sys.stderr, flush=True)
            code, folder = _do(job, left)
            if folder is not None:
                left[job.stage] = folder
                folders.append(folder)
            states.append((said, "done" if code == 0 else f"failed with exit code {code}", ""))
    _show(states)
    if folders:
        show(list(dict.fromkeys(folders)))
    return 0 if all(state == "done" for _, state, _ in states) else 1


def _try(overrides: Sequence[str]) -> list[Job] | BadInput:
    try:
        return plan(overrides)
    except BadInput as error:
        return error


def _do(job: Job, left: Mapping[str, Path]) -> tuple[int, Path | None]:
    """Do a job in a process of its own, unless it is a judgement that is there; the exit code, and the folder of what
    is done. `left` is what earlier stages have left."""
    try:
        config = job.config(left)
        place = _judgement(config) if job.judges else locate(config).folder
        if job.judges and (place / "result.json").exists() and config["agreement"] is None:
            print(f"already done: {place}", flush=True)
            return 0, place
    except BadInput as error:
        print(error.shown(), file=sys.stderr)
        return 2, None
    with tempfile.TemporaryDirectory(prefix="esolab-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        what = [".judge", *job.arguments(left)] if job.judges else ["", "--resolved", str(file)]
        code = subprocess.run([sys.executable, "-m", f"esolab{what[0]}", *what[1:]]).returncode
    if code == 130 or code == -2:
        without = " without rerun=true" if config.get("rerun") else ""
        raise KeyboardInterrupt(f"stopped; the same command{without} skips finished jobs and takes up this one")
    return code, None if code else place


def _judgement(config: Mapping[str, Any]) -> Path:
    """The folder of a judgement."""
    pairs = read_pairs(str(config["a"]), str(config["b"]), build(config["rows"]))
    return judgement.locate(dict(config), pairs, build(config["judge"]))


def _show(states: Sequence[tuple[str, str, str]]) -> None:
    if all(state == "done" for _, state, _ in states):
        return
    for name, state, why in states:
        print(f"{name}: {state}" + "".join(f"\n    {line}" for line in why.splitlines()), file=sys.stderr)

"""A sweep: one process per job, each from a fully resolved configuration file, so that nothing is composed twice."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from esolab.config import resolve
from esolab.errors import BadInput
from esolab.report import show
from esolab.run import locate


def sweep(jobs: Sequence[Sequence[str]]) -> int:
    """Run jobs, given as overrides, one after the other; print their states and their results side by side.

    A job that does not fit or fails is named and the others go on. The exit code: 0 if all finished, 2 if no job's
    configuration fits (nothing is started then), 1 otherwise. Ctrl-C ends the sweep with the way to go on.
    """
    configs = [_try(overrides) for overrides in jobs]
    problems = [problem for problem in configs if isinstance(problem, BadInput)]
    if len(problems) == len(configs):
        lines = dict.fromkeys(line for problem in problems for line in str(problem).splitlines())
        raise BadInput("\n".join(lines))
    states, folders = [], []
    with tempfile.TemporaryDirectory(prefix="esolab-") as folder:
        for number, (overrides, config) in enumerate(zip(jobs, configs, strict=True)):
            name = " ".join(o for o in overrides if not o.startswith("experiments="))
            if isinstance(config, BadInput):
                states.append((name, "does not fit", str(config)))
                continue
            print(f"job {number + 1} of {len(jobs)}: {name}", file=sys.stderr, flush=True)
            file = Path(folder) / f"{number}.yaml"
            file.write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
            code = subprocess.run([sys.executable, "-m", "esolab", "--resolved", str(file)]).returncode
            if code == 130 or code == -2:
                without = " without rerun=true" if config["rerun"] else ""
                raise KeyboardInterrupt(f"stopped; the same command{without} skips finished jobs and takes up this one")
            if code == 0:
                folders.append(locate(config).folder)
            states.append((name, "done" if code == 0 else f"failed with exit code {code}", ""))
    _show(states)
    if folders:
        show(folders)
    return 0 if all(state == "done" for _, state, _ in states) else 1


def _try(overrides: Sequence[str]) -> dict[str, Any] | BadInput:
    try:
        return resolve(overrides)
    except BadInput as error:
        return error


def _show(states: Sequence[tuple[str, str, str]]) -> None:
    if all(state == "done" for _, state, _ in states):
        return
    for name, state, why in states:
        print(f"{name}: {state}" + "".join(f"\n    {line}" for line in why.splitlines()), file=sys.stderr)

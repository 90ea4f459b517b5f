"""What a sweep was to leave, and what of it is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from esolab.errors import BadInput
from esolab.report.folders import whole
from esolab.report.variants import Variant

SWEEP = 1  # the schema of sweep.json
AGAIN = "delete it, or give the sweep's command once more"


def commands(folders: Sequence[Path]) -> list[str]:
    """The commands of the sweeps that left these folders, where they say so in a sweep.json."""
    return list(dict.fromkeys(str(sweep["command"]) for _, sweep in _sweeps(folders)))


def questions(folders: Sequence[Path]) -> list[str]:
    """What the experiments of these sweeps ask; their runs may be links to those of others, which ask other things."""
    return list(dict.fromkeys(str(sweep["about"]) for _, sweep in _sweeps(folders) if sweep.get("about")))


def missing(folders: Sequence[Path], variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """What is not there, with its state: jobs of a sweep.json, runs that have begun; else seeds that others have."""
    found: list[tuple[str, str]] = []
    named: set[str] = set()
    swept = list(_sweeps(folders))
    for place, sweep in swept:
        with whole(place / "sweep.json", AGAIN):
            for job in sweep["jobs"]:
                left = Path(job["folder"]).name if job.get("folder") else None
                if left is not None:
                    named.add(left)
                if not _is_there(place, left, job["state"]):
                    found.append((job["name"], _state(job)))
    for folder in (path.parent for above in folders for path in sorted(above.glob("*/config.yaml"))):
        if not (folder / "result.json").exists() and folder.name not in named:
            found.append((folder.name, "not finished"))
    return found if swept else [*found, *_seeds(variants)]


def _sweeps(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in (folder / "sweep.json" for folder in folders):
        if file.is_file():
            with whole(file, AGAIN):
                sweep = dict(json.loads(file.read_text(encoding="utf-8")))
                if sweep.get("schema") != SWEEP:
                    raise BadInput(
                        f"report: {file} has schema {sweep.get('schema')}, this esolab reads {SWEEP}; {AGAIN}"
                    )
                _ = sweep["command"], sweep["jobs"]
            yield file.parent, sweep


def _is_there(place: Path, folder: str | None, state: str) -> bool:
    """A run that failed in a sweep may have been finished alone since; one that is done may have been deleted."""
    if folder is None:
        return state == "done"
    return any((above / folder / "result.json").exists() for above in (place, place.parent / "judge"))


def _state(job: dict[str, Any]) -> str:
    if job["state"] == "done":
        return "done, but its folder is gone"
    code = f" with exit code {job['exit']}" if job.get("exit") else ""
    said = [line for line in job.get("said") or () if line.strip()]
    return f"{job['state']}{code}" + (f": {said[-1].strip()}" if said else "")


def _seeds(variants: Sequence[Variant]) -> Iterator[tuple[str, str]]:
    """Variants with fewer seeds than another has."""
    every = sorted({seed for variant in variants for seed in variant.seeds})
    for variant in variants:
        if lacking := [str(seed) for seed in every if seed not in variant.seeds]:
            yield variant.name, f"no run with seed {', '.join(lacking)}"

"""The parent of the race: who runs when, each in a process of its own, and what comes of it. Light to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from esolab.bench.job import Job
from esolab.terminal import console, progress

Found = dict[str, Any]  # what a child wrote: see Measured; `rates` and `least` of the machine; `differences`


@dataclass
class Heat:
    """Contenders on the same work, taking turns. `found` are their measurements by contender, by round."""

    job: Job  # the work; its contender is set for each child
    contenders: list[str]  # names of CONTENDERS; esolab-k8 is esolab with 8 answers to each prompt
    rounds: int
    found: dict[str, list[Found]] = field(default_factory=dict)

    def turns(self) -> Iterator[tuple[str, Job]]:
        """Every child in its order: each round measures the machine and then starts with another contender."""
        for turn in range(self.rounds):
            first = turn % len(self.contenders)
            for name in ["machine", *self.contenders[first:], *self.contenders[:first]]:
                yield name, self.order(name)

    def order(self, name: str) -> Job:
        """What a contender is told to do."""
        who, _, k = name.partition("-k")
        return replace(self.job, contender=who, k=int(k or self.job.k))

    def rows(self) -> list[Found]:
        """A row of result.json for each contender that has run."""
        return [self.row(name) for name in self.contenders if self.found.get(name)]

    def row(self, name: str) -> Found:
        """Medians over the rounds; the ratio is that of the same round."""
        mine = self.found[name]
        return {
            "workload": self.job.workload,
            "contender": name,
            "model": self.job.model,
            "dtype": self.job.dtype,
            "lengths": self.job.lengths,
            "prompts": self.job.prompts,
            "k": self.order(name).k,
            "seconds": median(f["seconds"] for f in mine),
            "phases": {phase: median(f["phases"][phase] for f in mine) for phase in mine[0]["phases"]},
            "tokens": mine[0]["tokens"],
            "peak_rss_bytes": max(f["peak_bytes"] for f in mine),
            "ratio": self.paired(name, "esolab", "seconds"),
            "roofline": self.share(name),
        }

    def paired(self, name: str, other: str, what: str) -> float | None:
        """Median over rounds of one contender's seconds (of the step, or of a phase) over another's."""

        def seconds(found: Found) -> float:
            return float(found["seconds"] if what == "seconds" else found["phases"][what])

        pairs = list(zip(self.found.get(name, []), self.found.get(other, []), strict=False))
        ratios: list[float] = [seconds(a) / seconds(b) for a, b in pairs]
        return median(ratios) if ratios else None

    def share(self, name: str) -> float | None:
        """Least seconds over a contender's, by round; None for one that does other work or leaves a part out."""
        pairs = list(zip(self.found.get("machine", []), self.found[name], strict=False))
        if not pairs or "-k" in name or not self.found[name][0]["tokens"]["references"]:
            return None
        shares: list[float] = [sum(machine["least"].values()) / found["seconds"] for machine, found in pairs]
        return median(shares)

    def check_tokens(self) -> None:
        """Every contender did the same work: answers sampled and scored, and references where it scores any."""
        raced = {name: found for name, found in self.found.items() if found and name != "machine" and "-k" not in name}
        counts = {name: found[0]["tokens"] for name, found in raced.items()}
        for kind in ("prompts", "sampled", "scored", "references"):
            values = {name: tokens[kind] for name, tokens in counts.items() if tokens[kind] or kind != "references"}
            if len(set(values.values())) > 1:
                raise RuntimeError(f"{self.job.workload}: the contenders did not do the same work: {kind} {values}")


def run(heats: list[Heat], file: Path, head: Found, until: float = inf) -> Found:
    """Run all heats; `file` is whole after every child. A contender whose process fails is left out from there on, with
    its last words; so is one that is not done at `until`, on the clock of time.monotonic."""
    file.parent.mkdir(parents=True, exist_ok=True)
    turns = [(heat, name, job) for heat in heats for name, job in heat.turns()]
    failed: dict[str, str] = {}
    with progress() as bar:
        task = bar.add_task("bench", total=len(turns), note="")
        for heat, name, job in turns:
            label = f"{job.workload} {job.model} {job.dtype} {job.lengths}: {name}"
            bar.update(task, note=label)
            if label not in failed:
                try:
                    found = child(job, until - monotonic())
                except subprocess.SubprocessError as error:
                    failed[label] = last_words(error)
                    console.print(f"{label} failed: {failed[label]}", markup=False, highlight=False)
                else:
                    heat.found.setdefault(name, []).append(found)
                    heat.check_tokens()
                    if "seconds" in found:
                        console.print(f"{label}: {found['seconds']:.2f} s", markup=False, highlight=False)
            result = head | {"rows": rows(heats), "rates": rates(heats), "failed": failed}
            save(file, result)
            bar.advance(task)
    return result


def last_words(error: subprocess.SubprocessError) -> str:
    """Why a child gave no answer, on one line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines: list[str] = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        return lines[-1]
    return "no time was left"


def rows(heats: list[Heat]) -> list[Found]:
    """All rows, the headline first. Sampling alone is a row of its own: the one `generate` call of `plain` against
    esolab's sampling."""
    found = []
    for heat in heats:
        found += heat.rows()
        if heat.found.get("plain") and heat.found.get("esolab"):
            found.append(_sampling(heat))
    return found


def _sampling(heat: Heat) -> Found:
    row = heat.row("plain")
    seconds = row["phases"]["sample"]
    tokens = row["tokens"] | {"scored": 0, "references": 0}
    ratio = heat.paired("plain", "esolab", "sample")
    own = {"contender": "generate", "seconds": seconds, "phases": {"sample": seconds}, "tokens": tokens}
    return row | own | {"ratio": ratio, "roofline": None}


def rates(heats: list[Heat]) -> list[Found]:
    """The machine's rates (operations and bytes a second) and the least seconds by phase: medians over the rounds."""
    found = []
    for heat in heats:
        if machine := heat.found.get("machine"):
            own = {k: getattr(heat.job, k) for k in ("workload", "model", "dtype", "lengths", "prompts", "k")}
            for kind in ("rates", "least"):
                own[kind] = {name: median(m[kind][name] for m in machine) for name in machine[0][kind]}
            found.append(own)
    return found


def child(job: Job, seconds: float = inf) -> Found:
    """Measure in a process of its own. Raises CalledProcessError, or TimeoutExpired after so many seconds."""
    with TemporaryDirectory() as scratch:
        order, answer = Path(scratch) / "job.json", Path(scratch) / "found.json"
        job.save(order)
        command = [sys.executable, "-m", "esolab.bench", "--child", str(order), str(answer)]
        threads = {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
        limit = None if seconds == inf else max(seconds, 0)
        subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **threads}, timeout=limit
        )
        found: Found = json.loads(answer.read_text(encoding="utf-8"))
    return found


def save(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(draft, path)

"""What a report is made of, read from folders: finished runs, and judgements of their answers."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from esolab.errors import BadInput
from esolab.results import SCHEMA, read_lines
from esolab.rewards.composite import TAKEN

Prompt = tuple[str, str, str]  # id, prompt, reference
WHERE = ("result.json", "*/result.json", "judge/*/result.json")  # below a folder that is named


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its result.json."""

    folder: Path
    result: dict[str, Any]

    @property
    def same(self) -> tuple[Any, ...]:
        """What two runs must share to be compared as methods."""
        return tuple(self.result[key] for key in ("model", "data", "protocol", "seed", "setting"))

    @property
    def words(self) -> list[str]:
        """The overrides in the folder's name."""
        return re.split(r",(?=[\w.-]+=)", self.folder.name.rpartition("-")[0])

    def answers(self, data: str, decoding: str) -> dict[Prompt, dict[str, Any]]:
        """The lines of predictions.jsonl by prompt, in their order."""
        file = self.folder / "predictions.jsonl"
        with whole(file):
            lines = [r for r in read_lines(file) if (r["data"], r["decoding"]) == (data, decoding)]
            return {(r["id"], r["prompt"], r["reference"]): r for r in lines}

    def scores(self, data: str, decoding: str, metric: str) -> dict[Prompt, float]:
        """One metric of every test example, in points (x100)."""
        answers = self.answers(data, decoding)
        with whole(self.folder / "predictions.jsonl"):
            return {prompt: 100 * row[metric] for prompt, row in answers.items()}

    def points(self, metric: str, known: dict[Prompt, Prompt]) -> dict[tuple[str, str], dict[Prompt, float]]:
        """One metric of every answer, in points (x100), by corpus and decoding; the file is read once.

        `known` collects the prompts, so that runs that share them hold them once."""
        found: dict[tuple[str, str], dict[Prompt, float]] = {}
        with whole(self.folder / "predictions.jsonl"):
            for row in read_lines(self.folder / "predictions.jsonl"):
                data, decoding = row["data"], row["decoding"]
                if decoding != "preference":
                    prompt = (row["id"], row["prompt"], row["reference"])
                    found.setdefault((data, decoding), {})[known.setdefault(prompt, prompt)] = 100 * row[metric]
        return found

    def dev_loss(self) -> list[float]:
        """Nats per token on the dev references after each epoch."""
        with whole(self.folder / "metrics.csv"):
            return [float(row["dev/loss"]) for row in self._metrics() if row.get("dev/loss")]

    def step_seconds(self) -> dict[str, float]:
        """Median seconds by phase over the steps that sampled, over all steps where none did."""
        with whole(self.folder / "metrics.csv"):
            timed = [row for row in self._metrics() if row.get("seconds/update")]
            steps = [row for row in timed if row.get("seconds/sample")] or timed
            phases = [head for head in (steps[0] if steps else ()) if head.startswith("seconds/")]
            columns = {phase: [float(row[phase]) for row in steps if row[phase]] for phase in phases}
            return {phase.removeprefix("seconds/"): median(column) for phase, column in columns.items() if column}

    def reward_parts(self) -> dict[str, float]:
        """The mean of each part of a composite reward over the steps of the last epoch that sampled, empty if none."""
        with whole(self.folder / "metrics.csv"):
            rows = self._metrics()
            heads = [head for head in (rows[0] if rows else ()) if head.startswith("reward/")]
            names = [name for name in (head.removeprefix("reward/") for head in heads) if _is_part(name)]
            sampled = [row for row in rows if any(row[f"reward/{name}"] for name in names)]
            last = [row for row in sampled if row["epoch"] == sampled[-1]["epoch"]]
            values = {name: [float(row[f"reward/{name}"] or "nan") for row in last] for name in names}
            finite = {name: [x for x in column if math.isfinite(x)] for name, column in values.items()}
            return {name: fmean(column) for name, column in finite.items() if column}

    def _metrics(self) -> list[dict[str, str]]:
        with (self.folder / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@dataclass(frozen=True)
class Judgement:
    """A finished judgement: its folder and its result.json (see esolab.judge)."""

    folder: Path
    result: dict[str, Any]

    @property
    def question(self) -> tuple[str, ...]:
        """What judgements must share to be compared: data, decoding, what a stands against, judge, orders, and the
        identity of the judge with its settings (of older judgements, none)."""
        data, decoding, b, judge, orders = (str(self.result[k]) for k in ("data", "decoding", "b", "judge", "orders"))
        return data, decoding, Path(b).name, judge, orders, str(self.result.get("how", ""))

    @property
    def a(self) -> str:
        """The name of the folder whose answers are judged. It has the run's identity, wherever the folder now is."""
        return Path(self.result["a"]).name

    def verdicts(self) -> dict[str, str]:
        """Who won by the prompt's id: a, b, tie or invalid."""
        with whole(self.folder / "judgements.jsonl", JUDGE_AGAIN):
            return {r["id"]: r["verdict"] for r in read_lines(self.folder / "judgements.jsonl")}

    def rewards(self) -> dict[str, dict[str, float | None]]:
        """The rewards of both sides' answers (`a`, `b`) by the prompt's id; empty where the judge is no reward."""
        file = self.folder / "rewards.jsonl"
        with whole(file, JUDGE_AGAIN):
            return {r["id"]: {"a": r["a"], "b": r["b"]} for r in read_lines(file)} if file.exists() else {}


RUN_AGAIN = "repeat its run with rerun=true"
JUDGE_AGAIN = "judge once more with the same command"


@contextmanager
def whole(file: Path, again: str = RUN_AGAIN) -> Iterator[None]:
    """Say it of this file when it turns out to be missing or damaged."""
    try:
        yield
    except BadInput:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BadInput(f"report: {file} is damaged ({why}); {again}, or name the other folders") from error


def read(folders: Sequence[Path]) -> tuple[list[Run], list[Judgement]]:
    """The finished runs and judgements in these folders, one level below, and in a folder `judge` of theirs.

    Raises:
        BadInput: there is none, or one is damaged or of another schema.
    """
    found = (file for folder in folders for where in WHERE for file in sorted(folder.glob(where)))
    files = list({file.resolve(): file for file in found}.values())  # experiments may share a run by a link
    if not files:
        raise BadInput(f"report: no finished run or judgement (result.json) in {', '.join(map(str, folders))}")
    runs: list[Run] = []
    judgements: list[Judgement] = []
    for file in files:
        with whole(file):
            result = dict(json.loads(file.read_text(encoding="utf-8")))
            if result.get("schema") != SCHEMA:
                raise BadInput(f"report: {file.parent} has schema {result.get('schema')}, this esolab reads {SCHEMA}")
        if "judge" in result:
            with whole(file, JUDGE_AGAIN):
                judgements.append(Judgement(file.parent, result))
                _ = judgements[-1].question, judgements[-1].a
        else:
            with whole(file):
                runs.append(Run(file.parent, result))
                _ = runs[-1].same, result["method"], result["scores"]  # what every table takes from it
    runs.sort(key=lambda run: run.result["method"] != "sft")  # what the others are compared with comes first
    return runs, judgements


def label(runs: Sequence[Run]) -> dict[Path, str]:
    """A short name for each run: its method, and the overrides that tell it from others of the method."""
    names = {}
    for run in runs:
        method = run.result["method"]
        common = set.intersection(*(set(other.words) for other in runs if other.result["method"] == method))
        rest = [word for word in run.words if word not in common and not word.startswith("method=")]
        names[run.folder] = " ".join([method.upper(), *rest])
    alike = Counter(names.values())  # a folder's name holds 60 characters of the overrides
    return {f: name if alike[name] == 1 else f"{name} {f.name.rpartition('-')[2]}" for f, name in names.items()}


def answered(scores: dict[str, Any], data: str) -> dict[str, Any]:
    """The scores of a run's answers by decoding; of a reward model, which gives none, nothing."""
    return {how: row for how, row in scores.get(data, {}).items() if how != "preference"}


def _is_part(name: str) -> bool:
    """Whether reward/<name> of metrics.csv is a part's: the others are taken, or of a temperature, as 0_t0.5."""
    return name.isidentifier() and name not in TAKEN

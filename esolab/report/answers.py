"""The answers that the page holds: the same prompts' by every variant, of one seed, those that tell most first."""

from __future__ import annotations

import base64
import gzip
import json
from collections import Counter
from typing import Any

from esolab.report.cases import drawn
from esolab.report.figures import datasets, decodings
from esolab.report.findings import NAMES, Findings
from esolab.report.folders import Prompt, Run, whole
from esolab.report.styles import Style
from esolab.results import read_lines

MOST_APART, AT_RANDOM = 300, 100  # prompts of a corpus
BYTES = 3_000_000  # of all answers in the page, packed
Answers = dict[tuple[str, str], dict[Prompt, tuple[str, float]]]  # by data and decoding: text and points (x100)


def packed(findings: Findings, looks: dict[str, Style]) -> str:
    """The answers as JSON, packed by gzip and written as base64.

    Fewer prompts are taken, in equal shares, until they fit.

    Raises:
        BadInput: a predictions.jsonl is missing or damaged.
    """
    seed = shown_seed(findings)
    own = [next((r for r in v.runs if r.result["seed"] == seed), None) for v in findings.variants]
    read = [None if run is None else _answers(run, findings.metric) for run in own]
    variants = [{"name": v.name, "colour": looks[v.name].colour} for v in findings.variants]
    apart, random = MOST_APART, AT_RANDOM
    while True:
        corpora = [_corpus(findings, data, read, apart, random) for data in datasets(findings)]
        held = {"seed": seed, "metric": NAMES[findings.metric], "variants": variants, "corpora": corpora}
        text = json.dumps(held, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        made = base64.b64encode(gzip.compress(text, 6, mtime=0)).decode()
        if len(made) <= BYTES or apart + random <= 2:
            return made
        share = 0.9 * BYTES / len(made)
        apart, random = max(1, int(apart * share)), max(1, int(random * share))


def shown_seed(findings: Findings) -> int | None:
    """The seed that most variants have, the lowest of equals; None without runs."""
    counts = Counter(run.result["seed"] for variant in findings.variants for run in variant.runs)
    return min(counts, key=lambda seed: (-counts[seed], seed), default=None)


def _answers(run: Run, metric: str) -> Answers:
    found: Answers = {}
    file = run.folder / "predictions.jsonl"
    with whole(file):
        for row in read_lines(file):
            if row["decoding"] != "preference":
                prompt = (row["id"], row["prompt"], row["reference"])
                answers = found.setdefault((row["data"], row["decoding"]), {})
                answers[prompt] = (row["prediction"], 100 * row[metric])
    return found


def _corpus(findings: Findings, data: str, read: list[Answers | None], apart: int, random: int) -> dict[str, Any]:
    """The prompts of a corpus that are taken, the most apart first, and what each variant answered, or null."""
    how, hows = findings.headline[data], decodings(findings, data)
    points: dict[Prompt, list[float]] = {}
    for answers in read:
        for prompt, (_, score) in (answers or {}).get((data, how), {}).items():
            points.setdefault(prompt, []).append(score)
    ranked = sorted(points, key=lambda prompt: min(points[prompt]) - max(points[prompt]))
    rest = sorted(ranked[apart:], key=lambda prompt: drawn(0, prompt))
    rows = [
        {
            "id": prompt[0],
            "prompt": prompt[1],
            "reference": prompt[2],
            "answers": {each: [_answer(answers, data, each, prompt) for answers in read] for each in hows},
        }
        for prompt in [*ranked[:apart], *rest[:random]]
    ]
    return {"name": data, "decodings": hows, "headline": how, "prompts": len(points), "apart": apart, "rows": rows}


def _answer(answers: Answers | None, data: str, how: str, prompt: Prompt) -> tuple[str, float] | None:
    found = (answers or {}).get((data, how), {}).get(prompt)
    return None if found is None else (found[0], round(found[1], 2))

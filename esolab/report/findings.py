"""What the runs of an experiment say together: scores over seeds, comparisons, and both in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from esolab.report.contrasts import Contrast as Contrast
from esolab.report.contrasts import base_of, contrasts, headline
from esolab.report.folders import Judgement, Run, read, whole
from esolab.report.sweeps import commands, missing, questions
from esolab.report.variants import Variant as Variant
from esolab.report.variants import configuration, variants
from esolab.stats import mean_and_deviation, sentence

NAMES = {
    "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "gleu": "GLEU", "gleu_char": "GLEU (characters)",
    "length": "words", "distinct2": "distinct-2",
}  # fmt: skip
SIDES = ("above", "not distinguishable from", "below")
STARS = "* p < .05, ** p < .01, *** p < .001, after Holm's correction over all comparisons of the data set"


@dataclass(frozen=True)
class Score:
    """How a variant's answers to a corpus score under one decoding.

    `values` are by metric the mean over seeds and its standard deviation (None of one seed), as result.json has them:
    ROUGE and GLEU in points (x100), length in words, distinct2 in [0, 1]. `prompts` are those of a run.
    """

    variant: Variant
    data: str
    decoding: str
    prompts: int
    seeds: int
    values: dict[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Findings:
    """What a report says, before it is a page, a table or a figure.

    `about` is the question of the experiment; `commands` made the runs; `scales` are those chosen; `missing` names what
    is not there, with its state; `verdicts` are sentences, the most important first; `order` has by corpus the variants
    from the highest score down, with which neighbours are distinguishable, in words; `facts` are versions, device,
    threads, git commits, dates and seeds; `headline` is by corpus the decoding that the words are about.
    """

    experiment: str
    about: str | None
    commands: list[str]
    scales: list[str]
    variants: list[Variant]
    scores: list[Score]
    contrasts: list[Contrast]
    missing: list[tuple[str, str]]
    verdicts: list[str]
    order: dict[str, str]
    facts: dict[str, list[str]]
    headline: dict[str, str] = field(default_factory=dict)
    metric: str = "rougeL"
    judgements: list[Judgement] = field(default_factory=list)

    def score(self, variant: Variant, data: str, decoding: str) -> Score | None:
        """The score of a variant on a corpus under a decoding, if it has one."""
        return next((s for s in self.scores if (s.variant, s.data, s.decoding) == (variant, data, decoding)), None)

    def against_base(self, variant: Variant, data: str, decoding: str) -> Contrast | None:
        """The variant less its base under one decoding; None of the base itself."""
        found = (c for c in self.contrasts if c.kind == "base" and c.a is variant)
        return next((c for c in found if (c.data, c.decoding_a) == (data, decoding)), None)


def findings(folders: Sequence[Path], metric: str = "rougeL") -> Findings:
    """What the finished runs in these folders, or one level below, say together.

    Raises:
        BadInput: there is none, or one is damaged.
    """
    runs, judgements = read(folders)
    above = [folder for folder in folders if not (folder / "result.json").exists()]
    experiments = dict.fromkeys(str(run.result.get("experiment", "single")) for run in runs)
    found = variants(runs)
    configs = [configuration(variant.runs[0]) for variant in found]
    scores = list(_scores(found))
    compared = contrasts([variant for variant in found if any(s.variant is variant for s in scores)], metric)
    heads = {s.data: headline([t.decoding for t in scores if t.data == s.data]) for s in scores}
    order = {data: _order(data, how, scores, compared, metric) for data, how in heads.items()}
    abouts = [*questions(folders), *(str(config["about"]) for config in configs if config.get("about"))]
    return Findings(
        experiment=above[0].resolve().name if len(folders) == len(above) == 1 else ", ".join(experiments),
        about=abouts[0] if abouts else None,
        commands=commands(folders),
        scales=_all(config.get("choices", {}).get("scale") for config in configs),
        variants=found,
        scores=scores,
        contrasts=compared,
        missing=missing(folders, found),
        verdicts=list(_verdicts(heads, order, compared, metric)),
        order=order,
        facts=_facts(runs),
        headline=heads,
        metric=metric,
        judgements=judgements,
    )


def _scores(found: Sequence[Variant]) -> Iterator[Score]:
    for data in dict.fromkeys(data for v in found for run in v.runs for data in run.result["scores"]):
        for variant in found:
            for how in variant.decodings(data):
                tables = [run.result["scores"].get(data, {}) for run in variant.runs]
                rows = [table[how] for table in tables if how in table]
                with whole(variant.runs[0].folder / "result.json"):
                    keys = [key for key in NAMES if all(key in row for row in rows)]
                    values = {key: mean_and_deviation([row[key] for row in rows]) for key in keys}
                    yield Score(variant, data, how, min(row["n"] for row in rows), len(rows), values)


def _verdicts(heads: dict[str, str], order: dict[str, str], compared: Sequence[Contrast], metric: str) -> Iterator[str]:
    """Sentences: each variant against the base, the order, then what is left of it under other decodings."""
    for data, how in heads.items():
        own = [c for c in compared if c.data == data]
        bases = [c for c in own if c.kind == "base" and c.decoding_a == how]
        for c in sorted(bases, key=lambda c: -c.result.estimate):
            yield f"{data}, {how}: {sentence(c.result, c.a.short, c.b.short, NAMES[metric])}"
        if len(bases) > 1:
            yield order[data]
        yield from _control(data, [c for c in own if c.kind == "decoding"])
        if best := [c for c in own if c.kind == "best"]:
            said = "; ".join(f"{c.a.short} at {c.decoding_a} is {_beside(c)}" for c in best)
            yield f"{data}, each at its best decoding, which was picked on the test: {said}."
        if own and all(c.result.seeds == 1 for c in own):
            yield f"{data}: one seed each; how far another would be from it nobody has measured."


def _control(data: str, own: Sequence[Contrast]) -> Iterator[str]:
    """Of each variant one sentence: its headline against what the base reaches by decoding alone."""
    for a in dict.fromkeys(c.a for c in own):
        mine = [c for c in own if c.a is a]
        hows: dict[str, list[str]] = {}
        for c in mine:
            hows.setdefault(_side(c), []).append(c.decoding_b)
        said = "; ".join(f"{side} {mine[0].b.short} at {', '.join(hows[side])}" for side in SIDES if side in hows)
        yield f"{data}, against decoding alone: {a.short} at {mine[0].decoding_a} is {said}."


def _side(c: Contrast) -> str:
    return SIDES[1] if not c.result.distinguishable else SIDES[0] if c.result.estimate > 0 else SIDES[2]


def _beside(c: Contrast) -> str:
    side = "above" if c.result.estimate >= 0 else "below"
    sure = "distinguishable" if c.result.distinguishable else "not distinguishable"
    return f"{abs(c.result.estimate):.2f} points {side} {c.b.short} at {c.decoding_b} ({sure})"


def _order(data: str, how: str, scores: Sequence[Score], compared: Sequence[Contrast], metric: str) -> str:
    """The variants from the highest mean down, those with other models or settings apart."""
    there = [s for s in scores if (s.data, s.decoding) == (data, how) and metric in s.values]
    groups: dict[Variant, list[Score]] = {}
    for s in there:
        groups.setdefault(base_of(s.variant, [t.variant for t in there]) or s.variant, []).append(s)
    own = [c for c in compared if (c.data, c.decoding_a, c.decoding_b) == (data, how, how)]
    sure = {frozenset((c.a, c.b)) for c in own if c.result.distinguishable}
    lines = []
    for group in groups.values():
        ranked = sorted(group, key=lambda s: -s.values[metric][0])
        pairs = [(above.variant, below.variant) for above, below in pairwise(ranked)]
        alike = [f"{a.short} and {b.short}" for a, b in pairs if frozenset((a, b)) not in sure]
        said = f"not distinguishable: {', '.join(alike)}" if alike else "all distinguishable"
        lines.append(", ".join(_placed(s, metric) for s in ranked) + (f" (of neighbours, {said})" if pairs else ""))
    return f"{data}, {how}, from the highest {NAMES[metric]} down: {'; '.join(lines)}."


def _placed(score: Score, metric: str) -> str:
    return f"{score.variant.short} {score.values[metric][0]:.2f}"


def _facts(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Where the runs come from: of each fact all values that they have."""
    results = [run.result for run in runs]
    libraries = dict.fromkeys(name for result in results for name in result.get("versions", {}))
    days = sorted(_day(run.folder / "result.json") for run in runs)
    facts = {
        "seeds": _all(sorted({result["seed"] for result in results})),
        "dates": list(dict.fromkeys((days[0], days[-1]))) if days else [],
        "device": _all(result.get("device") for result in results),
        "threads": _all(result.get("threads") for result in results),
        "git_commit": _all(result.get("git_commit") for result in results),
        **{name: _all(result.get("versions", {}).get(name) for result in results) for name in libraries},
    }
    return {name: values for name, values in facts.items() if values}


def _day(file: Path) -> str:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%d")


def _all(values: Any) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))

"""Which variants are compared with which, and how sure the differences are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from esolab.report.folders import Prompt, Run
from esolab.report.variants import Variant
from esolab.stats import Comparison, compare

HEADLINE = "sample"
LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
Kind = Literal["base", "pair", "decoding", "best"]
Place = tuple[str, str]  # data, decoding
Question = tuple[Variant, Variant, str, str]  # a, b, and under what decoding each


@dataclass(frozen=True)
class Contrast:
    """One variant less another on the same seeds and prompts of a corpus, in points of the metric (x100).

    `kind` says why: a variant against the base under one decoding, two variants under the headline decoding, or the
    decoding control: the headline of a variant against the base under another decoding, or each at its best one, which
    was picked on the test.
    """

    a: Variant
    b: Variant
    data: str
    decoding_a: str
    decoding_b: str
    metric: str
    result: Comparison
    kind: Kind = "base"

    @property
    def stars(self) -> str:
        """* below .05, ** below .01, *** below .001 after Holm's correction; none where the interval has 0."""
        if not self.result.distinguishable:
            return ""
        return next((stars for level, stars in LEVELS if self.result.adjusted < level), "")


@dataclass(frozen=True)
class Grid:
    """The scores of a variant's answers to a corpus under one decoding: points [S, N], by run and by prompt."""

    runs: tuple[Run, ...]
    prompts: dict[Prompt, int]
    points: NDArray[np.float64]


Grids = dict[Place, Grid]


def grids(variant: Variant, metric: str, known: dict[Prompt, Prompt]) -> Grids:
    """The scores of a variant by corpus and decoding, each file read once, on the prompts that all its runs answered.

    `known` holds each prompt once for all that share it.
    """
    found: dict[Place, list[tuple[Run, dict[Prompt, float]]]] = {}
    for run in variant.runs:
        for place, points in run.points(metric, known).items():
            found.setdefault(place, []).append((run, points))
    made = {}
    for place, columns in found.items():
        shared = [prompt for prompt in columns[0][1] if all(prompt in points for _, points in columns)]
        table = np.array([[points[prompt] for prompt in shared] for _, points in columns])
        made[place] = Grid(tuple(run for run, _ in columns), {p: n for n, p in enumerate(shared)}, table)
    return made


def difference(a: Grid, b: Grid) -> NDArray[np.float64] | None:
    """Points [S, N] of a less those of b, where both have the seed and the prompt; None where fewer than 2 prompts, or
    no seed, are shared."""
    of = {run.same: row for row, run in enumerate(b.runs)}
    rows = [(row, of[run.same]) for row, run in enumerate(a.runs) if run.same in of]
    prompts = [(n, b.prompts[prompt]) for prompt, n in a.prompts.items() if prompt in b.prompts]
    if not rows or len(prompts) < 2:
        return None
    (i, k), (j, m) = zip(*rows, strict=True), zip(*prompts, strict=True)
    return a.points[np.ix_(i, j)] - b.points[np.ix_(k, m)]


def base_of(variant: Variant, of: Sequence[Variant]) -> Variant | None:
    """What a variant is compared with: the first SFT with the same model, data and settings, else the first that has
    them; None where that is the variant itself."""
    same = {run.same for run in variant.runs}
    comparable = [other for other in of if any(run.same in same for run in other.runs)]
    base = next((other for other in comparable if other.method == "sft"), comparable[0])
    return None if base is variant else base


def contrasts(of: Sequence[Variant], metric: str) -> list[Contrast]:
    """All comparisons, with Holm's correction over those of one corpus; one that is asked twice is tested once."""
    known: dict[Prompt, Prompt] = {}
    scores = {variant: grids(variant, metric, known) for variant in of}
    made = []
    for data in dict.fromkeys(data for own in scores.values() for data, _ in own):
        asked = list(_questions(data, of, scores))
        gaps = {q: difference(scores[q[0]][data, q[2]], scores[q[1]][data, q[3]]) for _, q in asked}
        found = {question: gap for question, gap in gaps.items() if gap is not None}
        results = dict(zip(found, compare(list(found.values())) if found else [], strict=True))
        for kind, question in asked:
            if question in results:
                a, b, how_a, how_b = question
                made.append(Contrast(a, b, data, how_a, how_b, metric, results[question], kind))
    return made


def _questions(data: str, of: Sequence[Variant], scores: dict[Variant, Grids]) -> Iterator[tuple[Kind, Question]]:
    hows = {variant: [how for place, how in scores[variant] if place == data] for variant in of}
    there = [variant for variant in of if hows[variant]]
    head = headline([how for variant in there for how in hows[variant]])
    base = {variant: found for variant in there if (found := base_of(variant, there)) is not None}
    for a, b in base.items():
        yield from (("base", (a, b, how, how)) for how in hows[a] if how in hows[b])
    for b, a in combinations([variant for variant in there if head in hows[variant]], 2):
        if base.get(a) is not b:
            yield "pair", (a, b, head, head)
    for a, b in base.items():
        yield from (("decoding", (a, b, head, how)) for how in hows[b] if how != head and head in hows[a])
        if len(hows[a]) > 1 or len(hows[b]) > 1:
            yield "best", (a, b, _best(data, scores[a]), _best(data, scores[b]))


def headline(decodings: Sequence[str]) -> str:
    """`sample`, or the first decoding where none has that name."""
    return HEADLINE if HEADLINE in decodings else decodings[0]


def _best(data: str, found: Grids) -> str:
    means = {how: float(grid.points.mean()) for (place, how), grid in found.items() if place == data}
    return max(means, key=lambda how: means[how])

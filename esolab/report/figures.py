"""What is drawn of runs, as plain data: static.py and page.py draw the same figures from it.

Each series is a variant: its mean over seeds and one standard deviation to either side. A figure that the runs have no
data for is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from esolab.identity import flat
from esolab.report.contrasts import headline
from esolab.report.curves import (
    Curve,
    Point,
    by_epoch,
    by_step,
    last_epoch,
    measured,
    over_seeds,
    stretch_for,
)
from esolab.report.findings import NAMES, Findings, Score, Variant
from esolab.report.variants import configuration

SPREAD = "Means over seeds; bars and bands are one standard deviation to either side."
FEW = 12  # points of a line that are marked one by one


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour: `y` at each `x`, which is a number or the name of a group, and what lies around it.

    `variant` is the name of the one whose looks it has. `low` and `high` are `y` where one seed has no spread and
    empty where none is drawn; `labels` say more of a point.
    """

    name: str
    variant: str
    x: list[Any]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """What a figure shows. `groups` has a name on the x axis and the series side by side above it, `points` numbers on
    both axes, `lines` joins them."""

    name: str  # of its files
    title: str
    x_label: str
    y_label: str
    kind: Literal["groups", "lines", "points"]
    series: list[Series]
    note: str
    log_x: bool = False


Measured = dict[str, list[dict[str, list[Point]]]]  # by a variant's name, the columns of metrics.csv of each seed


def figures(findings: Findings) -> list[Figure]:
    """All figures that the runs have data for, in the order of the page."""
    read = {variant.name: [measured(run) for run in variant.runs] for variant in findings.variants}
    made = [*_scores(findings), *_training(findings, read), *_sweeps(findings), *_costs(findings)]
    return [figure for figure in made if any(len(series.y) for series in figure.series)]


def ticks(figure: Figure) -> list[float]:
    """Where the x axis is marked: at the numbers that were measured, where they are few; empty for marks at will."""
    found = sorted({float(x) for series in figure.series for x in series.x}) if figure.kind == "lines" else []
    return found if len(found) <= FEW else []


def reach(figure: Figure) -> list[float]:
    """The lowest and the highest that is drawn, with some air."""
    found = [value for series in figure.series for value in (*series.y, *series.low, *series.high)]
    air = 0.08 * (max(found) - min(found)) or 1.0
    return [min(found) - air, max(found) + air]


def datasets(findings: Findings) -> list[str]:
    """The data sets that were answered, in their order."""
    return list(dict.fromkeys(score.data for score in findings.scores))


def decodings(findings: Findings, data: str) -> list[str]:
    """How a data set was answered, in the order of the runs."""
    return list(dict.fromkeys(score.decoding for score in findings.scores if score.data == data))


def _scores(findings: Findings) -> Iterator[Figure]:
    for data in datasets(findings):
        hows = decodings(findings, data)
        series = []
        for variant in findings.variants:
            rows = {s.decoding: s for s in findings.scores if s.variant is variant and s.data == data}
            series.append(_spread(variant.name, findings.metric, [(how, rows[how]) for how in hows if how in rows]))
        title = f"Scores on {data} by decoding"
        yield Figure(f"scores-{data}", title, "decoding", _axis(findings), "groups", series, SPREAD)


def _spread(name: str, metric: str, rows: list[tuple[Any, Score]], label: str | None = None) -> Series:
    """The metric at each x, and its standard deviation over seeds, nothing where there is one seed."""
    found = [(x, *score.values[metric]) for x, score in rows if metric in score.values]
    low, high = ([mean + sign * (sd or 0.0) for _, mean, sd in found] for sign in (-1, 1))
    return Series(label or name, name, [x for x, _, _ in found], [mean for _, mean, _ in found], low, high)


def _axis(findings: Findings) -> str:
    return f"{NAMES[findings.metric]} (x100)"


def _training(findings: Findings, read: Measured) -> Iterator[Figure]:
    """Learning curves, and what the policy's own answers were like while it learned from them."""
    heads = list(dict.fromkeys(head for seeds in read.values() for columns in seeds for head in columns))
    dev = [h.split("/")[1] for h in heads if h.startswith("dev/") and h.endswith("/rougeL")]
    how = headline(dev or [""])
    steps = max((r.result["train"].get("steps", 0) for v in findings.variants for r in v.runs), default=0)
    stretch = stretch_for(steps)
    every = "" if stretch == 1 else f" Each point is the mean of {stretch} steps."

    def lines(
        name: str, title: str, x: str, y: str, head: str, of: Callable[[list[Point]], dict[float, float]]
    ) -> Figure:
        series = [
            _line(v.name, over_seeds([of(c[head]) for c in read[v.name] if head in c])) for v in findings.variants
        ]
        return Figure(name, title, x, y, "lines", series, SPREAD + (every if x == "step" else ""))

    def by(points: list[Point]) -> dict[float, float]:
        return by_step(points, stretch)

    yield lines("dev-loss", "Loss on dev references", "epochs", "nats per token", "dev/loss", by_epoch)
    title = f"ROUGE-L of dev answers, {how}"
    yield lines("dev-score", title, "epochs", "ROUGE-L (x100)", f"dev/{how}/rougeL", by_epoch)
    yield lines("reward", "Reward of sampled answers", "step", "mean reward", "reward/mean", by)
    yield lines("entropy", "Entropy of sampling", "step", "nats per token", "entropy", by)
    yield _temperatures(findings, read)
    yield _lengths(findings, read, stretch_for(5 * steps))


def _line(name: str, curve: Curve) -> Series:
    return Series(name, name, curve.x, curve.y, curve.low, curve.high)


def _temperatures(findings: Findings, read: Measured) -> Figure:
    series = []
    for variant in findings.variants:
        seeds = [{t: last_epoch(points) for t, points in _by_temperature(c).items()} for c in read[variant.name]]
        series.append(_line(variant.name, over_seeds([seed for seed in seeds if seed])))
    note = f"{SPREAD} Over the steps of the last epoch that sampled."
    title = "Reward by temperature of the sample"
    return Figure("temperature", title, "temperature", "mean reward", "lines", series, note)


def _by_temperature(columns: dict[str, list[Point]]) -> dict[float, list[Point]]:
    """The columns reward/<place>_t<temperature>, those of one temperature together."""
    found: dict[float, list[Point]] = {}
    for head, points in columns.items():
        place, _, temperature = head.removeprefix("reward/").partition("_t")
        if head.startswith("reward/") and place.isdecimal():
            found.setdefault(float(temperature), []).extend(points)
    return {t: sorted(points, key=lambda p: p.step) for t, points in found.items()}


def _lengths(findings: Findings, read: Measured, stretch: int) -> Figure:
    series = []
    for variant in findings.variants:
        seeds = [c for c in read[variant.name] if "length/mean" in c and "reward/mean" in c]
        lengths = over_seeds([by_step(c["length/mean"], stretch) for c in seeds])
        rewards = over_seeds([by_step(c["reward/mean"], stretch) for c in seeds])
        at = dict(zip(rewards.x, rewards.y, strict=True))
        found = [(x, at[step], f"step {step:g}") for step, x in zip(lengths.x, lengths.y, strict=True) if step in at]
        series.append(_points(variant.name, found))
    note = "Means over seeds. A reward that rises only along with the length of the answers is paid for length."
    title = "Length against reward"
    return Figure("length-reward", title, "tokens of a sampled answer", "mean reward", "points", series, note)


def _points(name: str, found: list[tuple[float, float, str]]) -> Series:
    return Series(
        name, name, [x for x, _, _ in found], [y for _, y, _ in found], labels=[label for _, _, label in found]
    )


def _costs(findings: Findings) -> Iterator[Figure]:
    """What a score costs, in tokens and in seconds of training."""
    for data in datasets(findings):
        how = findings.headline[data]
        rows = [s for s in findings.scores if (s.data, s.decoding) == (data, how)]
        for name, label, of in (
            ("tokens", "tokens through the network in training, forward and backward", _tokens),
            ("seconds", "seconds of training steps", _seconds),
        ):
            series = [
                _spread(s.variant.name, findings.metric, [(cost, s)])
                for s in rows
                if (cost := of(s.variant)) is not None
            ]
            title = f"Score on {data} by cost in {name}"
            note = f"Answers at {how}; {SPREAD[0].lower()}{SPREAD[1:]}"
            yield Figure(f"cost-{name}-{data}", title, label, _axis(findings), "points", series, note)


def _tokens(variant: Variant) -> float | None:
    found = [run.result["train"] for run in variant.runs if "forward_tokens" in run.result["train"]]
    return fmean(train["forward_tokens"] + train["backward_tokens"] for train in found) if found else None


def _seconds(variant: Variant) -> float | None:
    found = [sum(run.result["timing"]["phases"].values()) for run in variant.runs if "timing" in run.result]
    return fmean(found) if found else None


SWEPT = (
    ("k", "sampling.k", "answers per prompt, k", False),
    ("lambda", "method.lam", "weight of the method's own loss, lambda", True),
)  # name of the figure, key of config.yaml, label of the axis, whether on a log scale


def _sweeps(findings: Findings) -> Iterator[Figure]:
    """A figure for each swept value that variants of one method differ in, a series for all that differ in nothing
    else."""
    leaves = {variant.name: dict(flat(configuration(variant.runs[0]))) for variant in findings.variants}
    for data in datasets(findings):
        how = findings.headline[data]
        there = [s for s in findings.scores if (s.data, s.decoding) == (data, how)]
        for name, key, label, log in SWEPT:
            groups: dict[str, list[tuple[Any, Score]]] = {}
            for row in there:
                if key in (own := leaves[row.variant.name]):
                    groups.setdefault(_but_for(row.variant, own, key), []).append((own[key], row))
            swept = {own: sorted(group, key=lambda item: item[0]) for own, group in groups.items() if len(group) > 1}
            series = [_spread(rows[0][1].variant.name, findings.metric, rows, own) for own, rows in swept.items()]
            title = f"Score on {data} by {name}"
            note = f"Answers at {how}. {SPREAD}"
            log_x = log and all(x > 0 for one in series for x in one.x)
            yield Figure(f"{name}-{data}", title, label, _axis(findings), "lines", series, note, log_x)


def _but_for(variant: Variant, leaves: dict[str, Any], key: str) -> str:
    """What variants of one series share: the words of their names without that of the swept value."""
    short = key.rpartition(".")[2]
    words = [word for word in variant.name.split() if not word.startswith((f"{short}=", f"{key}="))]
    return " ".join(words)

"""Numbers over training, read from metrics.csv and brought together over seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

from esolab.report.folders import Run, whole

DRAWN = ("dev/", "reward/", "length/mean", "entropy")  # how the columns begin; the others are not worth their parsing
POINTS = 150  # of a curve over steps that are drawn, each the mean of a stretch


class Point(NamedTuple):
    """One number of a run: the optimizer step and the epoch (from 0) that it was measured in, and its value."""

    step: int
    epoch: int
    value: float


@dataclass(frozen=True)
class Curve:
    """Means over seeds at each `x`, and one standard deviation below and above; without seeds to spread, the mean."""

    x: list[float]
    y: list[float]
    low: list[float]
    high: list[float]


def measured(run: Run) -> dict[str, list[Point]]:
    """The finite numbers of the columns of metrics.csv that are drawn, in the order of their steps.

    Raises:
        BadInput: the file is missing or damaged.
    """
    path = run.folder / "metrics.csv"
    with whole(path), path.open(newline="") as file:
        rows = csv.reader(file)
        heads = next(rows, [])
        step, epoch = heads.index("step"), heads.index("epoch")
        found: dict[int, list[Point]] = {i: [] for i, head in enumerate(heads) if head.startswith(DRAWN)}
        for row in rows:
            if row[step] and row[epoch]:
                at, during = int(row[step]), int(float(row[epoch]))
                for i, points in found.items():
                    if row[i] and math.isfinite(value := float(row[i])):
                        points.append(Point(at, during, value))
    return {heads[i]: points for i, points in found.items() if points}


def over_seeds(seeds: Sequence[dict[float, float]]) -> Curve:
    """The mean and standard deviation of values of the same `x` in several seeds; an `x` that a seed lacks is left
    out, so that a curve never jumps where a seed ends."""
    shared = sorted(set.intersection(*(set(values) for values in seeds))) if seeds else []
    means = [fmean(values[x] for values in seeds) for x in shared]
    spreads = [stdev([values[x] for values in seeds]) if len(seeds) > 1 else 0.0 for x in shared]
    low = [m - s for m, s in zip(means, spreads, strict=True)]
    high = [m + s for m, s in zip(means, spreads, strict=True)]
    return Curve([float(x) for x in shared], means, low, high)


def by_epoch(points: Sequence[Point]) -> dict[float, float]:
    """The last value of each epoch, by the number of epochs that are then done."""
    return {float(point.epoch + 1): point.value for point in points}


def by_step(points: Sequence[Point], stretch: int) -> dict[float, float]:
    """The mean of each stretch of so many steps, by the stretch's last step."""
    groups: dict[int, list[float]] = {}
    for point in points:
        groups.setdefault(-(-point.step // stretch) * stretch, []).append(point.value)
    return {float(end): fmean(values) for end, values in groups.items()}


def last_epoch(points: Sequence[Point]) -> float:
    """The mean over the steps of the last epoch that has any."""
    return fmean(point.value for point in points if point.epoch == points[-1].epoch)


def stretch_for(steps: int) -> int:
    """How many steps one drawn point stands for, so that a curve has about POINTS."""
    return max(1, -(-steps // POINTS))

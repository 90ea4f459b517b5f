"""How each variant looks wherever it is drawn: its method's colour, and a dash and a marker of its own."""

from __future__ import annotations

from dataclasses import dataclass

from esolab.report.findings import Variant

BASE = "#808080"  # what the others are compared with stands back
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D")
"""Okabe and Ito 2008 without yellow and black, which one of the two grounds swallows, and two more."""
DASHES = ("solid", "dash", "dot", "dashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")


@dataclass(frozen=True)
class Style:
    """A colour as #rrggbb, a dash and a marker, in Plotly's words."""

    colour: str
    dash: str
    marker: str


def styles(variants: list[Variant]) -> dict[str, Style]:
    """The style of each variant by its name: one colour a method, and what tells its variants apart without colour.

    The first variant's method, the one that others are compared with, is grey.
    """
    groups: dict[str, list[str]] = {}
    for variant in variants:
        groups.setdefault(variant.method, []).append(variant.name)
    found = {}
    for place, names in enumerate(groups.values()):
        colour = COLOURS[(place - 1) % len(COLOURS)] if place else BASE
        for i, name in enumerate(names):
            shade = _shade(colour, i / (len(names) - 1) - 0.5 if len(names) > 1 else 0.0)
            found[name] = Style(shade, DASHES[i % len(DASHES)], MARKERS[(place + i) % len(MARKERS)])
    return found


def _shade(colour: str, by: float) -> str:
    """The colour, towards black for `by` below 0 and towards white above, each at most by half."""
    end = 255 if by > 0 else 0
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (end - part) * abs(by)):02x}" for part in parts)

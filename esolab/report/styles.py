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
    methods = list(dict.fromkeys(variant.method for variant in variants))
    colours = {method: COLOURS[i % len(COLOURS)] for i, method in enumerate(methods[1:])}
    found: dict[str, Style] = {}
    for place, variant in enumerate(variants):
        sibling = sum(other.method == variant.method for other in variants[:place])
        dash = DASHES[sibling % len(DASHES)]
        marker = MARKERS[(methods.index(variant.method) + sibling) % len(MARKERS)]
        found[variant.name] = Style(_shade(colours.get(variant.method, BASE), sibling), dash, marker)
    return found


def _shade(colour: str, sibling: int) -> str:
    """The colour, lighter with each sibling, and never so light that paper swallows it."""
    share = 1 - 0.6**sibling if sibling < 4 else 0.75
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(c + (215 - c) * share * 0.7):02x}" for c in parts)

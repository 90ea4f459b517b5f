"""Tables of variants: scores over seeds with the interval against the base, and what decoding alone would do."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from esolab.report.contrasts import Contrast
from esolab.report.findings import NAMES, Findings, Score
from esolab.report.paper import beside

TESTED = ("95% interval", "p (Holm)", "d")


def score_tables(found: Findings) -> Iterator[Table]:
    """For each corpus and decoding, the headline first: means and deviations over seeds, and each less its base."""
    for data, head in found.headline.items():
        hows = dict.fromkeys([head, *(s.decoding for s in found.scores if s.data == data)])
        for how in hows:
            scores = [s for s in found.scores if (s.data, s.decoding) == (data, how)]
            yield _scores(found, data, how, scores)


def _scores(found: Findings, data: str, how: str, scores: list[Score]) -> Table:
    metrics = [metric for metric in NAMES if any(metric in s.values for s in scores)]
    own = [c for s in scores if (c := found.against_base(s.variant, data, how)) is not None]
    bases = {c.b.short for c in own}
    less = f"{NAMES[found.metric]} less {bases.pop() if len(bases) == 1 else 'its base'}"
    tested = [less, *TESTED] if own else []
    sizes = sorted({s.prompts for s in scores})
    prompts = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    table = Table(title=f"{data}, {how}, {prompts} test prompts: mean ± sd over seeds", title_justify="left")
    table.add_column("variant")
    for head in ("seeds", *(NAMES[metric] for metric in metrics), *tested):
        table.add_column(head, justify="right")
    for s in scores:
        cells = [spread(s, metric) for metric in metrics]
        test = _tested(found.against_base(s.variant, data, how))
        table.add_row(s.variant.short, f"{s.seeds}", *cells, *(test if own else ()))
    return table


def spread(score: Score, metric: str) -> str:
    """A mean with its standard deviation over seeds, empty where there is none: "24.75 ± 0.23"."""
    if metric not in score.values:
        return ""
    mean, deviation = score.values[metric]
    digits = 3 if metric == "distinct2" else 2
    return f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _tested(contrast: Contrast | None) -> list[str]:
    if contrast is None:
        return ["", "", "", ""]
    it = contrast.result
    said = contrast.stars if it.distinguishable else "not distinguishable"
    p = "< 0.0001" if it.adjusted < 0.0001 else f"{it.adjusted:.4f}"
    return [f"{it.estimate:+.2f} {said}", f"{it.low:z.2f} to {it.high:z.2f}", p, f"{it.effect:z.2f}"]


def control_tables(found: Findings) -> Iterator[Table]:
    """For each corpus the decoding control: variants under the headline decoding less the base under others, and each
    at its best."""
    for data in found.headline:
        own = [c for c in found.contrasts if c.data == data and c.kind in ("decoding", "best")]
        if own:
            title = f"{data}: is it decoding alone? (best: the decoding with the highest mean, picked on the test)"
            yield _contrasts(title, own)


def pair_tables(found: Findings) -> Iterator[Table]:
    """For each corpus all pairs of variants under the headline decoding that are not against the base."""
    for data, how in found.headline.items():
        own = [c for c in found.contrasts if c.data == data and c.kind == "pair"]
        if own:
            yield _contrasts(f"{data}, {how}: the other pairs", own)


def _contrasts(title: str, own: list[Contrast]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in ("variant", "less"):
        table.add_column(head)
    for head in (f"{NAMES[own[0].metric]}", *TESTED):
        table.add_column(head, justify="right")
    for c in own:
        best = " (best)" if c.kind == "best" else ""
        sides = (f"{v.short} at {how}{best}" for v, how in ((c.a, c.decoding_a), (c.b, c.decoding_b)))
        table.add_row(*sides, *_tested(c))
    return table


def paper_table(found: Findings) -> Table | None:
    """Ours beside the paper's numbers, with the difference; None where no run is one of the paper's."""
    rows = beside(found)
    if not rows:
        return None
    table = Table(title="beside the paper: the same model, data and scale", title_justify="left")
    for head in ("variant", "protocol", "data", "metric"):
        table.add_column(head)
    for head in ("seeds", "ours", "paper", "difference", "where the paper says it"):
        table.add_column(head, justify="right")
    for row in rows:
        ours = f"{row.ours:.2f}" + ("" if row.deviation is None else f" ± {row.deviation:.2f}")
        where = row.source + (f" ({row.note})" if row.note else "")
        protocol = str(row.variant.runs[0].result["protocol"])
        name = NAMES.get(row.metric, row.metric.replace("_", " "))
        numbers = (f"{row.seeds}", ours, f"{row.theirs:.2f}", f"{row.difference:+.2f}")
        table.add_row(row.variant.name, protocol, row.data, name, *numbers, where)
    return table

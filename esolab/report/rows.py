"""The tables of the page, as text in cells: the template says what they look like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table as Printed

from esolab.report.comparisons import paper_table
from esolab.report.contrasts import Contrast
from esolab.report.costs import costs
from esolab.report.figures import decodings
from esolab.report.findings import NAMES, Findings, Score
from esolab.report.folders import label
from esolab.report.held import models_held
from esolab.report.scores import preferences
from esolab.report.tradeoffs import tradeoffs
from esolab.report.wins import win_rates

SHOWN = ("rouge1", "rouge2", "rougeL", "gleu", "gleu_char", "length", "distinct2")
RANKED = ("rouge1", "rouge2", "rougeL", "gleu", "gleu_char")  # where more is better


@dataclass(frozen=True)
class Cell:
    """What stands in a cell; `spread` stands back behind it; `best` is the highest of its column; `unsure` is a
    difference that cannot be told from none."""

    text: str
    spread: str = ""
    stars: str = ""
    best: bool = False
    unsure: bool = False


@dataclass(frozen=True)
class Table:
    """A caption, the heads of the columns, and rows that begin with their name."""

    caption: str
    heads: list[str]
    rows: list[tuple[str, list[Cell]]]
    note: str = ""


def score_table(findings: Findings, data: str) -> Table:
    """The headline: all metrics of each variant, and after the one that is compared how far it is from its base."""
    how = findings.headline[data]
    rows = [s for s in findings.scores if (s.data, s.decoding) == (data, how)]
    keys = [key for key in SHOWN if any(key in s.values for s in rows)]
    best = {key: max(s.values[key][0] for s in rows if key in s.values) for key in keys if key in RANKED}
    compared = {s.variant.short: findings.against_base(s.variant, data, how) for s in rows}
    heads, body = ["seeds"], [(s.variant.short, [Cell(f"{s.seeds}")]) for s in rows]
    for key in keys:
        heads.append(NAMES[key])
        for s, (_, cells) in zip(rows, body, strict=True):
            cells.append(_score(s, key, best.get(key)))
        if key == findings.metric and any(compared.values()):
            heads.append("against base, 95% interval")
            for name, cells in body:
                cells.append(_gap(compared[name]))
    sizes = dict.fromkeys(f"{n:,}" for n in (min(s.prompts for s in rows), max(s.prompts for s in rows)))
    return Table(f"{data}, {' to '.join(sizes)} test prompts, decoding {how}", heads, body)


def decoding_table(findings: Findings, data: str) -> Table | None:
    """The metric under each decoding, with stars for a difference from the base; None where there is one decoding."""
    hows = decodings(findings, data)
    if len(hows) < 2:
        return None
    rows = []
    scores = {(s.variant.name, s.decoding): s for s in findings.scores if s.data == data}
    best = {how: max(s.values[findings.metric][0] for s in scores.values() if s.decoding == how) for how in hows}
    for variant in findings.variants:
        own = [scores.get((variant.name, how)) for how in hows]
        if any(own):
            cells = [
                Cell("")
                if s is None
                else _score(s, findings.metric, best[s.decoding], findings.against_base(variant, data, s.decoding))
                for s in own
            ]
            rows.append((variant.short, cells))
    return Table(f"{data}: {NAMES[findings.metric]} by decoding", hows, rows)


def contrast_table(findings: Findings, data: str) -> Table | None:
    """Every comparison that was made on a corpus: those that Holm's correction is over; None if there is none."""
    own = [c for c in findings.contrasts if c.data == data]
    if not own:
        return None
    heads = [
        "difference, 95% interval",
        "p",
        "p (Holm)",
        "effect d",
        "seeds",
        "seeds above",
        "prompts",
        "distinguishable",
    ]
    rows = [(f"{_side(c.a.short, c.decoding_a)} less {_side(c.b.short, c.decoding_b)}", _contrast(c)) for c in own]
    return Table(f"{data}: all {len(own)} comparisons", heads, rows)


def printed(table: Printed, lines: list[str] | None = None) -> Table:
    """A table of the console."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    heads = [str(column.header) for column in table.columns]
    rows = [(row[0], [Cell(cell) for cell in row[1:]]) for row in zip(*columns, strict=True)]
    return Table(str(table.title), heads[1:], rows, " ".join(lines or []))


def _side(name: str, how: str) -> str:
    return f"{name} at {how}"


def _score(score: Score, key: str, best: float | None, contrast: Contrast | None = None) -> Cell:
    if key not in score.values:
        return Cell("")
    mean, sd = score.values[key]
    stars = "" if contrast is None else contrast.stars
    digits = 3 if key == "distinct2" else 2
    return Cell(
        f"{mean:.{digits}f}", "" if sd is None else f"± {sd:.{digits}f}", stars, best is not None and mean == best
    )


def _gap(contrast: Contrast | None) -> Cell:
    if contrast is None:
        return Cell("")
    r = contrast.result
    interval = f"{r.low:+z.2f} to {r.high:+z.2f}"
    return Cell(f"{r.estimate:+z.2f}", interval, contrast.stars, unsure=not r.distinguishable)


def _contrast(contrast: Contrast) -> list[Cell]:
    r = contrast.result
    texts = (probability(r.p), probability(r.adjusted), f"{r.effect:z.2f}", f"{r.seeds}", f"{r.seeds_above}")
    said = "yes" if r.distinguishable else "no"
    return [_gap(contrast), *(Cell(text) for text in (*texts, f"{r.prompts:,}", said))]


def probability(p: float) -> str:
    """A probability with four decimals, never as 0."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def others(findings: Findings) -> Iterator[Table]:
    """Tables of the console that the page has, too: what is beside the paper, costs, win rates, reward models, parts of
    rewards, models held."""
    runs = [run for variant in findings.variants for run in variant.runs]
    names = label(runs)
    alone = (paper_table(findings), costs(findings.variants))
    yield from (printed(table) for table in alone if table is not None)
    for table, lines in win_rates(runs, findings.judgements, names):
        yield printed(table, lines)
    held = models_held(runs, names)
    for table in (*preferences(runs, names), *tradeoffs(runs, names), *([] if held is None else [held])):
        yield printed(table)

"""report.html: one file that holds all it shows and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from esolab.report.answers import packed
from esolab.report.figures import datasets, figures
from esolab.report.findings import NAMES, STARS, Findings
from esolab.report.plots import plot
from esolab.report.rows import contrast_table, decoding_table, others, score_table
from esolab.report.styles import styles
from esolab.results import write_text

AT_ONCE = 5  # sentences of a verdict


def write_page(findings: Findings, folder: Path) -> Path:
    """Write report.html into a folder: verdict, tables, figures, what is missing, facts, and a browser of answers.

    All that comes from runs is escaped, or is data that the page's script shows as text; scripts other than the page's
    own two do not run (a Content-Security-Policy with their hashes).

    Raises:
        BadInput: a file of a run is missing or damaged.
    """
    looks = styles(findings.variants)
    drawn, (first, more) = figures(findings), _verdicts(findings)
    scripts = {"plotly": get_plotlyjs(), "js": _own("page.js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_own("page.html")).render(
        findings=findings,
        verdicts=first,
        more_verdicts=more,
        summary=_summary(findings),
        metric=NAMES[findings.metric],
        stars=STARS,
        bases=_bases(findings),
        scores=_tables(findings),
        contrasts=[table for data in datasets(findings) if (table := contrast_table(findings, data))],
        others=list(others(findings)),
        figures=drawn,
        plots=[plot(figure, looks) for figure in drawn],
        packed=packed(findings, looks),
        css=Markup(_own("page.css")),
        hashes=Markup(" ".join(_hash(script) for script in scripts.values())),
        **{name: Markup(script) for name, script in scripts.items()},
    )
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _own(name: str) -> str:
    return (files("esolab.report") / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _verdicts(findings: Findings) -> tuple[list[str], list[str]]:
    """What is said at once, the first sentences and the order of the variants, and what is folded away."""
    first = [*findings.verdicts[:AT_ONCE], *(s for s in findings.verdicts[AT_ONCE:] if s in findings.order.values())]
    return first, [sentence for sentence in findings.verdicts if sentence not in first]


def _tables(findings: Findings) -> list[Any]:
    made = [(score_table(findings, data), decoding_table(findings, data)) for data in datasets(findings)]
    return [table for pair in made for table in pair if table is not None]


def _bases(findings: Findings) -> str:
    return " or ".join(dict.fromkeys(c.b.short for c in findings.contrasts if c.kind == "base")) or "the base"


def _summary(findings: Findings) -> str:
    """What the tables rest on."""
    runs = [run for variant in findings.variants for run in variant.runs]
    keys = ("model", "data", "protocol")
    of = [f"{key} {', '.join(dict.fromkeys(str(run.result[key]) for run in runs))}" for key in keys]
    scale = [f"scale {', '.join(findings.scales)}"] if findings.scales else []
    count = f"{_counted(len(runs), 'run')} of {_counted(len(findings.variants), 'variant')}"
    return f"{count}: {', '.join([*scale, *of])}."


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"

r"""`tables/*.tex`: the paper's layout, a method a row and a group of columns a corpus, for \usepackage{booktabs}."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from esolab.report.findings import NAMES, Findings, Score
from esolab.report.paper import beside
from esolab.report.variants import title
from esolab.results import write_text

TABLES = {"rouge": ("rouge1", "rouge2", "rougeL"), "gleu": ("gleu_char",)}
SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
Row = tuple[str, str]  # the model, and the method with its settings
Cells = dict[Row, dict[str, Score]]  # the scores of a row by corpus


def write_tables(found: Findings, folder: Path) -> list[Path]:
    """Write tables/rouge.tex, gleu.tex and, where runs are the paper's, paper.tex, into a folder that exists; their
    paths. Raises OSError where they cannot be written."""
    place = folder / "tables"
    place.mkdir(exist_ok=True)
    made = {name: _table(found, name, metrics) for name, metrics in TABLES.items()}
    made["paper"] = _beside(found)
    written = []
    for name, text in made.items():
        (place / f"{name}.tex").unlink(missing_ok=True)  # one of an earlier report says what no longer is
        if text:
            write_text(place / f"{name}.tex", text)
            written.append(place / f"{name}.tex")
    return written


def _table(found: Findings, name: str, metrics: Sequence[str]) -> str:
    """A table of the headline decodings; empty where no run has the metrics."""
    cells = _cells(found, metrics)
    corpora = list(dict.fromkeys(data for row in cells.values() for data in row))
    if not corpora:
        return ""
    n = len(metrics)
    heads = [f"\\multicolumn{{{n}}}{{c}}{{{tex(data)}}}" for data in corpora]
    rules = [f"\\cmidrule(lr){{{3 + n * i}-{2 + n * (i + 1)}}}" for i in range(len(corpora))]
    columns = [tex(NAMES[metric]) for _ in corpora for metric in metrics]
    lines = [
        f"Model & Method & {' & '.join(heads)} \\\\",
        *([" ".join(rules), f" & & {' & '.join(columns)} \\\\"] if n > 1 else []),
        "\\midrule",
        *_rows(found, cells, corpora, metrics),
    ]
    return _whole(lines, "ll" + "r" * n * len(corpora), _caption(found, name, corpora), name)


def _cells(found: Findings, metrics: Sequence[str]) -> Cells:
    """What was trained on several corpora is one row where nothing else differs, as in the paper."""
    cells: Cells = {}
    for s in found.scores:
        if found.headline[s.data] == s.decoding and all(metric in s.values for metric in metrics):
            model = str(s.variant.runs[0].result["model"])
            words = [word for key, word in s.variant.settings.items() if key not in ("model", "data")]
            row = (model, " ".join([title(s.variant.method), *words]))
            if s.data in cells.get(row, {}):
                row = (model, s.variant.name)
            cells.setdefault(row, {})[s.data] = s
    return cells


def _rows(found: Findings, cells: Cells, corpora: Sequence[str], metrics: Sequence[str]) -> Iterator[str]:
    models = list(dict.fromkeys(model for model, _ in cells))
    for number, model in enumerate(models):
        if number:
            yield "\\midrule"
        own = {name: row for (m, name), row in cells.items() if m == model}
        for place, (name, row) in enumerate(own.items()):
            columns = [_cell(found, row.get(data), metric, own, data) for data in corpora for metric in metrics]
            yield f"{tex(model) if not place else ''} & {tex(name)} & {' & '.join(columns)} \\\\"


def _cell(found: Findings, score: Score | None, metric: str, own: dict[str, dict[str, Score]], data: str) -> str:
    if score is None:
        return ""
    mean, deviation = score.values[metric]
    best = max(row[data].values[metric][0] for row in own.values() if data in row)
    said = f"\\textbf{{{mean:.2f}}}" if mean == best and len(own) > 1 else f"{mean:.2f}"
    spread = "" if deviation is None else f" {{\\scriptsize$\\pm${deviation:.2f}}}"
    contrast = found.against_base(score.variant, data, score.decoding) if metric == found.metric else None
    stars = f"$^{{{contrast.stars}}}$" if contrast is not None and contrast.stars else ""
    return f"{said}{spread}{stars}"


def _caption(found: Findings, name: str, corpora: Sequence[str]) -> str:
    models = dict.fromkeys(str(run.result["model"]) for v in found.variants for run in v.runs)
    n = {data: max(s.prompts for s in found.scores if s.data == data) for data in corpora}
    tests = ", ".join(f"{data} ({found.headline[data]}, {n[data]:,} test prompts)" for data in corpora)
    what = "ROUGE F" if name == "rouge" else "GLEU of characters"
    stars = (
        f" Stars: {NAMES[found.metric]} differs from the base at $p<.05$ (*), $.01$ (**), $.001$ (***), sign-flip test "
        "with Holm's correction over all comparisons of the corpus, and the 95\\% interval leaves out 0."
    )
    head = f"{what} x100 of {', '.join(models)} on {tests}; {', '.join(found.scales) or 'unknown'} scale, "
    seeds = ", ".join(found.facts.get("seeds", []))
    return tex(f"{head}seeds {seeds}: mean and standard deviation.") + (stars if name == "rouge" else "")


def _beside(found: Findings) -> str:
    """Ours beside the paper's numbers; empty where no run is one of the paper's."""
    rows = beside(found)
    lines = ["Method & Data & Metric & Ours & Paper & Difference & Source \\\\", "\\midrule"]
    for row in rows:
        spread = "" if row.deviation is None else f" {{\\scriptsize$\\pm${row.deviation:.2f}}}"
        name = NAMES.get(row.metric, row.metric.replace("_", " "))
        words = " & ".join(tex(word) for word in (row.variant.name, row.data, name))
        numbers = f"{row.ours:.2f}{spread} & {row.theirs:.2f} & {row.difference:+.2f}"
        lines.append(f"{words} & {numbers} & {tex(row.source)} \\\\")
    caption = "Ours beside the numbers of Huang et al. (COLING 2025): the same models, data and scale."
    return _whole(lines, "lllrrrl", caption, "paper") if rows else ""


def _whole(lines: Sequence[str], columns: str, caption: str, name: str) -> str:
    opening = ["\\begin{table}", "\\centering", f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    closing = ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", f"\\label{{tab:{name}}}", "\\end{table}"]
    return "\n".join([*opening, *lines, *closing]) + "\n"


def tex(text: str) -> str:
    """Text as LaTeX prints it, whatever signs it has."""
    return "".join(SIGNS.get(sign, sign) for sign in text)

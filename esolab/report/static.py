"""Figures as files for papers and slides: PDF, SVG and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Drawing

from esolab.report.figures import FEW, Figure, Series, figures, ticks
from esolab.report.findings import Findings
from esolab.report.styles import Style, styles

INCHES = (5.6, 3.6)
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "x": "X",
           "triangle-down": "v", "star": "*"}  # fmt: skip
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
LOOKS: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # text that can be selected, as journals ask
    "text.parse_math": False,  # a name may hold a dollar
    "svg.hashsalt": "esolab",  # else names in the file change from run to run
}
DOTS = 200  # per inch of a PNG


def write_figures(findings: Findings, folder: Path) -> list[Path]:
    """Draw the figures of these findings into `folder`/figures, each as PDF, SVG and PNG; the files.

    The same findings give the same bytes.
    """
    place, looks = folder / "figures", styles(findings.variants)
    place.mkdir(parents=True, exist_ok=True)
    written = []
    with rc_context(LOOKS):
        for figure in figures(findings):
            drawing = draw(figure, looks)
            drawing.draw_without_rendering()  # lays it out, once for all three files
            drawing.set_layout_engine("none")
            paths = [place / f"{figure.name}.{kind}" for kind in ("png", "pdf", "svg")]
            _save(drawing, *paths)
            written += paths
    return written


def _save(drawing: Drawing, png: Path, pdf: Path, svg: Path) -> None:
    """The three files without dates, each from its own canvas: `savefig` would draw everything twice."""
    FigureCanvasAgg(drawing).print_png(png, metadata={"Software": None})
    FigureCanvasPdf(drawing).print_pdf(pdf, metadata={"CreationDate": None})  # sets its own dots per inch
    FigureCanvasSVG(drawing).print_svg(svg, metadata={"Date": None})


def draw(figure: Figure, looks: dict[str, Style]) -> Drawing:
    """A figure with its title, its axes and its legend, in a Matplotlib drawing that no window holds."""
    drawing = Drawing(figsize=INCHES, dpi=DOTS, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.add_subplot()
    shown = [series for series in figure.series if series.y]
    for place, series in enumerate(shown):
        _series(axes, figure, series, looks[series.variant], (place + 0.5) / len(shown) - 0.5)
    if figure.kind == "groups":
        names = _names(figure)
        axes.set_xticks(range(len(names)), names)
    if figure.log_x:
        axes.set_xscale("log")
    if at := ticks(figure):
        axes.set_xticks(at, [f"{x:g}" for x in at])
        axes.set_xticks([], minor=True)
    axes.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    handles, names = axes.get_legend_handles_labels()
    wide = 0.6 + 0.075 * max(map(len, names), default=1)  # inches of a mark and its name, about
    drawing.legend(handles, names, loc="outside lower left", ncols=max(1, int(INCHES[0] / wide)))
    return drawing


def _names(figure: Figure) -> list[str]:
    return list(dict.fromkeys(x for series in figure.series for x in series.x))


def _series(axes: Axes, figure: Figure, series: Series, style: Style, offset: float) -> None:
    look: dict[str, Any] = {"color": style.colour, "label": series.name}
    if figure.kind == "lines":
        few = len(series.y) <= FEW
        axes.plot(series.x, series.y, DASHES[style.dash], marker=MARKERS[style.marker] if few else "", **look)
        if series.low:
            axes.fill_between(series.x, series.low, series.high, color=style.colour, alpha=0.15, linewidth=0)
        return
    x = series.x
    if figure.kind == "groups":
        names = _names(figure)
        x = [names.index(name) + 0.6 * offset for name in series.x]
    axes.errorbar(x, series.y, _spread(series), fmt=MARKERS[style.marker], capsize=2, **look)


def _spread(series: Series) -> list[list[float]] | None:
    """How far below and above its points a series reaches."""
    if not any(low < high for low, high in zip(series.low, series.high, strict=True)):
        return None
    below = [y - low for y, low in zip(series.y, series.low, strict=True)]
    return [below, [high - y for high, y in zip(series.high, series.y, strict=True)]]

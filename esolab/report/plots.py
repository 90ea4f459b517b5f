"""Figures as Plotly draws them, without colours of paper and ink: the page gives those, light or dark."""

from __future__ import annotations

import json
from typing import Any

import plotly.graph_objects as go

from esolab.report.figures import FEW, Figure, Series, reach, ticks
from esolab.report.styles import Style


def plot(figure: Figure, styles: dict[str, Style]) -> dict[str, Any]:
    """A figure as the JSON of Plotly: `data` and `layout`."""
    drawn = go.Figure(layout=_layout(figure))
    for series in figure.series:
        if series.y:
            style = styles[series.variant]
            if figure.kind == "lines" and series.low:
                drawn.add_trace(_band(series, style))
            drawn.add_trace(_trace(figure, series, style))
    return dict(json.loads(drawn.to_json()))


def _layout(figure: Figure) -> dict[str, Any]:
    """Axes and legend; the range of groups is given, as Plotly begins theirs at 0."""
    axis = {"automargin": True, "zeroline": False, "ticks": "outside", "ticklen": 4}
    return {
        "template": "none",
        "height": 340 + 20 * _legend_rows(figure),
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {
            **axis,
            "title": {"text": figure.x_label, "standoff": 8},
            "type": "category" if figure.kind == "groups" else "log" if figure.log_x else "linear",
            "showgrid": False,
            **({"tickvals": at} if (at := ticks(figure)) else {}),
        },
        "yaxis": {
            **axis,
            "range": reach(figure) if figure.kind == "groups" else None,
            "title": {"text": figure.y_label, "standoff": 8},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 11}},
        "showlegend": True,
        "hovermode": "x unified" if figure.kind == "lines" else "closest",
        **({"scattermode": "group", "scattergap": 0.5} if figure.kind == "groups" else {}),
    }


def _legend_rows(figure: Figure) -> int:
    """About how many rows the names take, so that they take no room from what is drawn."""
    return -(-sum(45 + 7 * len(series.name) for series in figure.series if series.y) // 460)


def _trace(figure: Figure, series: Series, style: Style) -> go.Scatter:
    around = {}
    if figure.kind != "lines" and series.low:
        up = [high - y for high, y in zip(series.high, series.y, strict=True)]
        around = {"error_y": {"type": "data", "array": up, "thickness": 1.5, "width": 4}}
    few = len(series.y) <= FEW
    return go.Scatter(
        name=series.name,
        x=series.x,
        y=series.y,
        mode=("lines+markers" if few else "lines") if figure.kind == "lines" else "markers",
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"color": style.colour, "symbol": style.marker, "size": 8},
        legendgroup=series.name,
        offsetgroup=series.name if figure.kind == "groups" else None,
        text=series.labels or None,
        hovertemplate="%{y:.4g}" if figure.kind == "lines" else "%{x:.4g}, %{y:.4g} %{text}",
        **around,
    )


def _band(series: Series, style: Style) -> go.Scatter:
    red, green, blue = (int(style.colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*series.x, *reversed(series.x)],
        y=[*series.high, *reversed(series.low)],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.15)",
        line={"width": 0},
        mode="lines",
        legendgroup=series.name,
        showlegend=False,
        hoverinfo="skip",
    )

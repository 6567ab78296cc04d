"""Heat maps as shapes: a browser draws a heat map as an image, which no printer makes sharp."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from layerroles.figures.words import cut, plain, text_width

_DARK = 0.62  # of the way from the palest colour to the darkest, from which text is white
_SIGNS = ("+", "\N{MINUS SIGN}")
_MEANS = "+ and \N{MINUS SIGN} mark values beyond the colour scale"


def cells(figure: go.Figure) -> None:
    """Replace every heat map by bars in the same place and of the same colours."""
    if not any(trace.type == "heatmap" for trace in figure.data):
        return
    axis = figure.layout.coloraxis
    made: list[Any] = []
    for trace in figure.data:
        made += (
            _bars(trace, float(axis.cmin), float(axis.cmax)) if trace.type == "heatmap" else [trace]
        )
    figure.data = []
    figure.add_traces(made)
    figure.update_layout(barmode="overlay", bargap=0)


def fit_texts(figure: go.Figure, size: float) -> list[str]:
    """Shorten what is wider than its cell; what the signs mean that stand for numbers, if any do.

    A number becomes a sign; of a word, as much is left as there is room for; a mark stays.

    Args:
        figure: laid out.
        size: of the type, in pixels.
    """
    margin = figure.layout.margin
    plot = figure.layout.width - margin.l - margin.r
    shortened = False
    for trace in figure.data:
        if trace.type != "scatter" or trace.mode != "text":
            continue
        trace.textfont.size = size
        axis = figure.layout[f"xaxis{(trace.xaxis or 'x')[1:]}"]
        start, end = axis.domain or (0, 1)
        low, high = axis.range or (-0.5, max(trace.x, default=0) + 0.5)
        cell = plot * (end - start) / (high - low)
        texts = [_short(text, cell, size) for text in trace.text]
        shortened |= any(
            text in _SIGNS and text != whole for text, whole in zip(texts, trace.text, strict=True)
        )
        trace.text = texts
    return [_MEANS] if shortened else []


def _short(text: str, cell: float, size: float) -> str:
    if text_width(text, size) <= cell:
        return text
    if text.strip("\N{MINUS SIGN}").replace(".", "").isdecimal():
        return "\N{MINUS SIGN}" if text.startswith("\N{MINUS SIGN}") else "+"
    mark = len(plain(text)) == 1
    return text if mark else cut(text, cell, size)


def _bars(heat: go.Heatmap, low: float, high: float) -> list[Any]:
    values = np.asarray(heat.z, float)
    rows, columns = np.nonzero(~np.isnan(values))
    x, y = np.asarray(heat.x, float), np.asarray(heat.y, float)
    found = values[rows, columns]
    gap = 0.04 if heat.xgap else 0.0
    where = {"xaxis": heat.xaxis, "yaxis": heat.yaxis, "showlegend": False, "hoverinfo": "skip"}
    made: list[Any] = [
        go.Bar(
            x=x[columns],
            y=np.full(len(rows), 1 - 2 * gap),
            base=y[rows] - 0.5 + gap,
            width=1 - 2 * gap,
            marker={"color": found, "coloraxis": heat.coloraxis, "line": {"width": 0}},
            name=heat.name,
            **where,
        )
    ]
    texts = np.full(len(rows), "", object)
    if heat.text is not None:
        texts = np.asarray(heat.text, object)[rows, columns]
    said = texts != ""
    if said.any():
        share = np.abs(found) / max(-low, high) if low < 0 else (found - low) / (high - low)
        made.append(
            go.Scatter(
                x=x[columns][said],
                y=y[rows][said],
                text=texts[said],
                mode="text",
                textfont={"color": np.where(share[said] > _DARK, "#ffffff", "#000000")},
                name=f"{heat.name}, in words",
                **where,
            )
        )
    return made

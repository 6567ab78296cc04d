"""Draw heat maps and hatching as vector shapes, since a browser would print both as images.

`draw_heat_maps` replaces heat maps by bars before a figure is laid out. After layout, `fit_texts`
shortens texts that are wider than their cells, and `hatch_bars` replaces the patterns of bars by
lines.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from layerroles.figures.print.text import strip_tags, text_width, truncate

_DARK = 0.62  # text is white on colours beyond this share of the way from the palest to the darkest
_SIGNS = ("+", "\N{MINUS SIGN}")
_MEANS = "+ and \N{MINUS SIGN} mark values beyond the colour scale"
_STEP, _THIN = 3.6, 0.55  # pixels between lines, and width of a line
_SWATCH, _AFTER, _BETWEEN, _ROW = 9.0, 4.0, 12.0, 13.0  # of the legend, in pixels
_OFF = 5.0  # pixels from the legend to what is below it


def draw_heat_maps(figure: go.Figure) -> None:
    """Replace every heat map by bars in the same places and colours."""
    if not any(trace.type == "heatmap" for trace in figure.data):
        return
    axis = figure.layout.coloraxis
    made: list[Any] = []
    for trace in figure.data:
        made += (
            _draw_cells(trace, float(axis.cmin), float(axis.cmax))
            if trace.type == "heatmap"
            else [trace]
        )
    figure.data = []
    figure.add_traces(made)
    figure.update_layout(barmode="overlay", bargap=0)


def _draw_cells(heat: go.Heatmap, low: float, high: float) -> list[Any]:
    values = np.asarray(heat.z, float)
    rows, columns = np.nonzero(~np.isnan(values))
    x, y = np.asarray(heat.x, float), np.asarray(heat.y, float)
    cell_values = values[rows, columns]
    gap = 0.04 if heat.xgap else 0.0
    where = {"xaxis": heat.xaxis, "yaxis": heat.yaxis, "showlegend": False, "hoverinfo": "skip"}
    made: list[Any] = [
        go.Bar(
            x=x[columns],
            y=np.full(len(rows), 1 - 2 * gap),
            base=y[rows] - 0.5 + gap,
            width=1 - 2 * gap,
            marker={"color": cell_values, "coloraxis": heat.coloraxis, "line": {"width": 0}},
            name=heat.name,
            **where,
        )
    ]
    texts = np.full(len(rows), "", object)
    if heat.text is not None:
        texts = np.asarray(heat.text, object)[rows, columns]
    has_text = texts != ""
    if has_text.any():
        share = (
            np.abs(cell_values) / max(-low, high) if low < 0 else (cell_values - low) / (high - low)
        )
        made.append(
            go.Scatter(
                x=x[columns][has_text],
                y=y[rows][has_text],
                text=texts[has_text],
                mode="text",
                textfont={"color": np.where(share[has_text] > _DARK, "#ffffff", "#000000")},
                name=f"{heat.name}, in words",
                **where,
            )
        )
    return made


def fit_texts(figure: go.Figure, size: float) -> list[str]:
    """Shorten texts that are wider than their heat-map cells, in place.

    A number is replaced by its sign, a word is truncated, and a single character is kept. Returns a
    list with a note that explains the signs; an empty list if no number was replaced.

    Args:
        figure: the figure after layout.
        size: type size in pixels.
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
        cell_width = plot * (end - start) / (high - low)
        texts = [_shorten(text, cell_width, size) for text in trace.text]
        shortened |= any(
            text in _SIGNS and text != full_text
            for text, full_text in zip(texts, trace.text, strict=True)
        )
        trace.text = texts
    return [_MEANS] if shortened else []


def _shorten(text: str, cell: float, size: float) -> str:
    if text_width(text, size) <= cell:
        return text
    if text.strip("\N{MINUS SIGN}").replace(".", "").isdecimal():
        return "\N{MINUS SIGN}" if text.startswith("\N{MINUS SIGN}") else "+"
    is_mark = len(strip_tags(text)) == 1
    return text if is_mark else truncate(text, cell, size)


Line = tuple[float, float, float, float]  # x and y of its start, then of its end


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y increases upwards."""

    left: float
    bottom: float
    right: float
    top: float


def hatch_bars(figure: go.Figure) -> None:
    """Replace the patterns of bars by lines over them, in their panels and in the legend.

    Call it after layout, since it uses the figure's size, margins and axis ranges.
    """
    patterned = [trace for trace in figure.data if trace.type == "bar" and _pattern_of(trace)]
    if not patterned:
        return
    if figure.layout.showlegend is not False:
        _draw_legend(figure)
    stacked: dict[tuple[str, str, float], float] = {}
    drawn: list[Any] = []
    for trace in figure.data:
        if trace.type != "bar":
            continue
        boxes = list(_bar_boxes(figure, trace, stacked))
        shape = _pattern_of(trace)
        if not shape:
            continue
        colour = trace.marker.pattern.fgcolor
        drawn.append(
            _lines_over(trace, [line for box in boxes for line in hatch_lines(shape, box)], figure)
        )
        drawn[-1].line.color = colour
        trace.marker.pattern = None
    figure.add_traces(drawn)


def _pattern_of(trace: go.Bar) -> str:
    shape = trace.marker.pattern.shape
    return shape if isinstance(shape, str) else ""


def _bar_boxes(
    figure: go.Figure, trace: go.Bar, stacked: dict[tuple[str, str, float], float]
) -> Iterator[Box]:
    """Yield the bars of a trace as boxes, in pixels from the lower left corner of its panel.

    `stacked` maps (x axis, y axis, x) to the height of the bars drawn there so far; it is updated.
    """
    x_axis, y_axis = trace.xaxis or "x", trace.yaxis or "y"
    gap = figure.layout.bargap or 0.0
    per = _scale(figure, trace).pixels
    values = zip(map(float, trace.x), map(float, trace.y), strict=True)
    for place, (x, y) in enumerate(values):
        key = (x_axis, y_axis, x)
        base = float(trace.base[place]) if trace.base is not None else stacked.get(key, 0.0)
        stacked[key] = stacked.get(key, 0.0) + y
        half = (1 - gap if trace.width is None else trace.width) / 2
        (left, low), (right, high) = per(x - half, base), per(x + half, base + y)
        yield Box(left, min(low, high), right, max(low, high))


@dataclass(frozen=True)
class _Scale:
    """Map between values of axes and pixels from the lower left corner of their panel.

    Attributes:
        x, y: axis values at that corner.
        per_x, per_y: pixels per unit of each axis.
    """

    x: float
    y: float
    per_x: float
    per_y: float

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.x) * self.per_x, (y - self.y) * self.per_y

    def values(self, x: float, y: float) -> tuple[float, float]:
        return x / self.per_x + self.x, y / self.per_y + self.y


def _scale(figure: go.Figure, trace: go.Bar) -> _Scale:
    layout = figure.layout
    x, y = layout[f"xaxis{(trace.xaxis or 'x')[1:]}"], layout[f"yaxis{(trace.yaxis or 'y')[1:]}"]
    wide = (layout.width - layout.margin.l - layout.margin.r) * np.ptp(x.domain or (0, 1))
    high = (layout.height - layout.margin.t - layout.margin.b) * np.ptp(y.domain or (0, 1))
    per_x, per_y = wide / (x.range[1] - x.range[0]), high / (y.range[1] - y.range[0])
    return _Scale(float(x.range[0]), float(y.range[0]), float(per_x), float(per_y))


def _lines_over(trace: go.Bar, lines: list[Line], figure: go.Figure) -> go.Scatter:
    to_values = _scale(figure, trace).values
    x: list[float | None] = []
    y: list[float | None] = []
    for left, low, right, high in lines:
        (x0, y0), (x1, y1) = to_values(left, low), to_values(right, high)
        x += [x0, x1, None]
        y += [y0, y1, None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": _THIN},
        name=f"{trace.name}, hatched",
        showlegend=False,
        hoverinfo="skip",
        xaxis=trace.xaxis,
        yaxis=trace.yaxis,
    )


def hatch_lines(shape: str, box: Box) -> Iterator[Line]:
    """Yield the lines of a hatching pattern, clipped to a box.

    `shape` is the pattern in plotly's notation, such as "/" or "x". Lines are spaced from the
    origin, not from the box, so that they continue from one box to the next.

    Example:
        >>> [tuple(round(x, 1) for x in line) for line in hatch_lines("-", Box(0.0, 1.0, 5.0, 4.0))]
        [(0.0, 3.6, 5.0, 3.6)]
    """
    for sign in {"x": "/\\", "+": "-|"}.get(shape, shape):
        yield from _LINES_OF[sign](box)


def _rising_lines(box: Box) -> Iterator[Line]:
    for c in _positions(box.bottom - box.right, box.top - box.left, _STEP * 1.4):
        start, end = max(box.left, box.bottom - c), min(box.right, box.top - c)
        yield (start, start + c, end, end + c)


def _falling_lines(box: Box) -> Iterator[Line]:
    for c in _positions(box.bottom + box.left, box.top + box.right, _STEP * 1.4):
        start, end = max(box.left, c - box.top), min(box.right, c - box.bottom)
        yield (start, c - start, end, c - end)


def _level_lines(box: Box) -> Iterator[Line]:
    yield from ((box.left, y, box.right, y) for y in _positions(box.bottom, box.top, _STEP))


def _upright_lines(box: Box) -> Iterator[Line]:
    yield from ((x, box.bottom, x, box.top) for x in _positions(box.left, box.right, _STEP))


def _dot_lines(box: Box) -> Iterator[Line]:
    for y in _positions(box.bottom + 0.5, box.top - 0.5, _STEP):
        yield from (
            (x - 0.5, y, x + 0.5, y) for x in _positions(box.left + 1, box.right - 1, _STEP)
        )


_LINES_OF = {
    "/": _rising_lines,
    "\\": _falling_lines,
    "-": _level_lines,
    "|": _upright_lines,
    ".": _dot_lines,
}


def _positions(low: float, high: float, step: float) -> Iterator[float]:
    yield from (step * k for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1))


def _draw_legend(figure: go.Figure) -> None:
    """Replace plotly's legend by shapes, with swatches hatched like the bars."""
    layout = figure.layout
    plot = layout.width - layout.margin.l - layout.margin.r
    left, bottom, size = layout.legend.x, layout.legend.y, layout.legend.font.size
    by_name = {t.name: t for t in reversed(figure.data) if t.type == "bar" and t.showlegend}
    rows: list[list[tuple[float, go.Bar]]] = [[]]
    x = 0.0
    for trace in reversed(by_name.values()):
        wide = _SWATCH + _AFTER + text_width(trace.name, size) + _BETWEEN
        if rows[-1] and x + wide - _BETWEEN > plot * (1 - left):
            rows.append([])
            x = 0.0
        rows[-1].append((x, trace))
        x += wide
    for row, entries_of_row in enumerate(reversed(rows)):
        for x, trace in entries_of_row:
            _draw_entry(figure, trace, x, row * _ROW, (left, bottom, size))
    figure.update_layout(showlegend=False)


def _draw_entry(
    figure: go.Figure, trace: go.Bar, x: float, y: float, at: tuple[float, float, float]
) -> None:
    left, bottom, size = at
    where = {
        "xref": "paper",
        "yref": "paper",
        "xsizemode": "pixel",
        "ysizemode": "pixel",
        "xanchor": left,
        "yanchor": bottom,
    }
    figure.add_shape(
        type="rect",
        x0=x,
        x1=x + _SWATCH,
        y0=y + _OFF,
        y1=y + _OFF + _SWATCH,
        fillcolor=trace.marker.color,
        line={"width": 0},
        **where,
    )
    if shape := _pattern_of(trace):
        lines = hatch_lines(shape, Box(0.0, 0.0, _SWATCH, _SWATCH))
        path = " ".join(
            f"M{x + a:.2f},{y + b + _OFF:.2f}L{x + c:.2f},{y + d + _OFF:.2f}"
            for a, b, c, d in lines
        )
        pen = {"width": _THIN, "color": trace.marker.pattern.fgcolor}
        figure.add_shape(type="path", path=path, line=pen, **where)
    figure.add_annotation(
        text=trace.name,
        x=left,
        y=bottom,
        xref="paper",
        yref="paper",
        xshift=x + _SWATCH + _AFTER,
        yshift=y - 2 + _OFF,
        xanchor="left",
        yanchor="bottom",
        borderpad=0,
        font={"size": size},
    )

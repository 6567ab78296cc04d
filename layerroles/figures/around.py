"""What stands above the panels of a figure on paper: a title, a legend, a colour bar."""

from collections.abc import Sequence

import plotly.graph_objects as go

from layerroles.figures.words import text_width

_LEGEND_ROW, _LEGEND_MARK = 20.5, 44.0
_BAR, _BAR_LONG = 6.0, 100.0  # pixels
_BAR_END = 7.0  # from its end to that of the panels: half of its last label stands out


def has_bar(figure: go.Figure) -> bool:
    """Whether the figure has a colour bar."""
    axis = figure.layout.coloraxis
    return axis.cmin is not None and axis.showscale is not False


def set_bar(figure: go.Figure, above: float, plot: float, size: float) -> float:
    """Lay the colour bar above the panels, at the right; the pixels that it takes."""
    bar = figure.layout.coloraxis.colorbar
    high = _BAR + 2.1 * size  # with its labels and its title
    bar.update(
        orientation="h",
        x=1 - _BAR_END / figure.layout.width,
        xanchor="right",
        # Anchored at its bottom, plotly.js 4.1 moves the titles of x axes up, onto their labels.
        y=1 + (above + high / 2) / plot,
        yanchor="middle",
        thicknessmode="pixels",
        thickness=_BAR,
        lenmode="pixels",
        len=_BAR_LONG,
        xpad=0,
        ypad=0,
        tickfont={"size": size},
        nticks=4,
        ticklabeloverflow="allow",
    )
    bar.title.update(side="top", font={"size": size})
    return high + 0.3 * size + 6


def set_legend(figure: go.Figure, x: float, above: float, plot: float, size: float) -> float:
    """Lay the legend above the panels, from the left edge; the pixels that it takes."""
    if figure.layout.showlegend is False:
        return 0.0
    entries, seen = [], set()
    for trace in figure.data:
        group = trace.legendgroup or trace.name
        if trace.showlegend is not False and group not in seen:
            seen.add(group)
            entries.append(text_width(trace.name or "", size) + _LEGEND_MARK)
    if not entries or (len(entries) == 1 and figure.layout.showlegend is None):
        return 0.0
    each = max(entries)
    in_a_row = (
        len(entries)
        if sum(entries) <= figure.layout.width
        else max(1, int(figure.layout.width / each))
    )
    figure.update_layout(
        legend={
            "orientation": "h",
            "x": x,
            "xanchor": "left",
            "y": 1 + (above + 1) / plot,
            "yanchor": "bottom",
            "font": {"size": size},
            "itemwidth": 30,
            "tracegroupgap": 2,
        }
    )
    return -(-len(entries) // in_a_row) * _LEGEND_ROW + 5


def set_head(
    figure: go.Figure, head: Sequence[tuple[str, float]], x: float, above: float, plot: float
) -> float:
    """Write lines over everything; the pixels that they take."""
    taken = 4.0 if head else 0.0
    for text, size in reversed(head):
        figure.add_annotation(
            text=text.replace("&", "&amp;").replace("<", "&lt;"),
            x=x,
            y=1 + (above + taken) / plot,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            font={"size": size},
        )
        taken += size * 1.25
    return taken

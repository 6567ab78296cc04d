"""Place a colour bar, a legend and a title above the panels of a figure on paper.

Sizes are in pixels of 1/96 inch; places are shares of the *plot*, the area of all panels with the
gaps between them.
"""

from collections.abc import Sequence

import plotly.graph_objects as go

from layerroles.figures.print.text import text_width

_LEGEND_ROW, _LEGEND_MARK = 20.5, 44.0
_BAR, _BAR_LONG = 6.0, 100.0  # thickness and length in pixels
_BAR_END = 7.0  # pixels from the bar to the right edge of the panels, for half of its last label


def has_bar(figure: go.Figure) -> bool:
    """Return whether the figure has a colour bar."""
    axis = figure.layout.coloraxis
    return axis.cmin is not None and axis.showscale is not False


def set_bar(figure: go.Figure, above: float, plot: float, size: float) -> float:
    """Place the colour bar above the panels, at the right; return its height in pixels.

    Args:
        figure: the figure; changed in place.
        above: height in pixels that is already taken above the panels.
        plot: height in pixels of all panels with the gaps between them.
        size: type size in pixels.
    """
    bar = figure.layout.coloraxis.colorbar
    high = _BAR + 2.1 * size  # with its labels and its title
    bar.update(
        orientation="h",
        x=1 - _BAR_END / figure.layout.width,
        xanchor="right",
        # If the bar is anchored at its bottom, plotly.js 4.1 draws titles of x axes over labels.
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
    """Place the legend above the panels, at the left; return its height in pixels, 0 without one.

    `x` is the legend's left edge, as a share of the plot's width; for the other arguments, see
    `set_bar`.
    """
    if figure.layout.showlegend is False:
        return 0.0
    entries, groups_seen = [], set()
    for trace in figure.data:
        group = trace.legendgroup or trace.name
        if trace.showlegend is not False and group not in groups_seen:
            groups_seen.add(group)
            entries.append(text_width(trace.name or "", size) + _LEGEND_MARK)
    if not entries or (len(entries) == 1 and figure.layout.showlegend is None):
        return 0.0
    widest = max(entries)
    in_a_row = (
        len(entries)
        if sum(entries) <= figure.layout.width
        else max(1, int(figure.layout.width / widest))
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
    """Add lines of text above everything else; return their height in pixels.

    `head` holds each line with its type size; the other arguments are those of `set_legend`.
    """
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

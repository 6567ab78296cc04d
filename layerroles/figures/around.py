"""What stands above the panels of a figure on paper: a title, a legend, a colour bar."""

from collections.abc import Sequence

import plotly.graph_objects as go

from layerroles.figures.words import text_width

_LEGEND_ROW, _LEGEND_MARK = 20.5, 44.0
_BAR, _BAR_LONG = 6.0, 100.0  # pixels


def has_bar(figure: go.Figure) -> bool:
    """Whether the figure has a colour bar."""
    axis = figure.layout.coloraxis
    return axis.cmin is not None and axis.showscale is not False


def set_bar(figure: go.Figure, y: float, size: float) -> float:
    """Lay the colour bar above the panels, at the right; the pixels that it takes."""
    bar = figure.layout.coloraxis.colorbar
    bar.update(
        orientation="h",
        x=1,
        xanchor="right",
        y=y,
        yanchor="bottom",
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
    return _BAR + 2.4 * size + 6


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

"""One look for every figure: family colours, light and dark templates, layer axes, text.

A family has one colour and one marker symbol wherever it appears. The colours keep a distance of at
least 15 (CIE76) from each other under simulated protanopia, deuteranopia and tritanopia (Machado et
al. 2009) and a contrast of at least 3 against the background of the light and of the dark template,
so one palette serves both. Everything else that has a colour takes it from the template, so that a
figure changes its look when its template is changed:

    >>> import plotly.graph_objects as go
    >>> themed(go.Figure(), "dark").layout.template.layout.paper_bgcolor
    '#161a20'
"""

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.invisible_characters import visible

FAMILY_COLOUR = {
    "retrieval": "#3a6fe0",
    "knowledge": "#dd5a00",
    "reasoning": "#1fa58a",
    "commonsense": "#c95aa8",
    "language": "#857a55",
}
FAMILY_SYMBOL = {
    "retrieval": "circle",
    "knowledge": "diamond",
    "reasoning": "square",
    "commonsense": "triangle-up",
    "language": "star",
}
# Colour of lines that belong to no family (intact, chance, zero); readable on both backgrounds.
NEUTRAL = "#7d848f"
# Colour of bars of harm below 0: the harm map's blue, in a shade readable on both backgrounds.
HELPS = "#2f78e6"
UNDEFINED = "rgba(125,132,143,0.22)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_TOP, _BOTTOM = 112, 56


def _template(
    paper: str, text: str, soft: str, grid: str, two_sided: Sequence[str], ramp: Sequence[str]
) -> go.layout.Template:
    diverging, sequential = (
        [[step / (len(colours) - 1), colour] for step, colour in enumerate(colours)]
        for colours in (two_sided, ramp)
    )
    axis = {
        "gridcolor": grid,
        "linecolor": soft,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": soft,
        "tickfont": {"size": 11, "color": soft},
        "title": {"font": {"size": 12, "color": soft}, "standoff": 6},
        "spikecolor": soft,
    }
    return go.layout.Template(
        layout={
            "paper_bgcolor": paper,
            "plot_bgcolor": paper,
            "font": {"family": FONT, "size": 12, "color": text},
            "title": {
                "font": {"size": 18, "color": text},
                "subtitle": {"font": {"size": 13, "color": soft}},
            },
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"font": {"size": 12}, "bgcolor": "rgba(0,0,0,0)"},
            "hoverlabel": {
                "bgcolor": paper,
                "bordercolor": soft,
                "font": {"family": FONT, "size": 12, "color": text},
                "align": "left",
            },
            "annotationdefaults": {"font": {"size": 12, "color": text}, "showarrow": False},
            "shapedefaults": {"line": {"color": soft}},
            "colorscale": {
                "diverging": diverging,
                "sequential": sequential,
                "sequentialminus": sequential,
            },
            "coloraxis": {
                "colorbar": {"outlinewidth": 0, "thickness": 12, "tickfont": {"color": soft}}
            },
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": soft, "activecolor": text},
        }
    )


TEMPLATES: dict[str, go.layout.Template] = {
    "light": _template(
        "#ffffff", "#1b1f26", "#5a626e", "#e7eaef",
        ["#1f4fb8", "#9db7e8", "#f6f6f4", "#eeb48a", "#b34700"],
        ["#f6f6f4", "#cfd9f0", "#8fa6da", "#4a64b0", "#1c2f70"],
    ),
    "dark": _template(
        "#161a20", "#e8ebf0", "#a2abb8", "#2a3039",
        ["#7aa7ff", "#3a5590", "#22272f", "#8a5228", "#ff9a4d"],
        ["#22272f", "#2f4372", "#4a6cb8", "#86a9ee", "#dfe9ff"],
    ),
}  # fmt: skip


def themed(figure: go.Figure, theme: str) -> go.Figure:
    """Give the figure the light or the dark template, and return it.

    Raises:
        InputError: the theme is neither "light" nor "dark".

    Example:
        figure = lr.figures.themed(lr.figures.harm_map(result), "dark")
    """
    if theme not in TEMPLATES:
        raise InputError(f"unknown theme {theme!r}: known are 'light' and 'dark'")
    return figure.update_layout(template=TEMPLATES[theme])


def finish(
    figure: go.Figure,
    *,
    kind: str,
    about: pd.DataFrame,
    title: str,
    subtitle: str,
    height: int,
    legend: bool = True,
) -> go.Figure:
    """Set theme, title, height, margins and legend; record what the figure shows in `layout.meta`.

    Args:
        figure: the figure with its traces and axes; changed in place.
        kind: the name of the public function that draws it.
        about: the rows that the figure shows. Their values in columns such as task and protocol,
            and the range of `n`, are recorded for captions.
        title: plain text.
        subtitle: plain text.
        height: in pixels.
        legend: whether to show the legend.

    Returns:
        The same figure.
    """
    plot = height - _TOP - _BOTTOM
    return themed(figure, "light").update_layout(
        meta={
            "figure": kind,
            "title": escape(title),
            "subtitle": escape(subtitle),
            **_describe_rows(about),
        },
        title={
            "text": escape(title),
            "subtitle": {"text": escape(subtitle)},
            "x": 0.0,
            "xref": "container",
            "xanchor": "left",
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 14, "t": 16},
        },
        height=height,
        margin={"t": _TOP, "b": _BOTTOM, "l": 64, "r": 24},
        showlegend=legend,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1 + 22 / plot,
            "yanchor": "bottom",
        },
        hovermode="closest",
    )


# Columns whose values are recorded for captions.
_NAMES = ("task", "family", "protocol", "ablation", "at", "probe", "method")


def _describe_rows(about: pd.DataFrame) -> dict[str, list[Any]]:
    """Map each column of `_NAMES` to its distinct values, escaped, and "n" to [least, most].

    The values are those in `about`, the rows that a figure shows; columns that it lacks are left
    out.
    """
    columns = [name for name in _NAMES if name in about]
    values: dict[str, list[Any]] = {
        name: list(map(escape, dict.fromkeys(about[name].dropna()))) for name in columns
    }
    n = about["n"].dropna() if "n" in about else []
    if len(n):
        values["n"] = [int(min(n)), int(max(n))]
    return values


def align_headings(figure: go.Figure) -> go.Figure:
    """Move the panel titles, which `make_subplots` centres, to the left edge of their panels."""
    notes = [note for note in figure.layout.annotations if note.xref == "paper"]
    starts = sorted({axis.domain[0] for axis in figure.select_xaxes()})
    for note in notes:
        start = max(begin for begin in starts if begin <= note.x)
        note.update(x=start, xanchor="left", font_size=13)
    return figure


_BETWEEN = 74  # pixels between panels, one above the other


def make_square_panels(
    titles: Sequence[str], n_layers: int
) -> tuple[go.Figure, list[dict[str, int]], int]:
    """Create a figure of panels with layers on both axes, at most two panels in a row.

    Returns:
        The figure; for each panel, a dict of its `row` and `col` (from 1); and the height in pixels
        to pass to `finish`.
    """
    columns = min(2, len(titles))
    rows = -(-len(titles) // columns)
    panel = max(160, min(360, 13 * n_layers))
    plot = rows * panel + _BETWEEN * max(1, rows - 1)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=titles,
        vertical_spacing=_BETWEEN / plot if rows > 1 else 0,
        horizontal_spacing=0.09,
    )
    places = [{"row": 1 + n // columns, "col": 1 + n % columns} for n in range(len(titles))]
    return figure, places, 168 + rows * (panel + _BETWEEN)


def family_colour(family: str) -> str:
    """Return the family's colour; grey for an unknown family."""
    return FAMILY_COLOUR.get(family, NEUTRAL)


def family_symbol(family: str) -> str:
    """Return the family's marker symbol; a cross for an unknown family."""
    return FAMILY_SYMBOL.get(family, "cross")


def fade(hexadecimal: str, alpha: float) -> str:
    """Return the colour `#rrggbb` with opacity `alpha` (1 is opaque), as `rgba(...)`."""
    red, green, blue = (int(hexadecimal[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def escape(text: object) -> str:
    """Escape text from models and data for plotly, so that tags and entities are shown as text."""
    return html.escape(visible(str(text)), quote=False)


def format_number(value: Any, missing: str = "undefined", places: int = 2) -> str:
    """Format a number for hovers, captions and tables; `missing` if it is None or NaN."""
    if value is None or pd.isna(value):
        return missing
    return f"{float(value):.{places}f}".replace("-", "\N{MINUS SIGN}")


def format_interval(value: Any, low: Any, high: Any, places: int = 2) -> str:
    """Format `value [low, high]`; "undefined" if the value is None or NaN."""
    if value is None or pd.isna(value):
        return "undefined"
    shown, start, end = (format_number(x, places=places) for x in (value, low, high))
    return f"{shown} [{start}, {end}]"


def family_label(family: str) -> str:
    """Return a label for axes and panel titles: a square in the family's colour, then its name."""
    return f"<span style='color:{family_colour(family)}'>\N{BLACK SQUARE}</span> {escape(family)}"


def panel_title(family: str, *names: str) -> str:
    """Return a panel's title: the family with its colour, then the names.

    A file of questions is named with its folder, without the path to that folder.
    """
    short = [shorten_path(name) for name in names]
    return " \N{MIDDLE DOT} ".join([family_label(family), *map(escape, short)])


def shorten_path(task: str) -> str:
    """Return a task's label; if it names a file, only the last folder of the path is kept."""
    task = re.sub(r"^local:.*[/\\](?=[^/\\]+[/\\])", "local:", task)
    in_brackets = r"^local\[path=[^,\]]*[/\\](?=[^,\]/\\]+[/\\])"
    return re.sub(in_brackets, "local[path=", task)


def layer_axis(n_layers: int, *, embedding: bool = False) -> dict[str, object]:
    """Return the ticks and range of a depth axis, readable for one layer to several hundred layers.

    `embedding` leaves room for layer -1, the embedding before block 0.
    """
    step = next((s for s in (1, 2, 5, 10, 20) if n_layers / s <= 20), 50)
    ticks = list(range(0, n_layers, step))
    labels = [str(tick) for tick in ticks]
    if embedding and step < 5:  # else its label would run into that of layer 0
        ticks, labels = [-1, *ticks], ["emb", *labels]
    return {
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": labels,
        "range": [-1.6 if embedding else -0.6, n_layers - 0.4],
        "showgrid": False,
        "tickangle": 0,
    }


def error_bars(
    value: Any, low: Any, high: Any, *, colour: str, thickness: float = 1.2
) -> dict[str, object]:
    """Return error bars that end at `low` and `high`, for `error_x` or `error_y` of a trace."""
    return {
        "type": "data",
        "symmetric": False,
        "array": high - value,
        "arrayminus": value - low,
        "width": 0,
        "thickness": thickness,
        "color": colour,
    }


def heat_map(
    z: np.ndarray,
    hover: np.ndarray,
    name: str,
    *,
    x: Sequence[int] = (),
    y: Sequence[int] = (),
    gap: float = 1.0,
) -> go.Heatmap:
    """Return a heat map that takes its colours from the figure's colour axis.

    Args:
        z: values by row and column; NaN leaves a cell blank.
        hover: hover texts, in the shape of `z`.
        name: the name of the trace.
        x: position of each column; counted from 0 if empty.
        y: position of each row; counted from 0 if empty.
        gap: pixels between cells.
    """
    return go.Heatmap(
        x=list(x or range(z.shape[1])),
        y=list(y or range(z.shape[0])),
        z=z,
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=gap,
        ygap=gap,
        name=name,
    )


def colour_axis(
    title: str, low: float, high: float, tickformat: str | None = None
) -> dict[str, object]:
    """Return a colour axis from `low` to `high`: diverging if `low` is negative, else sequential.

    `title` stands above the colour bar.
    """
    return {
        "autocolorscale": True,
        "cmin": low,
        "cmax": high,
        "colorbar": {"title": {"text": escape(title), "side": "top"}, "tickformat": tickformat},
    }


def order_families(families: Iterable[str]) -> list[str]:
    """Return the distinct families in the palette's order, then unknown ones by name."""
    palette = list(FAMILY_COLOUR)
    return sorted(
        set(families), key=lambda f: (palette.index(f) if f in palette else len(palette), f)
    )


def sort_by_family(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by family in the palette's order; the rows of one family keep their order."""
    order = {family: place for place, family in enumerate(order_families(frame["family"]))}
    return frame.sort_values("family", key=lambda names: names.map(order), kind="stable")


def format_counts(values: Iterable[Any]) -> str:
    """Format numbers of examples as one number or a range; "0" if all of them are missing."""
    numbers = np.asarray([float(v) for v in values if not pd.isna(v)])
    if numbers.size == 0:
        return "0"
    low, high = math.floor(numbers.min()), math.ceil(numbers.max())
    return str(low) if low == high else f"{low}\N{EN DASH}{high}"

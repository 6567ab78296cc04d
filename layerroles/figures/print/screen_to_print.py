"""Lay out figures for print: as wide as a text column or a page, with type of a readable size.

    >>> figure = paper(lr.figures.harm_map(result), width="column")  # doctest: +SKIP

`paper` keeps a figure's data and changes its look. All text is in one sans serif font of 7 to 9
points; lines are thin and marks small. There is no title, since the caption holds it. Panels that
would be too narrow side by side stand below each other. Cells of heat maps become vector shapes.
"""

import html
import re
from typing import Any

import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.figures.print.captions import read_meta
from layerroles.figures.print.layout import Sizes, lay_out
from layerroles.figures.print.text import wrap
from layerroles.figures.print.vector_heat_maps import draw_heat_maps, fit_texts, hatch_bars

WIDTHS = {"column": 3.25, "full": 6.75}  # inches
PER_INCH = 96  # pixels of a browser
FONT = "Arimo, Arial, Helvetica, 'Liberation Sans', sans-serif"
_NARROWEST, _WIDEST = 2.0, 20.0  # inches
_INK, _SOFT = "#000000", "#33383f"
# Points, as pixels of a browser.
_TEXT, _SMALL, _TITLE = (points * PER_INCH / 72 for points in (8, 7, 9))
# Size of marks and width of lines on paper, as shares of those on a screen.
_MARK, _LINE = 0.55, 0.62
_SAME = 0.5  # pixels by which two equal widths may differ
_THINNEST, _SMALLEST = 0.6, 3.0  # least width of a line and size of a mark, in pixels


def paper(figure: go.Figure, width: str | float = "column", *, title: bool = False) -> go.Figure:
    """Return a copy of a figure laid out for print at a given width.

    A figure that `paper` made before, at this width, is copied unchanged.

    Args:
        figure: a figure of `lr.figures`.
        width: "column" (3.25 in), "full" (6.75 in), a number of inches, or a text such as "89mm".
        title: whether to keep title and subtitle, for use without a caption.

    Raises:
        InputError: not a width, or not between 2 and 20 inches; a figure that is not of
            `lr.figures`, or that `paper` made before with another width or without the title.

    Example:
        lr.figures.paper(lr.figures.depth_profile(result), width="89mm")
    """
    width_in_pixels = parse_width(width) * PER_INCH
    meta = read_meta(figure, "paper")
    printed = go.Figure(figure)
    if before := meta.get("paper"):
        if abs(before["wide"] - width_in_pixels) > _SAME or (title and not before["title"]):
            raise InputError(
                f"this figure is already for paper, {before['wide'] / PER_INCH:.4g} inches wide"
                f"{'' if before['title'] else ' without a title'}: give the figure as it was drawn"
            )
        return printed
    printed.update_layout(template=_template())
    _thin_lines(printed)
    draw_heat_maps(printed)
    head = _title_lines(printed, width_in_pixels) if title else []
    printed.layout.title = None
    notes = lay_out(printed, Sizes(width_in_pixels, _TEXT, _SMALL), head) + fit_texts(
        printed, _SMALL
    )
    hatch_bars(printed)
    return printed.update_layout(
        meta={**meta, "notes": notes, "paper": {"wide": width_in_pixels, "title": title}}
    )


def parse_width(width: str | float) -> float:
    """Convert a width to inches.

    Raises:
        InputError: not a width, or not between 2 and 20 inches.

    Example:
        >>> parse_width("column"), parse_width(5.5), round(parse_width("89mm"), 2)
        (3.25, 5.5, 3.5)
    """
    inches = WIDTHS.get(str(width))
    if inches is None:
        match = re.fullmatch(r"(\d*\.?\d+)\s*(in|mm|cm|pt)?", str(width).strip())
        per = {"in": 1.0, "mm": 25.4, "cm": 2.54, "pt": 72.0}
        inches = float(match[1]) / per[match[2] or "in"] if match else 0.0
    if not _NARROWEST <= inches <= _WIDEST:
        raise InputError(
            f"unknown width {width!r}: known are {', '.join(WIDTHS)}, and from {_NARROWEST:g} to "
            f"{_WIDEST:g} inches, as in 5.5, 5.5in, 89mm"
        )
    return inches


def _template() -> go.layout.Template:
    """Return the light template in black ink, with thin lines and small type."""
    light = dict(style.TEMPLATES["light"].to_plotly_json()["layout"])
    for name in ("hoverlabel", "modebar", "title"):  # paper has none of them
        light.pop(name)
    axis = {
        "linewidth": 0.7,
        "gridwidth": 0.5,
        "tickwidth": 0.7,
        "zerolinewidth": 0.7,
        "ticklen": 2.5,
        "tickcolor": _SOFT,
        "linecolor": _SOFT,
        "showline": True,
        "tickfont": {"size": _SMALL, "color": _INK},
        "title": {"font": {"size": _SMALL, "color": _INK}, "standoff": 3},
    }
    bar = {"outlinewidth": 0, "tickfont": {"size": _SMALL, "color": _INK}, "ticklen": 2}
    return go.layout.Template(
        layout={
            **light,
            "font": {"family": FONT, "size": _SMALL, "color": _INK},
            "xaxis": {**light["xaxis"], **axis},
            "yaxis": {**light["yaxis"], **axis},
            "legend": {"font": {"size": _SMALL, "color": _INK}, "bgcolor": "rgba(0,0,0,0)"},
            "annotationdefaults": {"font": {"size": _SMALL, "color": _INK}, "showarrow": False},
            "coloraxis": {"colorbar": bar},
        }
    )


def _thin_lines(figure: go.Figure) -> None:
    """Scale lines, marks and error bars down for print."""
    for trace in figure.data:
        drawn = trace.to_plotly_json()
        if "line" in drawn:
            trace.line.width = _line_width(drawn["line"].get("width", 2))
        marker = drawn.get("marker", {})
        if "size" in marker:
            trace.marker.size = _scale(marker["size"], _MARK, _SMALLEST)
        if "width" in marker.get("line", {}):
            trace.marker.line.width = _scale(marker["line"]["width"], _LINE, 0.0)
        for name in ("error_x", "error_y"):
            if name in drawn:
                trace[name].thickness = _line_width(drawn[name].get("thickness", 1.2))
                trace[name].width = (drawn[name].get("width") or 0) * _MARK
        if "textfont" in drawn:
            trace.textfont.size = _SMALL
    for shape in figure.layout.shapes:
        shape.line.width = _line_width(shape.line.width or 1)


def _line_width(width: int | float | None) -> float:
    """Return a line width scaled for print, at least 0.6 pixels; 0 if the width is 0 or None."""
    return max(width * _LINE, _THINNEST) if width else 0.0


def _scale(value: Any, by: float, least: float) -> Any:
    if isinstance(value, int | float):
        return max(value * by, least) if value else 0
    return [_scale(item, by, least) for item in value]


def _title_lines(figure: go.Figure, wide: float) -> list[tuple[str, float]]:
    """Return title and subtitle as lines that fit `wide` pixels, each with its type size."""
    lines = []
    for text, size in (
        (figure.layout.meta["title"], _TITLE),
        (figure.layout.meta["subtitle"], _SMALL),
    ):
        lines += [(line, size) for line in wrap(html.unescape(text), wide - 8, size)]
    return lines

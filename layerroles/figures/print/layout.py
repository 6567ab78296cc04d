"""Lay out a figure on paper: its panels, and room for what `above_panels` places above them.

A column of text is narrow and cannot scroll. Panels keep their order and their proportions; those
that do not fit side by side are placed below. Room for labels is measured, so that no label is cut.
Sizes are in pixels of 1/96 inch.

A *unit* is a panel and the panels without a heading below it, which stay together. A *band* is a
row of units that stand side by side. The *head* is text above the figure, such as its title. The
*plot* is the area of all panels with the gaps between them; *domains* are shares of it, as in
plotly.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from layerroles.figures.print.above_panels import has_bar, set_bar, set_head, set_legend
from layerroles.figures.print.text import (
    height_of_rows,
    strip_tags,
    text_width,
    thin_ticks,
    tick_texts,
    wrap,
)

_HEIGHT = 0.62  # height of a panel, as a share of that on a screen
_LOWEST = 36.0  # least height of a panel in pixels
_HIGHEST = 780.0  # most height of all panels in pixels: that of a page without the caption
_NARROWEST = 160.0  # least width in pixels of a panel with its labels; sets how many fit in a row
_APART, _EDGE = 7.0, 3.0  # pixels between panels, and around the figure
_OVER = 4.0  # pixels from a panel to its heading, for half of the topmost tick label
_TICK = 4.0  # pixels from an axis to its labels
_PAPER = "rgba(255,255,255,0.8)"  # behind what is written over lines and cells
_MARK_OF_DETAIL = " \N{EM DASH} "


@dataclass(frozen=True)
class Sizes:
    """The width of the paper, and sizes of type, in pixels.

    Attributes:
        wide: width of the whole figure.
        text, small: type size of headings, and that of all other text.
    """

    wide: float
    text: float
    small: float


def lay_out(figure: go.Figure, sizes: Sizes, head: Sequence[tuple[str, float]] = ()) -> list[str]:
    """Set size, margins, domains of axes, legend and colour bar of a figure.

    Args:
        figure: the figure; changed in place.
        sizes: sizes of the paper and its type.
        head: lines of text above the figure, each with its type size.

    Returns:
        The full texts of headings that were cut for lack of room.
    """
    bands = _arrange_bands(_read_panels(figure), sizes.wide)
    _share_axes(bands)
    n_columns = max(map(len, bands))
    left = max(_labels_width(panel, sizes) for band in bands for panel in band[0])
    inner_widths = [
        _labels_width(panel, sizes) for band in bands for unit in band[1:] for panel in unit
    ]
    columns = _Columns(sizes, left, max(inner_widths, default=0.0), n_columns)
    details: list[str] = []
    for band in bands:
        for place, unit in enumerate(band):
            details += _set_heading(unit[0], columns.room(place), sizes)
            for panel in unit:
                panel.height = max(panel.height, height_of_rows(panel.y, sizes.small))
                thin_ticks(panel.x, panel.y, columns.panel, panel.height, sizes.small)
                panel.below = _labels_height(panel, sizes)
    rows = [row for band in bands for row in _rows_of_band(band)]
    above, tops, plot = _set_heights(rows, sizes)
    for top, row in zip(tops, rows, strict=True):
        for place, panel in enumerate(row):
            _set_panel(panel, columns, place, (top, plot), sizes)
    _fit_notes(figure, bands, columns.panel, sizes)
    figure.layout.width = round(sizes.wide, 2)
    if has_bar(figure):
        above += set_bar(figure, above, plot, sizes.small)
    above += set_legend(figure, columns.edge, above, plot, sizes.small)
    above += set_head(figure, head, columns.edge, above, plot)
    below = max(panel.below for panel in rows[-1])
    figure.update_layout(
        height=round(above + plot + below + 2 * _EDGE),
        margin={"l": columns.left, "r": columns.right, "t": above + _EDGE, "b": below + _EDGE}
        | {"pad": 0, "autoexpand": False},
    )
    return details


@dataclass
class _Panel:
    """A panel: a y axis and the x axis that crosses it.

    Attributes:
        x, y: the axes.
        row, column: indices of the panel's place in the figure as drawn for the screen.
        height: height of the panel in pixels.
        heading: the annotation that is the panel's heading; None if there is none.
        lines: lines of the heading.
        below: height in pixels of the labels under the panel.
    """

    x: Any
    y: Any
    row: int
    column: int
    height: float
    heading: Any = None
    lines: list[str] = field(default_factory=list)
    below: float = 0.0


_Unit = list[_Panel]  # a panel with a heading and the panels without one below it


def _read_panels(figure: go.Figure) -> list[_Panel]:
    """Return the panels of a figure from its top left, row by row."""
    layout = figure.layout
    plot = layout.height - layout.margin.t - layout.margin.b
    axes = []
    for y in figure.select_yaxes():
        x = layout[f"xaxis{(y.anchor or 'x')[1:]}"]
        left, (low, high) = (x.domain or (0, 1))[0], y.domain or (0, 1)
        axes.append((round(-high, 4), round(left, 4), (high - low) * plot * _HEIGHT, x, y))
    rows, columns = (sorted({entry[axis] for entry in axes}) for axis in (0, 1))
    notes = [note for note in layout.annotations if note.xref == "paper" and note.yref == "paper"]
    panels = []
    for top, left, high, x, y in sorted(axes, key=lambda entry: entry[:2]):
        headings = [note for note in notes if (round(-note.y, 4), round(note.x, 4)) == (top, left)]
        panel = _Panel(x, y, rows.index(top), columns.index(left), max(high, _LOWEST))
        panel.heading = headings[0] if headings else None
        panels.append(panel)
    return panels


def _arrange_bands(panels: Sequence[_Panel], wide: float) -> list[list[_Unit]]:
    """Group panels into units, and spread them evenly over as few bands as fit the width.

    The module docstring defines units and bands; if no panel has a heading, each panel is a unit.
    `wide` is the width of the whole figure in pixels. Returns the bands from top to bottom.
    """
    titled = any(panel.heading is not None for panel in panels)
    units: dict[tuple[int, int], _Unit] = {}
    latest: dict[int, tuple[int, int]] = {}  # the last unit of each column
    for panel in panels:
        follows = titled and panel.heading is None and panel.column in latest
        if not follows:
            latest[panel.column] = (panel.row, panel.column)
        units.setdefault(latest[panel.column], []).append(panel)
    bands = []
    for row in sorted({row for row, _ in units}):
        band = [unit for (its, _), unit in sorted(units.items()) if its == row]
        titles = [panel.y.title.text for panel in band[0]]
        n_most = max(1, int(wide / _NARROWEST))
        n_rows = -(-len(band) // n_most)
        n_in_a_row = -(-len(band) // n_rows)
        parts = [band[start : start + n_in_a_row] for start in range(0, len(band), n_in_a_row)]
        for part in parts[1:]:  # only panels at the left had titles of y axes
            for panel, title in zip(part[0], titles, strict=False):
                if not panel.y.title.text and title:
                    panel.y.title.text = title
        bands += parts
    return bands


def _share_axes(bands: Sequence[Sequence[_Unit]]) -> None:
    """Remove repeated labels of axes that panels share.

    The labels of x axes stay under the lowest panel of each column, those of y axes at the leftmost
    panel of each row.
    """
    shared = {panel.x.matches for band in bands for unit in band for panel in unit} - {None}
    columns: dict[int, list[_Panel]] = {}
    for band in bands:
        for place, unit in enumerate(band):
            columns.setdefault(place, []).extend(unit)
            for panel in unit:
                if panel.y.matches or panel.y.showticklabels is False:
                    panel.y.showticklabels = place == 0
    every = [panel for column in columns.values() for panel in column]
    if not shared:
        return
    title = next((panel.x.title.text for panel in every if panel.x.title.text), None)
    for column in columns.values():
        for panel in column:
            panel.x.showticklabels = panel is column[-1]
            panel.x.title.text = title if panel is column[-1] else None


def _labels_width(panel: _Panel, sizes: Sizes) -> float:
    """Return the width in pixels of the labels at the left of a panel."""
    axis = panel.y
    wide = _TICK
    if axis.showticklabels is not False:
        wide += max(text_width(text, sizes.small) for text in tick_texts(axis))
    return wide + (sizes.small * 1.25 if axis.title.text else 0) + 2


def _labels_height(panel: _Panel, sizes: Sizes) -> float:
    """Return the height in pixels of the labels under a panel; 0 if its x axis has none there."""
    x, number = panel.x, panel.y.plotly_name.removeprefix("yaxis")
    if (x.anchor or "y") != f"y{number}":
        return 0.0
    high = _TICK
    if x.showticklabels is not False:
        texts = tick_texts(x)
        upright = x.tickangle in (-90, 90)
        high += max(text_width(t, sizes.small) for t in texts) if upright else sizes.small * 1.1
    return high + (sizes.small * 1.45 if x.title.text else 0)


class _Columns:
    """The horizontal positions of columns of panels, in pixels or as shares of the plot's width.

    Attributes:
        left, right: margins in pixels.
        panel: width of a panel in pixels.
        plot: width in pixels of all panels with the gaps between them.
        edge: left edge of the labels at the left, as a share of the plot's width (negative).
    """

    def __init__(self, sizes: Sizes, left: float, inner: float, n_columns: int) -> None:
        self._labels = (left, inner)
        self.left, self.right = left + _EDGE, _EDGE + sizes.small / 2
        self._between = inner + _APART if n_columns > 1 else 0.0
        self.plot = sizes.wide - self.left - self.right
        self.panel = (self.plot - self._between * (n_columns - 1)) / n_columns
        self.edge = -left / self.plot

    def room(self, place: int) -> float:
        """Return the width in pixels that the headings in column `place` may take."""
        return self.panel + self._labels[place > 0]

    def domain(self, place: int) -> tuple[float, float]:
        """Return where panels in column `place` begin and end, as shares of the plot's width."""
        start = place * (self.panel + self._between)
        return start / self.plot, min(1.0, (start + self.panel) / self.plot)

    def heading(self, place: int) -> float:
        """Return where headings in column `place` begin, as a share of the plot's width."""
        return self.domain(place)[0] - self._labels[place > 0] / self.plot


def _set_heading(panel: _Panel, room: float, sizes: Sizes) -> list[str]:
    """Break a panel's heading into lines; cut the details after its dash if they do not fit.

    Returns a list with the full text if details were cut, else an empty list.
    """
    if panel.heading is None or not panel.heading.text:
        return []
    text = panel.heading.text
    notes = []
    if text_width(text, sizes.text) > room and _MARK_OF_DETAIL in text:
        notes.append(strip_tags(text).strip("\N{BLACK SQUARE} "))
        text = text.split(_MARK_OF_DETAIL)[0]
    panel.lines = wrap(text, room, sizes.text)
    return notes


def _rows_of_band(band: Sequence[_Unit]) -> Iterator[list[_Panel]]:
    for step in range(max(map(len, band))):
        yield [unit[step] for unit in band if step < len(unit)]


def _set_heights(
    rows: Sequence[Sequence[_Panel]], sizes: Sizes
) -> tuple[float, list[float], float]:
    """Set the heights of panels, shrunk to fit a page.

    Returns three values in pixels: the height above the first row; for each row, the distance of
    its top from the top of the first row; and the distance from the first row's top to the last
    row's bottom.
    """
    rest = sum(max(panel.below for panel in row) + _APART for row in rows)
    highs = sum(max(panel.height for panel in row) for row in rows)
    shrunk = min(1.0, max(0.0, _HIGHEST - rest - len(rows) * 2 * sizes.text) / highs)
    for row in rows:
        for panel in row:
            panel.height = max(_LOWEST, panel.height * shrunk)
            _fit_title(panel, sizes)

    def above(row: Sequence[_Panel]) -> float:
        lines = max(len(panel.lines) for panel in row)
        return lines * sizes.text * 1.2 + _OVER + 2 if lines else _APART

    tops = [0.0]
    for row, following in pairwise(rows):
        taken = max(panel.height for panel in row) + max(panel.below for panel in row)
        tops.append(tops[-1] + taken + above(following) + 1)
    return above(rows[0]), tops, tops[-1] + max(panel.height for panel in rows[-1])


def _fit_title(panel: _Panel, sizes: Sizes) -> None:
    """Shorten the title of a y axis if it is longer than the panel is high."""
    title = panel.y.title
    if title.text and text_width(title.text, sizes.small) > panel.height:
        title.text = re.split(r" of |, | \(", title.text)[0]


def _set_panel(
    panel: _Panel, columns: _Columns, place: int, at: tuple[float, float], sizes: Sizes
) -> None:
    """Set the domains of a panel's axes, and its heading.

    `place` is the index of the panel's column; `at` is two distances in pixels: from the top of the
    plot to the top of the panel, and the height of the plot.
    """
    top, plot = at
    panel.x.domain = columns.domain(place)
    panel.y.domain = [max(0.0, 1 - (top + panel.height) / plot), 1 - top / plot]
    if panel.heading is not None:
        panel.heading.update(
            text="<br>".join(panel.lines),
            x=columns.heading(place),
            y=1 - top / plot,
            yshift=_OVER,
            xanchor="left",
            yanchor="bottom",
            align="left",
            font={"size": sizes.text},
        )


def _fit_notes(
    figure: go.Figure, bands: Sequence[Sequence[_Unit]], wide: float, sizes: Sizes
) -> None:
    """Wrap annotations inside panels to fit, and rotate those that would touch each other."""
    spans = {
        f"x{panel.x.plotly_name.removeprefix('xaxis')}": panel.x.range
        for band in bands
        for unit in band
        for panel in unit
    }
    groups: dict[tuple[str, str], list[Any]] = {}
    for note in figure.layout.annotations:
        if note.xref in (None, "paper") and note.yref in (None, "paper"):
            continue
        note.font.size = sizes.small
        note.bgcolor = _PAPER
        lines = [line for text in note.text.split("<br>") for line in wrap(text, wide, sizes.small)]
        note.text = "<br>".join(lines)
        groups.setdefault((note.xref or "x", note.yref or "y"), []).append(note)
    for (x, _), notes in groups.items():
        span = spans.get(x)
        if span is None or len(notes) < 2:
            continue
        per = wide / abs(span[1] - span[0])
        notes.sort(key=lambda note: note.x)
        near = any(
            (following.x - note.x) * per < text_width(note.text, sizes.small) + 2
            and note.y == following.y
            for note, following in pairwise(notes)
        )
        if near:
            for note in notes:
                note.textangle = -90

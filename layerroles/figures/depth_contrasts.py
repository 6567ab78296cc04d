"""Depth contrasts: the numbers that summarize harm over depth, each with its interval.

>>> figure = depth_contrasts(roles)  # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.results import records
from layerroles.roles import Roles

_LINE, _BETWEEN = 21, 74  # pixels of a row, and between panels


@dataclass(frozen=True)
class _Row:
    """One value with its interval, drawn as a mark in a row of a panel.

    Attributes:
        label: text at the y axis; marks with the same label share a row.
        family: the family that sets colour and symbol.
        name: text in hovers.
        value, low, high: the estimate and its interval.
        hollow: whether the mark is hollow, as for an ablation that spares the first token.
    """

    label: str
    family: str
    name: str
    value: float
    low: float
    high: float
    hollow: bool = False


def depth_contrasts(roles: Roles) -> go.Figure:
    """Draw the numbers that summarize harm over depth, with intervals, a panel per quantity.

    A row is a family under a protocol, or a pair of families. The panels are

    1. mean harm of the first third of layers minus that of the last third; a hollow mark shows the
       same for ablations that spare the first token (`at="after_first"`);
    2. quantity 1 at all positions minus quantity 1 with the first token spared;
    3. quantity 1 of one family minus that of another;
    4. mean harm over all layers under one protocol minus that under another;
    5. the effective number of layers over which harm is spread (the participation ratio of harm),
       without attention sinks. Before the run is finished, no layer counts as a sink.

    A panel without any known number is left out.

    Args:
        roles: the result of `localize`.

    Raises:
        InputError: none of these numbers is known.

    Example:
        figure = lr.figures.depth_contrasts(lr.localize(result))
    """
    panels = {title: rows for title, rows in _contrast_panels(roles) if rows}
    if not panels:
        raise InputError("these roles have no contrast of depth: no family was measured over depth")
    heights = [len(dict.fromkeys(row.label for row in rows)) * _LINE for rows in panels.values()]
    plot = sum(heights) + _BETWEEN * (len(panels) - 1)
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        row_heights=heights,
        vertical_spacing=_BETWEEN / plot if len(panels) > 1 else 0,
        subplot_titles=list(panels),
    )
    for place, rows in enumerate(panels.values(), start=1):
        _draw_rows(figure, rows, place)
    style.align_headings(figure)
    hollow = any(row.hollow for rows in panels.values() for row in rows)
    hollow_note = "; hollow: with the first token's write kept" if hollow else ""
    style.finish(
        figure,
        kind="depth_contrasts",
        about=roles.frame.assign(ablation=roles.ablation, at=roles.at),
        title=f"Depth in numbers ({roles.ablation})",
        subtitle=f"{style.format_counts(roles.frame['n'])} examples per family; 95% intervals, "
        f"paired by question; at {roles.at}{hollow_note}",
        height=168 + plot,
        legend=False,
    )
    return figure.update_layout(margin_l=268)


def _contrast_panels(roles: Roles) -> Iterator[tuple[str, list[_Row]]]:
    """Yield the title and the rows of each panel; there are no rows if no number is known."""
    frame = style.sort_by_family(roles.frame)
    contrasts = style.sort_by_family(roles.contrasts[roles.contrasts["difference"].notna()])
    early = contrasts[contrasts["quantity"] == "early_minus_late"]
    of_one_family = early[early["against"] == ""]
    is_kept = of_one_family["at"] == "after_first"
    note = ", the first token's write kept"
    yield (
        "harm of the first third of layers minus the last third",
        [
            *_rows_of_frame(frame, "early_minus_late", "ci_low", "ci_high"),
            *(_make_row(r, note, hollow=True) for r in records(of_one_family[is_kept])),
        ],
    )
    yield (
        "what of it goes away with the first token's write kept",
        [_make_row(r, f", {r.at}") for r in records(of_one_family[~is_kept])],
    )
    yield (
        "first third minus last third, one family minus another",
        [_make_row_of_pair(r) for r in records(early[early["against"] != ""])],
    )
    yield (
        "mean harm over all layers, one protocol minus another",
        [_make_row(r) for r in records(contrasts[contrasts["quantity"] == "mean_harm"])],
    )
    left_out = "" if roles.interim else ", sinks left out"
    yield (
        f"layers over which harm is spread (effective number{left_out})",
        _rows_of_frame(frame, "effective", "effective_low", "effective_high"),
    )


def _rows_of_frame(frame: pd.DataFrame, *columns: str) -> list[_Row]:
    """Return a row for each known value in `Roles.frame`.

    `columns` names the columns that hold the value and the ends of its interval.
    """
    known = frame[frame[columns[0]].notna()]
    return [_make_row(r, f", n {r.n}", columns=columns) for r in records(known)]


def _make_row(
    line: Any,
    detail: str = "",
    *,
    columns: Sequence[str] = ("difference", "ci_low", "ci_high"),
    hollow: bool = False,
) -> _Row:
    """Return the row of a line of `Roles.frame` or `Roles.contrasts`; `detail` ends its name."""
    label = style.panel_title(line.family, line.protocol)
    value, low, high = (getattr(line, column) for column in columns)
    name = f"{line.family}, {line.protocol}{detail}"
    return _Row(label, line.family, name, value, low, high, hollow)


def _make_row_of_pair(line: Any) -> _Row:
    """Return the row of a line of `Roles.contrasts` on one family minus another."""
    label = (
        f"{style.family_label(line.family)} \N{MINUS SIGN} {style.family_label(line.against)}"
        f" \N{MIDDLE DOT} {style.escape(line.protocol)}"
    )
    name = f"{line.family} minus {line.against}, {line.protocol}"
    return replace(_make_row(line), label=label, name=name)


def _draw_rows(figure: go.Figure, rows: list[_Row], place: int) -> None:
    labels = list(dict.fromkeys(row.label for row in rows))
    for row in rows:
        hue = style.family_colour(row.family)
        middle = len(labels) - 1 - labels.index(row.label)
        symbol = style.family_symbol(row.family)
        figure.add_trace(
            go.Scatter(
                x=[row.value],
                y=[middle - 0.28 if row.hollow else middle],
                mode="markers",
                error_x=style.error_bars(
                    pd.Series([row.value]), pd.Series([row.low]), pd.Series([row.high]), colour=hue
                ),
                marker={
                    "symbol": f"{symbol}-open" if row.hollow else symbol,
                    "size": 7 if row.hollow else 9,
                    "color": hue,
                },
                hovertext=f"<b>{style.escape(row.name)}</b><br>"
                f"{style.format_interval(row.value, row.low, row.high)}",
                hoverinfo="text",
                name=style.escape(row.name),
            ),
            row=place,
            col=1,
        )
    figure.add_vline(x=0, line={"color": style.NEUTRAL, "width": 1}, row=place, col=1)
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(labels))),
        ticktext=labels[::-1],
        range=[-0.7, len(labels) - 0.4],
        showgrid=False,
        row=place,
        col=1,
    )

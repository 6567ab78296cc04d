"""Depth contrasts: the numbers in which a verdict sums up depth, each with its interval.

>>> figure = depth_contrasts(roles)  # doctest: +SKIP
"""

from collections.abc import Iterator
from dataclasses import dataclass

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
    """A mark with its interval.

    Attributes:
        label: at the axis.
        family: whose colour and symbol it has.
        name: in hovers.
        value, low, high: the estimate and its interval.
        hollow: whether the mark is hollow: the same with the first token's write kept.
    """

    label: str
    family: str
    name: str
    value: float
    low: float
    high: float
    hollow: bool = False


def depth_contrasts(roles: Roles) -> go.Figure:
    """Draw what the verdict says of depth in all: a panel per quantity, a row per family.

    The panels: mean harm of the first third of layers minus that of the last third; the same of one
    family minus another; mean harm over all layers under one protocol minus another; and over how
    many layers harm is spread (the effective number). A panel without any known number is left out.

    Args:
        roles: what `localize` gave.

    Raises:
        InputError: none of these numbers is known.

    Example:
        figure = lr.figures.depth_contrasts(lr.localize(result))
    """
    panels = {title: rows for title, rows in _panels(roles) if rows}
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
        _draw(figure, rows, place)
    style.headings(figure)
    hollow = any(row.hollow for rows in panels.values() for row in rows)
    beside = "; hollow: with the first token's write kept" if hollow else ""
    style.finish(
        figure,
        kind="depth_contrasts",
        about=roles.frame.assign(ablation=roles.ablation, at=roles.at),
        title=f"Depth in numbers ({roles.ablation})",
        subtitle=f"{style.counts(roles.frame['n'])} examples per family; 95% intervals, paired "
        f"by question; at {roles.at}{beside}",
        height=168 + plot,
        legend=False,
    )
    return figure.update_layout(margin_l=268)


def _panels(roles: Roles) -> Iterator[tuple[str, list[_Row]]]:
    order = {family: place for place, family in enumerate(style.ordered(roles.frame["family"]))}
    frame, contrasts = (
        some.sort_values("family", key=lambda names: names.map(order), kind="stable")
        for some in (roles.frame, roles.contrasts[roles.contrasts["difference"].notna()])
    )
    early = contrasts[contrasts["quantity"] == "early_minus_late"]
    kept = early[(early["against"] == "") & (early["at"] == "after_first")]
    yield (
        "harm of the first third of layers minus the last third",
        [
            *_of_frame(frame, "early_minus_late", "ci_low", "ci_high"),
            *(
                _Row(
                    _label(r.family, r.protocol),
                    r.family,
                    f"{r.family}, {r.protocol}, the first token's write kept",
                    r.difference,
                    r.ci_low,
                    r.ci_high,
                    hollow=True,
                )
                for r in records(kept)
            ),
        ],
    )
    yield (
        "what of it goes away with the first token's write kept",
        [
            _Row(
                _label(r.family, r.protocol),
                r.family,
                f"{r.family}, {r.protocol}, {r.at}",
                r.difference,
                r.ci_low,
                r.ci_high,
            )
            for r in records(early[(early["against"] == "") & (early["at"] != "after_first")])
        ],
    )
    yield (
        "first third minus last third, one family minus another",
        [
            _Row(
                f"{style.swatch(r.family)} \N{MINUS SIGN} {style.swatch(r.against)}"
                f" \N{MIDDLE DOT} {style.escape(r.protocol)}",
                r.family,
                f"{r.family} minus {r.against}, {r.protocol}",
                r.difference,
                r.ci_low,
                r.ci_high,
            )
            for r in records(early[early["against"] != ""])
        ],
    )
    yield (
        "mean harm over all layers, one protocol minus another",
        [
            _Row(
                _label(r.family, r.protocol),
                r.family,
                f"{r.family}, {r.protocol}",
                r.difference,
                r.ci_low,
                r.ci_high,
            )
            for r in records(contrasts[contrasts["quantity"] == "mean_harm"])
        ],
    )
    yield (
        "layers over which harm is spread (effective number, sinks left out)",
        _of_frame(frame, "effective", "effective_low", "effective_high"),
    )


def _of_frame(frame: pd.DataFrame, value: str, low: str, high: str) -> list[_Row]:
    return [
        _Row(
            _label(row["family"], row["protocol"]),
            row["family"],
            f"{row['family']}, {row['protocol']}, n {row['n']}",
            row[value],
            row[low],
            row[high],
        )
        for _, row in frame[frame[value].notna()].iterrows()
    ]


def _label(family: str, protocol: str) -> str:
    return f"{style.swatch(family)} \N{MIDDLE DOT} {style.escape(protocol)}"


def _draw(figure: go.Figure, rows: list[_Row], place: int) -> None:
    labels = list(dict.fromkeys(row.label for row in rows))
    for row in rows:
        hue = style.colour(row.family)
        middle = len(labels) - 1 - labels.index(row.label)
        symbol = style.symbol(row.family)
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
                f"{style.interval(row.value, row.low, row.high)}",
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

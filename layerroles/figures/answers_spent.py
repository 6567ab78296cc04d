"""Answers spent: how many questions were asked with each layer ablated, and the layer's verdict.

>>> figure = answers_spent(result)  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.results import SweepResult

# For each verdict, the colour of its bars and that of the numbers written on them.
_LOOK = {
    "critical": ("#b4451f", "#ffffff"),
    "partial": ("#f0b48a", "#1f2933"),
    "spare": ("#e4e8ec", "#1f2933"),
    "helps": (style.HELPS, "#ffffff"),
    "sink": ("#7c3f6b", "#ffffff"),
    "undecided": ("#ffffff", "#1f2933"),
}
_ROW = 34  # height of a row in pixels
_TALLEST = 0.84  # height of the tallest bar, as a share of its row


def answers_spent(
    result: SweepResult, *, ablation: str | None = None, protocol: str | None = None
) -> go.Figure:
    """Draw how many questions were asked with each layer ablated, coloured by the verdict.

    The verdicts are critical, partial, spare, helps, sink and undecided (see `layerroles.roles`).
    There is a row per family and protocol, and a bar per layer. The height of a bar grows with the
    logarithm of the number of questions, summed over the family's tasks; the number is written on
    the bar where there is room. Families that the intact model does not answer above chance have no
    bars. If the sweep has several sets of positions (`at`), only the first is drawn. The same
    numbers are in `SweepResult.decisions`.

    Args:
        result: a sweep over single layers, such as `lr.Sweep(..., until="decided")`, which asks no
            more questions with a layer ablated once the layer's verdict is decided.
        ablation: the kind of ablation; needed only where the sweep ran several.
        protocol: only this protocol; None for all.

    Raises:
        InputError: no single layer was ablated, several ablations were run and none is chosen, the
            protocol is unknown, or no family was answered above chance.

    Example:
        asked = lr.Sweep(model, tasks, conditions, until="decided", limit=64)
        figure = lr.figures.answers_spent(asked.run("runs/decided"))
    """
    effects = select.layer_effects(result, ablation=ablation, protocol=protocol)
    kind, at = effects["ablation"].iloc[0], select.positions_of(effects)[0]
    table = result.decisions()
    table = table[(table["ablation"] == kind) & (table["at"] == at) & table["layer"].notna()]
    table = table[table["condition"].isin(effects["condition"])]
    table = table[table["protocol"].isin(effects["protocol"]) & table["verdict"].isin(list(_LOOK))]
    if table.empty:
        raise InputError("no family was answered above chance, so no layer has a verdict")
    table = style.sort_by_family(table)
    rows = list(dict.fromkeys(zip(table["family"], table["protocol"], strict=True)))
    places = {row: len(rows) - 1 - place for place, row in enumerate(rows)}
    figure = go.Figure()
    heights = _heights(table["n"])
    for verdict, (fill, ink) in _LOOK.items():
        part = table[table["verdict"] == verdict]
        _draw_bars(figure, part.assign(height=heights[part.index]), places, fill, ink)
    n_layers = select.n_layers_of(result, effects)
    figure.update_xaxes(**style.layer_axis(n_layers), title_text="ablated layer (0-based)")
    figure.update_yaxes(
        tickvals=list(places.values()),
        ticktext=[style.panel_title(*row) for row in places],
        range=[-0.6, len(rows) - 0.4],
        showgrid=False,
        zeroline=False,
    )
    decided = int((table["verdict"] != "undecided").sum())
    style.finish(
        figure,
        kind="answers_spent",
        about=table,
        title=f"Questions asked of each layer, and its verdict ({kind})",
        subtitle=f"{decided} of {len(table)} verdicts decided, with {int(table['n'].sum()):,} "
        f"answers of ablated models; at {at}",
        height=210 + _ROW * len(rows),
    )
    uniform = {"mode": "hide", "minsize": 7}
    return figure.update_layout(margin={"l": 190}, barmode="overlay", uniformtext=uniform)


def _heights(n: "pd.Series[int]") -> "pd.Series[float]":
    """Return a bar's height, as a share of its row, for each number of questions.

    Heights grow with the logarithm of the number, from `_TALLEST / 2` to `_TALLEST`.
    """
    logs = np.log(n.clip(lower=1).astype(float))
    span = float(logs.max() - logs.min())
    return _TALLEST * (0.5 + 0.5 * (logs - logs.min()) / span if span else logs * 0 + 1)


def _draw_bars(
    figure: go.Figure, part: pd.DataFrame, places: dict[tuple[str, str], int], fill: str, ink: str
) -> None:
    """Draw a bar for each row of `part`, the rows with one verdict.

    `places` maps (family, protocol) to the index of its row in the figure, counted from the bottom;
    `fill` and `ink` are the colours of the bars and of the numbers on them.
    """
    if part.empty:
        return
    rows = list(zip(part["family"], part["protocol"], strict=True))
    figure.add_trace(
        go.Bar(
            x=part["layer"].astype(int),
            y=part["height"],
            base=[places[row] - _TALLEST / 2 for row in rows],
            width=0.92,
            marker={"color": fill, "line": {"color": style.NEUTRAL, "width": 0.6}},
            text=part["n"],
            textposition="inside",
            insidetextanchor="middle",
            textangle=-90,
            textfont={"size": 10, "color": ink},
            name=part["verdict"].iloc[0],
            meta=select.trace_meta(part),
            hovertext=[_hover_text(line) for _, line in part.iterrows()],
            hoverinfo="text",
        )
    )


def _hover_text(line: "pd.Series[float]") -> str:
    harm = style.format_interval(line["harm"], line["low"], line["high"])
    return (
        f"<b>layer {line['layer']}</b>, {style.escape(line['family'])}, "
        f"{style.escape(line['protocol'])}<br>{line['verdict']}: harm {harm}<br>"
        f"{line['n']} questions, {line['look']} looks"
    )

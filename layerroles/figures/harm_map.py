"""Harm map: the harm of ablating each layer, as one heat map per protocol.

A map has a row for each task and each set of positions (`at`) at which the ablation acts.

    >>> figure = harm_map(result)  # doctest: +SKIP
"""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.figures import select, style
from layerroles.results import SweepResult, ablates_tokens

_SATURATION = 1.5  # colours stop here; the value of a cell beyond it is printed in the cell


def harm_map(
    result: SweepResult, *, ablation: str | None = None, protocol: str | None = None
) -> go.Figure:
    """Draw the harm of ablating each layer, tasks by layers, on a colour scale centred on 0.

    Harm is `-effect / (intact - chance)`: 1 means that the whole skill above chance is gone, and a
    negative harm means that the ablation helps. A dot marks a cell of the map whose interval
    excludes 0. Colours saturate at the largest absolute harm, but at 1 at least and 1.5 at most; a
    value beyond that is printed in its cell. A cell is hatched if its harm is undefined (see
    `why_undefined`) or the ablation was not run.

    Args:
        result: a sweep over single layers.
        ablation: the kind of ablation; needed only where the sweep ran several.
        protocol: one protocol; every protocol if not given.

    Raises:
        InputError: nothing to draw, an unknown ablation or protocol, or several ablations and none
            chosen.

    Example:
        figure = lr.figures.harm_map(result, protocol="generation")
    """
    effects = select.layer_effects(result, ablation=ablation, protocol=protocol)
    protocols = list(dict.fromkeys(effects["protocol"]))
    n_layers = select.n_layers_of(result, effects)
    rows = {
        protocol_label: _row_keys(effects[effects["protocol"] == protocol_label])
        for protocol_label in protocols
    }
    most = saturation(effects["harm"])
    sizes = [len(rows[protocol_label]) for protocol_label in protocols]
    figure = make_subplots(
        rows=len(protocols),
        cols=1,
        shared_xaxes=True,
        row_heights=[size / sum(sizes) for size in sizes],
        vertical_spacing=34 / (24 * sum(sizes) + 40),
        subplot_titles=[style.escape(protocol_label) for protocol_label in protocols],
    )
    for row, protocol_label in enumerate(protocols, start=1):
        part = effects[effects["protocol"] == protocol_label]
        _draw_panel(figure, part, rows[protocol_label], n_layers, most, row)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="ablated layer (0-based)", row=len(protocols))
    style.align_headings(figure)
    kind = effects["ablation"].iloc[0]
    style.finish(
        figure,
        kind="harm_map",
        about=effects,
        title=f"Harm of ablating one layer ({kind})",
        subtitle=f"{style.format_counts(effects['n'])} examples per cell; 1 = all skill "
        f"above chance gone, below 0 = helps; \N{BULLET} interval excludes 0; "
        "hatched = undefined; layers are 0-based",
        height=168 + 24 * sum(sizes) + 44 * len(protocols),
        legend=False,
    )
    return figure.update_layout(
        margin_l=176, coloraxis=style.colour_axis("harm", -most, most, ".2~f")
    )


def saturation(harm: "pd.Series[float]") -> float:
    """Return the harm at which colours saturate: the largest absolute harm, clipped to [1, 1.5]."""
    return max(1.0, min(_SATURATION, float(np.nanmax(np.abs([0.0, *harm])))))


def _row_keys(part: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return (family, task, at) of each row of a protocol's heat map, from top to bottom."""
    swept = set(zip(part["family"], part["task"], part["at"], strict=True))
    return [
        (family, task, at)
        for family in style.order_families(part["family"])
        for task in dict.fromkeys(part.loc[part["family"] == family, "task"])
        for at in select.positions_of(part)
        if (family, task, at) in swept
    ]


def _draw_panel(
    figure: go.Figure,
    part: pd.DataFrame,
    rows: list[tuple[str, str, str]],
    n_layers: int,
    most: float,
    row: int,
) -> None:
    shape = (len(rows), n_layers)
    harm = np.full(shape, np.nan)
    text = np.full(shape, "", dtype=object)
    hover = np.full(shape, "", dtype=object)
    for line in part.to_dict("records"):
        place = rows.index((line["family"], line["task"], line["at"])), int(line["layer"])
        harm[place] = line["harm"]
        hover[place] = _hover_text(line)
        text[place] = _cell_text(line, most)
    heat = style.heat_map(harm, hover, "harm")
    heat.update(text=text, texttemplate="%{text}", textfont_size=13, meta=_rows_meta(part, rows))
    figure.add_trace(heat, row=row, col=1)
    _draw_hatching(figure, harm, hover, row)
    names = [f"{style.family_label(family)} \N{MIDDLE DOT} {at}" for family, _, at in rows]
    tasks = {(family, task) for family, task, _ in rows}
    if len(tasks) > len({family for family, _ in tasks}):
        names = [
            f"{style.family_label(family)} {style.escape(style.shorten_path(task))}"
            f" \N{MIDDLE DOT} {at}"
            for family, task, at in rows
        ]
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(rows))),
        ticktext=names,
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        ticks="",
        row=row,
        col=1,
    )


def _rows_meta(part: pd.DataFrame, rows: list[tuple[str, str, str]]) -> dict[str, object]:
    """Return `{"rows": [...]}`, with task, protocol, ablation and `at` of each heat-map row."""
    cells = [part[(part["task"] == task) & (part["at"] == at)] for _, task, at in rows]
    return {"rows": [select.trace_meta(cell) for cell in cells]}


def _draw_hatching(figure: go.Figure, harm: np.ndarray, hover: np.ndarray, row: int) -> None:
    """Draw hatched boxes over the cells of undefined harm, which the heat map leaves blank.

    `harm` and `hover` (hover texts) are indexed by row of the map and layer; `row` is the panel's
    row in the figure, from 1.
    """
    gaps = np.argwhere(np.isnan(harm))
    if not len(gaps):
        return
    figure.add_trace(
        go.Bar(
            x=gaps[:, 1],
            y=np.full(len(gaps), 0.94),
            base=gaps[:, 0] - 0.47,
            width=0.96,
            marker={
                "color": style.UNDEFINED,
                "line": {"width": 0},
                "pattern": {
                    "shape": "/",
                    "fillmode": "overlay",
                    "fgcolor": style.NEUTRAL,
                    "size": 5,
                    "solidity": 0.2,
                },
            },
            hovertext=[hover[y, x] or f"layer {x}: not run" for y, x in gaps],
            hoverinfo="text",
            name="undefined",
        ),
        row=row,
        col=1,
    )


def _cell_text(line: dict[str, Any], most: float) -> str:
    if pd.isna(line["harm"]):
        return ""
    if abs(line["harm"]) > most:
        return style.format_number(line["harm"], places=1)
    return "\N{BULLET}" if line["harm_low"] > 0 or line["harm_high"] < 0 else ""


def _hover_text(line: dict[str, Any]) -> str:
    head = f"<b>{style.escape(line['condition'])}</b> \N{MIDDLE DOT} {style.escape(line['task'])}"
    harm = f"harm {style.format_interval(line['harm'], line['harm_low'], line['harm_high'])}"
    if pd.isna(line["harm"]):
        harm = "harm undefined: " + why_undefined(line)
    effect = f"effect {style.format_interval(line['effect'], line['ci_low'], line['ci_high'])}"
    return "<br>".join([head, harm, effect, f"n {line['n']}"])


def why_undefined(line: dict[str, Any]) -> str:
    """Return the reason why the harm in `line`, a row of `SweepResult.effects`, is undefined.

    The reasons: the ablation acts on no token of the questions, the score has no chance level, no
    example could be scored, or the intact model is not shown to be above chance.
    """
    if not ablates_tokens(line["at"], int(line["n_changed"])):
        return "no token of these questions stands where the ablation acts"
    if pd.isna(line["chance"]):
        return "this protocol's score has no chance level"
    if pd.isna(line["effect"]):
        return "no example could be scored"
    intact, chance = style.format_number(line["intact"]), style.format_number(line["chance"])
    return f"intact {intact} is not above chance {chance} by its interval"

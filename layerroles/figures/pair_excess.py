"""Pair excess: the harm of ablating two layers jointly, beyond what ablating each alone explains.

>>> figure = pair_excess(roles)  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.roles import Roles

_RING = "#3a6fe0"  # visible on the orange of harm


def pair_excess(roles: Roles) -> go.Figure:
    """Draw the excess harm of ablating two layers jointly, a panel per family and protocol.

    The excess is the harm of the pair minus the harm that the two single ablations explain. The
    latter is the harm of scoring, on each question, the lower of their two scores (see
    `Roles.pairs`). A ring marks a backup: a pair whose interval of the excess lies above 0.2.
    Before the run is finished there are no rings.

    Args:
        roles: the result of `localize`.

    Raises:
        InputError: no pair of layers was ablated jointly, or none has a harm.

    Example:
        two = lr.pairs(model, lr.Skip(), layers=[0, 2, 3])
        conditions = [*lr.each_layer(model, lr.Skip()), *two]
        asked = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=8)
        figure = lr.figures.pair_excess(lr.localize(asked.run("runs/pairs")))
    """
    pairs = roles.pairs[roles.pairs["excess"].notna()]
    if pairs.empty:
        raise InputError("these roles hold no pairs of layers: sweep pairs(model, Skip())")
    pairs = style.sort_by_family(pairs)
    cells = list(dict.fromkeys(zip(pairs["family"], pairs["protocol"], strict=True)))
    n_layers = int(roles.layers["layer"].max()) + 1
    titles = [style.panel_title(family, protocol) for family, protocol in cells]
    figure, places, height = style.make_square_panels(titles, n_layers)
    for (family, protocol), place in zip(cells, places, strict=True):
        part = pairs[(pairs["family"] == family) & (pairs["protocol"] == protocol)]
        _draw_panel(figure, part, n_layers, place)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="one layer (0-based)")
    figure.update_yaxes(**style.layer_axis(n_layers))
    figure.update_yaxes(title_text="the other", col=1)
    style.align_headings(figure)
    ring = "" if roles.interim else "\N{WHITE CIRCLE} backup: the interval lies above 0.2; "
    style.finish(
        figure,
        kind="pair_excess",
        about=pairs.assign(ablation=roles.ablation, at=roles.at),
        title=f"What two layers cost together beyond each alone ({roles.ablation})",
        subtitle=f"{style.format_counts(pairs['n'])} examples per family; share of the skill; "
        f"{ring}at {roles.at}",
        height=height,
        legend=False,
    )
    most = max(float(pairs["excess"].abs().max()), 0.01)
    return figure.update_layout(coloraxis=style.colour_axis("excess", -most, most))


def _draw_panel(
    figure: go.Figure, part: pd.DataFrame, n_layers: int, place: dict[str, int]
) -> None:
    values = np.full((n_layers, n_layers), np.nan)
    hover = np.full(values.shape, "", dtype=object)
    for _, line in part.iterrows():
        cell = int(line["other"]), int(line["layer"])
        values[cell], hover[cell] = line["excess"], _hover_text(line)
    figure.add_trace(style.heat_map(values, hover, "excess"), **place)
    backups = part[part["verdict"] == "backup"]
    figure.add_trace(
        go.Scatter(
            x=backups["layer"],
            y=backups["other"],
            mode="markers",
            marker={"symbol": "circle-open", "size": 8, "color": _RING, "line": {"width": 2}},
            hoverinfo="skip",
            name="backup",
        ),
        **place,
    )


def _hover_text(line: "pd.Series[float]") -> str:
    excess = style.format_interval(line["excess"], line["excess_low"], line["excess_high"])
    harm = style.format_interval(line["harm"], line["harm_low"], line["harm_high"])
    return (
        f"<b>layers {int(line['layer'])} and {int(line['other'])}</b><br>excess {excess}<br>"
        f"harm together {harm}<br>explained {style.format_number(line['explained'])}<br>n "
        f"{int(line['n'])}"
    )

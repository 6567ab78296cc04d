"""What single heads cost, and pairs of layers beyond each alone: the parts of a verdict.

>>> figure = head_harms(roles.heads)  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.figures.heads import Look, draw_map, head_name
from layerroles.roles import Roles

_NAMED = 3
_RING = "#3a6fe0"  # to be seen on the orange of harm


def head_harms(heads: pd.DataFrame, *, ablation: str | None = None) -> go.Figure:
    """Draw the harm of ablating each head alone, layer by head, a panel per family and protocol.

    Critical heads, the three of most harm, are named.

    Args:
        heads: `Roles.heads`.
        ablation: the kind applied to the heads; needed only where there were several.

    Raises:
        InputError: no head was ablated alone, none has a harm, or the kind is unknown or ambiguous.

    Example:
        conditions = [*lr.each_layer(model, lr.Skip()), *lr.each_head(model, lr.Zero(), layers=[1])]
        asked = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=8)
        figure = lr.figures.head_harms(lr.localize(asked.run("runs/each_head")).heads)
    """
    heads = heads[heads["harm"].notna()]
    if heads.empty:
        raise InputError("these roles hold no harm of single heads: sweep each_head(model, Zero())")
    kinds = list(dict.fromkeys(heads["ablation"]))
    if ablation not in kinds and (ablation is not None or len(kinds) > 1):
        raise InputError(
            f"ablation={ablation!r}: heads were ablated by {', '.join(kinds)}, name one"
        )
    heads = heads[heads["ablation"] == (ablation or kinds[0])]
    means = heads.rename(columns={"harm": "value", "harm_low": "low", "harm_high": "high"})
    look = Look(
        kind="head_harms",
        title=f"Harm of ablating one head at a time ({ablation or kinds[0]})",
        unit="harm",
        subtitle=f"{style.counts(means['n'])} examples per family; 1 is the whole skill above "
        f"chance; at {', '.join(dict.fromkeys(means['at']))}; layers and heads are 0-based",
        heading=_heading,
        diverging=True,
    )
    panels = _in_order(means.assign(task=means["protocol"]))
    return draw_map(panels, _critical, look, about=means)


def _critical(part: pd.DataFrame) -> pd.DataFrame:
    return part[part["verdict"] == "critical"].nlargest(_NAMED, "value")


def _heading(part: pd.DataFrame, named: pd.DataFrame) -> str:
    n = int((part["verdict"] == "critical").sum())
    listed = ", ".join(
        f"{head_name(line)} {style.interval(line['value'], line['low'], line['high'])}"
        for _, line in named.iterrows()
    )
    return f" \N{EM DASH} {n or 'none'} critical{': ' if listed else ''}{listed}"


def pair_excess(roles: Roles) -> go.Figure:
    """Draw what pairs of layers cost beyond each layer alone, a panel per family and protocol.

    A ring marks a backup: a pair whose excess lies above 0.2 with its interval.

    Args:
        roles: what `localize` gave.

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
    pairs = _in_order(pairs)
    cells = list(dict.fromkeys(zip(pairs["family"], pairs["protocol"], strict=True)))
    n_layers = int(roles.layers["layer"].max()) + 1
    titles = [style.panel(family, protocol) for family, protocol in cells]
    figure, places, height = style.squares(titles, n_layers)
    for (family, protocol), place in zip(cells, places, strict=True):
        part = pairs[(pairs["family"] == family) & (pairs["protocol"] == protocol)]
        _panel(figure, part, n_layers, place)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="one layer (0-based)")
    axis = style.layer_axis(n_layers)
    figure.update_yaxes(**axis)
    figure.update_yaxes(title_text="the other", col=1)
    style.headings(figure)
    style.finish(
        figure,
        kind="pair_excess",
        about=pairs.assign(ablation=roles.ablation, at=roles.at),
        title=f"What two layers cost together beyond each alone ({roles.ablation})",
        subtitle=f"{style.counts(pairs['n'])} examples per family; share of the skill; "
        f"\N{WHITE CIRCLE} backup: the interval lies above 0.2; at {roles.at}",
        height=height,
        legend=False,
    )
    most = max(float(pairs["excess"].abs().max()), 0.01)
    bar = {"title": {"text": "excess", "side": "top"}}
    return figure.update_layout(
        coloraxis={"autocolorscale": True, "cmin": -most, "cmax": most, "colorbar": bar}
    )


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    order = {family: place for place, family in enumerate(style.ordered(frame["family"]))}
    return frame.sort_values("family", key=lambda names: names.map(order), kind="stable")


def _panel(figure: go.Figure, part: pd.DataFrame, n_layers: int, place: dict[str, int]) -> None:
    values = np.full((n_layers, n_layers), np.nan)
    hover = np.full(values.shape, "", dtype=object)
    for _, line in part.iterrows():
        cell = int(line["other"]), int(line["layer"])
        values[cell], hover[cell] = line["excess"], _hover(line)
    ticks = list(range(n_layers))
    figure.add_trace(
        go.Heatmap(
            x=ticks,
            y=ticks,
            z=values,
            hovertext=hover,
            hoverinfo="text",
            hoverongaps=False,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            name="excess",
        ),
        **place,
    )
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


def _hover(line: "pd.Series[float]") -> str:
    excess = style.interval(line["excess"], line["excess_low"], line["excess_high"])
    harm = style.interval(line["harm"], line["harm_low"], line["harm_high"])
    return (
        f"<b>layers {int(line['layer'])} and {int(line['other'])}</b><br>excess {excess}<br>"
        f"harm together {harm}<br>explained {style.number(line['explained'])}<br>n {int(line['n'])}"
    )

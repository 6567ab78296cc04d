"""Head harms: the harm of ablating each head alone.

>>> figure = head_harms(roles.heads)  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.figures.head_map import Look, draw_map, head_name

_NAMED = 3


def head_harms(heads: pd.DataFrame, *, ablation: str | None = None) -> go.Figure:
    """Draw the harm of ablating each head alone, layer by head, a panel per family and protocol.

    The three critical heads (interval of harm above 0.2) with the most harm are named; before the
    run is finished, no head is named.

    Args:
        heads: the table `Roles.heads`.
        ablation: the kind of ablation; needed only where heads were ablated in several ways.

    Raises:
        InputError: no head was ablated alone, none has a harm, or the kind is unknown or ambiguous.

    Example:
        conditions = [*lr.each_layer(model, lr.Skip()), *lr.each_head(model, lr.Zero(), layers=[1])]
        asked = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=8)
        figure = lr.figures.head_harms(lr.localize(asked.run("runs/each_head")).heads)
    """
    interim = bool(heads.attrs.get("interim"))
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
        subtitle=f"{style.format_counts(means['n'])} examples per family; 1 is the whole skill "
        f"above chance; at {', '.join(dict.fromkeys(means['at']))}; layers and heads are 0-based",
        heading=(lambda _, __: "") if interim else _panel_heading,
        diverging=True,
    )
    panels = style.sort_by_family(means.assign(task=means["protocol"]))
    return draw_map(panels, _critical_heads, look, about=means)


def _critical_heads(part: pd.DataFrame) -> pd.DataFrame:
    return part[part["verdict"] == "critical"].nlargest(_NAMED, "value")


def _panel_heading(part: pd.DataFrame, named: pd.DataFrame) -> str:
    n = int((part["verdict"] == "critical").sum())
    listed = ", ".join(
        f"{head_name(line)} {style.format_interval(line['value'], line['low'], line['high'])}"
        for _, line in named.iterrows()
    )
    return f" \N{EM DASH} {n or 'none'} critical{': ' if listed else ''}{listed}"

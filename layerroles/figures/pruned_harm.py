"""Draw what pruning costs: harm by the number of layers dropped, a line for each pruning method.

>>> figure = pruned_harm(table)  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style

_COLUMNS = (
    *("drop", "method", "layers", "task", "family", "protocol", "n"),
    *("harm", "harm_low", "harm_high"),
)
# Not the family palette: a line is a pruning method.
_LOOK = {
    "role_aware": ("#7c3f6b", "circle"),
    "likelihood": ("#4f7fa8", "square"),
    "block_influence": ("#c98a2b", "diamond"),
    "angular": ("#5a8f5a", "triangle-up"),
    "random": (style.NEUTRAL, "x"),
}
_APART = 0.07  # horizontal offset between methods, in layers dropped


def pruned_harm(table: pd.DataFrame) -> go.Figure:
    """Draw the harm of pruning plans by number of layers dropped, a panel per task and protocol.

    Args:
        table: the result of `compare_plans`; rows without a harm (such as those of scores in nats)
            are left out.

    Raises:
        InputError: the table is empty, lacks a column, or has no row with a harm.

    Example:
        plan = lr.plan_pruning(model, drop=1, tasks=tasks, limit=12)
        asked = lr.Sweep(model, tasks, [plan.condition], protocols=["generation"], limit=8, seed=1)
        figure = lr.figures.pruned_harm(lr.compare_plans(asked.run("runs/plan"), [plan]))
    """
    select.require_columns(table, _COLUMNS, "the pruning figure")
    with_harm = table[table["harm"].notna()]
    if with_harm.empty:
        raise InputError("the pruning figure needs tasks with skill above chance: none has any")
    keys = ["family", "task", "protocol"]
    panels = style.sort_by_family(with_harm[keys].drop_duplicates())
    names = list(panels.itertuples(index=False, name=None))
    # A protocol that all panels share is named once, so that headings of three panels fit.
    protocols = list(dict.fromkeys(panels["protocol"]))
    headings = [panel if len(protocols) > 1 else panel[:2] for panel in names]
    figure = make_subplots(
        rows=1,
        cols=len(names),
        shared_yaxes="all",
        horizontal_spacing=0.04,
        subplot_titles=[style.panel_title(*heading) for heading in headings],
    )
    methods = list(dict.fromkeys(with_harm["method"]))
    for column, panel in enumerate(names, start=1):
        part = with_harm[(with_harm[keys] == list(panel)).all(axis=1)]
        for place, method in enumerate(methods):
            line = part[part["method"] == method].sort_values("drop")
            shift = _APART * (place - (len(methods) - 1) / 2)
            figure.add_trace(_draw_line(line, method, shift, column == 1), row=1, col=column)
    drops = sorted(int(drop) for drop in with_harm["drop"].unique())
    figure.update_xaxes(
        title_text="layers dropped", tickvals=drops, range=[drops[0] - 0.4, drops[-1] + 0.4]
    )
    figure.update_yaxes(zeroline=True, zerolinecolor=style.NEUTRAL)
    figure.update_yaxes(title_text="harm", col=1)
    style.align_headings(figure)
    return style.finish(
        figure,
        kind="pruned_harm",
        about=with_harm,
        title="What is lost without the layers that each method chose"
        + (f", by {protocols[0]}" if len(protocols) == 1 else ""),
        subtitle=f"{style.format_counts(with_harm['n'])} examples per mark; 95% intervals; 0: "
        "nothing lost, 1: no better than chance",
        height=440,
    )


def _draw_line(line: pd.DataFrame, method: str, shift: float, named: bool) -> go.Scatter:
    hue, symbol = _LOOK.get(method, (style.NEUTRAL, "cross"))
    return go.Scatter(
        x=line["drop"] + shift,
        y=line["harm"],
        error_y=style.error_bars(line["harm"], line["harm_low"], line["harm_high"], colour=hue),
        mode="lines+markers",
        line={"color": hue, "width": 1.4},
        marker={"symbol": symbol, "size": 8, "color": hue},
        name=style.escape(method.replace("_", " ")),
        legendgroup=method,
        showlegend=named,
        hovertext=[_hover_text(row) for _, row in line.iterrows()],
        hoverinfo="text",
    )


def _hover_text(row: "pd.Series[float]") -> str:
    harm = style.format_interval(row["harm"], row["harm_low"], row["harm_high"])
    layers = style.escape(row["layers"])
    method = style.escape(str(row["method"]).replace("_", " "))
    return f"<b>{method}</b> \N{MIDDLE DOT} {layers}<br>harm {harm}<br>n {int(row['n'])}"

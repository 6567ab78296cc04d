"""Outcome profile: the shares of right, wrong and failed answers, layer by layer.

A model that fails to keep the answer format may still be able to reason. So wrong answers are
counted apart from answers that are missing, truncated, repetitive or empty.

    >>> figure = outcome_profile(result)  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.results import SweepResult

# The colour and the hatching of each outcome. The colours are not those of families, so that an
# outcome is not mistaken for a family.
_LOOK = {
    "correct": ("#4f7fa8", ""),
    "wrong": ("#b9c1cc", ""),
    "no answer": ("#e9b872", "."),
    "truncated": ("#e08a5a", "-"),
    "degenerate": ("#c2453d", "/"),
    "empty": ("#7c3f6b", "x"),
    "not finite": ("#7d848f", "+"),
}
_INTACT_AT = -2.0


def outcome_profile(
    result: SweepResult, *, ablation: str | None = None, protocol: str = "generation"
) -> go.Figure:
    """Draw the shares of right, wrong and failed answers per ablated layer.

    There is a panel for each task and each set of positions (`at`) at which the ablation acts. The
    bar left of layer 0 is the intact model.

    Args:
        result: a sweep over single layers.
        ablation: the kind of ablation; needed only where the sweep ran several.
        protocol: a protocol that records an outcome of each answer, such as "correct" or
            "truncated".

    Raises:
        InputError: no single layer was ablated, the protocol was not run or records no outcomes, or
            several ablations were run and none is chosen.

    Example:
        figure = lr.figures.outcome_profile(result)
    """
    effects = select.layer_effects(result, ablation=ablation, protocol=protocol)
    kind = effects["ablation"].iloc[0]
    frame = result.frame
    frame = frame[(frame["protocol"] == protocol) & frame["ablation"].isin(["intact", kind])]
    single = frame["layer"].notna() & (frame["part"] == "block")
    frame = frame[single | (frame["ablation"] == "intact")]
    frame = frame.assign(outcome=frame["outcome"].where(frame["status"] == "ok", "not finite"))
    if not frame["outcome"].isin(list(_LOOK)).any():
        raise InputError(f"protocol {protocol!r} records no outcomes: choose one with answers")
    families = dict(zip(effects["task"], effects["family"], strict=True))
    tasks = list(dict.fromkeys(style.sort_by_family(effects)["task"]))
    ats = select.positions_of(effects)
    panels = [(task, at) for task in tasks for at in ats]
    # Panels of a task stand side by side if there are two, else one below the other.
    n_columns = len(ats) if len(ats) <= 2 else 1
    n_rows = len(panels) // n_columns
    n_layers = select.n_layers_of(result, effects)
    figure = make_subplots(
        rows=n_rows,
        cols=n_columns,
        shared_xaxes="all",
        shared_yaxes="all",
        vertical_spacing=0.2 / max(2, n_rows),
        horizontal_spacing=0.04,
        subplot_titles=[style.panel_title(families[task], task, f"at {at}") for task, at in panels],
    )
    shown: set[str] = set()
    for place, (task, at) in enumerate(panels):
        cell = frame[(frame["task"] == task)]
        cell = cell[(cell["at"] == at) | (cell["ablation"] == "intact")]
        _draw_bars(figure, cell, place // n_columns + 1, place % n_columns + 1, shown)
        panel_effects = effects[(effects["task"] == task) & (effects["at"] == at)]
        if not panel_effects.empty:
            meta = select.trace_meta(panel_effects)
            figure.update_traces(meta=meta, row=place // n_columns + 1, col=place % n_columns + 1)
    axis = style.layer_axis(n_layers)
    axis.update(
        tickvals=[_INTACT_AT, *axis["tickvals"]],  # type: ignore[misc]
        ticktext=["intact", *axis["ticktext"]],  # type: ignore[misc]
        range=[-2.7, n_layers - 0.4],
    )
    figure.update_xaxes(**axis)
    figure.update_xaxes(title_text="ablated layer (0-based)", row=n_rows)
    style.align_headings(figure)
    figure.update_yaxes(range=[0, 1], dtick=0.5, tickformat=".0%")
    style.finish(
        figure,
        kind="outcome_profile",
        about=effects.assign(n=effects["n"] + effects["n_failed"]),
        title=f"How answers come out when one layer is ablated ({kind}, {protocol})",
        subtitle=f"share of {style.format_counts(effects['n'] + effects['n_failed'])} examples per "
        "bar; left of layer 0: the intact model; layers are 0-based",
        height=168 + 120 * n_rows,
    )
    return figure.update_layout(barmode="stack", bargap=0.12)


def _draw_bars(
    figure: go.Figure, cell: pd.DataFrame, row: int, column: int, shown: set[str]
) -> None:
    place = cell["layer"].astype("Float64").fillna(_INTACT_AT).astype(float)
    table = pd.crosstab(place, cell["outcome"])
    total = table.sum(axis=1)
    for outcome, (hue, pattern) in _LOOK.items():
        if outcome not in table:
            continue
        count = table[outcome]
        where = ["intact" if x == _INTACT_AT else f"layer {x:.0f}" for x in table.index]
        figure.add_trace(
            go.Bar(
                x=table.index,
                y=count / total,
                name=outcome,
                legendgroup=outcome,
                showlegend=outcome not in shown,
                marker={
                    "color": hue,
                    "line": {"width": 0},
                    "pattern": {
                        "shape": pattern,
                        "fillmode": "overlay",
                        "size": 4,
                        "solidity": 0.25,
                        "fgcolor": "rgba(255,255,255,0.75)",
                    },
                },
                hovertext=[
                    f"<b>{name}</b><br>{outcome}: {got} of {of} ({got / of:.0%})"
                    for name, got, of in zip(where, count, total, strict=True)
                ],
                hoverinfo="text",
            ),
            row=row,
            col=column,
        )
        shown.add(outcome)

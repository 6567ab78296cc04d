"""Depth profile: the score when each layer is ablated alone, and the ablation's effect below it.

>>> figure = depth_profile(result, task="facts", protocol="generation")  # doctest: +SKIP
>>> figure.write_html("facts.html")  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.figures import select, style
from layerroles.results import SweepResult

# Marker and dash for each set of positions; `_OTHER` for positions chosen by a user's function.
_MARKS = {
    "all": ("circle", "solid"),
    "after_first": ("circle-open", "dot"),
    "prompt": ("square", "solid"),
    "generated": ("square-open", "dot"),
    "evidence": ("diamond", "dash"),
    "last": ("triangle-down-open", "dashdot"),
}
_OTHER = ("star-open", "longdash")
# Distance between neighbouring marks, and largest distance from the first to the last, in layers.
_APART, _WIDEST = 0.28, 0.7


def depth_profile(
    result: SweepResult,
    *,
    task: str | None = None,
    protocol: str | None = None,
    ablation: str | None = None,
) -> go.Figure:
    """Draw the score with each layer ablated, and in a panel below it the paired effect.

    There is a column per protocol and a pair of rows per task. The shape of a mark shows at which
    positions the ablation acts, such as a filled circle for all (`at="all"`) and a hollow one for
    all but the first token (`at="after_first"`); marks of one layer stand side by side. The solid
    line is the intact score with its interval, the dotted line is chance. Effects are paired
    differences to intact in the unit of the score; negative means that the ablation hurts.

    Args:
        result: a sweep over single layers.
        task: one task label; every task if not given.
        protocol: one protocol; every protocol if not given.
        ablation: the kind of ablation; needed only where the sweep ran several.

    Raises:
        InputError: nothing to draw, an unknown name, or several ablations and none chosen.

    Example:
        figure = lr.figures.depth_profile(result, protocol="generation")
        figure.write_html("depth.html")
    """
    effects = select.layer_effects(result, ablation=ablation, task=task, protocol=protocol)
    tasks = list(dict.fromkeys(effects["task"]))
    protocols = list(dict.fromkeys(effects["protocol"]))
    n_layers = select.n_layers_of(result, effects)
    intact = result.intact()
    units = select.score_units(result)
    figure = make_subplots(
        rows=2 * len(tasks),
        cols=len(protocols),
        shared_xaxes="all",
        row_heights=[0.6, 0.4] * len(tasks),
        vertical_spacing=0.12 / len(tasks),
        horizontal_spacing=0.07,
        subplot_titles=_panel_titles(effects, tasks, protocols),
    )
    shown: set[str] = set()
    span = effect_span(effects, units)
    for index, name in enumerate(tasks):
        for column, protocol_label in enumerate(protocols, start=1):
            cell = effects[(effects["task"] == name) & (effects["protocol"] == protocol_label)]
            if cell.empty:
                continue
            base = intact[(intact["task"] == name) & (intact["protocol"] == protocol_label)].iloc[0]
            row = 2 * index + 1
            draw_lines(figure, cell, base, n_layers, row, column, shown)
            draw_points(figure, cell, row, column, shown)
            set_axes(figure, units.get((name, protocol_label), "accuracy"), span, row, column)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="ablated layer (0-based)", row=2 * len(tasks))
    style.align_headings(figure)
    kind = effects["ablation"].iloc[0]
    of = f" on {style.shorten_path(tasks[0])}" if len(tasks) == 1 else ""
    return style.finish(
        figure,
        kind="depth_profile",
        about=effects,
        title=f"Score{of} when one layer is ablated ({kind}), and the effect",
        subtitle=f"{style.format_counts(effects['n'])} examples per point; 95% intervals; "
        "effect = score \N{MINUS SIGN} intact on the same examples; layers are 0-based",
        height=max(430, 168 + 300 * len(tasks)),
    )


def _panel_titles(effects: pd.DataFrame, tasks: list[str], protocols: list[str]) -> list[str]:
    families = dict(zip(effects["task"], effects["family"], strict=True))
    titles: list[str] = []
    for name in tasks:
        titles += [style.panel_title(families[name], name, protocol) for protocol in protocols]
        titles += [""] * len(protocols)
    return titles


def draw_lines(
    figure: go.Figure,
    cell: pd.DataFrame,
    base: "pd.Series[float]",
    n_layers: int,
    row: int,
    column: int,
    shown: set[str],
) -> None:
    """Draw the intact score as a line with its interval as a band, and chance if it is known.

    Args:
        figure: the figure; changed in place.
        cell: the effects of one task under one protocol.
        base: the intact model's score for this task and protocol, with its interval.
        n_layers: the model's number of layers.
        row: row of the panel, from 1.
        column: column of the panel, from 1.
        shown: names that the legend has already; changed in place.
    """
    ends = [-0.6, n_layers - 0.4]
    low, high = base["score_low"], base["score_high"]
    figure.add_trace(
        go.Scatter(
            x=[*ends, *reversed(ends)],
            y=[low, low, high, high],
            mode="lines",
            fill="toself",
            fillcolor=style.fade(style.NEUTRAL, 0.14),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            name="intact interval",
        ),
        row=row,
        col=column,
    )
    lines = [("intact", base["score"], "solid"), ("chance", cell["chance"].iloc[0], "dot")]
    for name, value, dash in lines:
        if pd.isna(value):
            continue
        hover = f"{name} {style.format_number(value)}"
        if name == "intact":
            hover = f"intact {style.format_interval(value, low, high)}, n {int(base['n'])}"
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=[value, value],
                mode="lines",
                line={"color": style.NEUTRAL, "dash": dash, "width": 1.6},
                name=name,
                legendgroup=name,
                showlegend=name not in shown,
                hovertemplate=hover + "<extra></extra>",
            ),
            row=row,
            col=column,
        )
        shown.add(name)


def draw_points(
    figure: go.Figure, cell: pd.DataFrame, row: int, column: int, shown: set[str]
) -> None:
    """Draw scores with intervals in a panel, and effects with intervals in the panel below it.

    The symbol of a mark shows at which positions (`at`) the ablation acts. The arguments are those
    of `draw_lines`.
    """
    hue = style.family_colour(cell["family"].iloc[0])
    ats = select.positions_of(cell)
    for place, at in enumerate(ats):
        part = cell[cell["at"] == at]
        symbol, dash = _MARKS.get(at, _OTHER)
        wide = min(_APART * (len(ats) - 1), _WIDEST)
        shift = wide * (place / (len(ats) - 1) - 0.5) if len(ats) > 1 else 0.0
        # A line would suggest values at layers that were not ablated at these positions.
        is_whole = len(part) == cell["layer"].nunique()
        hover = [_hover_text(line) for _, line in part.iterrows()]
        for offset, value, low, high in (
            (0, "score", "score_low", "score_high"),
            (1, "effect", "ci_low", "ci_high"),
        ):
            figure.add_trace(
                go.Scatter(
                    x=part["layer"] + shift,
                    y=part[value],
                    error_y=style.error_bars(
                        part[value], part[low], part[high], colour=style.fade(hue, 0.55)
                    ),
                    mode="lines+markers" if is_whole else "markers",
                    line={"color": style.fade(hue, 0.45), "width": 1, "dash": dash},
                    marker={
                        "symbol": symbol,
                        "color": hue,
                        "size": 7,
                        "line": {"width": 1.4},
                    },
                    name=f"at {at}",
                    legendgroup=at,
                    showlegend=at not in shown,
                    hovertext=hover,
                    hoverinfo="text",
                    meta={"value": value, **select.trace_meta(part)},
                ),
                row=row + offset,
                col=column,
            )
            shown.add(at)


def _hover_text(line: "pd.Series[float]") -> str:
    return "<br>".join(
        [
            f"<b>{style.escape(line['condition'])}</b>",
            f"score {style.format_interval(line['score'], line['score_low'], line['score_high'])}",
            f"effect {style.format_interval(line['effect'], line['ci_low'], line['ci_high'])}",
            f"harm {style.format_interval(line['harm'], line['harm_low'], line['harm_high'])}",
            f"n {int(line['n'])}, p after Holm {style.format_number(line['p_adjusted'], places=3)}",
        ]
    )


def effect_span(effects: pd.DataFrame, units: dict[tuple[str, str], str]) -> list[float]:
    """Return one axis range for all effects on accuracy, so that panels can be compared by eye.

    `units` maps (task, protocol) to the unit of the score, as `select.score_units` returns.
    """
    cells = zip(effects["task"], effects["protocol"], strict=True)
    bounded = effects[[units.get(cell, "accuracy") == "accuracy" for cell in cells]]
    ends = bounded[["ci_low", "ci_high", "effect"]].to_numpy(float)
    ends = ends[~np.isnan(ends)]
    low, high = min([-0.1, *ends]), max([0.1, *ends])
    return [low - 0.05 * (high - low), high + 0.05 * (high - low)]


def set_axes(figure: go.Figure, unit: str, span: list[float], row: int, column: int) -> None:
    """Set titles and ranges of the y axes of a score panel and of the effect panel below it.

    `unit` is the unit of the score; `span` is the range for effects on accuracy (`effect_span`).
    """
    bounded = unit == "accuracy"
    name = unit if column == 1 or not bounded else None
    figure.update_yaxes(title_text=name, row=row, col=column)
    figure.update_yaxes(title_text="effect" if column == 1 else None, row=row + 1, col=column)
    figure.update_yaxes(zeroline=True, zerolinecolor=style.NEUTRAL, row=row + 1, col=column)
    if bounded:
        figure.update_yaxes(range=[-0.03, 1.03], dtick=0.25, row=row, col=column)
        figure.update_yaxes(range=span, row=row + 1, col=column)

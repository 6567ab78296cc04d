"""Direct against total effect: what a layer adds to the answer's logit, and its harm when ablated.

A layer with large harm and a direct effect near 0 acts through later layers. A layer with a large
direct effect and little harm writes the answer, but other layers write it if this one is ablated.

    >>> figure = direct_against_total(attribution, result)  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.figures.harm_map import why_undefined
from layerroles.results import INTACT, SweepResult
from layerroles.roles import CRITICAL

_COLUMNS = ("task", "family", "example", "layer", "part", "logit")
_LOWEST, _HIGHEST = -0.6, 1.6  # limits of the harm axis, wider if a harm lies beyond them
_NAMED = 3  # number of layers named for their direct effect, and of those named for their harm


def direct_against_total(
    attribution: pd.DataFrame,
    result: SweepResult,
    *,
    task: str | None = None,
    protocol: str | None = None,
    ablation: str | None = None,
) -> go.Figure:
    """Draw each layer's direct effect on the answer's logit against the harm of ablating it.

    There is a column for each task in both `attribution` and `result`, and a row per protocol. A
    mark is a layer; darker marks are deeper layers. Horizontal: the direct effect in logits, which
    is what the layer's attention and MLP add directly to the answer's logit, minus the mean of what
    they add to the logits of the other choices; a mean over examples with its 95% interval by
    Student's t. Vertical: harm with its 95% interval; the dashed line marks a harm of 0.2. If the
    sweep has several sets of positions (`at`), only the first is drawn. The three layers with the
    largest absolute direct effect and the three with the most harm are named.

    Args:
        attribution: a direct attribution probe frame; only the intact model's rows are drawn.
        result: a sweep over single layers.
        task: one task label; every task if not given.
        protocol: one protocol; every protocol if not given.
        ablation: the kind of ablation; needed only where the sweep ran several.

    Raises:
        InputError: nothing to draw, an unknown task, protocol or ablation, a frame without rows of
            the intact model, or a frame of another probe.

    Example:
        attribution = lr.probes.DirectAttribution().measure(model, tasks, limit=8)
        figure = lr.figures.direct_against_total(attribution, result, protocol="generation")
    """
    select.require_columns(attribution, _COLUMNS, "the figure of direct effects")
    of_intact = intact_rows(attribution)
    if of_intact.empty:
        names = ", ".join(map(str, attribution["condition"].unique()))
        raise InputError(
            "the figure of direct effects shows those of the intact model, and its frame holds "
            f"{names}: measure DirectAttribution without condition="
        )
    direct = _direct_effects(of_intact)
    effects = select.layer_effects(result, ablation=ablation, task=task, protocol=protocol)
    at = select.positions_of(effects)[0]
    effects = effects[(effects["at"] == at) & effects["task"].isin(set(direct["task"]))]
    if effects.empty:
        raise InputError("the frame of direct effects and the sweep have no task in common")
    merged = effects.merge(direct.drop(columns="family"), on=["task", "layer"], suffixes=("", "_d"))
    tasks = list(dict.fromkeys(style.sort_by_family(merged)["task"]))
    protocols = list(dict.fromkeys(merged["protocol"]))
    families = dict(zip(merged["task"], merged["family"], strict=True))
    figure = make_subplots(
        rows=len(protocols),
        cols=len(tasks),
        shared_yaxes="all",
        vertical_spacing=0.2 / len(protocols),
        horizontal_spacing=0.03,
        subplot_titles=[style.panel_title(families[name], name) for name in tasks],
    )
    n_layers = select.n_layers_of(result, effects)
    for row, protocol_label in enumerate(protocols, start=1):
        for column, name in enumerate(tasks, start=1):
            cell = merged[(merged["task"] == name) & (merged["protocol"] == protocol_label)]
            _draw_panel(figure, cell, n_layers, row, column)
        title = f"harm, {style.escape(protocol_label)}"
        figure.update_yaxes(title_text=title, row=row, col=1)
    figure.update_xaxes(zeroline=True, zerolinecolor=style.NEUTRAL)
    figure.update_xaxes(title_text="direct effect (logits)", row=len(protocols))
    low = min(_LOWEST, merged["harm"].min() - 0.05)
    high = max(_HIGHEST, merged["harm"].max() + 0.05)
    figure.update_yaxes(range=[low, high], zeroline=True, zerolinecolor=style.NEUTRAL)
    style.align_headings(figure)
    kind = effects["ablation"].iloc[0]
    return style.finish(
        figure,
        kind="direct_against_total",
        about=effects,
        title=f"What a layer writes into the answer, and the harm of ablating it ({kind})",
        subtitle=f"{style.format_counts(effects['n'])} examples per harm, "
        f"{style.format_counts(merged['n_d'])} per "
        f"direct effect; 95% intervals; at {at}; darker marks are deeper layers (0-based)",
        height=168 + 300 * len(protocols),
        legend=False,
    )


def intact_rows(attribution: pd.DataFrame) -> pd.DataFrame:
    """Return the intact model's rows; all rows of a frame without conditions."""
    if "condition" not in attribution:
        return attribution
    return attribution[attribution["condition"] == INTACT]


def _direct_effects(attribution: pd.DataFrame) -> pd.DataFrame:
    """Return the mean direct effect of each layer on each task: attention plus MLP, in logits.

    Columns: family, task, layer, `direct` with its 95% interval `direct_low` to `direct_high`, and
    n, the number of examples.
    """
    written = attribution[attribution["part"].isin(("attn", "mlp"))]
    keys = ["family", "task", "layer"]
    logits = written.groupby([*keys, "example"], sort=False)["logit"].sum()
    means = select.mean_by(logits.reset_index(), keys, "logit", count="n")
    names = {"value": "direct", "low": "direct_low", "high": "direct_high"}
    return means.rename(columns=names)


def _draw_panel(
    figure: go.Figure, cell: pd.DataFrame, n_layers: int, row: int, column: int
) -> None:
    place = {"row": row, "col": column}
    measured = cell[cell["harm"].notna()]
    if measured.empty:
        why = why_undefined(cell.iloc[0].to_dict()) if len(cell) else "not swept"
        middle = float(cell["direct"].mean()) if len(cell) else 0.0
        text = f"not measurable:<br>{style.escape(why)}"
        figure.add_annotation(x=middle, y=0.8, text=text, font_size=11, **place)
        return
    family = measured["family"].iloc[0]
    hue = style.family_colour(family)
    most = (measured["direct"].abs().nlargest(_NAMED), measured["harm"].nlargest(_NAMED))
    named = {*measured.loc[most[0].index, "layer"], *measured.loc[most[1].index, "layer"]}
    deep = [0.25 + 0.75 * layer / max(n_layers - 1, 1) for layer in measured["layer"]]
    figure.add_trace(
        go.Scatter(
            x=measured["direct"],
            y=measured["harm"],
            mode="markers+text",
            error_x=_error_bars(measured, "direct", hue),
            error_y=_error_bars(measured, "harm", hue),
            marker={
                "symbol": style.family_symbol(family),
                "size": 9,
                "color": [style.fade(hue, alpha) for alpha in deep],
                "line": {"color": hue, "width": 1},
            },
            text=[str(layer) if layer in named else "" for layer in measured["layer"]],
            textposition="top right",
            textfont={"size": 11},
            cliponaxis=True,
            hovertext=[_hover_text(line) for _, line in measured.iterrows()],
            hoverinfo="text",
            name=style.escape(family),
        ),
        **place,
    )
    figure.add_hline(y=CRITICAL, line={"color": style.NEUTRAL, "width": 1, "dash": "dash"}, **place)


def _error_bars(part: pd.DataFrame, value: str, hue: str) -> dict[str, object]:
    low, high = part[f"{value}_low"], part[f"{value}_high"]
    return style.error_bars(part[value], low, high, colour=style.fade(hue, 0.35), thickness=1.0)


def _hover_text(line: "pd.Series[float]") -> str:
    direct = style.format_interval(line["direct"], line["direct_low"], line["direct_high"])
    harm = style.format_interval(line["harm"], line["harm_low"], line["harm_high"])
    return "<br>".join(
        [
            f"<b>layer {int(line['layer'])}</b> \N{MIDDLE DOT} {style.escape(line['task'])}",
            f"direct effect {direct} logits, n {int(line['n_d'])}",
            f"harm {harm}, n {int(line['n'])}",
        ]
    )

"""Direct against total effect: what a layer writes into the answer, and what it costs to lose it.

A layer far up and near the middle matters by way of later layers; one far to the right and low
writes the answer, and others would write it too.

    >>> figure = direct_against_total(attribution, result)  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import t

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.figures.harm_map import why_undefined
from layerroles.results import SweepResult
from layerroles.roles import CRITICAL

_COLUMNS = ("task", "family", "example", "layer", "part", "logit")
_LOWEST, _HIGHEST = -0.6, 1.6  # the harm axis goes no further
_NAMED = 3  # layers that are named for what they write, and as many for their harm


def direct_against_total(
    attribution: pd.DataFrame,
    result: SweepResult,
    *,
    task: str | None = None,
    protocol: str | None = None,
    ablation: str | None = None,
) -> go.Figure:
    """Draw each layer's direct effect on the answer's logit against the harm of ablating it.

    A column per task that both hold and a row per protocol; a mark per layer, the deeper the
    darker. Across: what attention and MLP of the layer write into the logit of the answer, minus
    the mean of the other choices' (logits), mean over examples with its 95% interval by Student's
    t. Up: harm with its 95% interval; the dashed line is 0.2. The three layers that write most and
    the three of most harm are named.

    Args:
        attribution: a frame of the direct attribution.
        result: a sweep over single layers.
        task: one task label; every task if not given.
        protocol: one protocol; every protocol if not given.
        ablation: the kind of ablation; needed only where the sweep ran several.

    Raises:
        InputError: nothing to draw, an unknown task, protocol or ablation, or another frame.

    Example:
        attribution = lr.probes.DirectAttribution().measure(model, tasks, limit=8)
        figure = lr.figures.direct_against_total(attribution, result, protocol="generation")
    """
    select.require(attribution, _COLUMNS, "the figure of direct effects")
    direct = _direct(attribution)
    effects = select.layer_effects(result, ablation=ablation, task=task, protocol=protocol)
    at = select.ats(effects)[0]
    effects = effects[(effects["at"] == at) & effects["task"].isin(set(direct["task"]))]
    if effects.empty:
        raise InputError("the frame of direct effects and the sweep have no task in common")
    both = effects.merge(direct.drop(columns="family"), on=["task", "layer"], suffixes=("", "_d"))
    tasks = [
        name
        for family in style.ordered(both["family"])
        for name in dict.fromkeys(both.loc[both["family"] == family, "task"])
    ]
    protocols = list(dict.fromkeys(both["protocol"]))
    families = dict(zip(both["task"], both["family"], strict=True))
    figure = make_subplots(
        rows=len(protocols),
        cols=len(tasks),
        shared_yaxes="all",
        vertical_spacing=0.2 / len(protocols),
        horizontal_spacing=0.03,
        subplot_titles=[style.panel(families[name], name) for name in tasks],
    )
    n_layers = select.depth(result, effects)
    for row, asked in enumerate(protocols, start=1):
        for column, name in enumerate(tasks, start=1):
            cell = both[(both["task"] == name) & (both["protocol"] == asked)]
            _panel(figure, cell, n_layers, row, column)
        title = f"harm, {style.escape(asked)}"
        figure.update_yaxes(title_text=title, row=row, col=1)
    figure.update_xaxes(zeroline=True, zerolinecolor=style.NEUTRAL)
    figure.update_xaxes(title_text="direct effect (logits)", row=len(protocols))
    figure.update_yaxes(range=[_LOWEST, _HIGHEST], zeroline=True, zerolinecolor=style.NEUTRAL)
    style.headings(figure)
    kind = effects["ablation"].iloc[0]
    return style.finish(
        figure,
        kind="direct_against_total",
        about=effects,
        title=f"What a layer writes into the answer, and the harm of ablating it ({kind})",
        subtitle=f"{style.counts(effects['n'])} examples per harm, {style.counts(both['n_d'])} per "
        f"direct effect; 95% intervals; at {at}; darker marks are deeper layers (0-based)",
        height=168 + 300 * len(protocols),
        legend=False,
    )


def _direct(attribution: pd.DataFrame) -> pd.DataFrame:
    """What attention and MLP write together: mean and interval over examples, task by layer."""
    if "condition" in attribution:
        attribution = attribution[attribution["condition"] == "intact"]
    written = attribution[attribution["part"].isin(("attn", "mlp"))]
    keys = ["family", "task", "layer"]
    whole = written.groupby([*keys, "example"], sort=False)["logit"].sum()
    table = whole.groupby(keys, sort=False).agg(["mean", "sem", "size"]).reset_index()
    reach = table["sem"] * t.ppf(0.975, table["size"] - 1)
    table = table.assign(direct_low=table["mean"] - reach, direct_high=table["mean"] + reach)
    return table.rename(columns={"mean": "direct", "size": "n"}).drop(columns="sem")


def _panel(figure: go.Figure, cell: pd.DataFrame, n_layers: int, row: int, column: int) -> None:
    place = {"row": row, "col": column}
    known = cell[cell["harm"].notna()]
    if known.empty:
        why = why_undefined(cell.iloc[0].to_dict()) if len(cell) else "not swept"
        middle = float(cell["direct"].mean()) if len(cell) else 0.0
        text = f"not measurable:<br>{style.escape(why)}"
        figure.add_annotation(x=middle, y=0.8, text=text, font_size=11, **place)
        return
    family = known["family"].iloc[0]
    hue = style.colour(family)
    most = (known["direct"].abs().nlargest(_NAMED), known["harm"].nlargest(_NAMED))
    named = {*known.loc[most[0].index, "layer"], *known.loc[most[1].index, "layer"]}
    deep = [0.25 + 0.75 * layer / max(n_layers - 1, 1) for layer in known["layer"]]
    figure.add_trace(
        go.Scatter(
            x=known["direct"],
            y=known["harm"],
            mode="markers+text",
            error_x=_bars(known, "direct", hue),
            error_y=_bars(known, "harm", hue),
            marker={
                "symbol": style.symbol(family),
                "size": 9,
                "color": [style.fade(hue, alpha) for alpha in deep],
                "line": {"color": hue, "width": 1},
            },
            text=[str(layer) if layer in named else "" for layer in known["layer"]],
            textposition="top right",
            textfont={"size": 11},
            cliponaxis=True,
            hovertext=[_hover(line) for _, line in known.iterrows()],
            hoverinfo="text",
            name=style.escape(family),
        ),
        **place,
    )
    figure.add_hline(y=CRITICAL, line={"color": style.NEUTRAL, "width": 1, "dash": "dash"}, **place)


def _bars(part: pd.DataFrame, value: str, hue: str) -> dict[str, object]:
    low, high = part[f"{value}_low"], part[f"{value}_high"]
    return style.error_bars(part[value], low, high, colour=style.fade(hue, 0.35), thickness=1.0)


def _hover(line: "pd.Series[float]") -> str:
    direct = style.interval(line["direct"], line["direct_low"], line["direct_high"])
    harm = style.interval(line["harm"], line["harm_low"], line["harm_high"])
    return "<br>".join(
        [
            f"<b>layer {int(line['layer'])}</b> \N{MIDDLE DOT} {style.escape(line['task'])}",
            f"direct effect {direct} logits, n {int(line['n_d'])}",
            f"harm {harm}, n {int(line['n'])}",
        ]
    )

"""Decision margin: at which depth the model chooses among the options, and how clearly.

>>> figure = decision_margin(Decision().measure(model, tasks))  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.figures import lens, select, style

_COLUMNS = ("task", "family", "example", "layer", "margin", "phase")
_NAMES = ("family", "task", "condition")
_ROW = 26  # pixels per line in the lower panel


def decision_margin(decision: pd.DataFrame) -> go.Figure:
    """Draw the right option's mean margin over depth, and where choices become final.

    Upper panel: the margin, which is the log-probability of the right option minus that of the best
    other one (nats; positive where the right option leads), with 95% intervals by Student's t.
    Lower panel: the depth at which the decisive phase begins (the first depth from which an
    example's choice stays the final one), as a median over examples with its 95% interval by order
    statistics, which takes 6 examples or more. Layer -1 is the embedding, layer l the residual
    stream after block l; the stream between attention and MLP is left out.

    Args:
        decision: a frame of the decision probe.

    Raises:
        InputError: the frame is empty or not of the decision probe.

    Example:
        decision = lr.probes.Decision().measure(model, tasks, limit=8)
        figure = lr.figures.decision_margin(decision)
    """
    select.require_columns(decision, _COLUMNS, "the decision figure")
    if "part" in decision:
        decision = decision[decision["part"] == "block"]
    summary = _summarize(decision)
    n_layers = int(summary["layer"].max()) + 1
    drawn = list(lens.iter_lines(summary))
    upper, lower = 300, 30 + _ROW * len(drawn)
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[upper, lower],
        vertical_spacing=34 / (upper + lower + 34),
        subplot_titles=["margin of the right option", "start of the decisive phase, median"],
    )
    for place, (family, index, name, part) in enumerate(drawn):
        hover = [_hover_text(name, line) for _, line in part.iterrows()]
        for trace in lens.band_and_line(family, index, name, part, hover):
            figure.add_trace(trace, row=1, col=1)
        figure.add_trace(_draw_start(family, name, place, part.iloc[0]), row=2, col=1)
    figure.add_hline(y=0, line={"color": style.NEUTRAL, "width": 1, "dash": "dot"}, row=1, col=1)
    figure.update_xaxes(**style.layer_axis(n_layers, embedding=True))
    figure.update_xaxes(title_text="read after layer (0-based; emb = embedding)", row=2)
    figure.update_yaxes(title_text="nats", row=1)
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(drawn))),
        ticktext=[style.escape(name) for _, _, name, _ in drawn],
        range=[len(drawn) - 0.4, -0.6],
        showgrid=False,
        ticks="",
        row=2,
    )
    style.align_headings(figure)
    conditions = list(dict.fromkeys(decision.get("condition", ["intact"])))
    model = ", intact model" if conditions == ["intact"] else ""
    style.finish(
        figure,
        kind="decision_margin",
        about=summary,
        title="Where the model chooses among the options",
        subtitle=f"{style.format_counts(summary['n'])} examples per task{model}; 95% intervals; "
        "decisive = the choice is the final one from there on; layers are 0-based",
        height=168 + upper + lower + 34,
    )
    return lens.set_legend_beside(figure, len(drawn)).update_layout(margin_l=110)


def _summarize(decision: pd.DataFrame) -> pd.DataFrame:
    """Return a row per task, condition and layer: mean margin, n, and start of the decisive phase.

    Columns: `value`, `low`, `high` of the margin (nats); `n`; `start`, `start_low`, `start_high`,
    the same for all layers of a task and condition (NaN if the frame lacks its decisive phase).
    """
    names = [name for name in _NAMES if name in decision]
    starts = []
    # The last layer is decisive by definition: in a frame of all layers every example has a start.
    for key, decisive in decision[decision["phase"] == "decisive"].groupby(names):
        first = decisive.groupby("example")["layer"].min().to_numpy(float)
        starts.append((*key, *lens.median_with_interval(first)))
    columns = [*names, "start", "start_low", "start_high"]
    by_layer = decision.sort_values("layer", kind="stable")
    margins = select.mean_by(by_layer, [*names, "layer"], "margin", count="n")
    return margins.merge(pd.DataFrame(starts, columns=columns), on=names, how="left")


def _draw_start(family: str, name: str, place: int, line: "pd.Series[float]") -> go.Scatter:
    """Return a mark at the median start (a layer) of the decisive phase, with its interval.

    `line` is a row of `_summarize`; `place` is the index of the mark's row in the lower panel.
    """
    hue = style.family_colour(family)
    shown = style.format_interval(line["start"], line["start_low"], line["start_high"], 1)
    return go.Scatter(
        x=[line["start"]],
        y=[place],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [line["start_high"] - line["start"]],
            "arrayminus": [line["start"] - line["start_low"]],
            "color": hue,
            "thickness": 2,
            "width": 5,
        },
        mode="markers",
        marker={"symbol": style.family_symbol(family), "size": 9, "color": hue},
        hovertext=[
            f"<b>{style.escape(name)}</b><br>decisive from layer {shown}<br>n {int(line['n'])}"
        ],
        hoverinfo="text",
        showlegend=False,
        name=f"{style.escape(name)} start",
    )


def _hover_text(name: str, line: "pd.Series[float]") -> str:
    layer = int(line["layer"])
    where = "embedding" if layer == -1 else f"after layer {layer}"
    value = style.format_interval(line["value"], line["low"], line["high"])
    return (
        f"<b>{style.escape(name)}</b> \N{MIDDLE DOT} {where}<br>margin {value} nats"
        f"<br>n {int(line['n'])}"
    )

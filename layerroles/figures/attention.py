"""Attention map: which heads look at the evidence when the model answers.

The share of a head's attention that goes from the answering position to the evidence span, averaged
over examples; "even" is the share that uniform attention would give it.

    >>> figure = attention_map(attention, top=5)  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style

_COLUMNS = ("task", "family", "example", "layer", "head", "evidence", "uniform")


def attention_map(attention: pd.DataFrame, *, top: int = 3) -> go.Figure:
    """Draw the mean attention to the evidence per layer and head, a panel per task.

    The strongest heads of each task are named, if their share is at least twice the even one. Tasks
    whose examples have no evidence span are left out, and the subtitle says so.

    Args:
        attention: an attention probe frame.
        top: how many heads to name per task.

    Raises:
        InputError: `top` is negative, the frame is empty or no attention frame, or no task has
            evidence.
    """
    if top < 0:
        raise InputError(f"top must be 0 or more, got {top}")
    means = attention_means(attention)
    tasks = list(dict.fromkeys(zip(means["family"], means["task"], strict=True)))
    n_layers, n_heads = int(means["layer"].max()) + 1, int(means["head"].max()) + 1
    panel = max(90, min(16, 420 // n_heads) * n_heads)
    gap = 46 / (len(tasks) * panel + 46 * max(1, len(tasks) - 1))
    figure = make_subplots(
        rows=len(tasks),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=gap if len(tasks) > 1 else 0,
        subplot_titles=[_title(means, family, task, top) for family, task in tasks],
    )
    for row, (_, task) in enumerate(tasks, start=1):
        _panel(figure, means[means["task"] == task], (n_heads, n_layers), top, row)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="layer (0-based)", row=len(tasks))
    step = next(s for s in (1, 2, 4, 8, 16, 32) if n_heads / s <= 10 or s == 32)
    figure.update_yaxes(title_text="head", dtick=step, range=[n_heads - 0.5, -0.5], showgrid=False)
    style.headings(figure)
    without = sorted(set(attention["task"]) - set(means["task"]))
    left_out = f"; without evidence: {', '.join(without)}" if without else ""
    style.finish(
        figure,
        title="Attention from the answering position to the evidence",
        subtitle=f"mean share over {style.counts(means['n'])} examples per task, intact model"
        f"{left_out}; layers and heads are 0-based",
        height=168 + len(tasks) * (panel + 46),
        legend=False,
    )
    bar = {"title": {"text": "share", "side": "top"}, "tickformat": ".0%"}
    highest = float(means["evidence"].max())
    return figure.update_layout(
        coloraxis={"autocolorscale": True, "cmin": 0, "cmax": max(highest, 0.01), "colorbar": bar}
    )


def attention_means(attention: pd.DataFrame) -> pd.DataFrame:
    """Average over examples per task, layer and head: evidence, low, high, uniform, n.

    `low` and `high` are the mean -+ 1.96 standard errors.
    """
    select.require(attention, _COLUMNS, "the attention figure")
    valid = attention[attention["evidence"].notna()]
    if valid.empty:
        raise InputError("no example of the attention frame has evidence: nothing to draw")
    grouped = valid.groupby(["family", "task", "layer", "head"], sort=False)
    means = grouped.agg(
        evidence=("evidence", "mean"),
        error=("evidence", "sem"),
        uniform=("uniform", "mean"),
        n=("evidence", "size"),
    ).reset_index()
    means["low"] = means["evidence"] - 1.96 * means["error"]
    means["high"] = means["evidence"] + 1.96 * means["error"]
    order = {family: place for place, family in enumerate(style.ordered(means["family"]))}
    means = means.sort_values("family", key=lambda names: names.map(order), kind="stable")
    return means.drop(columns="error").reset_index(drop=True)


def strongest(part: pd.DataFrame, top: int) -> pd.DataFrame:
    """The heads with the largest share, at least twice what even attention gives."""
    return part[part["evidence"] >= 2 * part["uniform"]].nlargest(top, "evidence")


def head_name(line: "pd.Series[float]") -> str:
    """`L3.H7`."""
    return f"L{int(line['layer'])}.H{int(line['head'])}"


def head_hover(line: "pd.Series[float]") -> str:
    """What the hover says about one head on one task."""
    share = style.interval(line["evidence"], line["low"], line["high"], 3)
    return (
        f"<b>{head_name(line)}</b> \N{MIDDLE DOT} {style.escape(line['task'])}<br>"
        f"share to evidence {share}<br>even attention {style.number(line['uniform'], places=3)}"
        f"<br>n {int(line['n'])}"
    )


def _title(means: pd.DataFrame, family: str, task: str, top: int) -> str:
    part = means[means["task"] == task]
    best = strongest(part, top)
    named = ", ".join(f"{head_name(line)} {line['evidence']:.0%}" for _, line in best.iterrows())
    strong = (
        f" \N{EM DASH} strongest {named}"
        if named
        else " \N{EM DASH} no head at twice even attention"
    )
    even = f" (even attention {part['uniform'].mean():.1%})"
    return (
        f"{style.swatch(family)} \N{MIDDLE DOT} {style.escape(task)}{strong if top else ''}{even}"
    )


def _panel(
    figure: go.Figure, part: pd.DataFrame, shape: tuple[int, int], top: int, row: int
) -> None:
    share = np.full(shape, np.nan)
    hover = np.full(shape, "", dtype=object)
    for _, line in part.iterrows():
        place = int(line["head"]), int(line["layer"])
        share[place], hover[place] = line["evidence"], head_hover(line)
    figure.add_trace(
        go.Heatmap(
            x=list(range(shape[1])),
            y=list(range(shape[0])),
            z=share,
            hovertext=hover,
            hoverinfo="text",
            hoverongaps=False,
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            name="attention to evidence",
        ),
        row=row,
        col=1,
    )
    for _, line in strongest(part, top).iterrows():
        right = line["layer"] < 0.85 * shape[1]
        figure.add_annotation(
            x=line["layer"] + (0.55 if right else -0.55),
            y=line["head"],
            text=f"<b>{head_name(line)}</b>",
            xanchor="left" if right else "right",
            font_size=11,
            row=row,
            col=1,
        )

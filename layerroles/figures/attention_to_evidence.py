"""Attention map: which heads attend to the evidence when the model answers.

The evidence is the part of the prompt on which the answer depends. The value of a head is the share
of its attention that goes from the answering position to the evidence, averaged over examples;
"even" is the share that uniform attention would give to the evidence.

    >>> figure = attention_map(attention, top=5)  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.figures.head_map import Look, draw_map, head_name

_COLUMNS = ("task", "family", "example", "layer", "head", "evidence", "uniform")


def attention_map(attention: pd.DataFrame, *, top: int = 3) -> go.Figure:
    """Draw the mean attention to the evidence per layer and head, a panel per task.

    The heads with the largest shares are named, if their share is at least twice that of uniform
    attention. Tasks whose examples do not say where the evidence is are left out, and listed in the
    subtitle.

    Args:
        attention: a frame of the attention probe; if it has several conditions, only the intact
            model's rows are drawn.
        top: how many heads to name per task.

    Raises:
        InputError: `top` is negative, the frame is empty or lacks columns, or no task has evidence.

    Example:
        attention = lr.probes.Attention().measure(model, tasks, limit=8)
        figure = lr.figures.attention_map(attention)
    """
    if top < 0:
        raise InputError(f"top must be 0 or more, got {top}")
    attention = select.rows_of_one_condition(attention, "the attention figure")
    means = attention_means(attention)
    without = sorted(set(attention["task"]) - set(means["task"]))
    left_out = f"; without evidence: {', '.join(without)}" if without else ""
    look = Look(
        kind="attention_map",
        title="Attention from the answering position to the evidence",
        unit="share",
        subtitle=f"mean share over {style.format_counts(means['n'])} examples per task"
        f"{select.describe_condition(attention, intact=', intact model')}{left_out}; "
        "layers and heads are 0-based",
        heading=lambda part, best: _panel_heading(part, best, top),
        percent=True,
    )
    hover = [head_hover_text(line) for _, line in means.iterrows()]
    return draw_map(
        means.assign(value=means["evidence"], hover=hover),
        lambda part: strongest_heads(part, top),
        look,
    )


def attention_means(attention: pd.DataFrame) -> pd.DataFrame:
    """Return mean attention over examples, a row per task, layer and head.

    Columns: family, task, layer, head, `evidence` (mean share of attention to the evidence), its
    95% interval `low` to `high` by Student's t, `uniform` (mean share under uniform attention) and
    n (the number of examples).

    Raises:
        InputError: no example has evidence.
    """
    select.require_columns(attention, _COLUMNS, "the attention figure")
    valid = attention[attention["evidence"].notna()]
    if valid.empty:
        raise InputError("no example of the attention frame has evidence: nothing to draw")
    keys = ["family", "task", "layer", "head"]
    means = select.mean_by(valid, keys, "evidence", count="n").rename(columns={"value": "evidence"})
    uniform = valid.groupby(keys, sort=False)["uniform"].mean()
    return means.merge(uniform.reset_index(), on=keys)


def strongest_heads(part: pd.DataFrame, top: int) -> pd.DataFrame:
    """Return the rows of the `top` heads with the largest shares, among those worth naming.

    A head is worth naming if its share is at least twice the share under uniform attention. `part`
    holds the rows of one task, from `attention_means`.
    """
    return part[part["evidence"] >= 2 * part["uniform"]].nlargest(top, "evidence")


def head_hover_text(line: "pd.Series[float]") -> str:
    """Return the hover text of one head on one task."""
    share = style.format_interval(line["evidence"], line["low"], line["high"], 3)
    return (
        f"<b>{head_name(line)}</b> \N{MIDDLE DOT} {style.escape(line['task'])}<br>"
        f"share to evidence {share}<br>even attention "
        f"{style.format_number(line['uniform'], places=3)}<br>n {int(line['n'])}"
    )


def _panel_heading(part: pd.DataFrame, best: pd.DataFrame, top: int) -> str:
    named = ", ".join(f"{head_name(line)} {line['evidence']:.0%}" for _, line in best.iterrows())
    strong = (
        f" \N{EM DASH} strongest {named}"
        if named
        else " \N{EM DASH} no head at twice even attention"
    )
    even = f" (even attention {part['uniform'].mean():.1%})"
    return (strong if top else "") + even

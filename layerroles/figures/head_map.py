"""Head map: a score of every head as a heat map, layer by head, with the top heads named.

>>> figure = head_map(frame, value="induction", top=5)  # doctest: +SKIP
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style

# Title and unit of the columns of head probes.
_KNOWN = {
    "evidence": ("Attention from the answering position to the evidence", "share"),
    "first": ("Attention from the answering position to the first token", "share"),
    "question": ("Attention from the answering position to the question", "share"),
    "entropy": ("Entropy of attention from the answering position", "nats"),
    "previous": ("Previous-token score", "score"),
    "duplicate": ("Duplicate-token score", "score"),
    "induction": ("Induction score", "score"),
    "score": ("Retrieval score", "score"),
}


@dataclass(frozen=True)
class Look:
    """The labels of a head map, and the format of its values.

    Attributes:
        kind: the name of the public function that draws.
        title: title of the figure.
        unit: unit of the values, shown over the colour bar.
        subtitle: what a value is, and over how many examples.
        heading: function of two frames, the rows of a panel and the rows of its heads to name; it
            returns the text that follows family and task in the panel's title.
        percent: whether values are shown as percentages.
        diverging: whether the colour scale has two sides even if no value is negative, as for harm.
    """

    kind: str
    title: str
    unit: str
    subtitle: str
    heading: Callable[[pd.DataFrame, pd.DataFrame], str]
    percent: bool = False
    diverging: bool = False


def head_map(frame: pd.DataFrame, *, value: str, top: int = 3) -> go.Figure:
    """Draw the mean of a per-head value, layer by head, a panel per task.

    The heads whose values are farthest from 0 are named in the title of their panel, and beside
    their cells where there is room. They are the most extreme of many, so the values in the title
    are biased away from 0.

    Args:
        frame: rows with layer, head and the value, which is averaged per task and head. With
            columns task and family there is a panel for each task, else a single one. If there are
            several conditions, only the intact model's rows are drawn.
        value: the column to draw, such as `"induction"` of `HeadScores` or `"score"` of
            `RetrievalScore`.
        top: how many heads to name per task.

    Raises:
        InputError: `top` is negative, the frame is empty or lacks columns, or the value is missing
            in every row.

    Example:
        scores = lr.probes.HeadScores().measure_repeated(model, length=6)
        figure = lr.figures.head_map(scores, value="induction")
    """
    if top < 0:
        raise InputError(f"top must be 0 or more, got {top}")
    frame = select.rows_of_one_condition(frame, "the head map")
    means = head_means(frame, value)
    title, unit = _KNOWN.get(value, (value, value))
    left = sorted(set(map(str, frame["task"])) - set(means["task"])) if "task" in frame else []
    without = f"; not known for {', '.join(left)}" if left else ""
    look = Look(
        kind="head_map",
        title=title,
        unit=unit,
        subtitle=f"mean over {style.format_counts(means['n'])} examples per task"
        f"{select.describe_condition(frame)}{without}; layers and heads are 0-based",
        heading=_panel_heading if top else lambda _, __: "",
    )
    return draw_map(means, lambda part: farthest_heads(part, top), look)


def head_means(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return the mean of the column `value` over examples, a row per task, layer and head.

    Columns: family, task, layer, head, value (the mean), n (the number of examples), low and high
    (95% interval of the mean by Student's t; NaN for a single example).

    Raises:
        InputError: the frame is empty, lacks columns, or has no value in any row.
    """
    select.require_columns(frame, ("layer", "head", value), "the head map")
    known_rows = frame[frame[value].notna()]
    if known_rows.empty:
        raise InputError(f"the head map's {value!r} is not known for any head: nothing to draw")
    for column in ("family", "task"):
        if column not in known_rows:
            known_rows = known_rows.assign(**{column: ""})
    return select.mean_by(known_rows, ["family", "task", "layer", "head"], value, count="n")


def farthest_heads(part: pd.DataFrame, top: int) -> pd.DataFrame:
    """Return the rows of the `top` heads whose values are farthest from 0."""
    return part.loc[part["value"].abs().nlargest(top).index]


def head_name(line: "pd.Series[float]") -> str:
    """Return the name of a head, such as `L3.H7`."""
    return f"L{int(line['layer'])}.H{int(line['head'])}"


def draw_map(
    means: pd.DataFrame,
    named: Callable[[pd.DataFrame], pd.DataFrame],
    look: Look,
    about: pd.DataFrame | None = None,
) -> go.Figure:
    """Draw means of a per-head value as heat maps, layer by head, a panel per task.

    Args:
        means: columns family, task, layer, head, value, low, high, n, as `head_means` returns, and
            optionally `hover`, the hover texts.
        named: function that takes the rows of a task and returns those of the heads to name.
        look: the labels of the map.
        about: rows for the caption to describe; `means` if None.
    """
    tasks = list(dict.fromkeys(zip(means["family"], means["task"], strict=True)))
    n_layers, n_heads = int(means["layer"].max()) + 1, int(means["head"].max()) + 1
    panel = max(90, min(16, 420 // n_heads) * n_heads)
    gap = 46 / (len(tasks) * panel + 46 * max(1, len(tasks) - 1))
    parts = [means[(means["family"] == f) & (means["task"] == t)] for f, t in tasks]
    names = [style.panel_title(family, task) if task else "" for family, task in tasks]
    headings = [
        (name + look.heading(part, named(part))).removeprefix(" \N{EM DASH} ")
        for name, part in zip(names, parts, strict=True)
    ]
    figure = make_subplots(
        rows=len(tasks),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=gap if len(tasks) > 1 else 0,
        subplot_titles=headings,
    )
    for row, part in enumerate(parts, start=1):
        _draw_panel(figure, part, named(part), (n_heads, n_layers), look, row)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="layer (0-based)", row=len(tasks))
    step = next(s for s in (1, 2, 4, 8, 16, 32) if n_heads / s <= 10 or s == 32)
    figure.update_yaxes(title_text="head", dtick=step, range=[n_heads - 0.5, -0.5], showgrid=False)
    style.align_headings(figure)
    style.finish(
        figure,
        kind=look.kind,
        about=means if about is None else about,
        title=look.title,
        subtitle=look.subtitle,
        height=168 + len(tasks) * (panel + 46),
        legend=False,
    )
    lowest, highest = float(means["value"].min()), float(means["value"].max())
    most = max(abs(lowest), abs(highest), 0.01)
    least = -most if lowest < 0 or look.diverging else 0.0
    tickformat = ".0%" if look.percent else None
    return figure.update_layout(coloraxis=style.colour_axis(look.unit, least, most, tickformat))


def _draw_panel(
    figure: go.Figure,
    part: pd.DataFrame,
    named: pd.DataFrame,
    shape: tuple[int, int],
    look: Look,
    row: int,
) -> None:
    values = np.full(shape, np.nan)
    hover = np.full(shape, "", dtype=object)
    for _, line in part.iterrows():
        place = int(line["head"]), int(line["layer"])
        values[place] = line["value"]
        hover[place] = line["hover"] if "hover" in part else _hover_text(line, look)
    figure.add_trace(style.heat_map(values, hover, style.escape(look.title)), row=row, col=1)
    for line, right in _heads_with_room(named, shape[1]):
        figure.add_annotation(
            x=line["layer"] + (0.55 if right else -0.55),
            y=line["head"],
            text=f"<b>{head_name(line)}</b>",
            xanchor="left" if right else "right",
            font_size=11,
            row=row,
            col=1,
        )


def _heads_with_room(
    named: pd.DataFrame, n_layers: int
) -> Iterator[tuple["pd.Series[float]", bool]]:
    """Yield (row, at_right) for each row of `named` whose head's name fits beside its cell.

    `at_right` is false if the name goes at the left. A name fits if it covers no cell of a named
    head and no other name, and stays inside the map.
    """
    width = 0.06 * n_layers  # width of a name, in layers
    for _, part in named.sort_values("layer").groupby("head"):
        taken = [(layer - 0.5, layer + 0.5) for layer in part["layer"]]
        for _, line in part.iterrows():
            layer = line["layer"]
            sides = [(layer + 0.5, layer + 0.5 + width), (layer - 0.5 - width, layer - 0.5)]
            for right, (start, stop) in zip((True, False), sides, strict=True):
                inside = start >= -0.6 and stop <= n_layers + 0.5
                if inside and not any(start < end and begin < stop for begin, end in taken):
                    taken.append((start, stop))
                    yield line, right
                    break


def _panel_heading(_: pd.DataFrame, named: pd.DataFrame) -> str:
    listed = ", ".join(
        f"{head_name(line)} {style.format_number(line['value'])}" for _, line in named.iterrows()
    )
    return f" \N{EM DASH} strongest {listed}"


def _hover_text(line: "pd.Series[float]", look: Look) -> str:
    task = f" \N{MIDDLE DOT} {style.escape(line['task'])}" if line["task"] else ""
    value = style.format_interval(line["value"], line["low"], line["high"], 3)
    return (
        f"<b>{head_name(line)}</b>{task}<br>{style.escape(look.unit)} {value}<br>n {int(line['n'])}"
    )

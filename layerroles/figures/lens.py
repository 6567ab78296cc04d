"""Lens trajectories: where in depth the answer becomes the model's first choice.

A lens reads the residual stream after each block as if that block were the last. At the answering
position, the answer's token has rank 1 where the model would already give the answer.

    >>> figure = lens_trajectories(lens, measure="logprob")  # doctest: +SKIP
    >>> figure = lens_trajectories([lens, tuned], measure="kl")  # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.probes import median_bounds

# Title of the figure for each measure.
_TITLES = {
    "rank": "Median rank of the answer over depth",
    "logprob": "Mean log-probability of the answer over depth",
    "kl": "Mean divergence from the final distribution over depth",
}
_HOVERS = {"rank": "median rank", "logprob": "mean log-probability", "kl": "mean divergence"}
# Columns that distinguish the lines of a summary.
_LINES = ("family", "task", "probe", "condition")
# The divergence at the embedding is left off the axis if it exceeds all others by this factor.
_BEYOND = 1.5
# Up to this many lines, the legend is above the figure; else beside it.
_ABOVE = 4


def lens_trajectories(
    lens: pd.DataFrame | Sequence[pd.DataFrame], *, measure: str = "rank"
) -> go.Figure:
    """Draw what a lens reads over depth: the answer's rank or log-probability, or a divergence.

    Layer -1 is the embedding, layer l the residual stream after block l, and the last layer the
    model's own output; the stream between attention and MLP is left out. Bands are 95% intervals:
    of the median rank by order statistics (from 6 examples on), of means by Student's t (from 2
    on). A task has a line for each lens and each condition.

    Args:
        lens: a frame of a lens probe, or several.
        measure: "rank" of the answer (log scale, 1 is the top), "logprob" of the answer (nats), or
            "kl" (nats), the divergence `KL(final || lens)` over the whole vocabulary.

    Raises:
        InputError: an unknown measure, or a frame that is empty or not of a lens.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        figure = lr.figures.lens_trajectories(lens, measure="logprob")
    """
    if not isinstance(lens, pd.DataFrame):
        lens = pd.concat(lens, ignore_index=True) if len(lens) else pd.DataFrame()
    summary = lens_summary(lens, measure=measure)
    n_layers = int(summary["layer"].max()) + 1
    figure = go.Figure()
    for trace in lens_traces(summary, measure=measure):
        figure.add_trace(trace)
    figure.update_xaxes(**style.layer_axis(n_layers, embedding=True))
    figure.update_xaxes(title_text="read after layer (0-based; emb = embedding)")
    figure.update_yaxes(**lens_axis(measure))
    note = _cut_embedding(figure, summary) if measure == "kl" else ""
    conditions = list(dict.fromkeys(summary.get("condition", ["intact"])))
    model = "intact model; " if conditions == ["intact"] else ""
    what = "" if measure == "kl" else "the token that tells the answer, "
    training = _describe_training(lens)
    style.finish(
        figure,
        kind="lens_trajectories",
        about=summary,
        title=_TITLES[measure],
        subtitle=f"{style.format_counts(summary['n'])} examples per task; bands are 95% intervals; "
        f"{what}{model}{note}{training}layers are 0-based",
        height=430,
    )
    return set_legend_beside(figure, len(list(iter_lines(summary))))


def lens_summary(lens: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """Summarize a measure over examples, a row per task, lens, condition and layer.

    Columns: family, task, probe and condition (if the frame has them), layer, value (the median of
    ranks, which count from 1 here for a log axis; the mean of the other measures), its 95% interval
    `low` to `high` (NaN where there are too few examples for one: 6 for a median, 2 for a mean),
    and n (the number of examples).

    Raises:
        InputError: an unknown measure, or a frame that is empty or lacks columns.
    """
    if measure not in _TITLES:
        measures = ", ".join(map(repr, _TITLES))
        raise InputError(f"unknown measure {measure!r}: known are {measures}")
    columns = ("task", "family", "example", "layer")
    needed = (*columns, "kl") if measure == "kl" else (*columns, "rank", "logprob")
    select.require_columns(lens, needed, "the lens figure")
    if "part" in lens:
        lens = lens[lens["part"] == "block"]
    names = [name for name in _LINES if name in lens]
    keys = [*names, "layer"]
    if measure != "rank":
        return select.mean_by(lens, keys, measure, count="n").sort_values(keys, ignore_index=True)
    rows = []
    for key, part in lens.groupby(keys, sort=True):
        ranks = part["rank"].dropna().to_numpy(float) + 1
        rows.append((*key, *median_with_interval(ranks), len(ranks)))
    return pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "n"])


def lens_traces(summary: pd.DataFrame, *, measure: str, legend: bool = True) -> list[go.Scatter]:
    """Return two traces per task, lens and condition of a summary: intervals as a band, and a line.

    `summary` is the result of `lens_summary` for the same measure; `legend` sets whether the lines
    are in the legend.
    """
    traces = []
    for family, index, name, part in iter_lines(summary):
        hover = [_hover_text(name, line, measure) for _, line in part.iterrows()]
        traces += band_and_line(family, index, name, part, hover, legend=legend)
    return traces


def iter_lines(summary: pd.DataFrame) -> Iterator[tuple[str, int, str, pd.DataFrame]]:
    """Yield (family, index within the family, name, rows) for each line that a summary describes.

    `summary` is a result of `lens_summary` or a frame like it. The name includes the task if a
    family has several, and the probe and the condition if the summary has several.
    """
    names = [name for name in _LINES if name in summary]
    varying = [name for name in names if summary[name].nunique() > 1 and name not in _LINES[:2]]
    if summary["task"].nunique() > summary["family"].nunique():
        varying = ["task", *varying]
    for family in style.order_families(summary["family"]):
        of_family = summary[summary["family"] == family]
        for index, (_, part) in enumerate(of_family.groupby(names, sort=False)):
            words = [
                str(part[name].iloc[0]).replace("_", " ") for name in varying if name != "task"
            ]
            task = [style.shorten_path(part["task"].iloc[0])] if "task" in varying else []
            yield family, index, " \N{MIDDLE DOT} ".join([family, *task, *words]), part


def band_and_line(
    family: str,
    index: int,
    name: str,
    part: pd.DataFrame,
    hover: list[str],
    *,
    legend: bool = True,
) -> list[go.Scatter]:
    """Return two traces over `layer` in the family's colour: the band of intervals and the line.

    The arguments are those that `iter_lines` yields (`part` is the rows), and a hover text for each
    row. The index sets the dash of the line.
    """
    hue, place = style.family_colour(family), part["layer"].tolist()
    # Groups change how plotly lays out the legend, so lines that it does not list are in no group.
    group = f"lens {name}" if legend else ""
    return [
        go.Scatter(
            x=[*place, *reversed(place)],
            y=[*part["high"], *reversed(part["low"].tolist())],
            mode="lines",
            fill="toself",
            fillcolor=style.fade(hue, 0.16),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=group,
            name=f"{style.escape(name)} interval",
        ),
        go.Scatter(
            x=place,
            y=part["value"],
            mode="lines+markers",
            line={"color": hue, "width": 2, "dash": ("solid", "dash", "dot")[index % 3]},
            marker={"symbol": style.family_symbol(family), "size": 6, "color": hue},
            name=style.escape(name),
            legendgroup=group,
            showlegend=legend,
            hovertext=hover,
            hoverinfo="text",
        ),
    ]


def set_legend_beside(figure: go.Figure, n_lines: int) -> go.Figure:
    """Move the legend beside the figure if there are more than 4 lines, and return the figure.

    Above the figure, a legend of that length would overlap the subtitle.
    """
    if n_lines > _ABOVE:
        legend = {"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top"}
        figure.update_layout(legend=legend, margin_r=210)
    return figure


def lens_axis(measure: str) -> dict[str, object]:
    """Return the layout of a measure's y axis; for ranks it is reversed, with rank 1 at the top."""
    if measure == "logprob":
        return {"title": {"text": "log-probability (nats)"}}
    if measure == "kl":
        return {"title": {"text": "KL(final \N{PARALLEL TO} lens), nats"}, "rangemode": "tozero"}
    ticks = [10**k for k in range(7)]
    labels = ["1 (top)", "10", "100", "1k", "10k", "100k", "1M"]
    return {
        "type": "log",
        "autorange": "reversed",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": labels,
        "title": {"text": "rank of the answer"},
    }


def _cut_embedding(figure: go.Figure, summary: pd.DataFrame) -> str:
    """Leave the embedding's value off the axis if it would flatten the curve of the other layers.

    Returns a note for the subtitle; empty if nothing was cut.
    """
    embedding = summary["layer"] == -1
    most = float(summary.loc[~embedding, ["value", "high"]].max(axis=None))
    if not summary.loc[embedding, "value"].max() > _BEYOND * most:
        return ""
    figure.update_yaxes(range=[-0.03 * most, 1.05 * most])
    return f"embedding up to {summary.loc[embedding, 'value'].max():.0f} nats, beyond the axis; "


def _describe_training(lens: pd.DataFrame) -> str:
    """Return a note on tuned lenses that have more parameters per layer than training tokens.

    The note is empty if there are no such lenses.
    """
    columns = ["trained_tokens", "map_parameters"]
    if not set(columns) <= set(lens):
        return ""
    trainings = lens[columns].dropna().drop_duplicates().astype(int)
    return "".join(
        f"tuned lens trained on {n_tokens:,} tokens for {n_parameters:,} parameters a layer; "
        for n_tokens, n_parameters in trainings.itertuples(index=False)
        if n_tokens < n_parameters
    )


def _hover_text(name: str, line: "pd.Series[float]", measure: str) -> str:
    layer = int(line["layer"])
    where = "embedding" if layer == -1 else f"after layer {layer}"
    places = 1 if measure == "rank" else 2
    unit = " (1 = top)" if measure == "rank" else " nats"
    value = style.format_interval(line["value"], line["low"], line["high"], places)
    words = name if name.partition(" \N{MIDDLE DOT} ")[2] else line["task"]
    head = f"<b>{style.escape(words)}</b> \N{MIDDLE DOT} {where}"
    return f"{head}<br>{_HOVERS[measure]} {value}{unit}<br>n {int(line['n'])}"


def median_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return (median, low, high) with a 95% interval by order statistics.

    All three are NaN if there are no values; low and high are NaN if there are fewer than 6: even
    the interval from the least to the largest value then has a level below 95%.
    """
    return (float(pd.Series(values).median()), *median_bounds(np.sort(values)))

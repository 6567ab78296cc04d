"""Lens trajectories: where in depth the answer becomes the model's first choice.

The logit lens reads the residual stream after every block as if it were the last: the rank of the
answer's first token at the answering position, 1 where the model would already say it.

    >>> figure = lens_trajectories(lens, measure="logprob")  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import binom, t

from layerroles.errors import InputError
from layerroles.figures import select, style

_COLUMNS = ("task", "family", "example", "layer", "rank", "logprob")


def lens_trajectories(lens: pd.DataFrame, *, measure: str = "rank") -> go.Figure:
    """Draw the answer's median rank (log scale, 1 = top) or mean log-probability over depth.

    Layer -1 is the embedding, layer l the stream after block l, and the last one the model's own
    output. Bands are 95% intervals: of the median by order statistics, of the mean by Student's t.

    Args:
        lens: a logit-lens probe frame.
        measure: "rank" or "logprob" (nats).

    Raises:
        InputError: an unknown measure, or a frame that is empty or no logit-lens frame.
    """
    summary = lens_summary(lens, measure=measure)
    n_layers = int(summary["layer"].max()) + 1
    figure = go.Figure()
    for trace in lens_traces(summary, measure=measure):
        figure.add_trace(trace)
    figure.update_xaxes(**style.layer_axis(n_layers, embedding=True))
    figure.update_xaxes(title_text="logit lens after layer (0-based; emb = embedding)")
    figure.update_yaxes(**lens_axis(measure))
    what = "Median rank" if measure == "rank" else "Mean log-probability"
    return style.finish(
        figure,
        title=f"{what} of the answer over depth",
        subtitle=f"{style.counts(summary['n'])} examples per task; bands are 95% intervals; "
        "first token of the answer, intact model; layers are 0-based",
        height=430,
    )


def lens_summary(lens: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """Summarise per task and layer: family, task, layer, value, low, high, n.

    Ranks are counted from 1 here, so that a log axis can show the top.
    """
    if measure not in ("rank", "logprob"):
        raise InputError(f"unknown measure {measure!r}: known are 'rank' and 'logprob'")
    select.require(lens, _COLUMNS, "the logit-lens figure")
    rows = []
    for (family, task, layer), part in lens.groupby(["family", "task", "layer"], sort=True):
        values = part[measure].dropna().to_numpy(dtype=float)
        found = _median(values + 1) if measure == "rank" else _mean(values)
        rows.append((family, task, int(layer), *found, len(values)))
    names = ["family", "task", "layer", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


def lens_traces(summary: pd.DataFrame, *, measure: str, legend: bool = True) -> list[go.Scatter]:
    """A band and a line per task, in the colour of its family."""
    traces = []
    # A legend lays the members of a group out vertically: no groups where it does not list them.
    group = "lens {}" if legend else ""
    several = summary["task"].nunique() > summary["family"].nunique()
    for family in style.ordered(summary["family"]):
        of_family = summary[summary["family"] == family]
        for index, (task, part) in enumerate(of_family.groupby("task", sort=False)):
            hue = style.colour(family)
            name = f"{family} \N{MIDDLE DOT} {task}" if several else family
            place = part["layer"].tolist()
            traces.append(
                go.Scatter(
                    x=[*place, *reversed(place)],
                    y=[*part["high"], *reversed(part["low"].tolist())],
                    mode="lines",
                    fill="toself",
                    fillcolor=style.fade(hue, 0.16),
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=group.format(task),
                    name=f"{style.escape(name)} interval",
                )
            )
            traces.append(
                go.Scatter(
                    x=place,
                    y=part["value"],
                    mode="lines+markers",
                    line={"color": hue, "width": 2, "dash": ("solid", "dash", "dot")[index % 3]},
                    marker={"symbol": style.symbol(family), "size": 6, "color": hue},
                    name=style.escape(name),
                    legendgroup=group.format(task),
                    showlegend=legend,
                    hovertext=[_hover(task, line, measure) for _, line in part.iterrows()],
                    hoverinfo="text",
                )
            )
    return traces


def lens_axis(measure: str) -> dict[str, object]:
    """The value axis: better is up for both measures."""
    if measure == "logprob":
        return {"title": {"text": "log-probability (nats)"}}
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


def _hover(task: object, line: "pd.Series[float]", measure: str) -> str:
    layer = int(line["layer"])
    where = "embedding" if layer == -1 else f"after layer {layer}"
    places = 1 if measure == "rank" else 2
    what = "median rank" if measure == "rank" else "mean log-probability"
    unit = " (1 = top)" if measure == "rank" else " nats"
    value = style.interval(line["value"], line["low"], line["high"], places)
    head = f"<b>{style.escape(task)}</b> \N{MIDDLE DOT} {where}"
    return f"{head}<br>{what} {value}{unit}<br>n {int(line['n'])}"


def _median(values: np.ndarray) -> tuple[float, float, float]:
    """Median with its distribution-free 95% interval between two order statistics."""
    if not len(values):
        return (np.nan, np.nan, np.nan)
    ranked = np.sort(values)
    low = int(binom.ppf(0.025, len(values), 0.5))
    below = max(low - 1, 0)
    return float(np.median(ranked)), float(ranked[below]), float(ranked[len(values) - 1 - below])


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    """Mean with its 95% interval by Student's t."""
    if not len(values):
        return (np.nan, np.nan, np.nan)
    mean = float(values.mean())
    if len(values) == 1:
        return mean, np.nan, np.nan
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half

"""Draw how much runs of consecutive blocks, and single blocks, change the residual stream.

>>> figure = similarity_triangle(frame)  # doctest: +SKIP
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from layerroles.figures import select, style

_COLUMNS = ("task", "family", "example", "layer", "n", "influence", "angular")


def similarity_triangle(similarity: pd.DataFrame) -> go.Figure:
    """Draw the mean angular distance across every run of blocks, by first block and length.

    A run is a number of consecutive blocks. The distance is between the residual stream before and
    after the run. A ring marks, for each length, the run that changes the stream least: the one
    that arXiv 2403.17887 would prune.

    Args:
        similarity: a frame of the similarity probe; if it has several conditions, only the intact
            model's rows are drawn.

    Raises:
        InputError: the frame is empty or lacks columns.

    Example:
        similarity = lr.probes.Similarity(position="all").measure(model, tasks, limit=8)
        figure = lr.figures.similarity_triangle(similarity)
    """
    similarity = select.rows_of_one_condition(similarity, "the similarity figure")
    means = run_means(similarity, "angular")
    tasks = list(dict.fromkeys(zip(means["family"], means["task"], strict=True)))
    n_layers = int((means["layer"] + means["n"]).max())
    titles = [style.panel_title(family, task) for family, task in tasks]
    figure, places, height = style.make_square_panels(titles, n_layers)
    for (family, task), place in zip(tasks, places, strict=True):
        part = means[(means["family"] == family) & (means["task"] == task)]
        _draw_triangle(figure, part, n_layers, place)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="first block of the run (0-based)")
    figure.update_yaxes(range=[0.4, n_layers + 0.6], showgrid=False)
    figure.update_yaxes(title_text="blocks in the run", col=1)
    style.align_headings(figure)
    style.finish(
        figure,
        kind="similarity_triangle",
        about=means.assign(n=means["examples"]),
        title="Angular distance between the stream before and after a run of blocks",
        subtitle=f"mean over {style.format_counts(means['examples'])} examples per task"
        f"{select.describe_condition(similarity)}; \N{WHITE CIRCLE} least for its length; "
        "0 = same direction, 0.5 = orthogonal; layers are 0-based",
        height=height,
        legend=False,
    )
    most = max(float(means["value"].max()), 0.01)
    return figure.update_layout(coloraxis=style.colour_axis("distance", 0.0, most))


def influence_profile(similarity: pd.DataFrame) -> go.Figure:
    """Draw the influence of each block, `1 - cos(in, out)`, over depth, a line per task.

    `in` and `out` are the residual stream before and after the block.

    Args:
        similarity: a frame of the similarity probe; if it has several conditions, only the intact
            model's rows are drawn.

    Raises:
        InputError: the frame is empty, lacks columns, or has several conditions but no rows of the
            intact model.

    Example:
        similarity = lr.probes.Similarity().measure(model, tasks, limit=8)
        figure = lr.figures.influence_profile(similarity)
    """
    similarity = select.rows_of_one_condition(similarity, "the similarity figure")
    means = run_means(similarity, "influence")
    means = means[means["n"] == 1]
    figure = go.Figure()
    several = means["task"].nunique() > means["family"].nunique()
    n_drawn: dict[str, int] = {}
    for (family, task), part in means.groupby(["family", "task"], sort=False):
        index = n_drawn[family] = n_drawn.get(family, -1) + 1
        hue = style.family_colour(family)
        name = f"{family} \N{MIDDLE DOT} {style.shorten_path(task)}" if several else family
        figure.add_trace(
            go.Scatter(
                x=part["layer"],
                y=part["value"],
                error_y=style.error_bars(
                    part["value"], part["low"], part["high"], colour=style.fade(hue, 0.55)
                ),
                mode="lines+markers",
                line={"color": hue, "width": 1.6, "dash": ("solid", "dash", "dot")[index % 3]},
                marker={"symbol": style.family_symbol(family), "size": 6, "color": hue},
                name=style.escape(name),
                hovertext=[_hover_text(line, "influence") for _, line in part.iterrows()],
                hoverinfo="text",
            )
        )
    figure.update_xaxes(**style.layer_axis(int(means["layer"].max()) + 1))
    figure.update_xaxes(title_text="block (0-based)")
    figure.update_yaxes(title_text="influence, 1 \N{MINUS SIGN} cos(in, out)", rangemode="tozero")
    return style.finish(
        figure,
        kind="influence_profile",
        about=means.assign(n=means["examples"]),
        title="Influence of each block on the stream",
        subtitle=f"mean over {style.format_counts(means['examples'])} examples per task"
        f"{select.describe_condition(similarity)}; 95% intervals; "
        "says how much is written, not how much it is needed; layers are 0-based",
        height=430,
    )


def run_means(similarity: pd.DataFrame, value: str) -> pd.DataFrame:
    """Average the column `value` over examples, a row per task and run of blocks.

    Columns: family, task, `layer` and `n` (the run is `n` blocks from block `layer`), `value` (the
    mean), its 95% interval `low` to `high`, and `examples` (the number of examples).
    """
    select.require_columns(similarity, _COLUMNS, "the similarity figure")
    return select.mean_by(similarity, ["family", "task", "layer", "n"], value, count="examples")


def _draw_triangle(
    figure: go.Figure, part: pd.DataFrame, n_layers: int, at: dict[str, int]
) -> None:
    values = np.full((n_layers, n_layers), np.nan)
    hover = np.full(values.shape, "", dtype=object)
    for _, line in part.iterrows():
        place = int(line["n"]) - 1, int(line["layer"])
        values[place], hover[place] = line["value"], _hover_text(line, "angular distance")
    lengths = range(1, n_layers + 1)
    heat = style.heat_map(values, hover, "angular distance", y=lengths, gap=0.5)
    figure.add_trace(heat, **at)
    least = part.loc[part.groupby("n")["value"].idxmin()]
    figure.add_trace(
        go.Scatter(
            x=least["layer"],
            y=least["n"],
            mode="markers",
            marker={"symbol": "circle-open", "size": 6, "color": "#dd5a00", "line": {"width": 1.6}},
            hoverinfo="skip",
            name="least for its length",
        ),
        **at,
    )


def _hover_text(line: "pd.Series[float]", what: str) -> str:
    start, stop = int(line["layer"]), int(line["layer"] + line["n"])
    blocks = f"block {start}" if stop == start + 1 else f"blocks {start} to {stop - 1}"
    value = style.format_interval(line["value"], line["low"], line["high"], 3)
    task = style.escape(line["task"])
    return f"<b>{blocks}</b> \N{MIDDLE DOT} {task}<br>{what} {value}<br>n {int(line['examples'])}"

"""Compare protocols: which layers seem to matter depends on how the same questions are scored.

After the first figure of Demystifying the Roles of LLM Layers (arXiv 2510.02091): accuracy and its
change per ablated layer, a panel for each way of scoring.

    >>> figure = protocols(result, family="knowledge")  # doctest: +SKIP
"""

import re

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.figures.depth_profile import draw_lines, draw_points, effect_span, set_axes
from layerroles.results import SweepResult

_SIDES = ("harm under each", "generation \N{MINUS SIGN} likelihood")


def protocols(
    result: SweepResult,
    *,
    family: str | None = None,
    task: str | None = None,
    ablation: str | None = None,
) -> go.Figure:
    """Draw the score per ablated layer under each protocol side by side, and its change below.

    There is a column for each protocol of each task of the family, so that lm-eval tasks that ask
    the same questions in several ways (`mmlu`, `mmlu_continuation`, `mmlu_generative`) are shown
    side by side. As in `depth_profile`, the solid line is the intact score with its interval, the
    dotted line is chance, and a change is a paired difference to intact.

    Args:
        result: a sweep over single layers.
        family: the family whose tasks are drawn; needed only where the sweep has several.
        task: one task; every task of the family if not given.
        ablation: the kind of ablation; needed only where the sweep ran several.

    Raises:
        InputError: nothing to draw, an unknown name, or several families or ablations and none
            chosen.

    Example:
        figure = lr.figures.protocols(result, family="retrieval")
    """
    effects = select.layer_effects(result, ablation=ablation, task=task)
    families = style.order_families(effects["family"])
    if family is None and len(families) > 1:
        raise InputError(
            f"the result holds the families {', '.join(families)}: choose one with family="
        )
    effects = select.narrow(effects, "family", family)
    cells = list(dict.fromkeys(zip(effects["task"], effects["protocol"], strict=True)))
    n_layers, units = select.n_layers_of(result, effects), select.score_units(result)
    intact = result.intact().set_index(["task", "protocol"])
    figure = make_subplots(
        rows=2,
        cols=len(cells),
        shared_xaxes="all",
        row_heights=[0.6, 0.4],
        vertical_spacing=0.07,
        horizontal_spacing=min(0.06, 0.2 / len(cells)),
        subplot_titles=_panel_titles(effects, cells),
    )
    shown: set[str] = set()
    span = effect_span(effects, units)
    for column, key in enumerate(cells, start=1):
        cell_effects = effects[(effects["task"] == key[0]) & (effects["protocol"] == key[1])]
        draw_lines(figure, cell_effects, intact.loc[key], n_layers, 1, column, shown)
        draw_points(figure, cell_effects, 1, column, shown)
        set_axes(figure, units.get(key, "accuracy"), span, 1, column)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="ablated layer (0-based)", row=2)
    figure.update_yaxes(title_text="change", row=2, col=1)
    style.align_headings(figure)
    kind = effects["ablation"].iloc[0]
    what = "The same questions, asked in different ways," if len(cells) > 1 else "The score"
    return style.finish(
        figure,
        kind="protocols",
        about=effects,
        title=f"{what} when one layer is ablated ({kind})",
        subtitle=f"{style.format_counts(effects['n'])} examples per point; 95% intervals; change = "
        "score "
        "\N{MINUS SIGN} intact on the same examples; layers are 0-based",
        height=480,
    )


def _panel_titles(effects: pd.DataFrame, cells: list[tuple[str, str]]) -> list[str]:
    family = effects["family"].iloc[0]
    tasks = list(dict.fromkeys(task for task, _ in cells))
    if len(cells) > 1 and len(tasks) == 1:
        return [*(style.panel_title(family, protocol) for _, protocol in cells), *[""] * len(cells)]
    short = dict(zip(tasks, map(_short_task, tasks), strict=True))
    if len(set(short.values())) < len(tasks):  # they differ in their parameters alone
        short = dict(zip(tasks, tasks, strict=True))
    named = [style.panel_title(family, short[task], protocol) for task, protocol in cells]
    return [*named, *[""] * len(cells)]


def _short_task(task: str) -> str:
    """Return the bare name of an lm-eval task: `mmlu` for `lm_eval@2[task=mmlu,num_fewshot=5]`."""
    match = re.match(r"lm_eval(?:@\d+)?(?::|\[task=)([^,\]]+)", task)
    return match[1] if match else task


def likelihood_hides(
    result: SweepResult,
    *,
    likelihood: str | None = None,
    generation: str = "generation",
    ablation: str | None = None,
    at: str = "all",
) -> go.Figure:
    """Draw what scoring by likelihood hides: each layer's harm under likelihood and generation.

    There is a row per task, or per pair of tasks that ask the same questions, one under each
    protocol. Left: the harm of each layer under both protocols, joined by a line.
    Right: harm under generation minus harm under likelihood, with its 95% interval; the mark is
    filled if the interval excludes 0. Harm is `-effect / (intact - chance)`, so that protocols can
    be compared. It is undefined where the intact model is not shown to be above chance; a panel
    without any defined value says so.

    Args:
        result: a sweep over single layers, run under both protocols.
        likelihood: a protocol that scores given answers; by default the first in the result.
        generation: a protocol in which the model writes.
        ablation: the kind of ablation; needed only where the sweep ran several.
        at: the positions at which the ablation acts.

    Raises:
        InputError: no task was run under both protocols, no layer was ablated at these positions
            under both, several ablations were run and none is chosen, or a name is unknown.

    Example:
        figure = lr.figures.likelihood_hides(result)
    """
    layers = select.layer_effects(result, ablation=ablation, protocol=generation)
    kind = layers["ablation"].iloc[0]
    select.narrow(layers, "at", at)
    differences = result.differences()
    differences = differences[
        (differences["protocol_b"] == generation) & (differences["part"] == "block")
    ]
    differences = differences[differences["protocol_a"] != generation]
    twin = differences["task"] != differences["task_b"]
    differences = differences.assign(
        task=differences["task"].where(~twin, differences["task"] + " | " + differences["task_b"])
    )
    if differences.empty:
        raise InputError(f"no task was asked by likelihood and under {generation!r}: ask it so")
    likelihood_label = likelihood or differences["protocol_a"].iloc[0]
    differences = select.narrow(differences, "protocol_a", likelihood_label)
    differences = differences[
        (differences["ablation"] == kind) & (differences["at"] == at) & differences["layer"].notna()
    ]
    if differences.empty:
        raise InputError(
            f"at={at!r}: no layer was ablated there ({kind}) under both {likelihood_label!r} and "
            f"{generation!r}: choose another at=, or sweep with only_needed=False"
        )
    differences = differences.assign(layer=differences["layer"].astype(int)).sort_values(
        "layer", kind="stable"
    )
    tasks = list(dict.fromkeys(differences["task"]))
    families = dict(zip(differences["task"], differences["family"], strict=True))
    n_layers = select.n_layers_of(result, differences)
    heads = [style.panel_title(families[task], task, what) for task in tasks for what in _SIDES]
    figure = make_subplots(
        rows=len(tasks),
        cols=2,
        shared_xaxes="all",
        vertical_spacing=0.22 / max(2, len(tasks)),
        horizontal_spacing=0.06,
        subplot_titles=heads,
    )
    shown: set[bool] = set()
    for row, task in enumerate(tasks, start=1):
        cell = differences[differences["task"] == task]
        _draw_harms(figure, cell, row)
        _draw_difference(figure, cell, row, shown)
        if cell["difference"].isna().all():
            drawn = cell[["harm_a", "harm_b"]].notna().any(axis=None)
            for column in (2,) if drawn else (1, 2):
                figure.add_annotation(
                    text="undefined: intact is not shown to be above chance under both",
                    x=(n_layers - 1) / 2, y=0, yshift=12, showarrow=False, row=row, col=column,
                )  # fmt: skip
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="ablated layer (0-based)", row=len(tasks))
    figure.update_yaxes(zeroline=True, zerolinecolor=style.NEUTRAL)
    figure.update_yaxes(title_text="harm", col=1)
    figure.update_yaxes(title_text="difference", col=2)
    style.align_headings(figure)
    return style.finish(
        figure,
        kind="likelihood_hides",
        about=pd.concat(
            [differences.assign(protocol=name) for name in (likelihood_label, generation)]
        ),
        title=f"What {likelihood_label} hides when one layer is ablated ({kind}, at {at})",
        subtitle=f"{style.format_counts(differences['n'])} examples per layer; harm 1 = all skill "
        "above chance is gone; 95% intervals; layers are 0-based",
        height=168 + 190 * len(tasks),
    )


def _draw_harms(figure: go.Figure, cell: pd.DataFrame, row: int) -> None:
    hue = style.family_colour(cell["family"].iloc[0])
    joins: list[list[float | None]] = [[], []]
    for line in cell.itertuples():
        joins[0] += [line.layer, line.layer, None]
        joins[1] += [line.harm_a, line.harm_b, None]
    figure.add_trace(
        go.Scatter(
            x=joins[0], y=joins[1], mode="lines", hoverinfo="skip", showlegend=False,
            line={"color": style.fade(hue, 0.45), "width": 2}, name="joined",
        ),
        row=row, col=1,
    )  # fmt: skip
    for side, filled in (("a", False), ("b", True)):
        name = cell[f"protocol_{side}"].iloc[0]
        figure.add_trace(
            go.Scatter(
                x=cell["layer"],
                y=cell[f"harm_{side}"],
                mode="markers",
                marker={
                    "symbol": "circle" if filled else "circle-open",
                    "color": hue,
                    "size": 8,
                    "line": {"width": 1.6, "color": hue},
                },
                name=f"under {name}",
                legendgroup=name,
                showlegend=row == 1,
                hovertext=[
                    f"<b>{style.escape(line.condition)}</b><br>harm under {style.escape(name)} "
                    f"{style.format_number(getattr(line, f'harm_{side}'))}, n {line.n}"
                    for line in cell.itertuples()
                ],
                hoverinfo="text",
            ),
            row=row,
            col=1,
        )


def _draw_difference(figure: go.Figure, cell: pd.DataFrame, row: int, shown: set[bool]) -> None:
    hue = style.family_colour(cell["family"].iloc[0])
    excludes_zero = (cell["low"] > 0) | (cell["high"] < 0)
    for sure in (True, False):
        part = cell[(excludes_zero == sure) & cell["difference"].notna()]
        if part.empty:
            continue
        figure.add_trace(
            go.Scatter(
                x=part["layer"],
                y=part["difference"],
                error_y=style.error_bars(
                    part["difference"], part["low"], part["high"], colour=style.fade(hue, 0.55)
                ),
                mode="markers",
                marker={
                    "symbol": "diamond" if sure else "diamond-open",
                    "color": hue,
                    "size": 8,
                    "line": {"width": 1.4, "color": hue},
                },
                name="interval excludes 0" if sure else "interval holds 0",
                legendgroup=str(sure),
                showlegend=sure not in shown,
                hovertext=[
                    f"<b>{style.escape(line.condition)}</b><br>difference "
                    f"{style.format_interval(line.difference, line.low, line.high)}"
                    for line in part.itertuples()
                ],
                hoverinfo="text",
            ),
            row=row,
            col=2,
        )
        shown.add(sure)

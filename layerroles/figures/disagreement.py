"""The same questions under each protocol: which layers seem to matter depends on how one asks.

After the first figure of Demystifying the Roles of LLM Layers (arXiv 2510.02091): accuracy and its
change per ablated layer, a panel for each way of scoring.

    >>> figure = protocols(result, family="knowledge")  # doctest: +SKIP
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.figures.depth import draw_lines, draw_points, effect_span, set_axes
from layerroles.results import SweepResult


def protocols(
    result: SweepResult,
    *,
    family: str | None = None,
    task: str | None = None,
    ablation: str | None = None,
) -> go.Figure:
    """Draw the score per ablated layer under each protocol side by side, and its change below.

    A column for each protocol of each task of the family, so that tasks that are one question put
    in several ways (lm-eval's `mmlu`, `mmlu_continuation`, `mmlu_generative`) stand beside each
    other. Marks are those of `depth_profile`: the solid line is the intact score with its interval,
    the dotted one chance, and a change is a paired difference to intact.

    Args:
        result: a sweep over single layers.
        family: whose tasks are drawn; needed only where the sweep asked several families.
        task: one task; every task of the family if not given.
        ablation: the kind of ablation; needed only where the sweep ran several.

    Raises:
        InputError: nothing to draw, several families and none chosen, or an unknown name.
    """
    effects = select.layer_effects(result, ablation=ablation, task=task)
    families = style.ordered(effects["family"])
    if family is None and len(families) > 1:
        raise InputError(
            f"the result holds the families {', '.join(families)}: choose one with family="
        )
    effects = select.narrow(effects, "family", family)
    cells = list(dict.fromkeys(zip(effects["task"], effects["protocol"], strict=True)))
    n_layers, units = select.depth(result, effects), select.units(result)
    intact = result.intact().set_index(["task", "protocol"])
    figure = make_subplots(
        rows=2,
        cols=len(cells),
        shared_xaxes="all",
        row_heights=[0.6, 0.4],
        vertical_spacing=0.07,
        horizontal_spacing=min(0.06, 0.2 / len(cells)),
        subplot_titles=_titles(effects, cells),
    )
    shown: set[str] = set()
    span = effect_span(effects, units)
    for column, names in enumerate(cells, start=1):
        cell = effects[(effects["task"] == names[0]) & (effects["protocol"] == names[1])]
        draw_lines(figure, cell, intact.loc[names], n_layers, 1, column, shown)
        draw_points(figure, cell, 1, column, shown)
        set_axes(figure, units.get(names, "accuracy"), span, 1, column)
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="ablated layer (0-based)", row=2)
    figure.update_yaxes(title_text="change", row=2, col=1)
    style.headings(figure)
    kind = effects["ablation"].iloc[0]
    return style.finish(
        figure,
        title=f"The same questions, asked in different ways, when one layer is ablated ({kind})",
        subtitle=f"{style.counts(effects['n'])} examples per point; 95% intervals; change = score "
        "\N{MINUS SIGN} intact on the same examples; layers are 0-based",
        height=480,
    )


def _titles(effects: pd.DataFrame, cells: list[tuple[str, str]]) -> list[str]:
    families = dict(zip(effects["task"], effects["family"], strict=True))
    several = len({task for task, _ in cells}) > 1
    named = [
        style.panel(families[task], *([task] if several else []), protocol)
        for task, protocol in cells
    ]
    return [*named, *[""] * len(cells)]

"""Role map: harm, lens emergence and attention to evidence over one depth axis.

Read it downwards: a layer is one vertical line through every panel.

    >>> figure = role_map(result, lens, attention)  # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from layerroles import stats
from layerroles.figures import select, style
from layerroles.figures.attention_to_evidence import attention_means, head_hover_text
from layerroles.figures.harm_map import why_undefined
from layerroles.figures.lens import lens_axis, lens_summary, lens_traces
from layerroles.probes import group_by_probe
from layerroles.results import SweepResult
from layerroles.roles import CRITICAL, UNDECIDED, judge_interval

_LOWEST, _HIGHEST = -1.0, 1.75  # limits of the harm axis; arrows mark values beyond
_SHIFT = 0.14  # in layers; bars stand left of their layer's grid line, circles right of it
_PANEL, _PROBE, _GAP = 78, 132, 30  # heights in pixels


@dataclass(frozen=True)
class _Mark:
    """The look of bars with one verdict on their harm.

    Attributes:
        label: the text in the legend.
        shade: the opacity of the fill.
        outlined: whether the bar has an outline.
        hue: the colour; empty for the family's colour.
    """

    label: str
    shade: float
    outlined: bool = False
    hue: str = ""

    def style(self, family_hue: str) -> tuple[str, str, int]:
        """Return the colours of the fill and of the outline, and the width of the outline."""
        hue = self.hue or family_hue
        return style.fade(hue, self.shade), hue, int(self.outlined)


# In the order of the legend.
_MARKS = {
    "critical": _Mark("above 0.2", 0.9),
    "partial": _Mark("partial, 0 to 0.4", 0.5, outlined=True),
    "spare": _Mark("spare, \N{PLUS-MINUS SIGN}0.1", 0.0, outlined=True),
    "helps": _Mark("helps, below 0", 0.9, hue=style.HELPS),
    UNDECIDED: _Mark("undecided", 0.28),
}


def role_map(
    result: SweepResult,
    lens: pd.DataFrame | None = None,
    attention: pd.DataFrame | None = None,
    *,
    probes: Sequence[pd.DataFrame] = (),
    ablation: str | None = None,
    protocol: str | None = None,
) -> go.Figure:
    """Draw the harm of ablating each layer, and what probes measure there, over one depth axis.

    There is a panel per task and protocol. A bar is harm with its 95% interval under `at="all"`: a
    full bar where the interval lies above 0.2 (critical, or a sink), an outline where it lies
    within 0.1 of 0 (spare), a half-full outline where it lies between 0 and 0.4 (partial), a blue
    bar where it lies below 0 (helps), a pale bar otherwise (undecided). A hollow circle is harm
    under `at="after_first"`, which spares the first token: a layer with a full bar and a circle
    near 0 is a sink. If the sweep has other positions, bars show the first set and circles the
    second. Before the run is finished, all bars are pale. Panels below show, if the frames are
    given, the median rank of the answer in the logit lens, and each layer's strongest attention to
    the evidence.

    Args:
        result: a sweep over single layers.
        lens: a frame of the logit-lens probe.
        attention: a frame of the attention probe.
        probes: frames of any probes; `lens` and `attention` are taken from them if not given.
        ablation: the kind of ablation; needed only where the sweep ran several.
        protocol: one protocol; every protocol if not given.

    Raises:
        InputError: nothing to draw, an unknown ablation or protocol, or a frame that lacks columns.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        attention = lr.probes.Attention().measure(model, tasks, limit=8)
        figure = lr.figures.role_map(result, lens, attention)
    """
    frames = group_by_probe(probes)
    lens = frames.get("logit_lens") if lens is None else lens
    attention = frames.get("attention") if attention is None else attention
    effects = select.layer_effects(result, ablation=ablation, protocol=protocol)
    n_layers = select.n_layers_of(result, effects)
    all_ats = select.positions_of(effects)
    ats, ats_left_out = all_ats[:2], all_ats[2:]
    effects = effects[effects["at"].isin(ats)]
    panels = [
        (family, task, protocol_label)
        for family in style.order_families(effects["family"])
        for task in dict.fromkeys(effects.loc[effects["family"] == family, "task"])
        for protocol_label in dict.fromkeys(effects.loc[effects["task"] == task, "protocol"])
    ]
    sizes = [_PANEL] * len(panels) + [_PROBE] * ((lens is not None) + (attention is not None))
    figure = go.Figure()
    domains = _domains(sizes)
    span = _harm_range(effects)
    for row, (family, task, protocol_label) in enumerate(panels, start=1):
        cell = effects[(effects["task"] == task) & (effects["protocol"] == protocol_label)]
        label = style.panel_title(family, task, protocol_label)
        _add_heading(figure, label, domains[row - 1])
        _add_axis(figure, row, domains[row - 1], title={"text": "harm"}, range=span, dtick=0.5)
        _draw_harm(figure, cell, ats, row, n_layers, span, judged=not result.interim)
    row = len(panels)
    if lens is not None:
        row += 1
        lens = select.rows_of_one_condition(lens, "the role map's lens")
        heading = f"logit lens: median rank of the answer{select.describe_condition(lens)}"
        _add_heading(figure, heading, domains[row - 1])
        _add_axis(figure, row, domains[row - 1], **lens_axis("rank"))
        for trace in lens_traces(lens_summary(lens, measure="rank"), measure="rank", legend=False):
            figure.add_trace(trace.update(yaxis=_axis_name(row)))
    if attention is not None:
        row += 1
        attention = select.rows_of_one_condition(attention, "the role map's attention")
        condition = select.describe_condition(attention)
        heading = f"attention to the evidence: each layer's strongest head{condition}"
        _add_heading(figure, heading, domains[row - 1])
        _add_axis(
            figure,
            row,
            domains[row - 1],
            title={"text": "share"},
            tickformat=".0%",
            rangemode="tozero",
        )
        _draw_attention(figure, attention_means(attention), row)
    _draw_legend(figure, ats)
    kind = effects["ablation"].iloc[0]
    style.finish(
        figure,
        kind="role_map",
        about=effects,
        title=f"Role map: harm of ablating one layer ({kind}), and what probes see there",
        subtitle=f"{style.format_counts(effects['n'])} examples per harm, 95% intervals; harm "
        "1 = all skill above chance gone, dashed line = 0.2; "
        f"one depth axis for all panels, layers are 0-based{_describe_left_out(ats_left_out)}",
        height=168 + sum(sizes) + _GAP * (len(sizes) - 1),
    )
    return figure.update_layout(
        barmode="overlay",
        xaxis={
            **style.layer_axis(n_layers, embedding=lens is not None),
            "anchor": _axis_name(row),
            "title": {"text": "layer (0-based)"},
            "showgrid": True,
            "showspikes": True,
            "spikemode": "across",
            "spikethickness": 1,
            "spikedash": "solid",
            "spikesnap": "data",
        },
    )


def _describe_left_out(ats: list[str]) -> str:
    return f"; not drawn: at {', '.join(ats)}" if ats else ""


def _domains(sizes: list[int]) -> list[tuple[float, float]]:
    """Return (bottom, top) of each panel, as shares of the plot's height, measured from its bottom.

    `sizes` holds the heights of the panels in pixels, from the top panel down.
    """
    total = sum(sizes) + _GAP * (len(sizes) - 1)
    tops = [1 - (sum(sizes[:i]) + _GAP * i) / total for i in range(len(sizes))]
    return [(max(0.0, top - size / total), top) for top, size in zip(tops, sizes, strict=True)]


def _axis_name(row: int) -> str:
    return "y" if row == 1 else f"y{row}"


def _add_axis(figure: go.Figure, row: int, domain: tuple[float, float], **options: object) -> None:
    key = "yaxis" if row == 1 else f"yaxis{row}"
    figure.update_layout({key: {"domain": domain, "anchor": "x", **options}})


def _add_heading(figure: go.Figure, text: str, domain: tuple[float, float]) -> None:
    place = {"xref": "paper", "yref": "paper", "x": 0, "xanchor": "left", "y": domain[1]}
    figure.add_annotation(text=text, yanchor="bottom", font_size=12, **place)


def _harm_range(effects: pd.DataFrame) -> list[float]:
    """Return one range of the harm axis for all panels: it holds all intervals, within limits."""
    low = float(np.nanmin([-0.25, *effects["harm_low"]]))
    high = float(np.nanmax([1.1, *effects["harm_high"]]))
    return [max(low, _LOWEST) - 0.05, min(high, _HIGHEST) + 0.05]


def _draw_harm(
    figure: go.Figure,
    cell: pd.DataFrame,
    ats: list[str],
    row: int,
    n_layers: int,
    span: list[float],
    *,
    judged: bool,
) -> None:
    axis = _axis_name(row)
    ends = [-0.6, n_layers - 0.4]
    for value, dash in ((0.0, "solid"), (CRITICAL, "dash")):
        line = {"color": style.NEUTRAL, "width": 1, "dash": dash}
        figure.add_trace(
            go.Scatter(
                x=ends,
                y=[value, value],
                mode="lines",
                line=line,
                yaxis=axis,
                hoverinfo="skip",
                showlegend=False,
                name=f"harm {value:g}",
            )
        )
    if cell["harm"].isna().all():
        _note_unmeasured(figure, cell, row, n_layers)
        return
    hue = style.family_colour(cell["family"].iloc[0])
    barred, circled = (cell[cell["at"] == at] for at in (*ats, "")[:2])
    if not barred.empty:
        verdicts = [
            judge_interval(stats.Interval(line["harm_low"], line["harm_high"]))
            if judged
            else UNDECIDED
            for _, line in barred.iterrows()
        ]
        marks = [_MARKS[verdict].style(hue) for verdict in verdicts]
        figure.add_trace(
            go.Bar(
                x=barred["layer"] - _SHIFT,
                y=barred["harm"],
                width=0.5,
                marker={
                    "color": [fill for fill, _, _ in marks],
                    "line": {
                        "color": [outline for _, outline, _ in marks],
                        "width": [width for _, _, width in marks],
                    },
                },
                error_y=_error_bars(barred, hue),
                customdata=verdicts,
                meta=select.trace_meta(barred),
                hovertext=[
                    _hover_text(line, verdict)
                    for (_, line), verdict in zip(barred.iterrows(), verdicts, strict=True)
                ],
                hoverinfo="text",
                name=f"harm, at {ats[0]}",
                yaxis=axis,
                showlegend=False,
            )
        )
    if not circled.empty:
        size = 6 if n_layers <= 40 else 4
        figure.add_trace(
            go.Scatter(
                x=circled["layer"] + 2 * _SHIFT,
                y=circled["harm"],
                mode="markers",
                marker={
                    "symbol": "circle-open",
                    "size": size,
                    "color": hue,
                    "line": {"width": 1.4},
                },
                error_y=_error_bars(circled, hue),
                hovertext=[_hover_text(line) for _, line in circled.iterrows()],
                meta=select.trace_meta(circled),
                hoverinfo="text",
                name=f"harm, at {ats[1]}",
                yaxis=axis,
                showlegend=False,
            )
        )
    beyond = cell[(cell["harm"] > span[1]) | (cell["harm"] < span[0])]
    for _, line in beyond.iterrows():
        edge = span[1] if line["harm"] > span[1] else span[0]
        arrow = "\N{UPWARDS ARROW}" if line["harm"] > span[1] else "\N{DOWNWARDS ARROW}"
        text = f"{arrow}{style.format_number(line['harm'], places=1)}"
        anchor = "top" if line["harm"] > span[1] else "bottom"
        figure.add_annotation(
            x=line["layer"], y=edge, yref=axis, text=text, yanchor=anchor, font_size=10
        )


def _error_bars(part: pd.DataFrame, hue: str) -> dict[str, object]:
    low, high = part["harm_low"], part["harm_high"]
    return style.error_bars(part["harm"], low, high, colour=style.fade(hue, 0.6), thickness=1.1)


def _note_unmeasured(figure: go.Figure, cell: pd.DataFrame, row: int, n_layers: int) -> None:
    line = cell.iloc[0].to_dict()
    figure.add_annotation(
        x=(n_layers - 1) / 2,
        y=0.5,
        yref=_axis_name(row),
        text=f"not measurable: {style.escape(why_undefined(line))}",
    )


def _draw_attention(figure: go.Figure, means: pd.DataFrame, row: int) -> None:
    for task in dict.fromkeys(means["task"]):
        part = means[means["task"] == task]
        best = part.loc[part.groupby("layer")["evidence"].idxmax()].sort_values("layer")
        family = best["family"].iloc[0]
        hue = style.family_colour(family)
        figure.add_trace(
            go.Scatter(
                x=best["layer"],
                y=best["evidence"],
                mode="lines+markers",
                line={"color": hue, "width": 1.6},
                marker={"symbol": style.family_symbol(family), "size": 6, "color": hue},
                error_y=style.error_bars(
                    best["evidence"], best["low"], best["high"],
                    colour=style.fade(hue, 0.6), thickness=1.1,
                ),
                hovertext=[head_hover_text(line) for _, line in best.iterrows()],
                hoverinfo="text",
                name=f"attention, {style.escape(task)}",
                yaxis=_axis_name(row),
                showlegend=False,
            )
        )  # fmt: skip


def _draw_legend(figure: go.Figure, ats: list[str]) -> None:
    """Add legend entries in grey for the marks drawn; panel titles show the families' colours.

    `ats` holds the positions drawn: as bars, and (if there are two) as circles.
    """
    for name, marker in list(_legend_marks(figure, ats)):
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", marker=marker, name=name, hoverinfo="skip"
            )
        )


def _legend_marks(figure: go.Figure, ats: list[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (text, marker) of each legend entry: the verdicts of drawn bars, then the circles.

    `ats` is that of `_draw_legend`.
    """
    drawn = {
        verdict for trace in figure.data if trace.type == "bar" for verdict in trace.customdata
    }
    place = f"at {ats[0]}: "
    for verdict, mark in _MARKS.items():
        if verdict in drawn:
            fill, outline, width = mark.style(style.NEUTRAL)
            line = {"color": outline, "width": 1.4 * width}
            yield (
                f"{place}{mark.label}",
                {"symbol": "square", "color": fill, "size": 11 - width, "line": line},
            )
            place = ""
    for at in ats[1:]:
        circle = {
            "symbol": "circle-open",
            "color": style.NEUTRAL,
            "size": 8,
            "line": {"width": 1.4},
        }
        yield f"at {at}", circle


def _hover_text(line: "pd.Series[float]", verdict: str = "") -> str:
    harm = style.format_interval(line["harm"], line["harm_low"], line["harm_high"])
    shown = {"": "", "critical": ": critical or sink"}.get(verdict, f": {verdict}")
    score = style.format_interval(line["score"], line["score_low"], line["score_high"])
    return "<br>".join(
        [
            f"<b>{style.escape(line['condition'])}</b>",
            f"harm {harm}{shown}",
            f"score {score}, intact {style.format_number(line['intact'])}",
            f"n {int(line['n'])}, p after Holm {style.format_number(line['p_adjusted'], places=3)}",
        ]
    )

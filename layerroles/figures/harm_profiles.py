"""Draw harm over depth, a panel per run, to compare models or the tasks of one run.

>>> figure = harm_profiles({"base": base, "twin": twin})  # doctest: +SKIP
>>> figure = harm_profiles({name: result[name] for name in tasks})  # doctest: +SKIP
"""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.results import SweepResult

# Limits of the harm axis; hovers show the intervals that it cuts off.
_LOWEST, _HIGHEST = -0.6, 1.6
_PANEL = 128


def harm_profiles(
    results: Mapping[str, SweepResult],
    *,
    task: str | None = None,
    protocol: str | None = None,
    ablation: str | None = None,
    at: str | None = None,
) -> go.Figure:
    """Draw the harm of ablating each layer, a panel for each run, on one axis.

    The first run is the reference: its line is repeated, dotted, in every other panel. Harm is the
    share of a run's own skill that is lost, so runs of different skill can be compared; at 0
    nothing is lost, at 1 the score is down to chance.

    Args:
        results: sweeps over single layers, by name; `result[task]` is one task of a sweep. The
            arguments below must leave one task, protocol, ablation and set of positions of each.
        task: a task label; needed only where a run holds several.
        protocol: a protocol; needed only where a run holds several.
        ablation: the kind of ablation; needed only where a run holds several.
        at: the positions at which the ablation acts; needed only where a run holds several.

    Raises:
        InputError: there are no runs; a run has nothing to draw, or several tasks, protocols,
            ablations or positions of which none is chosen; runs differ in protocol, ablation or
            positions; or no run has skill above chance.

    Example:
        tasks_of = {name: result[name] for name in ("planted_look_up", "planted_chain")}
        figure = lr.figures.harm_profiles(tasks_of, protocol="generation")
    """
    if not isinstance(results, Mapping):
        raise InputError(
            "harm_profiles takes results by name, as {name: result}, not "
            f"a {type(results).__name__}"
        )
    if not results:
        raise InputError("harm_profiles got no results: give at least one, by name")
    chosen = {"task": task, "protocol": protocol, "at": at}
    profiles = {
        name: _choose_profile(name, select.layer_effects(result, ablation=ablation), chosen)
        for name, result in results.items()
    }
    for column in ("protocol", "ablation", "at"):
        several = sorted({str(profile[column].iloc[0]) for profile in profiles.values()})
        if len(several) > 1:
            raise InputError(
                f"harm_profiles got runs that differ in {column} ({', '.join(several)}): harm is "
                f"compared within one, choose with {column}="
            )
    if all(profile["harm"].isna().all() for profile in profiles.values()):
        raise InputError("harm_profiles needs skill above chance: no run has any")
    n_layers = max(
        select.n_layers_of(results[name], run_profile) for name, run_profile in profiles.items()
    )
    figure = make_subplots(
        rows=len(profiles),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.3 / (len(profiles) + 1) if len(profiles) > 1 else 0,
        subplot_titles=[
            _panel_title(name, results[name], run_profile) for name, run_profile in profiles.items()
        ],
    )
    first = next(iter(profiles))
    for row, (name, profile) in enumerate(profiles.items(), start=1):
        if name != first:
            figure.add_trace(_draw_reference(first, profiles[first], row == 2), row=row, col=1)
        figure.add_trace(_draw_line(name, profile), row=row, col=1)
    drawn = pd.concat(profiles.values())
    low = min(-0.1, drawn["harm"].min() - 0.05, max(_LOWEST, drawn["harm_low"].min()))
    high = max(1.1, drawn["harm"].max() + 0.05, min(_HIGHEST, drawn["harm_high"].max()))
    figure.update_yaxes(range=[low, high], dtick=0.5, zeroline=True, zerolinecolor=style.NEUTRAL)
    figure.update_yaxes(title_text="harm")
    figure.update_xaxes(**style.layer_axis(n_layers))
    figure.update_xaxes(title_text="ablated layer (0-based)", row=len(profiles), col=1)
    style.align_headings(figure)
    kind, protocol_label, where = (
        drawn[column].iloc[0] for column in ("ablation", "protocol", "at")
    )
    return style.finish(
        figure,
        kind="harm_profiles",
        about=drawn,
        title=f"Harm when one layer is ablated ({kind}), by {protocol_label}",
        subtitle=f"{style.format_counts(drawn['n'])} examples per point; ablated at: {where}; "
        "95% intervals; 0: nothing lost, 1: no better than chance",
        height=168 + _PANEL * len(profiles),
    )


def _choose_profile(
    name: str, effects: pd.DataFrame, chosen: Mapping[str, str | None]
) -> pd.DataFrame:
    """Return a run's effects of single layers for one task, protocol and set of positions.

    Args:
        name: the run's name, for the error message.
        effects: the effects of single layers in the run.
        chosen: the value to select in the columns `task`, `protocol` and `at`; None where the run
            must have only one.

    Raises:
        InputError: several tasks, protocols or positions are left, or a choice is unknown.
    """
    for column, value in chosen.items():
        effects = select.narrow(effects, column, value)
    for column in chosen:
        several = list(map(str, dict.fromkeys(effects[column])))
        if len(several) > 1:
            raise InputError(
                f"{name!r} has more than one {column} ({', '.join(several)}): choose with {column}="
            )
    return effects


def _panel_title(name: str, result: SweepResult, profile: pd.DataFrame) -> str:
    cell = profile.iloc[0]
    intact = result.intact()
    same_cell = (intact["task"] == cell["task"]) & (intact["protocol"] == cell["protocol"])
    base = intact[same_cell].iloc[0]
    details = f"intact {style.format_number(base['score'])}, n {int(base['n'])}"
    if profile["harm"].isna().all():
        details += ", not shown to be above chance"
    return style.panel_title(cell["family"], name, details)


def _draw_line(name: str, profile: pd.DataFrame) -> go.Scatter:
    hue = style.family_colour(profile["family"].iloc[0])
    harm, low, high = (profile[column] for column in ("harm", "harm_low", "harm_high"))
    return go.Scatter(
        x=profile["layer"],
        y=harm,
        error_y=style.error_bars(harm, low, high, colour=style.fade(hue, 0.6)),
        mode="lines+markers",
        line={"color": style.fade(hue, 0.45), "width": 1},
        marker={
            "color": hue,
            "size": 7,
            "symbol": style.family_symbol(profile["family"].iloc[0]),
        },
        name=style.escape(name),
        showlegend=False,
        meta=select.trace_meta(profile),
        hovertext=[
            f"<b>{style.escape(line['condition'])}</b> {style.escape(name)}<br>"
            f"harm {style.format_interval(line['harm'], line['harm_low'], line['harm_high'])}<br>"
            f"n {int(line['n'])}"
            for _, line in profile.iterrows()
        ],
        hoverinfo="text",
    )


def _draw_reference(name: str, profile: pd.DataFrame, named: bool) -> go.Scatter:
    return go.Scatter(
        x=profile["layer"],
        y=profile["harm"],
        mode="lines",
        line={"color": style.NEUTRAL, "width": 1.4, "dash": "dot"},
        name=f"{style.escape(name)}, for comparison",
        showlegend=named,
        hoverinfo="skip",
    )

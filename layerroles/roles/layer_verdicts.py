"""Verdicts on layers and heads: the rows of `Roles.layers` and `Roles.heads`.

A verdict is that of `results.judge` on the harm of one place, a layer or a head.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results import (
    AFTER_FIRST,
    NOT_MEASURABLE,
    NOT_MEASURED,
    UNDECIDED,
    count_needed,
    judge,
)
from layerroles.roles.harms import Harms, Place


def tabulate_verdicts(harms: Harms) -> pd.DataFrame:
    """Return the rows of `Roles.layers`, one per family, protocol and place (layer or head)."""
    rows = [
        _place_row(harms, family, protocol, place)
        for family, protocol in harms.keys
        for place in harms.places
    ]
    return pd.DataFrame(rows)


def _place_row(harms: Harms, family: str, protocol: str, place: Place) -> dict[str, Any]:
    tasks, level = harms.tasks(family, protocol), harms.level_of(place)
    harm = harms.harm(family, protocol, {place: 1.0}, level=level)
    first_token_kept = gone = stats.NO_CONTRAST
    if harms.after_first and _is_asked_after_first(harms, tasks, protocol, place):
        first_token_kept = harms.harm(family, protocol, {place: 1.0}, at=AFTER_FIRST, level=level)
        gone = stats.mean_of(
            [_first_token_share(harms, task, protocol, place, level) for task in tasks]
        )
    asked = [
        harms.cell_of(task, protocol).n_answered(name)
        for task in tasks
        if (name := harms.asked_condition(task, protocol, place, harms.at)) is not None
    ]
    n = sum(answered for answered, _ in asked)
    verdict = _judge(harms, place, harm, first_token_kept, gone) if tasks else NOT_MEASURABLE
    names = (("harm",) * 2, ("after_first_harm", "after_first"), ("gone",) * 2)
    values: dict[str, float] = {}
    for (name, ends), contrast in zip(names, (harm, first_token_kept, gone), strict=True):
        values |= dict(zip((name, f"{ends}_low", f"{ends}_high"), contrast.numbers, strict=True))
    return {
        "family": family,
        "protocol": protocol,
        "layer": place[0],
        **({} if place[1] < 0 else {"head": place[1]}),
        "n": n,
        "n_failed": sum(failed for _, failed in asked),
        **values,
        "verdict": verdict,
        "needed": count_needed(harm, n) if verdict == UNDECIDED else math.nan,
    }


def _judge(
    harms: Harms,
    place: Place,
    harm: stats.Contrast,
    first_token_kept: stats.Contrast,
    gone: stats.Contrast,
) -> str:
    """Return the verdict on a place (layer or head); for other arguments, see `results.judge`.

    Before the run is finished, the verdict is "undecided" or "not measured". A critical layer whose
    answers under `after_first` are still missing may be a sink, so it is undecided too.
    """
    sink_asked = harms.after_first and place[0] in harms.only_if_critical
    verdict = judge(harm, first_token_kept, gone, sink_asked=sink_asked)
    return UNDECIDED if harms.interim and verdict != NOT_MEASURED else verdict


def _is_asked_after_first(harms: Harms, tasks: Sequence[str], protocol: str, place: Place) -> bool:
    names = [harms.condition(task, protocol, place, AFTER_FIRST) for task in tasks]
    at_all = [harms.condition(task, protocol, place, "all") for task in tasks]
    return all(name is not None for name in names) and names != at_all


def _first_token_share(
    harms: Harms, task: str, protocol: str, place: Place, level: float
) -> stats.Contrast:
    """Return harm under "all" minus harm under "after_first", on the same examples.

    `stats.NO_CONTRAST` if the place was not ablated at both positions.
    """
    names = [harms.condition(task, protocol, place, at) for at in ("all", AFTER_FIRST)]
    if names[0] is None or names[1] is None:
        return stats.NO_CONTRAST
    cell = harms.cell_of(task, protocol)
    return cell.harm({names[0]: 1.0, names[1]: -1.0}, level=level)

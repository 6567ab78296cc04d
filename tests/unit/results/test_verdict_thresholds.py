"""A verdict is given where the whole interval of a harm lies in its region, and only there."""

import math

import pandas as pd
import pytest

from layerroles.results import REGIONS, UNDECIDED, count_needed, judge_interval
from layerroles.stats import NO_CONTRAST, Contrast, Interval


def harm(value: float, low: float, high: float) -> Contrast:
    return Contrast(value, Interval(low, high), pd.Series(dtype=float))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.21, 0.9, "critical"),
        (0.2, 0.9, "undecided"),  # the bound is not critical
        (0.25, 0.35, "critical"),  # also partial: the first holds
        (-0.1, 0.1, "spare"),  # the bounds are spare
        (0.01, 0.09, "spare"),  # also partial
        (-0.09, -0.01, "spare"),  # also helps
        (-0.11, 0.1, "undecided"),
        (0.01, 0.39, "partial"),
        (0.0, 0.39, "undecided"),
        (0.01, 0.4, "undecided"),
        (-0.3, -0.01, "helps"),
        (-0.3, 0.0, "undecided"),
        (-math.inf, math.inf, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_the_first_region_that_holds_the_interval_gives_the_verdict(
    low: float, high: float, verdict: str
) -> None:
    assert judge_interval(Interval(low, high)) == verdict


def test_each_verdict_has_its_region() -> None:
    ranges = {region.verdict: (region.low, region.high, region.closed) for region in REGIONS}
    assert ranges == {
        "critical": (0.2, math.inf, False),
        "spare": (-0.1, 0.1, True),
        "partial": (0.0, 0.4, False),
        "helps": (-math.inf, 0.0, False),
    }
    assert UNDECIDED not in ranges


@pytest.mark.parametrize(
    ("value", "low", "high", "needed"),
    [
        (0.3, 0.1, 0.5, 400),  # to critical or to partial: half as wide
        (0.0, -0.2, 0.2, 400),  # to spare
        (0.5, 0.1, 0.9, 100 * (0.4 / 0.3) ** 2),  # to critical
        (0.1, -0.1, 0.3, 400),  # to partial: at the bound of spare no number suffices
        (-0.3, -0.7, 0.1, 100 * (0.4 / 0.3) ** 2),  # to helps
        (0.3, -math.inf, 0.5, math.inf),
    ],
)
def test_the_questions_needed_make_the_interval_fit_the_nearest_region(
    value: float, low: float, high: float, needed: float
) -> None:
    assert count_needed(harm(value, low, high), 100) == pytest.approx(needed)


def test_nothing_is_needed_where_a_verdict_is_given_or_the_harm_is_unknown() -> None:
    assert math.isnan(count_needed(harm(0.5, 0.3, 0.7), 100))
    assert math.isnan(count_needed(NO_CONTRAST, 100))

"""What must hold of verdicts for any interval of harm."""

import math

import pandas as pd
from hypothesis import assume, given
from hypothesis import strategies as st

from layerroles.results import REGIONS, UNDECIDED, count_needed, judge_interval
from layerroles.stats import Contrast, Interval

HARMS = st.floats(-2, 3)
REACHES = st.floats(0.001, 1)


@given(HARMS)
def test_every_true_harm_is_reached_by_a_narrow_interval(truth: float) -> None:
    """Regions overlap, so each harm lies in the inside of one, the bounds of the others too."""
    assert judge_interval(Interval(truth - 1e-6, truth + 1e-6)) != UNDECIDED


@given(HARMS, REACHES, REACHES, st.floats(0, 1))
def test_a_verdict_is_true_of_every_harm_in_its_interval(
    value: float, below: float, above: float, share: float
) -> None:
    interval = Interval(value - below, value + above)
    truth = interval.low + share * (interval.high - interval.low)
    verdict = judge_interval(interval)
    if verdict != UNDECIDED:
        region = next(region for region in REGIONS if region.verdict == verdict)
        assert region.low <= truth <= region.high
        assert region.closed or region.low < truth < region.high


@given(HARMS, REACHES, REACHES, st.integers(2, 1000))
def test_the_questions_needed_just_decide(value: float, below: float, above: float, n: int) -> None:
    def shrunk(to: float) -> str:
        factor = math.sqrt(n / to)
        return judge_interval(Interval(value - factor * below, value + factor * above))

    harm = Contrast(value, Interval(value - below, value + above), pd.Series(dtype=float))
    needed = count_needed(harm, n)
    assume(not math.isnan(needed))
    assert shrunk(n) == UNDECIDED
    assert n * (1 - 1e-9) <= needed < math.inf
    assert shrunk(1.001 * needed) != UNDECIDED
    assert needed <= 1.001 * n or shrunk(needed / 1.001) == UNDECIDED

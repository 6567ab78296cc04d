"""In how many set-ups a claim holds: counted by intervals, and only where it is shown."""

import math

import numpy as np
import pandas as pd
import pytest

from layerroles.roles import Robustness, judge_setups

FACTORS = ["template", "dtype"]


def setups(numbers: list[float], half_widths: list[float]) -> pd.DataFrame:
    """A row for each number, with its interval."""
    rows = [
        {
            "template": at % 4,
            "dtype": ("float32", "bfloat16")[at // 4 % 2],
            "n": 32,
            "intact": 0.8,
            "chance": 0.25,
            "number": number,
            "low": number - half,
            "high": number + half,
        }
        for at, (number, half) in enumerate(zip(numbers, half_widths, strict=True))
    ]
    return pd.DataFrame(rows)


def judged(numbers: list[float], half_widths: list[float]) -> Robustness:
    table = setups(numbers, half_widths)
    return judge_setups(table, FACTORS, claim="retrieval leans on early layers", smallest=0.05)


def test_only_intervals_above_the_smallest_effect_hold() -> None:
    numbers = [0.3, 0.3, 0.1, -0.2, math.nan, 0.3, 0.3, 0.06]
    found = judged(numbers, [0.1, 0.26, 0.1, 0.1, math.nan, 0.1, 0.1, 0.005])
    assert found.frame["verdict"].tolist() == [
        *("holds", "undecided", "undecided", "contradicted"),
        *("not measurable", "holds", "holds", "holds"),
    ]
    assert "holds in 4 of 8 reasonable set-ups" in found.sentence
    assert "(contradicted in 1, undecided in 2, not measurable in 1)" in found.sentence


def test_a_claim_that_holds_everywhere_has_no_exceptions() -> None:
    found = judged([0.3] * 8, [0.1] * 8)
    assert "holds in 8 of 8 reasonable set-ups. " in found.sentence


def test_the_spread_is_that_of_the_numbers_and_their_errors() -> None:
    rng = np.random.default_rng(2)
    numbers = list(0.4 + np.tile([0.2, 0.0, -0.2, 0.0], 2) + 0.01 * rng.standard_normal(8))
    found = judged(numbers, [0.0196] * 8)
    spread = found.spread.set_index("factor")
    assert spread.loc["template", "range"] == pytest.approx(0.4, abs=0.03)
    assert spread.loc["template", "share"] > 0.95
    assert spread.loc["dtype", "share"] < 0.01
    assert found.sampling_sd == pytest.approx(0.01, rel=0.01)
    assert found.observed_sd == pytest.approx(np.std(numbers, ddof=1))
    value, interval = found.between_sd
    assert interval.low < np.std([0.2, 0.0, -0.2, 0.0] * 2, ddof=1) < interval.high
    assert value < found.observed_sd
    assert "the widest factor is template, whose level means range over 0.4" in found.sentence
    alone = judge_setups(setups(numbers, [0.0196] * 8), ["template"], claim="x", smallest=0.05)
    assert "the only factor is template, whose level means range" in alone.sentence


def test_shared_errors_make_differences_more_certain() -> None:
    table = setups([0.30, 0.34, 0.38, 0.34] * 2, [0.1] * 8)
    alone = judge_setups(table, FACTORS, claim="x", smallest=0.05)
    rho = np.full((8, 8), 0.98) + 0.02 * np.eye(8)
    shared = judge_setups(table, FACTORS, claim="x", smallest=0.05, correlation=rho)
    assert alone.between_sd.interval.low == 0
    assert "Set-ups are not shown to differ beyond sampling error" in alone.sentence
    assert "Beyond sampling error, set-ups differ by" in shared.sentence
    assert shared.between_sd.interval.low > 0
    assert shared.sampling_sd < alone.sampling_sd


def test_a_factor_with_one_level_is_left_out() -> None:
    found = judge_setups(setups([0.3] * 4, [0.1] * 4), FACTORS, claim="x", smallest=0.05)
    assert found.spread["factor"].tolist() == ["template", "sampling error", "rest"]
    assert found.frame["dtype"].tolist() == ["float32"] * 4


def test_without_numbers_there_is_no_spread() -> None:
    found = judged([math.nan] * 8, [math.nan] * 8)
    assert "holds in 0 of 8 reasonable set-ups (not measurable in 8)" in found.sentence
    assert "not known" in found.sentence
    assert math.isnan(found.between_sd.value) and math.isnan(found.sampling_sd)
    assert found.spread["range"].isna().all()


def test_an_infinite_interval_is_undecided_and_has_no_part_in_the_spread() -> None:
    found = judged([0.3] * 7 + [9.0], [0.1] * 7 + [math.inf])
    assert found.frame["verdict"].iloc[-1] == "undecided"
    assert found.observed_sd == pytest.approx(0.0)


def test_it_is_printed_with_a_row_for_each_set_up() -> None:
    found = judged([0.3] * 8, [0.1] * 8)
    assert repr(found).splitlines()[0] == found.sentence
    assert repr(found).count("+0.30 [+0.20, +0.40]") == 8
    assert "robustness.spread" in repr(found)
    assert found._repr_html_().count("<tr") == 9


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.051, 0.3, "holds"),
        (0.049, 0.3, "undecided"),
        (-0.3, 0.049, "contradicted"),
        (-0.3, 0.051, "undecided"),
    ],
)
def test_the_interval_has_to_lie_on_one_side_of_the_smallest_effect(
    low: float, high: float, verdict: str
) -> None:
    found = judged([(low + high) / 2] * 8, [(high - low) / 2] * 8)
    assert set(found.frame["verdict"]) == {verdict}

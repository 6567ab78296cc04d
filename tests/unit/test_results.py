"""Effects and harm of a sweep: pairing, chance, corrections, what is dropped, how it prints."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from layerroles.errors import InputError
from layerroles.results import SweepResult
from tests.unit.synthetic import SCRIPT, TASKS, synthetic_result

COLUMNS = (
    "condition ablation at site layer part head task family protocol n intact chance score "
    "score_low score_high effect ci_low ci_high harm harm_low harm_high p p_adjusted n_failed "
    "n_changed detectable format_intact format format_effect format_low format_high format_p "
    "noise unit"
).split()


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(n_layers=6, n=32)


def line(effects: pd.DataFrame, **wanted: object) -> pd.Series:
    rows = effects
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_row_per_condition_task_and_protocol_without_the_intact_model(result):
    effects = result.effects()
    assert list(effects.columns) == COLUMNS
    assert len(effects) == 12 * 4 * 2
    assert "intact" not in set(effects["condition"])


def test_an_effect_is_the_paired_difference_on_the_rows(result):
    frame = result.frame[
        (result.frame["task"] == "facts") & (result.frame["protocol"] == "generation")
    ]
    table = frame.pivot(index="condition", columns="example", values="score")
    row = line(result.effects(), condition="skip L0", task="facts", protocol="generation")
    assert row["effect"] == pytest.approx((table.loc["skip L0"] - table.loc["intact"]).mean())
    assert row["score"] - row["intact"] == pytest.approx(row["effect"])
    assert row["ci_low"] < row["effect"] < row["ci_high"] < 0
    assert row["harm"] == pytest.approx(-row["effect"] / (row["intact"] - row["chance"]))
    assert row["harm_low"] == pytest.approx(-row["ci_high"] / (row["intact"] - row["chance"]))
    assert row["harm_high"] == pytest.approx(-row["ci_low"] / (row["intact"] - row["chance"]))


def test_no_interval_of_a_01_score_has_width_zero(result):
    effects = result.effects()
    for low, high in (
        ("ci_low", "ci_high"),
        ("harm_low", "harm_high"),
        ("score_low", "score_high"),
    ):
        assert (effects[high] > effects[low]).all()


def test_harm_needs_skill_above_chance():
    result = synthetic_result(n_layers=2, n=32, intact={("knowledge", "continuation"): 0.34})
    effects = result.effects()
    unskilled = (effects["family"] == "knowledge") & (effects["protocol"] == "continuation")
    assert effects.loc[unskilled, ["harm", "harm_low", "harm_high"]].isna().all(axis=None)
    assert effects.loc[unskilled, "effect"].notna().all()
    assert effects.loc[~unskilled, "harm"].notna().all()
    intact = result.intact().set_index(["family", "protocol"])
    assert not intact.loc[("knowledge", "continuation"), "above_chance"]


def test_scores_in_nats_have_effects_but_no_harm():
    result = synthetic_result(n_layers=2, n=16, protocols=["answer_logprob"])
    effects = result.effects()
    assert effects["harm"].isna().all()
    assert effects["chance"].isna().all()
    row = line(effects, condition="skip L0", task="facts")
    assert row["ci_low"] < row["effect"] < row["ci_high"] < 0
    assert row["p"] < 0.01
    assert set(result.intact()["unit"]) == {"nats per token"}


def test_scores_that_are_not_finite_are_dropped_and_counted():
    whole, holed = (synthetic_result(n_layers=2, n=32, not_finite=bad) for bad in (0, 5))
    row = line(holed.effects(), condition="skip L0", task="facts", protocol="generation")
    assert (row["n"], row["n_failed"]) == (27, 5)
    frame = whole.frame[whole.frame["condition"].isin(["intact", "skip L0"])]
    frame = frame[(frame["task"] == "facts") & (frame["protocol"] == "generation")]
    table = frame.pivot(index="condition", columns="example", values="score").iloc[:, 5:]
    assert row["intact"] == pytest.approx(table.loc["intact"].mean())
    everything = synthetic_result(n_layers=2, n=4, not_finite=4).effects()
    assert (everything["n"] == 0).all()
    assert everything[["effect", "p", "p_adjusted", "harm"]].isna().all(axis=None)


def test_holm_counts_the_conditions_of_one_ablation_at_part_task_and_protocol():
    one = synthetic_result(n_layers=6, n=32).effects()
    two = synthetic_result(n_layers=6, n=32, ablations=("skip", "mean")).effects()
    row, same = (
        line(effects, condition="skip L0", task="facts", protocol="generation")
        for effects in (one, two)
    )
    assert row["p_adjusted"] == pytest.approx(same["p_adjusted"])
    assert row["p"] <= row["p_adjusted"] <= 6 * row["p"]


def test_a_row_does_not_depend_on_the_rows_beside_it():
    result = synthetic_result(n_layers=3, n=12, protocols=["answer_logprob"])
    alone = dataclasses.replace(
        result, frame=result.frame[result.frame["condition"].isin(["intact", "skip L2"])]
    )
    both = [line(r.effects(), condition="skip L2", task="facts") for r in (result, alone)]
    columns = ["effect", "ci_low", "ci_high", "p"]
    pd.testing.assert_series_equal(both[0][columns], both[1][columns], check_names=False)


def test_the_order_of_rows_does_not_matter(result):
    shuffled = dataclasses.replace(result, frame=result.frame.sample(frac=1, random_state=0))
    keys = ["condition", "task", "protocol"]
    tables = [r.effects().sort_values(keys).reset_index(drop=True) for r in (result, shuffled)]
    pd.testing.assert_frame_equal(*tables)


def test_four_of_sixty_against_seven_of_sixty_stays_noise():
    result = synthetic_result(n_layers=1, n=60, protocols=["generation"])
    frame = result.frame[(result.frame["task"] == "facts") & (result.frame["at"] == "all")].copy()
    for condition, right in (("intact", 4), ("skip L0", 7)):
        frame.loc[frame["condition"] == condition, "score"] = np.r_[
            np.ones(right), np.zeros(60 - right)
        ]
    row = line(dataclasses.replace(result, frame=frame).effects(), condition="skip L0")
    assert row["effect"] == pytest.approx(0.05)
    assert row["ci_low"] < 0 < row["ci_high"]
    assert row["p"] > 0.05


def test_narrowing_takes_a_family_or_a_task(result):
    for name in ("knowledge", "facts"):
        own = result[name]
        assert set(own.frame["task"]) == set(own.examples["task"]) == {"facts"}
        assert {cell["task"] for cell in own.manifest["cells"]} == {"facts"}
    assert len(result.manifest["cells"]) == 8
    with pytest.raises(
        InputError, match=r"'knowlege': did you mean 'knowledge'\? known are copying"
    ):
        result["knowlege"]


def test_changed_answers_are_those_whose_outcome_changed(result):
    changed = result.changed_answers("skip L0", "word_problems", "generation")
    assert list(changed.columns) == (
        "example prompt answer intact_outcome outcome intact_response response".split()
    )
    assert (changed["intact_outcome"] != changed["outcome"]).all()
    assert len(changed) > 5
    assert changed["prompt"].str.startswith("Question:").all()
    assert result.changed_answers("intact", "facts", "generation").empty
    bare = SweepResult(result.frame, result.manifest)
    assert set(bare.changed_answers("skip L0", "facts", "generation")["prompt"]) == {""}
    for asked in (("skip L9", "facts", "generation"), ("skip L0", "fact", "generation")):
        with pytest.raises(InputError, match="unknown"):
            result.changed_answers(*asked)


def test_a_failed_score_counts_as_a_changed_answer():
    result = synthetic_result(n_layers=1, n=8, not_finite=2)
    changed = result.changed_answers("skip L0", "copying", "generation")
    assert (changed["outcome"] == "not finite").sum() == 2


def test_it_prints_short_and_escaped(result):
    manifest = {**result.manifest, "model": {"name": SCRIPT, "n_layers": 6}}
    shown = SweepResult(result.frame, manifest, result.examples)
    assert len(repr(shown).splitlines()) == 3 + 4 * 2
    assert repr(shown).splitlines()[-1].startswith("Minimum detectable effect (80% power")
    assert all(task in repr(shown) for task in TASKS.values())
    assert "<script" not in shown._repr_html_()
    nothing = SweepResult(result.frame.iloc[:0], result.manifest)
    assert repr(nothing) == "SweepResult without rows"
    assert nothing.effects().empty
    assert list(nothing.effects().columns) == COLUMNS


def test_effects_are_the_callers_own(result):
    effects = result.effects()
    effects["effect"] = 9.0
    assert (result.effects()["effect"] < 1).all()

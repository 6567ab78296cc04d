"""Effects and harm of a sweep: pairing, chance, corrections, what is dropped, how it prints."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from layerroles import figures, stats
from layerroles.errors import InputError
from layerroles.page import render
from layerroles.results import SweepResult, compare
from layerroles.results.effects import label_conditions
from layerroles.roles import localize
from tests.support.synthetic import SCRIPT, TASKS, synthetic_result

COLUMNS = (
    "condition ablation at site layer part head task family protocol n intact chance score "
    "score_low score_high effect ci_low ci_high harm harm_low harm_high p p_adjusted n_failed "
    "n_changed detectable format_intact format format_effect format_low format_high format_p "
    "noise unit"
).split()

# The columns that name a comparison of two cells, or of two runs.
PAIRED = ["ablation", "task", "task_b", "protocol", "protocol_a", "protocol_b"]


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
    _, interval = stats.harm_interval(
        table.loc["intact"].to_numpy(float), table.loc["skip L0"].to_numpy(float), row["chance"]
    )
    assert (row["harm_low"], row["harm_high"]) == (interval.low, interval.high)
    assert row["harm_low"] < row["harm"] <= row["harm_high"]


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


def test_joined_results_with_a_row_twice_are_refused(result):
    for twice in (result.frame.tail(1), result.frame):
        joined = pd.concat([result.frame, twice])  # labels of rows occur twice, too
        with pytest.raises(InputError, match=r"^example '.*' of .* has two rows under "):
            SweepResult(joined, result.manifest, result.examples).effects()


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


def test_narrowing_takes_a_family_a_task_a_protocol_or_a_condition(result):
    for name in ("knowledge", "facts"):
        own = result[name]
        assert set(own.frame["task"]) == set(own.examples["task"]) == {"facts"}
        assert {cell["task"] for cell in own.manifest["cells"]} == {"facts"}
    assert len(result.manifest["cells"]) == 8
    written = result["generation"]
    assert set(written.frame["protocol"]) == {"generation"}
    assert len(written.manifest["cells"]) == 4
    one = result["skip L3"]
    assert set(one.frame["condition"]) == {"intact", "skip L3"}
    assert len(one.examples) == len(result.examples)
    for name, near in (("knowlege", "knowledge"), ("skip L33", "skip L3")):
        with pytest.raises(InputError, match=rf"'{name}': did you mean '{near}'\? tasks are"):
            result[name]
    with pytest.raises(TypeError, match=r"result\.frame"):
        list(result)


def test_one_setting_of_an_ablation_is_chosen_by_its_label():
    once = synthetic_result(3, 16)
    skips = once.frame["condition"].str.startswith("skip")
    other = once.frame[skips]
    named = other["condition"].str.replace("skip", "skip[twice=True]")
    result = dataclasses.replace(once, frame=pd.concat([once.frame, other.assign(condition=named)]))
    label_conditions = [
        name for name in result._ipython_key_completions_() if name.startswith("skip")
    ]
    assert label_conditions[-2:] == ["skip", "skip[twice=True]"]
    refused = (
        r"layer 0 is ablated more than once alike \(skip L0, skip\[twice=True\] L0\): "
        r'choose one setting, as in result\["skip"\]'
    )
    with pytest.raises(InputError, match=refused):
        localize(result)
    whole = result.effects()
    for label, names in (("skip", other["condition"]), ("skip[twice=True]", named)):
        own = result[label]
        assert set(own.frame["condition"]) == {"intact", *names}
        assert own.frame["at"].nunique() == 2
        wanted = whole[whole["condition"].isin(set(names))].reset_index(drop=True)
        pd.testing.assert_frame_equal(own.effects(), wanted)
        assert localize(own).verdict
        assert "harm_map" in figures.every(own, only=["harm_map"])
        assert "Harm" in render(own)


def test_labels_leave_out_site_and_positions_and_no_name_of_ones_own():
    frame = pd.DataFrame(
        [
            ("clip[length=0.25] L0", "L0", "all", "clip[length=0.25]"),
            ("clip L1.mlp after_first", "L1.mlp", "after_first", "clip"),
            ("skip L1,L2", "L1+L2", "all", "skip"),
            ("mine", "L1", "all", ""),
            ("intact", "", "all", ""),
        ],
        columns=["condition", "site", "at", "label"],
    )
    assert label_conditions(frame).tolist() == frame["label"].tolist()


def test_a_narrowed_result_is_corrected_over_all_that_was_swept(result):
    whole = result.effects()
    for own, column, name in (
        (result["skip L3"]["knowledge"], "condition", "skip L3"),
        (result["knowledge"]["skip L3"], "family", "knowledge"),
    ):
        wanted = whole[(whole["condition"] == "skip L3") & (whole["family"] == "knowledge")]
        pd.testing.assert_frame_equal(own.effects(), wanted.reset_index(drop=True))
        assert set(own.effects()[column]) == {name}


def test_every_name_that_narrows_is_completed(result):
    names = result._ipython_key_completions_()
    assert {"facts", "knowledge", "generation", "skip L3", "intact"} <= set(names)
    for name in names:
        assert len(result[name].frame)


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
    assert len(repr(shown).splitlines()) == 4 + 4 * 2
    assert repr(shown).splitlines()[-2].startswith("Minimum detectable effect (80% power")
    assert repr(shown).splitlines()[-1].startswith("Next: result.effects()")
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


def with_form(result: SweepResult, lost: dict[str, float]) -> SweepResult:
    """The same rows, in which conditions lose the form of that share of their written answers."""
    frame = result.frame.copy()
    place = frame.groupby(["condition", "task", "protocol"]).cumcount()
    n = frame["example"].groupby(frame["task"]).transform("nunique")
    kept = place >= n * frame["condition"].map(lost).fillna(0.0)
    frame["form"] = kept.astype("boolean").where(frame["protocol"] == "generation")
    return dataclasses.replace(result, frame=frame)


def test_a_model_that_only_breaks_the_format_loses_format_and_no_skill():
    whole = synthetic_result(n_layers=3, n=32)
    frame = whole.frame.copy()
    key = ["task", "protocol", "example"]
    intact = frame[frame["condition"] == "intact"].set_index(key)["score"]
    broken = frame["condition"] == "skip L2"
    frame.loc[broken, "score"] = intact.loc[[*frame.loc[broken, key].itertuples(index=False)]].array
    result = with_form(dataclasses.replace(whole, frame=frame), {"skip L2": 0.75})
    row = line(result.effects(), condition="skip L2", task="facts", protocol="generation")
    assert (row["format_intact"], row["format"], row["format_effect"]) == (1, 0.25, -0.75)
    assert row["format_low"] < -0.75 < row["format_high"] < -0.5
    assert row["format_p"] < 1e-6
    assert (row["effect"], row["harm"], row["p"]) == (0, 0, 1)
    assert row["ci_low"] < 0 < row["ci_high"]
    whole_form = line(result.effects(), condition="skip L1", task="facts", protocol="generation")
    assert (whole_form["format_effect"], whole_form["format_p"]) == (0, 1)
    scored = result.effects()
    scored = scored[scored["protocol"] == "continuation"]
    assert scored[["format_intact", "format", "format_effect", "format_p"]].isna().all(axis=None)
    about = result.intact().set_index(["task", "protocol"])
    assert about.loc[("facts", "generation"), "format"] == 1
    assert 0.85 < about.loc[("facts", "generation"), "format_low"] < 1
    assert np.isnan(about.loc[("facts", "continuation"), "format"])


def test_rows_of_earlier_versions_have_no_format_noise_or_measures(result):
    frame = result.frame.drop(columns=["form", "thought", "details"], errors="ignore")
    old = dataclasses.replace(result, frame=frame)
    assert old.effects()[["format", "format_p", "noise"]].isna().all(axis=None)
    assert old.measures().empty
    assert old.noise_floor().empty


def test_what_is_detectable_is_of_the_rows_n_and_its_familys_size_and_churn():
    still, restless = (
        synthetic_result(n_layers=6, n=64, churn=churn).effects() for churn in (0.0, 0.2)
    )
    wanted = {"condition": "skip L3", "task": "facts", "protocol": "generation"}
    assert line(still, **wanted)["detectable"] == stats.minimum_detectable(64, 6)
    assert line(restless, **wanted)["detectable"] > line(still, **wanted)["detectable"]
    few = synthetic_result(n_layers=6, n=6)
    assert few.effects()["detectable"].isna().all()
    assert "none known (too few examples) at n = 6" in repr(few)


def test_what_is_detectable_counts_layers_that_were_planned_and_not_asked():
    """Two of six layers were ablated after_first; joint ablations do not make up for the others."""
    whole = synthetic_result(n_layers=6, n=64)
    after_first = whole.frame["at"] == "after_first"
    frame = whole.frame[~after_first | (whole.frame["layer"] < 2)]
    jointly = [
        frame[frame["condition"] == "skip L0 after_first"].assign(
            condition=f"skip L0,L{layer} after_first", site=f"L0+L{layer}", layer=pd.NA
        )
        for layer in (1, 2)
    ]
    frame = pd.concat([frame, *jointly], ignore_index=True).astype({"layer": "Int64"})
    manifest = whole.manifest | {"only_needed": True}
    less = dataclasses.replace(whole, frame=frame, manifest=manifest)
    wanted = {"condition": "skip L0 after_first", "task": "facts", "protocol": "generation"}
    row = line(less.effects(), **wanted)
    assert row["detectable"] == stats.minimum_detectable(64, 6 + 2)
    assert row["p_adjusted"] == pytest.approx(8 * row["p"])


def test_differences_count_layers_that_were_planned_and_not_asked():
    """Two of six layers were ablated after_first; each test counts as one of six."""
    whole = synthetic_result(n_layers=6, n=64)
    asked = (whole.frame["at"] != "after_first") | (whole.frame["layer"] < 2)
    less = dataclasses.replace(
        whole,
        frame=whole.frame[asked].reset_index(drop=True),
        manifest=whole.manifest | {"only_needed": True},
    )
    flipped = less.frame["score"].where(less.frame["at"] != "after_first", 1 - less.frame["score"])
    other = dataclasses.replace(less, frame=less.frame.assign(score=flipped))
    for table in (less.differences(), compare(less, other).frame):
        kept = table[table["at"] == "after_first"]
        assert kept["layer"].nunique() == 2
        assert kept["p"].min() < 1 / 6  # not cut at 1
        for _, tests in kept.groupby([name for name in PAIRED if name in kept]):
            smallest = tests["p"].min()
            assert tests["p_adjusted"].min() == pytest.approx(min(1.0, 6 * smallest))
    # Of a part, only what it holds is corrected.
    name = "skip L0 after_first"
    part = compare(less[name], other[name]).frame
    assert part["p_adjusted"].tolist() == part["p"].tolist()


def test_what_is_detectable_accounts_for_looks():
    whole = synthetic_result(n_layers=6, n=64)
    looks = {task: [32, 48, 64] for task in TASKS.values()}
    looked = dataclasses.replace(whole, manifest=whole.manifest | {"looks": looks})
    wanted = {"condition": "skip L3", "task": "facts", "protocol": "generation"}
    once, often = (line(result.effects(), **wanted) for result in (whole, looked))
    factor = stats.Looks((32, 48, 64)).adjust_p(1e-6, 64) / 1e-6
    assert factor > 5
    assert often["detectable"] == stats.minimum_detectable(64, math.ceil(6 * factor))
    assert often["detectable"] > once["detectable"]


def test_what_is_detectable_knows_clusters():
    result = synthetic_result(n_layers=6, n=64)
    asked = result.frame.drop_duplicates(["task", "example"])[["task", "example"]]
    # An example under a condition is right or wrong as its cluster is.
    right = result.frame["example"].str[-2:].astype(int) // 16 % 2
    frame = result.frame.assign(score=right.where(result.frame["condition"] == "skip L3", 1.0))
    by_place = asked.assign(
        answer="a", question="", guesses="{}", cluster=asked["example"].str[-2:]
    )
    sixteens = by_place["cluster"].astype(int) // 16
    wanted = {"condition": "skip L3", "task": "facts", "protocol": "generation"}
    alone, together = (
        line(dataclasses.replace(result, frame=frame, examples=examples).effects(), **wanted)
        for examples in (by_place, by_place.assign(cluster=sixteens.astype(str)))
    )
    assert alone["effect"] == together["effect"] == -0.5
    assert together["detectable"] > 1.3 * alone["detectable"]


def test_in_nats_what_is_detectable_goes_by_how_much_differences_vary():
    result = synthetic_result(n_layers=4, n=32, protocols=["answer_logprob"])
    frame = result.frame[result.frame["task"] == "facts"]
    table = frame.pivot(index="condition", columns="example", values="score")
    row = line(result.effects(), condition="skip L3", task="facts")
    sd = (table.loc["skip L3"] - table.loc["intact"]).std()
    assert row["detectable"] == pytest.approx(stats.minimum_detectable_mean(32, sd, 4))
    assert "nats per token at n = 32" in repr(result)


def test_scores_between_0_and_1_are_not_taken_for_right_or_wrong():
    result = synthetic_result(n_layers=2, n=16, protocols=["generation"])
    half = result.frame.assign(score=result.frame["score"] / 2)
    row = line(dataclasses.replace(result, frame=half).effects(), condition="skip L0", task="facts")
    assert row["ci_low"] < row["effect"] < row["ci_high"] < 0
    cells = [{**cell, "unit": "score"} for cell in result.manifest["cells"]]
    other = dataclasses.replace(result, manifest={**result.manifest, "cells": cells})
    assert set(other.effects()["unit"]) == {"score"}
    assert line(other.effects(), condition="skip L0", task="facts")["p"] < 0.01


def test_heads_are_corrected_by_benjamini_and_hochberg():
    result = synthetic_result(n_layers=6, n=32)
    heads = dataclasses.replace(
        result, frame=result.frame.assign(part=result.frame["part"].replace("block", "head"))
    )
    keys = {"ablation": "skip", "at": "all", "task": "facts", "protocol": "generation"}
    for own, correct in ((result, stats.holm), (heads, stats.benjamini_hochberg)):
        rows = own.effects()
        for column, value in keys.items():
            rows = rows[rows[column] == value]
        np.testing.assert_allclose(rows["p_adjusted"], correct(rows["p"].to_numpy()))


def test_the_noise_floor_is_read_from_the_manifest(result):
    line_of = {"task": "facts", "protocol": "generation", "n": 32, "n_changed": 2}
    floor = [{**line_of, "score": 0.75, "intact": 0.78125}]
    noisy = dataclasses.replace(result, manifest={**result.manifest, "noise_floor": floor})
    (row,) = noisy.noise_floor().to_dict("records")
    assert (row["changed"], row["effect"]) == (2 / 32, 0.75 - 0.78125)
    assert (row["changed_low"], row["changed_high"]) == dataclasses.astuple(stats.wilson(2, 32))
    assert noisy["copying"].noise_floor().empty
    effects = noisy.effects().set_index(["task", "protocol"])
    assert set(effects.loc[("facts", "generation"), "noise"]) == {2 / 32}
    assert effects.drop(("facts", "generation"))["noise"].isna().all()


def test_measures_are_the_numbers_of_the_details():
    result = synthetic_result(n_layers=1, n=2, protocols=["generation"])
    details = ["", '{"steps": [-0.5, null, -0.25], "loss": 1, "said": "so", "ended": true}']
    frame = result.frame.assign(details=[details[i % 2] for i in range(len(result.frame))])
    own = dataclasses.replace(result, frame=frame)["facts"].measures()
    assert list(own.columns) == ("condition task protocol example measure step value".split())
    assert set(own["example"]) == {"facts-0001"}
    one = own[own["condition"] == "skip L0"]
    assert list(one["measure"]) == ["steps", "steps", "steps", "loss", "ended"]
    assert list(one["step"].fillna(-1)) == [0, 1, 2, -1, -1]
    assert list(one["value"].fillna(9)) == [-0.5, 9, -0.25, 1, 1]


def test_protocols_that_find_the_same_layers_agree():
    depth = np.linspace(0, 0.9, 8)
    harms = {"knowledge": {"all": depth}, "language": {"all": depth[::-1]}}
    same = synthetic_result(8, 64, harms=harms, protocols=("generation", "letter", "continuation"))
    agreement = same.agreement()
    assert len(agreement) == 2 * 3
    assert set(zip(agreement["protocol_a"], agreement["protocol_b"], strict=True)) == {
        ("letter", "continuation"),
        ("letter", "generation"),
        ("continuation", "generation"),
    }
    assert (agreement["n_sites"] == 8).all()
    assert (agreement["n"] == 64).all()
    assert (agreement["low"] > 0.5).all()
    assert (agreement["low"] <= agreement["spearman"]).all()
    assert (agreement["spearman"] <= agreement["high"]).all()


def test_a_likelihood_that_hides_harm_differs_above_zero():
    hidden = synthetic_result(
        4, 64, harms={"knowledge": {"all": np.zeros(4)}}, protocols=["continuation"]
    )
    shown = synthetic_result(
        4, 64, harms={"knowledge": {"all": np.array([0, 0.3, 0.6, 0.9])}}, protocols=["generation"]
    )
    cells = hidden.manifest["cells"] + shown.manifest["cells"]
    both = SweepResult(
        pd.concat([shown.frame, hidden.frame], ignore_index=True),
        {**hidden.manifest, "cells": cells},
    )
    rows = both.differences().set_index("condition")
    assert set(rows["protocol_a"]) == {"continuation"}
    assert rows["difference"].to_list() == pytest.approx(
        (rows["harm_b"] - rows["harm_a"]).to_list()
    )
    assert (rows["low"] < rows["difference"]).all()
    assert (rows["difference"] < rows["high"]).all()
    assert rows.loc["skip L0", "low"] < 0 < rows.loc["skip L0", "high"]
    assert (rows.loc[["skip L2", "skip L3"], "low"] > 0).all()


def test_protocols_are_compared_only_where_both_harms_are_defined():
    result = synthetic_result(
        3, 32, intact={("knowledge", "continuation"): 0.3}, protocols=("continuation", "generation")
    )
    rows = result.differences()
    unknown = rows["task"] == "facts"
    assert rows.loc[unknown, ["difference", "low", "high"]].isna().all(axis=None)
    assert rows.loc[~unknown, ["difference", "low", "high"]].notna().all(axis=None)
    alone = synthetic_result(2, 8, protocols=["generation"])
    assert alone.differences().empty
    assert alone.agreement().empty

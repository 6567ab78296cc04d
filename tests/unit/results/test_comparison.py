"""Two runs compared: what is matched, how their effects differ, and how that is printed."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import layerroles
from layerroles import stats
from layerroles.cli import main
from layerroles.errors import InputError
from layerroles.results import SweepResult, compare
from tests.support.synthetic import SCRIPT, synthetic_result

FLAT = {"knowledge": {"all": np.zeros(6)}}
STEEP = {"knowledge": {"all": np.array([0.0, 0, 0, 0, 0.5, 0.95])}}


def run(seed: int, harms: dict[str, dict[str, np.ndarray]], n: int = 64) -> SweepResult:
    layers = len(harms["knowledge"]["all"])
    return synthetic_result(layers, n, seed, harms=harms, protocols=["generation"])


def only(result: SweepResult, *conditions: str) -> SweepResult:
    kept = result.frame["condition"].isin(["intact", *conditions])
    return dataclasses.replace(result, frame=result.frame[kept])


def test_a_run_does_not_differ_from_itself():
    result = synthetic_result(5, 32)
    same = compare(result, result)
    assert len(same.frame) == len(result.effects())
    assert not same.unmatched
    assert (same.frame["difference"] == 0).all()
    assert (same.frame["low"] < 0).all()
    assert (same.frame["high"] > 0).all()
    assert (same.frame[["p", "p_adjusted"]] == 1).all(axis=None)
    assert same.profiles["spearman"].to_numpy() == pytest.approx(1)
    assert (same.profiles[["mean_difference"]] == 0).all(axis=None)
    assert (same.profiles["mean_low"] < 0).all()
    assert (same.profiles["mean_high"] > 0).all()


def test_in_clusters_a_difference_is_less_certain():
    def clustered(result: SweepResult) -> SweepResult:
        asked = result.frame[["task", "example"]].drop_duplicates(ignore_index=True)
        of_eight = (asked.groupby("task").cumcount() // 8).astype(str)
        examples = asked.assign(prompt="", answer="", question="", guesses="{}", cluster=of_eight)
        return dataclasses.replace(result, examples=examples)

    flat, steep = run(0, FLAT), run(1, STEEP)
    alone = compare(flat, steep).frame
    rows = compare(clustered(flat), clustered(steep)).frame
    assert rows["difference"].to_list() == alone["difference"].to_list()
    assert (rows["low"] <= alone["low"]).all()
    assert (rows["high"] >= alone["high"]).all()
    assert (rows["high"] - rows["low"]).mean() > (alone["high"] - alone["low"]).mean()
    assert (rows["p"] >= alone["p"]).all()
    assert rows[["low", "high"]].abs().to_numpy().max() <= 2


def test_what_only_one_run_needs_differs_there_and_nowhere_else():
    rows = compare(run(0, FLAT), run(1, STEEP)).frame.set_index("condition")
    differ = rows["p_adjusted"] < 0.05
    assert list(rows.index[differ]) == ["skip L4", "skip L5"]
    assert (rows.loc[differ, "high"] < 0).all()
    assert (rows.loc[differ, "harm_low"] > 0).all()
    assert (rows.loc[~differ, "low"] < 0).all()
    assert (rows.loc[~differ, "high"] > 0).all()
    assert rows["difference"].to_list() == pytest.approx(
        (rows["effect_b"] - rows["effect_a"]).to_list()
    )
    assert rows["harm_difference"].to_list() == pytest.approx(
        (rows["harm_b"] - rows["harm_a"]).to_list()
    )
    # Of 64 examples at 6 sites.
    assert (rows["detectable"] >= stats.minimum_detectable(64, 6)).all()
    assert (rows["detectable"] <= stats.minimum_detectable(64, 6, 0.1)).all()


def test_effects_are_those_of_the_runs_where_all_examples_match():
    one, two = run(0, STEEP), run(1, STEEP)
    rows = compare(one, two).frame
    for name, result in (("a", one), ("b", two)):
        effects = result.effects()
        assert rows[f"effect_{name}"].to_list() == effects["effect"].to_list()
        assert rows[f"intact_{name}"].to_list() == effects["intact"].to_list()
        assert rows[f"harm_{name}"].to_list() == effects["harm"].to_list()


def test_the_order_of_runs_turns_the_signs():
    one, two = run(0, FLAT), run(1, STEEP)
    there, back = compare(one, two), compare(two, one)
    np.testing.assert_allclose(there.frame["difference"], -back.frame["difference"])
    np.testing.assert_allclose(there.frame["low"], -back.frame["high"])


@pytest.mark.truth
def test_two_runs_without_a_difference_rarely_show_one():
    found = [
        compare(run(seed, FLAT, 32), run(seed + 1000, FLAT, 32)).frame["p_adjusted"].min() < 0.05
        for seed in range(40)
    ]
    assert sum(found) <= 4  # 5% of 40, and two standard errors


def test_unmatched_items_are_listed():
    one, two = synthetic_result(8, 8), synthetic_result(3, 6, protocols=["generation"])
    listed = compare(one, two).unmatched
    assert listed[0] == (
        "only a has the task and protocol kv_retrieval continuation, facts continuation, "
        "word_problems continuation, copying continuation"
    )
    assert "facts generation: 2 examples of a and 0 of b have no match" in listed
    assert listed[-1] == (
        "only a has the condition skip L3, skip L4, skip L5, skip L6, skip L7 and 5 more"
    )


def test_an_example_is_the_same_only_if_it_was_asked_in_the_same_words():
    one = run(0, FLAT, 16)
    asked = one.examples.copy()
    asked.loc[:3, "prompt"] = "The capital of Atlantis is"
    comparison = compare(one, dataclasses.replace(one, examples=asked))
    assert set(comparison.frame["n"]) == {12}
    assert "4 examples of a and 4 of b" in comparison.unmatched[0]


def test_several_conditions_at_one_site_are_matched_by_name():
    one = run(0, FLAT, 16)
    twin = one.frame[one.frame["condition"] == "skip L2"].assign(condition="skip L2 harder")
    both = dataclasses.replace(one, frame=pd.concat([one.frame, twin], ignore_index=True))
    assert len(compare(both, both).frame) == 7
    fewer = compare(both, one)
    assert list(fewer.frame["condition"]) == [f"skip L{layer}" for layer in range(6)]
    assert fewer.unmatched == ("only a has the condition skip L2 harder",)
    renamed = one.frame.assign(condition=one.frame["condition"].replace("skip L2", "without 2"))
    other = compare(one, dataclasses.replace(one, frame=renamed))
    assert len(other.frame) == 6
    assert not other.unmatched


def test_other_units_are_not_compared():
    one = synthetic_result(2, 8, protocols=["answer_logprob", "generation"])
    cells = [{**cell, "unit": "nats per byte"} for cell in one.manifest["cells"]]
    two = dataclasses.replace(one, manifest={**one.manifest, "cells": cells})
    with pytest.raises(InputError, match=r"facts generation is measured in accuracy \(a\) and in"):
        compare(one, two)


def test_scores_in_nats_are_compared_without_harm():
    one, two = (
        synthetic_result(4, 24, seed, protocols=["answer_logprob"], harms=harms)
        for seed, harms in (
            (0, {"knowledge": {"all": np.zeros(4)}}),
            (1, {"knowledge": {"all": np.array([0, 0, 0.2, 0.9])}}),
        )
    )
    comparison = compare(one, two)
    rows = comparison.frame.set_index("condition")
    assert (rows.loc[["skip L2", "skip L3"], "high"] < 0).all()
    assert rows.loc["skip L0", "low"] < 0 < rows.loc["skip L0", "high"]
    assert rows["harm_difference"].isna().all()
    assert "nats per token at n = 24" in repr(comparison)


def test_a_score_that_is_not_finite_leaves_its_example_out():
    one, two = synthetic_result(2, 16, not_finite=3), synthetic_result(2, 16)
    assert set(compare(one, two).frame["n"]) == {13}


def test_runs_that_share_nothing_are_refused_in_one_line():
    one = run(0, FLAT, 8)
    for other in (
        one["facts"],
        dataclasses.replace(one, frame=one.frame.assign(task="other")),
        dataclasses.replace(one, frame=one.frame.assign(example="x" + one.frame["example"])),
        only(one),
        dataclasses.replace(one, frame=one.frame.iloc[:0]),
    ):
        if other.frame.equals(one.frame):
            continue
        with pytest.raises(InputError, match="the two runs have nothing to compare") as caught:
            compare(one, other)
        assert "\n" not in str(caught.value)


def test_it_prints_short_and_escaped():
    one, two = run(0, FLAT), run(1, STEEP)
    named = {**two.manifest, "model": {"name": SCRIPT}}
    comparison = compare(
        only(one, "skip L3", "skip L4", "skip L5"), dataclasses.replace(two, manifest=named)
    )
    lines = repr(comparison).splitlines()
    assert lines[0].startswith(f"Comparison: {SCRIPT} (b) minus synthetic-135m (a), 3 conditions")
    assert any(line.startswith("Minimum detectable effect") for line in lines)
    assert lines[-2] == "only b has the condition skip L0, skip L1, skip L2"
    assert lines[-1].startswith("Next: comparison.largest(3)")
    assert "<script" not in comparison._repr_html_()
    assert list(comparison.largest(1)["condition"]) == ["skip L5"]


def test_the_interval_of_a_difference_covers():
    """Harm .1 in the one run and .5 in the other, the same intact answers."""
    inside, runs = 0, 150
    for seed in range(runs):
        parts = []
        for extra, harm in ((0, 0.1), (10_000, 0.5)):
            rng = np.random.default_rng(seed + extra)
            right = np.random.default_rng(seed).random(48) < 0.8
            kept = right & (rng.random(48) >= harm)
            parts.append((right.astype(float), kept.astype(float)))
        effects = [stats.paired_binary(*part) for part in parts]
        changes = [part[1] - part[0] for part in parts]
        _, interval = stats.difference(
            (effects[0].effect, effects[1].effect),
            (effects[0].interval, effects[1].interval),
            stats.correlation(*changes),
        )
        inside += interval.low <= -0.8 * 0.4 <= interval.high
    assert inside / runs >= 0.93


def test_the_command_prints_profiles_differences_and_what_has_no_match(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"runs/one": run(0, FLAT), "runs/two": only(run(1, STEEP), "skip L4", "skip L5")}
    monkeypatch.setitem(layerroles.__dict__, "read", lambda path: runs[Path(path).as_posix()])
    assert main(["compare", "runs/one", "runs/two", "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "a: synthetic-135m, b: synthetic-135m; differences are b minus a" in shown
    assert shown.count("skip L5") == 1
    assert "Minimum detectable effect (80% power after correction)" in shown
    assert "only a has the condition skip L0, skip L1, skip L2, skip L3" in shown
    assert main(["compare", "runs/one", "runs/two", "--top", "0"]) == 0
    assert "Largest differences" not in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_answered_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "is not a run folder" in shown.err


def test_different_settings_and_parameters_are_listed():
    one, two = run(0, FLAT), run(0, STEEP)
    conditions = [
        {**each, "parameters": {"L0": {"factor": factor}}}
        for factor, each in zip((0.5, 0.5), one.manifest["conditions"][-2:], strict=True)
    ]
    other = [{**each, "parameters": {"L0": {"factor": 0.25}}} for each in conditions]
    one = dataclasses.replace(one, manifest={**one.manifest, "conditions": conditions})
    two = dataclasses.replace(two, manifest={**two.manifest, "conditions": other, "chat": True})
    assert compare(one, two).unmatched == (
        "chat is not the same: False (a), True (b)",
        'ablation skip is not the same: {"factor": 0.5} (a), {"factor": 0.25} (b)',
    )


def test_different_reference_prompts_are_listed():
    given = run(0, FLAT)
    tasks = sorted({cell["task"] for cell in given.manifest["cells"]})

    def with_prompts(digest: str) -> SweepResult:
        cells = [cell | {"references": {"its own": digest}} for cell in given.manifest["cells"]]
        return dataclasses.replace(given, manifest={**given.manifest, "cells": cells})

    one, two = with_prompts("1f"), with_prompts("2e")
    assert compare(one, two).unmatched == tuple(
        f"the reference of task {task} (its own) does not hold the same prompts: 1f (a), 2e (b)"
        for task in tasks
    )
    assert not compare(one, one).unmatched
    assert not compare(one, given).unmatched


def test_a_difference_from_effects_without_spread_is_of_unknown_width():
    one, two = (synthetic_result(3, 16, seed, protocols=["answer_logprob"]) for seed in (0, 1))
    frame = one.frame.copy()
    key = ["task", "example"]
    intact = frame[frame["condition"] == "intact"].set_index(key)["score"]
    same = frame["condition"] == "skip L0"
    frame.loc[same, "score"] = intact.loc[[*frame.loc[same, key].itertuples(index=False)]].array
    rows = compare(dataclasses.replace(one, frame=frame), two).frame.set_index("condition")
    assert rows.loc["skip L0", "difference"].notna().all()
    assert rows.loc["skip L0", ["low", "high"]].isna().all(axis=None)
    assert rows.loc["skip L1", ["low", "high"]].notna().all(axis=None)


def test_what_is_detectable_between_two_runs_accounts_for_looks():
    one, two = run(0, FLAT), run(1, STEEP)
    looks = {cell["task"]: [32, 64] for cell in one.manifest["cells"]}
    looked = dataclasses.replace(one, manifest=one.manifest | {"looks": looks})
    once, often = compare(one, two).frame, compare(looked, two).frame
    assert (often["detectable"] > once["detectable"]).all()

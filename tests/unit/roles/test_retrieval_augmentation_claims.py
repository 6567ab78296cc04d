"""The same questions with and without a context, compared one by one."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated import (
    Simulation,
    Truth,
    claims_of,
    with_guesses,
    without_any_answer,
)
from layerroles.roles import localize
from layerroles.roles.retrieval_augmentation_claims import CONTEXT
from tests.support.tiers import mark_rest

G = "generation"
BARE, TOLD = "knowledge", "knowledge[context]"


def contexts(bare: list[float], told: list[float]) -> Truth:
    return {(BARE, G): bare, (TOLD, G): told}


def statuses(truth: Truth, n: int, draws: int = 30) -> Counter:
    found = Counter()
    for seed in range(draws):
        result = Simulation(truth, n=n, shared=True).draw(seed)
        claims = claims_of(result).set_index("claim")
        found[claims.loc[CONTEXT, "status"]] += 1
    return found


FLAT = [0.05] * 9


@pytest.mark.parametrize("draws", mark_rest("truth", [1, 30], first=[1]))
def test_a_layer_that_a_context_brings_in_is_found(draws: int) -> None:
    found = statuses(contexts(FLAT, [0.05] * 4 + [0.4] + [0.05] * 4), n=200, draws=draws)
    assert found["supported"] >= 0.9 * draws, found


@pytest.mark.truth
def test_where_nothing_changes_nothing_is_claimed() -> None:
    same = statuses(contexts([0.2] * 9, [0.2] * 9), n=200)
    assert same["supported"] <= 1, same
    # Harm that falls as much everywhere: the same layers matter.
    robust = statuses(contexts([0.4] * 9, [0.1] * 9), n=200)
    assert robust["supported"] <= 1, robust


@pytest.mark.truth
def test_a_layer_without_which_nothing_is_right_changes_with_no_context() -> None:
    simulation = Simulation(contexts(FLAT, FLAT), n=200, shared=True)
    for seed in range(10):
        result = with_guesses(without_any_answer(simulation.draw(seed), {0}), {TOLD: 0.25})
        row = claims_of(result).set_index("claim").loc[CONTEXT]
        assert row["status"] != "supported", row["evidence"]


@pytest.mark.truth
def test_the_largest_change_of_many_is_named_with_an_interval_for_all() -> None:
    simulation = Simulation(contexts([0.2] * 15, [0.2] * 15), n=200, shared=True, kinds=("skip",))
    n_apart = 0
    for seed in range(40):
        row = claims_of(simulation.draw(seed)).set_index("claim").loc[CONTEXT]
        low, high = map(float, re.search(r"L\d+ \S+ \[(\S+), (\S+)\]", row["evidence"]).groups())
        n_apart += low > 0 or high < 0
    assert n_apart <= 4


@pytest.mark.truth
def test_at_the_smallest_effect_nothing_is_claimed() -> None:
    # One layer of nine differs from their mean change by exactly .05.
    told = [0.05] * 4 + [0.05 + 0.05 * 9 / 8] + [0.05] * 4
    found = statuses(contexts(FLAT, told), n=800)
    assert found["supported"] <= 1, found
    assert found["contradicted"] <= 1, found


@pytest.mark.truth
def test_no_change_is_known_from_three_thousand_questions() -> None:
    found = statuses(contexts([0.0] * 9, [0.0] * 9), n=3000, draws=10)
    assert found["contradicted"] >= 9, found


def test_changed_layers_are_found_by_a_paired_test_with_holm_correction() -> None:
    truth = contexts(FLAT, [0.05] * 4 + [0.4] + [0.05] * 4)
    result = Simulation(truth, n=200, shared=True, kinds=("skip",)).draw(1)
    rows = result.differences()
    own = rows[(rows["task"] == BARE) & (rows["task_b"] == TOLD)].set_index("layer")
    assert own.index[own["p_adjusted"] < 0.05].tolist() == [4]
    assert own.loc[4, "low"] > 0.2
    assert (own["n"] == 200).all()
    (omnibus,) = result.agreement()["p"]
    assert omnibus <= 1e-3
    claim = localize(result).claims.set_index("claim").loc[CONTEXT]
    (change,) = [one for one in claim["numbers"] if one["quantity"].startswith("change of L4's")]
    interval = f"[{change['low']:+.2f}, {change['high']:+.2f}]"
    assert f"beyond their mean change L4 {change['estimate']:+.2f} {interval}" in claim["evidence"]
    assert claim["evidence"].endswith(f"{TOLD} against {BARE}")


@pytest.mark.truth
def test_the_test_of_profiles_is_right_where_they_are_alike() -> None:
    found = [
        Simulation(contexts([0.3] * 6, [0.3] * 6), n=80, shared=True, kinds=("skip",))
        .draw(seed)
        .agreement()["p"]
        .iloc[0]
        for seed in range(100)
    ]
    assert np.mean(np.array(found) < 0.05) <= 0.1
    assert np.quantile(found, 0.5) > 0.3


def test_questions_that_are_not_shared_are_not_compared() -> None:
    result = Simulation(contexts(FLAT, FLAT), n=50).draw(0)
    assert result.differences().empty
    assert CONTEXT not in set(claims_of(result)["claim"])


def test_a_context_in_front_of_unlike_questions_is_no_augmentation() -> None:
    result = Simulation(contexts(FLAT, FLAT), n=50, shared=True).draw(0)
    result.examples["prompt"] = [f"prompt {i}" for i in range(len(result.examples))]
    assert CONTEXT not in set(claims_of(result)["claim"])
    assert not result.differences().empty


@pytest.mark.truth
def test_kinds_have_to_change_the_same_layer_in_the_same_direction() -> None:
    up, down = [0.3] * 4 + [0.7] + [0.3] * 4, [0.3] * 4 + [0.0] + [0.3] * 4
    elsewhere = [0.3] * 6 + [0.7] + [0.3] * 2
    for other in (down, elsewhere):
        simulation = Simulation(
            contexts([0.3] * 9, up), n=300, shared=True,
            other={"mean": contexts([0.3] * 9, other)},
        )  # fmt: skip
        for seed in range(5):
            claims = claims_of(simulation.draw(seed))
            row = claims.set_index("claim").loc[CONTEXT]
            assert row["status"] == "not shown", row["evidence"]
            assert "not of a layer that another kind shows to change so" in row["evidence"]


def test_a_change_that_lacks_the_first_token_kept_says_so() -> None:
    """At all positions layer 4 changes, and the critical layer 0 was not asked after the first."""
    bare, with_context = [0.5] + [0.05] * 8, [0.5] + [0.05] * 3 + [0.45] + [0.05] * 4
    truth = contexts(bare, with_context)
    whole = Simulation(truth, spared=truth, n=300, shared=True, kinds=("skip", "mean")).draw(0)
    row = claims_of(whole).set_index("claim").loc[CONTEXT]
    assert row["status"] == "supported"
    lacking = (whole.frame["at"] == "after_first") & (whole.frame["ablation"] == "skip")
    lacking &= (whole.frame["layer"] == 0) & (whole.frame["task"] == TOLD)
    less = replace(whole, frame=whole.frame[~lacking].reset_index(drop=True))
    row = claims_of(less).set_index("claim").loc[CONTEXT]
    assert row["status"] == "not shown"
    assert row["reason"] == "not asked about all of it by skip with the first token kept"


def test_layers_that_change_only_because_of_the_sink_are_not_missing_questions() -> None:
    """Layer 4 is a sink with the context: its harm changes, but not with the first token kept."""
    bare, with_context = [0.05] * 9, [0.05] * 4 + [0.6] + [0.05] * 4
    kept = contexts(bare, bare)
    whole = Simulation(
        contexts(bare, with_context), spared=kept, n=2500, shared=True, kinds=("skip", "mean")
    ).draw(0)
    row = claims_of(whole).set_index("claim").loc[CONTEXT]
    assert row["status"] == "not shown"
    assert "questions that would decide it" not in row["reason"], row["reason"]
    assert row["reason"] == "not shown by skip, mean with the first token kept"


def test_kinds_that_show_different_layers_say_so() -> None:
    bare = contexts(FLAT, [0.05] * 4 + [0.6] + [0.05] * 4)
    other = contexts(FLAT, [0.05] * 2 + [0.6] + [0.05] * 6)
    result = Simulation(bare, n=400, shared=True, other={"mean": other}).draw(0)
    row = claims_of(result).set_index("claim").loc[CONTEXT]
    assert row["status"] == "not shown"
    assert row["reason"] == "the kinds of ablation show it of different layers"


@pytest.mark.parametrize("family_with_context", ["knowledge", "retrieval"])
def test_a_change_needs_answers_with_the_first_token_kept_in_both_tasks(
    family_with_context: str,
) -> None:
    """Layer 0 is a sink with the context, in a sweep that asks only critical layers after_first.

    It is not critical in the family without the context, so it is not asked after_first there.
    """
    truth, kept = contexts([0.0] * 6, [0.34] + [0.0] * 5), contexts([0.0] * 6, [0.0] * 6)
    whole = Simulation(truth, n=400, shared=True, spared=kept).draw(3)
    frame = whole.frame
    frame.loc[frame["task"] == TOLD, "family"] = family_with_context
    asked_kept = (frame["at"] == "after_first") & (frame["layer"] == 0)
    asked_kept &= (frame["family"] == "retrieval") & (frame["task"] == TOLD)
    less = replace(
        whole,
        frame=frame[(frame["at"] != "after_first") | asked_kept].reset_index(drop=True),
        manifest=whole.manifest | {"only_needed": True},
    )
    row = claims_of(less).set_index("claim").loc[CONTEXT]
    assert row["status"] == "not shown"
    lacking = "skip with the first token kept, mean with the first token kept"
    assert row["reason"] == f"not asked about all of it by {lacking}"
    assert "not asked with the first token kept: 0" in row["evidence"]


def test_a_change_of_a_layer_that_is_critical_in_both_tasks_is_found() -> None:
    """Only layer 0 is critical, so only this layer is asked with the first token kept."""
    truth = contexts([0.4] + [0.0] * 5, [0.8] + [0.0] * 5)
    whole = Simulation(truth, n=400, shared=True, spared=truth).draw(0)
    needed = (whole.frame["at"] != "after_first") | (whole.frame["layer"] == 0)
    less = replace(
        whole,
        frame=whole.frame[needed].reset_index(drop=True),
        manifest=whole.manifest | {"only_needed": True},
    )
    assert claims_of(less).set_index("claim").loc[CONTEXT, "status"] == "supported"


def test_a_few_answers_with_the_first_token_kept_leave_the_others_in() -> None:
    """Layer 1 is not critical, and was asked so about 20 of 400 questions."""
    truth = contexts([0.4] + [0.0] * 5, [0.8] + [0.0] * 5)
    whole = Simulation(truth, n=400, shared=True, spared=truth).draw(0)
    place = whole.frame.groupby(["task", "condition"]).cumcount()
    needed = (whole.frame["at"] != "after_first") | (whole.frame["layer"] == 0)
    few = (whole.frame["layer"] == 1) & (place < 20)
    less = replace(
        whole,
        frame=whole.frame[needed | few].reset_index(drop=True),
        manifest=whole.manifest | {"only_needed": True},
    )
    assert claims_of(less).set_index("claim").loc[CONTEXT, "status"] == "supported"

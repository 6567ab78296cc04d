"""Claims of the literature are decided where the truth is known, and only then."""

import itertools
import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.coverage_tables import CLAIMS, apart, statuses
from benchmarks.simulated import (
    Simulation,
    claims_of,
    copied,
    with_guesses,
    without_any_answer,
)
from layerroles.results import SweepResult
from layerroles.roles import localize
from layerroles.roles.claim_findings import SMALLEST, Finding
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import measure_kinds
from layerroles.roles.literature import DEEP, ORDER, SHALLOW, _join_needs, literature_claims
from layerroles.roles.protocol_claims import MORE
from tests.support.scripted_result import scripted_result
from tests.support.tiers import mark_rest

G = "generation"
LAYERS, N, DRAWS = 15, 400, 30
# One clear draw first, then how often it is so.
draws = pytest.mark.parametrize("n", mark_rest("truth", [1, DRAWS], first=[1]))
BASE = 0.05  # harm of every layer, whatever the truth of a claim


@pytest.mark.parametrize(
    ("n_layers", "first", "middle", "last"),
    [(9, [0, 1, 2], [3, 4, 5], [6, 7, 8]), (8, [0, 1], [2, 3, 4, 5], [6, 7])],
)
def test_thirds_at_both_ends_are_as_long_and_the_middle_has_the_remainder(
    n_layers: int, first: list[int], middle: list[int], last: list[int]
) -> None:
    scores = {"intact": np.ones(4), "skip L0": np.zeros(4)}
    harms = Harms(scripted_result({("retrieval", G): scores}, n_layers=n_layers), "skip")
    assert [list(third) for third in harms.thirds()] == [first, middle, last]


@draws
def test_a_claim_that_is_false_is_contradicted(n: int) -> None:
    found = statuses(apart(0.0, BASE, LAYERS), N, n)
    for claim in CLAIMS:
        assert found[claim]["contradicted"] >= 0.9 * n, (claim, found[claim])
        assert found[claim]["supported"] == 0


@draws
def test_a_claim_that_is_true_is_supported(n: int) -> None:
    found = statuses(apart(0.15, BASE, LAYERS), N, n)
    for claim in CLAIMS:
        assert found[claim]["supported"] >= 0.9 * n, (claim, found[claim])
        assert found[claim]["contradicted"] == 0


@pytest.mark.truth
def test_at_exactly_the_smallest_effect_nothing_is_claimed() -> None:
    found = statuses(apart(SMALLEST, BASE, LAYERS), N, DRAWS)
    for claim in CLAIMS:
        assert found[claim]["supported"] <= 0.05 * DRAWS, (claim, found[claim])
        assert found[claim]["contradicted"] <= 0.05 * DRAWS, (claim, found[claim])


@draws
def test_one_deep_layer_is_enough_to_be_needed_and_to_contradict_nothing(n: int) -> None:
    alone = {
        ("reasoning", G): [0.0] * 6 + [0.6] + [0.0] * 5 + [0.6] + [0.0] * 2,
        ("language", G): [0.0] * LAYERS,
    }
    found = statuses(alone, N, n)[DEEP]
    assert found["supported"] >= 0.9 * n
    little = {**alone, ("reasoning", G): [0.0] * 6 + [0.25] + [0.0] * 5 + [0.25] + [0.0] * 2}
    assert statuses(little, N, n)[DEEP]["contradicted"] == 0


@pytest.mark.truth
def test_a_profile_of_half_the_size_leans_on_no_deeper_layers() -> None:
    same_depth = {
        ("retrieval", G): [0.6] * 5 + [0.0] * 10,
        ("reasoning", G): [0.3] * 5 + [0.0] * 10,
    }
    found = statuses(same_depth, N, 20)[ORDER]
    assert found["contradicted"] >= 18, found


@pytest.mark.truth
def test_copying_that_gets_better_without_layers_is_no_need_of_them() -> None:
    unneeded = {("reasoning", G): [0.0] * LAYERS, ("language", G): [-0.2] * LAYERS}
    found = statuses(unneeded, N, 20)[DEEP]
    assert found["contradicted"] >= 18, found


@pytest.mark.truth
def test_what_one_third_needs_beyond_copying_is_not_said_to_be_as_for_any_text() -> None:
    truth = {
        ("reasoning", G): [0.0] * 5 + [0.3] * 5 + [0.12] * 5,
        ("language", G): [0.0] * 10 + [0.12] * 5,
    }
    for seed in range(8):
        (row,) = claims_of(Simulation(truth, n=800).draw(seed)).to_dict("records")
        assert row["status"] == "contradicted"
        assert row["evidence"].endswith("needs them, but not both thirds more than copying")


@pytest.mark.truth
@pytest.mark.parametrize(
    ("claim", "layers", "guessed"),
    [
        (SHALLOW["retrieval"], {0, 1}, "retrieval"),
        (ORDER, {7, 8}, "reasoning"),
        (DEEP, {4, 7}, "reasoning"),
    ],
)
def test_layers_without_which_nothing_is_right_harm_no_family_more(
    claim: str, layers: set[int], guessed: str
) -> None:
    """Harm is above 1 there if a guess is right a quarter of the time, and 1 if none is."""
    keys = [(family, G) for family in ("retrieval", "reasoning", "language")]
    simulation = Simulation({key: [0.05] * 9 for key in keys}, n=200)
    for seed in range(6):
        result = with_guesses(without_any_answer(simulation.draw(seed), layers), {guessed: 0.25})
        row = claims_of(result).set_index("claim").loc[claim]
        assert row["status"] != "supported", row["evidence"]
        assert "families differ" not in localize(result, ablation="skip").verdict


def test_chance_by_shuffled_answers_is_left_out_too() -> None:
    """It is that of the cell, and not of single questions."""
    keys = [("retrieval", G), ("language", G)]
    simulation = Simulation({key: [0.05] * 9 for key in keys}, n=200)
    for chance_from, supported in {"shuffled answers": False, "": True}.items():
        result = without_any_answer(simulation.draw(0), {0, 1})
        result.manifest["cells"][0] |= {"chance": 0.25, "chance_from": chance_from}
        row = claims_of(result).set_index("claim").loc[SHALLOW["retrieval"]]
        assert (row["status"] == "supported") == supported, row["evidence"]


def test_a_number_whose_side_depends_on_chance_is_asked_no_further() -> None:
    """It lies above the smallest effect with measured chance and below without, at any n."""
    keys = [("retrieval", G), ("language", G)]
    simulation = Simulation({key: [0.0] * 9 for key in keys}, n=3000, kinds=("skip", "mean"))
    result = with_guesses(without_any_answer(simulation.draw(0), {0, 1}), {"retrieval": 0.25})
    row = claims_of(result).set_index("claim").loc[SHALLOW["retrieval"]]
    assert row["status"] == "not shown"
    assert row["reason"] == "it depends on whether measured chance is subtracted"
    findings = next(
        claim.findings
        for claim in literature_claims(measure_kinds(result, "skip"), "language")
        if claim.claim == SHALLOW["retrieval"]
    )
    assert not any(finding.is_open for finding in findings)


def test_claims_alone_are_those_of_localize() -> None:
    result = Simulation(apart(0.15, BASE, LAYERS), n=100).draw(0)
    assert claims_of(result).equals(localize(result, ablation="skip").claims)


@pytest.fixture(scope="module")
def supported() -> SweepResult:
    """A sweep of which two kinds support most claims."""
    return Simulation(apart(0.2, BASE, LAYERS), n=N).draw(0)


def decided(result: SweepResult) -> pd.DataFrame:
    claims = claims_of(result)
    return claims[claims["status"].isin(["supported", "contradicted"])]


def without(result: SweepResult, kind: str) -> SweepResult:
    frame = result.frame[result.frame["ablation"] != kind].reset_index(drop=True)
    return SweepResult(frame, result.manifest, result.examples)


def declared(result: SweepResult, name: str, mechanism: str) -> SweepResult:
    """The same with conditions in the manifest that declare a mechanism."""
    rows = result.frame[result.frame["ablation"] == name]
    conditions = [
        {"name": condition, "ablation": name, "mechanism": mechanism}
        for condition in rows["condition"].unique()
    ]
    return SweepResult(result.frame, {**result.manifest, "conditions": conditions}, result.examples)


def test_two_kinds_decide_and_one_does_not(supported: SweepResult) -> None:
    claims = claims_of(supported)
    decided_rows = claims["status"].isin(["supported", "contradicted"])
    assert decided_rows.any()
    assert (claims["reason"].eq("") == decided_rows).all()
    assert decided_rows.sum() >= 4
    alone = without(supported, "mean")
    assert decided(alone).empty
    claims = localize(alone).claims
    assert claims["evidence"].str.contains("a second kind of ablation, of another mech").all()


@pytest.mark.parametrize("mechanism", ["", "mean", "noise"])
def test_rows_under_another_name_are_no_second_kind(supported: SweepResult, mechanism: str) -> None:
    alone = copied(without(supported, "mean"), "skip", "scale")
    assert decided(declared(alone, "scale", mechanism)).empty


def test_a_copy_with_one_layer_altered_is_no_second_kind(supported: SweepResult) -> None:
    alone = copied(without(supported, "mean"), "skip", "scale")
    altered = alone.frame["condition"] == "scale L3"
    frame = alone.frame.assign(response=alone.frame["response"].where(~altered, "else"))
    result = SweepResult(frame, alone.manifest, alone.examples)
    assert decided(declared(result, "scale", "mean")).empty


@pytest.mark.parametrize(("name", "mechanism"), [("half", ""), ("swap", ""), ("zero", "deletion")])
def test_what_has_no_mechanism_of_its_own_is_no_second_kind(name: str, mechanism: str) -> None:
    kinds = {"n": N, "kinds": ("skip", name)}
    result = Simulation(apart(0.2, BASE, LAYERS), **kinds).draw(1)  # other answers than Skip's
    assert decided(declared(result, name, mechanism)).empty


def test_a_declared_mechanism_is_a_second_kind() -> None:
    result = Simulation(apart(0.2, BASE, LAYERS), n=N, kinds=("skip", "mine")).draw(1)
    assert len(decided(declared(result, "mine", "resample"))) >= 4


def test_kinds_that_disagree_decide_nothing() -> None:
    truth, other = apart(0.2, BASE, LAYERS), apart(-0.2, 0.3, LAYERS)
    for seed in range(3):
        found = Simulation(truth, n=N, other={"mean": other}).draw(seed)
        claims = claims_of(found).set_index("claim")
        row = claims.loc[SHALLOW["retrieval"]]
        assert row["status"] == "not shown"
        assert row["reason"] == "the kinds of ablation disagree"
        assert row["reason"] in row["evidence"]


def test_the_kind_that_was_not_asked_is_the_reason() -> None:
    truth = apart(0.2, BASE, LAYERS)
    found = Simulation(truth, n=N, other={"mean": truth}).draw(0)
    of_retrieval = found.frame["family"] == "retrieval"
    less = found.frame[(found.frame["ablation"] != "mean") | ~of_retrieval]
    claims = claims_of(replace(found, frame=less)).set_index("claim")
    row = claims.loc[SHALLOW["retrieval"]]
    assert (row["status"], row["reason"]) == ("not shown", "not asked about all of it by mean")


@pytest.mark.truth
def test_a_profile_like_copyings_leans_as_any_text_does() -> None:
    early = [0.6] * 3 + [0.1] * 6
    truth = {("retrieval", G): early, ("language", G): early}
    found, words = Counter(), []
    for seed in range(20):
        (row,) = claims_of(Simulation(truth, n=N).draw(seed)).to_dict("records")
        found[row["status"]] += 1
        words.append(row["evidence"])
    assert found["supported"] == 0
    assert not any("more than any text" in text for text in words)
    # With so much harm the difference to copying takes more questions than 400 to be known.
    assert sum("leans; not shown to do so beyond copying" in text for text in words) >= 10
    many = claims_of(Simulation(truth, n=3000).draw(0)).iloc[0]
    assert many["status"] == "contradicted"
    assert many["evidence"].endswith("no more than copying: leans, as any text does")


def test_undecided_claim_states_the_number_of_questions_needed() -> None:
    truth = {("retrieval", G): [0.2] * 3 + [0.1] * 6, ("language", G): [0.1] * 9}
    row = claims_of(Simulation(truth, n=100).draw(2)).iloc[0]
    assert row["status"] == "not shown"
    assert row["smallest"] == SMALLEST
    assert "questions that would decide it if the numbers stand: skip about" in row["evidence"]


@pytest.mark.truth
def test_tasks_of_the_same_documents_are_decided() -> None:
    flat, more = [0.05] * 12, [0.2] * 12
    for harms, status in ((more, "supported"), (flat, "contradicted")):
        truth = {("knowledge[letters]", "letter"): flat, ("knowledge[written]", G): harms}
        found = Counter()
        for seed in range(20):
            result = Simulation(truth, n=N, shared=True).draw(seed)
            claims = claims_of(result).set_index("claim")
            found[claims.loc[MORE, "status"]] += 1
        assert found[status] >= 18, found
        agreement = result.agreement()
        assert set(agreement["n"]) == {N}
        assert (agreement["task"] != agreement["task_b"]).all()


def test_why_two_protocols_are_not_compared_is_true() -> None:
    flat = [0.1] * 6
    truth = {("knowledge[letters]", "letter"): flat, ("knowledge[written]", G): flat}
    found = claims_of(Simulation(truth, n=100).draw(0))
    row = found.set_index("claim").loc[MORE]
    assert row["status"] == "not measurable"
    assert row["evidence"] == "no question of knowledge was asked under both"


def test_a_chance_that_is_measured_makes_generation_need_no_more() -> None:
    """Both protocols lose the same; under generation, guessing would be right on a fifth."""
    scores = {"intact": np.ones(400)}
    for kind, layer in itertools.product(("skip", "mean"), range(4)):
        scores[f"{kind} L{layer}"] = np.full(400, float(layer > 1))
    cells = {("retrieval", "continuation"): scores, ("retrieval", "generation"): scores}
    result = scripted_result(cells, n_layers=4)
    asked = result.frame.drop_duplicates(["task", "example"])[["task", "example"]]
    guesses = asked.assign(
        answer="a", question="", cluster="", guesses=json.dumps({"generation": 0.2})
    )
    measured = localize(replace(result, examples=guesses), ablation="skip")
    harm = measured.frame.set_index("protocol")["critical"]
    assert list(harm["generation"]) == list(harm["continuation"]) == [0, 1]
    (status,) = measured.claims.set_index("claim").loc[[MORE], "status"]
    # By guesses alone the difference would be 0.125, and supported.
    assert status in ("contradicted", "not shown")


def test_reasoning_that_needs_layers_only_because_of_sinks_says_so() -> None:
    """With the first token kept, the layers that reasoning needs beyond copying do no harm."""
    flat, needed = [0.0] * 9, [0.0] * 3 + [0.6] * 6
    truth = {("reasoning", G): needed, ("language", G): flat}
    kept = {("reasoning", G): flat, ("language", G): flat}
    asked = Simulation(truth, n=N, spared=kept, churn=0.0).draw(0)
    claims = claims_of(asked).set_index("claim")
    assert claims.loc[DEEP, "status"] == "not shown"
    assert claims.loc[DEEP, "reason"] == "not shown by skip, mean with the first token kept"


def test_claim_open_after_first_states_the_number_of_questions_needed() -> None:
    """With the first token kept, the mean harm beyond copying is near its smallest effect."""
    flat, needed = [0.0] * 9, [0.0] * 3 + [0.6] * 6
    truth = {("reasoning", G): needed, ("language", G): flat}
    kept = {("reasoning", G): [0.0] * 3 + [0.12] * 6, ("language", G): flat}
    asked = Simulation(truth, n=100, spared=kept).draw(0)
    claims = claims_of(asked).set_index("claim")
    assert claims.loc[DEEP, "status"] == "not shown"
    assert re.search(r"if the numbers stand: skip about [1-9]", claims.loc[DEEP, "reason"])


def finding(sign: int, needed: float = math.nan, **state: bool) -> Finding:
    return Finding("skip", "deletion", sign, f"skip: {sign}", needed=needed, **state)


OPEN, NEAR = {"is_open": True}, {"is_near": True}
KEPT = {"is_open": True, "asks_kept": True}


@pytest.mark.parametrize(
    ("alone", "beyond", "sign", "state"),
    [
        (finding(1), finding(1), 1, {}),
        (finding(-1), finding(0, 500.0, **OPEN), -1, {}),
        (finding(0, 500.0, **OPEN), finding(-1), -1, {}),
        (finding(1), finding(0, 500.0, **OPEN), 0, OPEN),
        # The open one may still show that layers are not needed.
        (finding(0, 900.0, **NEAR), finding(0, 500.0, **OPEN), 0, OPEN),
        (finding(0, 900.0, **NEAR), finding(1), 0, NEAR),
        (finding(0, 900.0, **NEAR), finding(0, 500.0, **NEAR), 0, NEAR),
        (finding(0, 500.0, **KEPT), finding(1), 0, KEPT),
        # To ask with the first token kept decides nothing while the other is open.
        (finding(0, 500.0, **KEPT), finding(0, 900.0, **OPEN), 0, OPEN),
        (finding(0, 500.0, **KEPT), finding(0, 900.0, **KEPT), 0, KEPT),
    ],
)
def test_a_need_is_as_certain_as_the_less_certain_of_its_findings(
    alone: Finding, beyond: Finding, sign: int, state: dict[str, bool]
) -> None:
    joined = _join_needs(replace(alone, words="skip: alone"), replace(beyond, words="skip: more"))
    assert joined.words == "skip: more, alone"
    assert joined.sign == sign
    for name in ("is_open", "is_near", "asks_kept"):
        assert getattr(joined, name) == state.get(name, False), name
    counts = [one.needed for one in (alone, beyond) if not one.sign]
    assert joined.needed == max(counts) if not sign else math.isnan(joined.needed)

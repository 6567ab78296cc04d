"""What generation costs more than likelihood is split by `exact`, and only where that is true."""

import json
from collections import Counter

import pandas as pd
import pytest

from benchmarks.simulated import Simulation, Truth
from layerroles.results import SweepResult, mechanisms
from layerroles.roles import localize
from layerroles.roles.claim_findings import SMALLEST
from layerroles.roles.claim_status import make_table
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import AblationKind
from layerroles.roles.protocol_claims import (
    MORE,
    NOT_SPLIT,
    STRICTER,
    WRITING,
    claims_on_protocols,
)
from tests.support.tiers import mark_rest

C, E, G = "continuation", "exact", "generation"
LAYERS, N, DRAWS = 3, 1000, 40
BASE = 0.05  # harm of every layer under continuation


def truth(stricter: float, writing: float) -> Truth:
    """Copying that costs so much more by stricter scoring, and so much more again by writing."""
    harms = {C: BASE, E: BASE + stricter, G: BASE + stricter + writing}
    return {("language", protocol): [harm] * LAYERS for protocol, harm in harms.items()}


def claims(result: SweepResult) -> pd.DataFrame:
    """The claims that single layers can speak to, by name, without all else that is localized."""
    kinds = [
        AblationKind(Harms(result, ablation), mechanism)
        for ablation, mechanism in mechanisms(result).items()
    ]
    rows = (claim.row() for claim in claims_on_protocols(kinds))
    return make_table(rows).set_index("claim")


def statuses(stricter: float, writing: float, draws: int) -> tuple[Counter[str], Counter[str]]:
    """How often each of the two parts came out how; what the whole says of them is the same."""
    found: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for seed in range(draws):
        rows = claims(Simulation(truth(stricter, writing), n=N).draw(seed))
        parts = [str(rows.loc[claim, "status"]) for claim in (STRICTER, WRITING)]
        expected = f"its parts: stricter scoring {parts[0]}, writing {parts[1]}"
        assert rows.loc[MORE, "evidence"].endswith(expected)
        for counts, part in zip(found, parts, strict=True):
            counts[part] += 1
    return found


draws = pytest.mark.parametrize("draws", mark_rest("truth", [1, 20], first=[1]))


@draws
def test_writing_costs_nothing_where_exact_and_generation_have_one_profile(draws: int) -> None:
    stricter, writing = statuses(0.15, 0.0, draws)
    assert writing["supported"] == 0
    assert writing["contradicted"] >= 0.8 * draws
    assert stricter["supported"] >= 0.8 * draws


@draws
def test_stricter_scoring_shows_no_more_where_exact_is_as_continuation(draws: int) -> None:
    stricter, writing = statuses(0.0, 0.15, draws)
    assert stricter["supported"] == 0
    assert stricter["contradicted"] >= 0.8 * draws
    assert writing["supported"] >= 0.8 * draws


@pytest.mark.truth
def test_at_exactly_the_smallest_effect_no_part_is_decided() -> None:
    for counts in statuses(SMALLEST, SMALLEST, DRAWS):
        assert counts["supported"] <= 0.05 * DRAWS, counts
        assert counts["contradicted"] <= 0.05 * DRAWS, counts


def test_the_parts_add_up_over_the_same_questions() -> None:
    rows = claims(Simulation(truth(0.1, 0.1), n=N).draw(0))
    whole, *parts = (rows.loc[claim, "numbers"] for claim in (MORE, STRICTER, WRITING))
    for place, one in enumerate(whole):
        added = sum(part[place]["estimate"] for part in parts)
        assert one["estimate"] == pytest.approx(added, abs=1e-9)


def test_without_exact_the_claim_says_that_it_is_not_split() -> None:
    whole = Simulation(truth(0.1, 0.1), n=N).draw(0)
    verdict = localize(whole, ablation="skip").verdict
    assert NOT_SPLIT not in verdict
    assert verdict.count("Claim of the literature") == 1  # the paper has no claim on the parts
    assert verdict.count("Part of the claim on generation") == 2
    frame = whole.frame[whole.frame["protocol"] != E].reset_index(drop=True)
    without = localize(SweepResult(frame, whole.manifest, whole.examples), ablation="skip")
    assert list(without.claims["claim"]) == [MORE]
    assert without.claims["evidence"].iloc[0].endswith(NOT_SPLIT)
    assert NOT_SPLIT in without.verdict


def test_a_part_that_changes_the_context_too_is_not_decided() -> None:
    result = Simulation(truth(0.2, 0.2), n=N).draw(0)

    def found(**read: str) -> pd.DataFrame:
        examples = result.examples.assign(contexts=json.dumps(read))
        return claims(SweepResult(result.frame, result.manifest, examples))

    words = "the two read other contexts, which may be why"
    same = found(continuation="a", exact="a", generation="a")
    assert list(same.loc[[MORE, STRICTER, WRITING], "status"]) == ["supported"] * 3
    assert not same["evidence"].str.contains(words).any()
    solved = found(continuation="a", exact="a", generation="with worked solutions")
    assert list(solved.loc[[MORE, STRICTER], "status"]) == ["supported"] * 2
    assert solved.loc[WRITING, "status"] == "not shown"
    assert solved.loc[WRITING, "evidence"].endswith(words)
    assert solved["evidence"].str.contains(words).sum() == 1
    assert "stricter scoring supported, writing not shown" in solved.loc[MORE, "evidence"]


def test_parts_over_different_questions_are_noted() -> None:
    result = Simulation(truth(0.1, 0.1), n=N).draw(0)
    words = "not over the same questions"
    assert words not in claims(result).loc[MORE, "evidence"]
    one = (result.frame["protocol"] == E) & (result.frame["example"] == "language-3")
    frame = result.frame.assign(status=result.frame["status"].where(~one, "not finite"))
    fewer = SweepResult(frame, result.manifest, result.examples)
    assert claims(fewer).loc[MORE, "evidence"].endswith(words)


def test_an_exact_score_without_skill_splits_nothing() -> None:
    result = Simulation(truth(0.1, 0.1), n=N).draw(0)
    wrong = result.frame["protocol"] == E
    frame = result.frame.assign(score=result.frame["score"].where(~wrong, 0.0))
    rows = claims(SweepResult(frame, result.manifest, result.examples))
    assert list(rows.loc[[STRICTER, WRITING], "status"]) == ["not measurable"] * 2
    said = "its parts: stricter scoring not measurable, writing not measurable"
    assert said in rows.loc[MORE, "evidence"]

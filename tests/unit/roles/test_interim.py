"""Before a run is finished there are estimates and intervals, and nothing is decided."""

import dataclasses

import pandas as pd
import pytest

from layerroles.errors import InputError
from layerroles.results import SweepResult
from layerroles.roles import HeadSearch, Roles, carried_by_few, localize
from layerroles.roles.claim_status import COLUMNS
from tests.support.scripted_result import heads_result, pairs_result
from tests.support.synthetic import synthetic_result, unfinished

N_LAYERS, N = 9, 48
LISTS = ["critical", "spare", "partial", "sink", "general", "specific"]


@pytest.fixture(scope="module")
def result() -> SweepResult:
    """A sweep with critical layers and sinks, and a family that cannot be measured."""
    whole = synthetic_result(N_LAYERS, N)
    guessed = whole.frame["family"] == "reasoning"
    frame = whole.frame.assign(score=whole.frame["score"].where(~guessed, 0.0))
    return dataclasses.replace(whole, frame=frame)


@pytest.fixture(scope="module")
def finished(result: SweepResult) -> Roles:
    return localize(result)


@pytest.fixture(scope="module")
def interim(result: SweepResult) -> Roles:
    return localize(unfinished(result))


def test_no_layer_is_judged_though_the_same_rows_have_critical_layers(
    finished: Roles, interim: Roles
) -> None:
    assert {"critical", "sink", "not measurable"} <= set(finished.layers["verdict"])
    assert set(interim.layers["verdict"]) == {"undecided", "not measurable"}
    unmeasured = finished.layers["verdict"] == "not measurable"
    assert list(unmeasured) == list(interim.layers["verdict"] == "not measurable")
    assert finished.frame[LISTS].map(len).sum().all()
    assert not interim.frame[LISTS].map(len).sum().any()
    measured = interim.frame[interim.frame["mean_harm"].notna()]
    assert all(list(layers) == list(range(N_LAYERS)) for layers in measured["undecided"])


def test_estimates_and_intervals_stay(finished: Roles, interim: Roles) -> None:
    pd.testing.assert_frame_equal(
        finished.layers.drop(columns="verdict"), interim.layers.drop(columns="verdict")
    )
    pd.testing.assert_frame_equal(finished.contrasts, interim.contrasts)
    numbers = ["n", "intact", "chance", "early_minus_late", "ci_low", "ci_high", "mean_harm"]
    pd.testing.assert_frame_equal(finished.frame[numbers], interim.frame[numbers])
    assert interim.frame["effective"].notna().any()


def test_no_claim_is_decided(finished: Roles, interim: Roles) -> None:
    assert len(finished.claims)
    assert interim.claims.empty
    assert list(interim.claims.columns) == COLUMNS


def test_interim_verdict_states_only_the_progress(interim: Roles) -> None:
    assert interim.interim == f"{N} of {2 * N} questions"
    assert interim.verdict == (
        f"Interim ({N} of {2 * N} questions): estimates with their intervals, and no verdicts "
        "before the run is finished. A run that was stopped goes on when it is started again."
    )
    for family, claim in zip(interim.frame["family"], interim.frame["claim"], strict=True):
        assert claim.startswith("Not measurable" if family == "reasoning" else "Interim")
    for text in (str(interim), repr(interim), interim.to_markdown(), interim._repr_html_()):
        assert f"{N} of {2 * N} questions" in text
        assert not {"critical", "sink", "spare", "partial", "helps"} & set(
            text.replace("|", " ").split()
        )


def test_a_layer_without_a_score_is_not_measured(result: SweepResult) -> None:
    blank = result.frame["layer"].eq(3).fillna(False) & result.frame["task"].eq("facts")
    blank = blank.astype(bool)
    frame = result.frame.assign(
        score=result.frame["score"].mask(blank),
        status=result.frame["status"].mask(blank, "not finite"),
    )
    layers = localize(unfinished(dataclasses.replace(result, frame=frame))).layers
    knowledge = layers[layers["family"] == "knowledge"]
    assert set(knowledge.loc[knowledge["layer"] == 3, "verdict"]) == {"not measured"}
    assert set(knowledge.loc[knowledge["layer"] != 3, "verdict"]) == {"undecided"}


def test_finished_runs_and_those_that_do_not_say_are_judged(
    result: SweepResult, finished: Roles
) -> None:
    marked = dataclasses.replace(result, manifest={**result.manifest, "unfinished": []})
    roles = localize(marked)
    assert (roles.interim, roles.verdict) == ("", finished.verdict)
    pd.testing.assert_frame_equal(roles.layers, finished.layers)
    pd.testing.assert_frame_equal(roles.claims, finished.claims)


def test_heads_and_pairs_are_not_judged() -> None:
    assert "critical" in set(localize(heads_result()).heads["verdict"])
    assert set(localize(unfinished(heads_result())).heads["verdict"]) == {"undecided"}
    assert "backup" in set(localize(pairs_result()).pairs["verdict"])
    pairs = localize(unfinished(pairs_result())).pairs
    assert set(pairs["verdict"]) == {"undecided"}
    assert pairs["excess"].notna().all()


def test_a_search_of_heads_waits_for_its_sweep() -> None:
    heads = pd.MultiIndex.from_product([range(6), range(4)])
    search = HeadSearch(pd.Series(range(24), index=heads, dtype=float), confirm=2, audit=2)
    assert len(search.judge(heads_result()).misses)
    with pytest.raises(InputError, match=r"not finished \(100 of 200 questions\)"):
        search.judge(unfinished(heads_result()))
    assert list(carried_by_few(unfinished(heads_result()))) == []


def test_a_claim_against_a_base_waits_for_the_run_of_the_base() -> None:
    model, base = synthetic_result(N_LAYERS, N, 0), synthetic_result(N_LAYERS, N, 1)

    def robust(base: SweepResult) -> pd.DataFrame:
        claims = localize(model, base=base).claims
        return claims[claims["claim"].str.contains("robust")]

    assert "not measurable" not in set(robust(base)["status"])
    waiting = robust(unfinished(base))
    assert set(waiting["status"]) == {"not measurable"}
    assert waiting["evidence"].str.contains("the run of the base is not finished").all()

"""Sweeps until="claims": a second kind of ablation only where a claim depends on it."""

import contextlib
import dataclasses
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

import layerroles as lr
from benchmarks.played_sweeps import KEYS, as_decided, ask, plan_of
from benchmarks.simulated import Simulation, Truth, claims_of
from layerroles import stats
from layerroles.plants import Plant
from layerroles.results import INTACT, cells_of
from layerroles.roles.claim_findings import Number, make_finding
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import AblationKind
from layerroles.roles.literature import DEEP, ORDER, SHALLOW
from layerroles.roles.protocol_claims import MORE
from layerroles.roles.retrieval_augmentation_claims import CONTEXT
from layerroles.sweep.next_cells import ask_for, next_cells, open_decisions
from layerroles.sweep.next_counts import OpenDecision, Plan
from layerroles.sweep.store import Key
from tests.support.interruptions import run_with_interruptions

RETRIEVAL = SHALLOW["retrieval"]
LAYERS, LIMIT, G = 9, 512, "generation"
THIRDS = ((0.5, 0.0, 0.0), (0.0, 0.5, 0.5), (0.1, 0.1, 0.1))
TIDY: Truth = {
    (family, G): [harm for harm in harms for _ in range(3)]
    for family, harms in zip(("retrieval", "reasoning", "language"), THIRDS, strict=True)
}
FLAT: Truth = {(family, G): [0.1] * LAYERS for family in ("retrieval", "reasoning", "language")}


def draw(truth: Truth, n: int = LIMIT, seed: int = 0, **options: object) -> lr.SweepResult:
    return Simulation(truth, n=n, **options).draw(seed)


def first_look(whole: lr.SweepResult) -> lr.SweepResult:
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    frame = whole.frame[(place < 32) & whole.frame["ablation"].isin([INTACT, "skip"])]
    return dataclasses.replace(
        as_decided(whole, LIMIT, "claims"), frame=frame.reset_index(drop=True)
    )


def statuses(result: lr.SweepResult) -> dict[str, str]:
    claims = claims_of(result)
    return dict(zip(claims["claim"], claims["status"], strict=True))


def n_asked(result: lr.SweepResult) -> "pd.Series[int]":
    """The most questions under a condition, by family and kind of ablation."""
    return (
        result.frame.groupby(["family", "ablation", "condition"]).size().groupby(level=[0, 1]).max()
    )


def test_clear_claims_are_supported_by_both_kinds_with_a_part_of_the_answers() -> None:
    whole = draw(TIDY)
    result = ask(whole, LIMIT, "claims")
    assert statuses(result) == dict.fromkeys((RETRIEVAL, ORDER, DEEP), "supported")
    assert len(result.frame) < len(whole.frame) / 2
    sentence = lr.localize(result, ablation="skip").verdict.splitlines()[0]
    assert "3 of 3 claims decided (3 supported, 0 contradicted), with" in sentence


def test_claims_of_a_flat_truth_are_contradicted_by_both_kinds() -> None:
    found = statuses(ask(draw(FLAT, n=1024), 1024, "claims"))
    assert found[RETRIEVAL] == found[ORDER] == "contradicted"


def test_the_second_kind_waits_for_the_first() -> None:
    """At the first look every claim is open, so that only the first kind is asked on."""
    first = first_look(draw(FLAT))
    kinds = {entry["hash"]: entry["ablation"] for entry in first.manifest["conditions"]}
    asked = next_cells(first, plan_of(first, LIMIT, "claims"))
    assert {kinds[hash] for hash, _, _ in asked} == {INTACT, "skip"}
    assert set(asked.values()) == {48}
    names = {claim.claim.claim for claim in open_decisions(first, plan_of(first, LIMIT, "claims"))}
    assert names == {RETRIEVAL, ORDER, DEEP}


def test_a_claim_at_its_border_is_left_before_the_second_kind() -> None:
    """Early minus late is .05, its smallest effect: known to be near, and asked no further."""
    near: Truth = {("retrieval", G): [0.1] * 3 + [0.05] * 6}
    result = ask(draw(near, n=4096, churn=0.0), 4096, "claims")
    assert statuses(result) == {RETRIEVAL: "not shown"}
    assert "within its smallest effect of the border" in _evidence(result)
    assert "mean" not in set(result.frame["ablation"])
    assert n_asked(result)["retrieval", "skip"] < 4096


def _evidence(result: lr.SweepResult) -> str:
    return str(claims_of(result).loc[0, "evidence"])


def test_kinds_that_disagree_end_a_claim() -> None:
    truth = {("retrieval", G): TIDY["retrieval", G]}
    other = {"mean": {("retrieval", G): [0.0] * LAYERS}}
    result = ask(draw(truth, other=other), LIMIT, "claims")
    assert statuses(result) == {RETRIEVAL: "not shown"}
    assert "disagree" in _evidence(result)
    assert n_asked(result)["retrieval", "mean"] < LIMIT


def test_critical_layers_are_asked_after_first_once_a_claim_depends_on_it() -> None:
    """Layer 0 is a sink: with the first token kept, retrieval does not lean on early layers."""
    at_all = {("retrieval", G): [0.9] + [0.0] * 8}
    spared = {("retrieval", G): [0.0] * LAYERS}
    result = ask(draw(at_all, spared=spared), LIMIT, "claims")
    assert statuses(result) == {RETRIEVAL: "not shown"}
    kept = result.frame.loc[result.frame["at"] == "after_first", "condition"].unique()
    assert list(kept) == ["skip L0 after_first"]
    assert "with the first token kept" in _evidence(result)
    # Early minus late of every layer alike is not decided, and so no critical layer is asked again.
    flat = {("retrieval", G): [0.4] * LAYERS}
    first = first_look(draw(flat, spared=flat, n=LIMIT))
    asked = next_cells(first, plan_of(first, LIMIT, "claims"))
    assert not [hash for hash, _, _ in asked if hash.endswith("after_first")]


def test_only_the_layers_of_a_claim_are_asked_on() -> None:
    """Early against late: of the middle third, Skip asks the first questions and Mean none."""
    truth: Truth = {("retrieval", G): [0.3] * 3 + [0.9] * 3 + [0.0] * 3}
    whole = draw(truth, spared=truth)
    result = ask(whole, LIMIT, "claims")
    assert statuses(result) == {RETRIEVAL: "supported"}
    frame = result.frame.assign(middle=result.frame["layer"].isin([3, 4, 5]))
    sizes = frame.groupby(["ablation", "at", "middle", "condition"]).size()
    assert set(sizes["skip", "all", True]) == {32}
    assert min(sizes["skip", "all", False]) > 32
    assert ("mean", "all", True) not in sizes.index.droplevel("condition")
    assert not frame.loc[frame["at"] == "after_first", "middle"].any()
    # Its numbers are those of a sweep that asks all layers as many questions.
    n = int(sizes["skip", "all", False].min())
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    evenly = dataclasses.replace(result, frame=whole.frame[place < n].reset_index(drop=True))
    (own,), (even,) = (claims_of(one)["numbers"][0][:1] for one in (result, evenly))
    assert own == even


def test_reasoning_is_asked_of_middle_and_late_layers_and_both_protocols_of_all() -> None:
    truth: Truth = {("reasoning", G): [0.1] * LAYERS, ("reasoning", "continuation"): [0.1] * LAYERS}
    for protocols, layers in ((1, range(3, LAYERS)), (2, range(LAYERS))):
        own = dict(list(truth.items())[:protocols])
        first = first_look(draw(own))
        plan = plan_of(first, LIMIT, "claims")
        names = {DEEP} if protocols == 1 else {MORE}
        claims = [one for one in open_decisions(first, plan) if one.claim.claim in names]
        asked = {hash for hash, _, _ in ask_for(claims, first, plan)} - {INTACT}
        assert asked == {f"skip L{layer}" for layer in layers}


def test_a_family_without_skill_is_asked_of_the_intact_model_only() -> None:
    whole = draw({("retrieval", G): [0.5] * LAYERS})
    guessed = dataclasses.replace(whole, frame=whole.frame.assign(score=0.0))
    result = ask(guessed, LIMIT, "claims")
    asked = result.frame.groupby("condition").size()
    assert asked[INTACT] == LIMIT
    assert set(asked.drop(INTACT)) == {32}
    assert statuses(result) == {RETRIEVAL: "not measurable"}


SECOND = ("retrieval[b]", G)


def test_a_second_kind_is_asked_of_all_tasks_of_a_family() -> None:
    """In the second task, Mean leans the other way; its skill is low, and shows late."""
    early, late = [0.6] * 3 + [0.0] * 6, [0.0] * 6 + [0.6] * 3
    truth: Truth = {("retrieval", G): early, SECOND: early}
    other = {"mean": {("retrieval", G): early, SECOND: late}}
    whole = draw(truth, other=other)
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    hidden = (whole.frame["task"] == SECOND[0]) & (place < 48)
    frame = whole.frame.assign(score=whole.frame["score"].mask(hidden, 0.0))
    result = ask(dataclasses.replace(whole, frame=frame), LIMIT, "claims")
    assert statuses(result)[RETRIEVAL] == "not shown"
    by_task = result.frame.groupby(["ablation", "task"]).size()
    assert ("mean", SECOND[0]) in by_task.index


def test_every_layer_of_a_claim_is_asked_after_first_along_if_the_sweep_says_so() -> None:
    at_all = {("retrieval", G): TIDY["retrieval", G]}
    whole = draw(at_all, spared=at_all)
    plan, result = plan_of(whole, LIMIT, "claims"), as_decided(whole, LIMIT, "claims")
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    first = whole.frame[(place < 32) & whole.frame["ablation"].isin([INTACT, "skip"])]
    manifest = result.manifest | {"only_needed": False}
    result = dataclasses.replace(result, frame=first.reset_index(drop=True), manifest=manifest)
    asked = {hash for hash, _, _ in next_cells(result, plan)}
    kept = {hash for hash in asked if hash.endswith("after_first")}
    assert kept == {f"skip L{layer} after_first" for layer in (0, 1, 2, 6, 7, 8)}


def test_kinds_of_another_command_are_not_asked() -> None:
    whole = draw(FLAT, kinds=("resample", "skip", "mean"))
    plan = plan_of(whole, LIMIT, "claims")
    own = [hash for hash in plan["conditions"] if not hash.startswith("resample")]
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    first = whole.frame[(place < 32) & (whole.frame["ablation"] != "mean")]
    result = dataclasses.replace(
        as_decided(whole, LIMIT, "claims"), frame=first.reset_index(drop=True)
    )
    asked = {hash for hash, _, _ in next_cells(result, {**plan, "conditions": own})}
    assert asked
    assert all(hash == INTACT or hash.startswith("skip") for hash in asked)


def test_a_change_by_a_context_is_asked_of_both_kinds() -> None:
    """One layer matters without the context only; every kind shows it by itself first."""
    without, with_it = [0.6] + [0.0] * 8, [0.0] * LAYERS
    truth: Truth = {("knowledge", G): without, ("knowledge[context]", G): with_it}
    result = ask(draw(truth, shared=True), LIMIT, "claims")
    assert statuses(result)[CONTEXT] == "supported"
    assert n_asked(result)["knowledge", "skip"] < 2 * LIMIT


@pytest.mark.truth
def test_a_change_of_a_layer_that_is_not_critical_is_asked_with_the_first_token_kept() -> None:
    """Layer 0 matters with the context only, and in the mean of both tasks it is not critical."""
    without, with_it = [0.0] * LAYERS, [0.34] + [0.0] * 8
    truth: Truth = {("knowledge", G): without, ("knowledge[context]", G): with_it}
    sink: Truth = {("knowledge", G): without, ("knowledge[context]", G): without}
    for spared, status in ((truth, "supported"), (sink, "not shown")):
        result = ask(draw(truth, shared=True, spared=spared, n=2048), 2048, "claims")
        assert statuses(result)[CONTEXT] == status
        kept = result.frame[result.frame["at"] == "after_first"]
        assert set(kept["layer"]) == {0}
        assert kept["task"].nunique() == 2
        assert n_asked(result)["knowledge", "skip"] < 2048


@pytest.mark.truth
def test_a_context_claim_is_decided_though_a_task_beside_it_lacks_middle_layers() -> None:
    """Early against late asks Mean of all three tasks, and of their middle third only the pair.

    Layer 4, which the context changes, is asked with the first token kept even so.
    """
    without = [0.3] * 3 + [0.0] * 6
    with_it = [0.3] * 3 + [0.0, 0.36, 0.0] + [0.0] * 3
    other = "knowledge[b]"
    truth: Truth = {
        ("knowledge", G): without,
        ("knowledge[context]", G): with_it,
        (other, G): without,
    }
    whole = draw(truth, shared=True, spared=truth)
    examples = whole.examples
    own = examples["task"] == other
    examples = examples.assign(
        question=examples["question"].mask(own, ""),
        prompt=examples["prompt"].mask(own, "Another: " + examples["example"]),
    )
    result = ask(dataclasses.replace(whole, examples=examples), LIMIT, "claims")
    assert statuses(result) == {SHALLOW["knowledge"]: "supported", CONTEXT: "supported"}
    mean = result.frame[result.frame["ablation"] == "mean"]
    assert not ((mean["task"] == other) & mean["layer"].isin([3, 4, 5])).any()
    assert n_asked(result)["knowledge", "mean"] < LIMIT


@pytest.mark.truth
def test_a_change_stays_shown_while_another_claim_asks_its_layer_further() -> None:
    """Layer 1 changes; early minus late is near its border, and asks early and late on."""
    without, with_it = [0.03] + [0.0] * 8, [0.03, 0.38] + [0.0] * 7
    truth: Truth = {("knowledge", G): without, ("knowledge[context]", G): with_it}
    result = ask(draw(truth, shared=True, spared=truth, n=1024, seed=1), 1024, "claims")
    found = statuses(result)
    assert found == {SHALLOW["knowledge"]: "not shown", CONTEXT: "supported"}
    skip = result.frame[(result.frame["ablation"] == "skip") & (result.frame["at"] == "all")]
    by_layer = skip.groupby("layer").size()
    assert by_layer[1] > by_layer[4]


def test_reasoning_without_copying_ends_though_other_claims_skip_its_middle_third() -> None:
    """Without the control, only the opposite could be shown, and harm alone rules that out."""
    own = {key: TIDY[key] for key in (("retrieval", G), ("reasoning", G))}
    result = ask(draw(own, spared=own), LIMIT, "claims")
    assert statuses(result) == {RETRIEVAL: "supported", ORDER: "supported", DEEP: "not shown"}
    assert n_asked(result)["reasoning", "skip"] < LIMIT
    evidence = claims_of(result).set_index("claim").loc[DEEP, "evidence"]
    assert "skip: it takes the copying control" in evidence


def test_the_second_kind_alone_does_not_know_what_copying_does() -> None:
    """Both lean alike; Mean was not asked about copying, and may not forget it."""
    truth: Truth = {(family, G): TIDY["retrieval", G] for family in ("retrieval", "language")}
    whole = draw(truth)
    unasked = (whole.frame["ablation"] == "mean") & (whole.frame["family"] == "language")
    part = dataclasses.replace(whole, frame=whole.frame[~unasked].reset_index(drop=True))
    for kind in ("skip", "mean"):
        claims = claims_of(part, kind).set_index("claim")
        assert claims.loc[RETRIEVAL, "status"] == "not shown"


def test_one_number_on_the_other_side_contradicts_although_another_is_near() -> None:
    near, wide, below = (
        stats.Contrast(value, stats.Interval(low, high), pd.Series(dtype=float))
        for value, low, high in ((0.05, 0.01, 0.09), (0.03, -0.07, 0.07), (-0.1, -0.2, -0.06))
    )
    kind = AblationKind(Harms(draw(FLAT, n=32), "skip"), "deletion")
    found = [make_finding(kind, [Number("a", near), Number("b", b)]) for b in (wide, below, near)]
    assert [finding.sign for finding in found] == [0, -1, 0]
    assert [finding.is_open for finding in found] == [True, False, False]
    assert [finding.is_near for finding in found] == [False, False, True]


@pytest.mark.truth
def test_sums_over_layers_hold_under_looking() -> None:
    """The intervals of all looks together contain the truth in 95% of sweeps; 95% ones do not."""
    truth: Truth = {("retrieval", G): [0.3, 0.1, 0.1]}
    missed = {"looks": 0, "once": 0}
    for seed in range(200):
        (whole,) = cells_of(as_decided(draw(truth, n=256, kinds=("skip",), seed=seed), 256))
        place = whole.rows.groupby(KEYS[:3]).cumcount()
        wrong = set()
        for n in stats.Looks().extended(32, 256).sizes:
            for name, looks in (("looks", whole.looks), ("once", stats.Looks())):
                own = dataclasses.replace(whole, rows=whole.rows[place < n], looks=looks)
                harm = own.harm({"skip L0": 1.0, "skip L2": -1.0})
                if harm.known and not harm.interval.low <= 0.2 <= harm.interval.high:
                    wrong.add(name)
        for name in wrong:
            missed[name] += 1
    assert missed["looks"] <= 14  # of 200; 10 are expected
    assert missed["once"] >= 18


@pytest.mark.truth
def test_looking_supports_no_claim_at_its_border_more_often_than_it_may() -> None:
    """Both kinds lie at the border, so a claim that is supported or contradicted is wrong."""
    border: Truth = {("retrieval", G): [0.05] * 3 + [0.0] * 6}
    found = Counter(
        statuses(ask(draw(border, n=128, seed=seed), 128, "claims"))[RETRIEVAL]
        for seed in range(24)
    )
    assert found["not shown"] >= 22  # each way at most .025, by each of two kinds


@cache
def plant() -> Plant:
    return lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,))


def planted(
    *, until_claims: bool = True, minutes: float | None = None, limit: int = 24, n_tasks: int = 1
) -> lr.Sweep:
    """A sweep of a planted model, with a first look after so few questions that more follow."""
    until = lr.Decided(goal="claims", first=8, minutes=minutes) if until_claims else None
    made = plant()
    conditions = [
        *lr.each_layer(made.model, lr.Skip()),
        *lr.each_layer(made.model, lr.Skip(), at="after_first"),
        *lr.each_layer(made.model, lr.Mean(lr.Reference(limit=8))),
    ]
    return lr.Sweep(
        made.model,
        made.tasks[:n_tasks],
        conditions,
        protocols=["generation"],
        until=until,
        limit=limit,
        noise_floor=False,
    )


def answers(result: lr.SweepResult) -> pd.DataFrame:
    return result.frame.sort_values(KEYS, ignore_index=True)[[*KEYS, "score", "response"]]


def test_rows_are_those_of_a_plain_sweep_and_a_killed_run_asks_the_same(tmp_path: Path) -> None:
    plain = answers(planted(until_claims=False).run(tmp_path / "plain"))
    result = planted().run(tmp_path / "claims")
    assert len(answers(result)) < len(plain)
    same = plain.merge(answers(result)[KEYS], on=KEYS)
    pd.testing.assert_frame_equal(answers(result), same, rtol=1e-4)
    assert "mean" in set(result.frame["ablation"])
    assert not result.manifest["asked_next"]
    assert result.frame.groupby("condition").size().max() > 8

    resumed, n_stopped = run_with_interruptions(
        lambda: planted().run(tmp_path / "killed"), lambda: None
    )
    assert n_stopped > 2
    pd.testing.assert_frame_equal(answers(resumed), answers(result), rtol=1e-4)
    assert statuses(resumed) == statuses(result)
    assert not resumed.manifest["unfinished"]


def test_a_deferred_condition_is_read_from_its_first_look_on(tmp_path: Path) -> None:
    """Before it, its interval would be one of a look that is not accounted for."""
    result = planted().run(tmp_path / "run")
    kept = result.frame["condition"].str.endswith("after_first")
    assert kept.any()
    entries = result.manifest["conditions"]
    hashes = [entry["hash"] for entry in entries if entry["at"] == "after_first"]
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "rows.sqlite")) as rows:
        rows.execute(
            f"delete from rows where condition in ({','.join('?' * len(hashes))}) and example in "
            "(select example from examples where place >= 3)",
            hashes,
        )
        rows.commit()
    begun = lr.read(tmp_path / "run").frame
    assert len(begun) == len(result.frame) - kept.sum()


def test_time_limit_leaves_claims_open_and_a_second_run_continues(tmp_path: Path) -> None:
    late = planted(minutes=1e-6).run(tmp_path / "run")
    assert set(late.frame["ablation"]) == {INTACT, "skip"}
    assert late.manifest["unfinished"]
    result = planted().run(tmp_path / "run")
    assert not result.manifest["unfinished"]
    assert "mean" in set(result.frame["ablation"])
    further = planted(limit=40).run(tmp_path / "run")
    assert not further.manifest["unfinished"]
    assert further.manifest["looks"]["planted_look_up"][:2] == [8, 12]
    kept = result.frame[KEYS].merge(further.frame[KEYS])
    assert len(kept) == len(result.frame)
    at_once = planted(limit=40).run(tmp_path / "at_once")
    pd.testing.assert_frame_equal(answers(further), answers(at_once), rtol=1e-4)
    assert statuses(further) == statuses(at_once)


@pytest.mark.matrix
def test_under_a_time_limit_the_nearer_half_of_the_claims_is_asked_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def noted(
        decisions: Iterable[OpenDecision], result: lr.SweepResult, plan: Plan
    ) -> dict[Key, int]:
        chosen, all_open = list(decisions), open_decisions(result, plan)
        nearest = [one.more for one in all_open[: len(chosen)]]
        assert [one.more for one in chosen] == pytest.approx(nearest, nan_ok=True)
        asked.append((len(chosen), len(all_open)))
        return ask_for(chosen, result, plan)

    monkeypatch.setattr("layerroles.sweep.execution.ask_for", noted)
    hurried = planted(minutes=60, n_tasks=2).run(tmp_path / "hurried")
    assert max(n for _, n in asked) > 1
    assert all(n_chosen == math.ceil(n / 2) for n_chosen, n in asked)
    assert not hurried.manifest["unfinished"]
    assert statuses(hurried) == statuses(planted(n_tasks=2).run(tmp_path / "patient"))


def test_claims_take_two_kinds_of_ablation_of_each_layer() -> None:
    made = plant()
    skip, mean = (lr.each_layer(made.model, kind) for kind in (lr.Skip(), lr.Mean(lr.Reference())))
    zero = lr.each_layer(made.model, lr.Zero())
    heads = lr.each_head(made.model, lr.Zero(), layers=[0])
    noise = [lr.each_layer(made.model, lr.Noise(scale=scale)) for scale in (0.5, 1.0)]
    spared = lr.each_layer(made.model, lr.Skip(), at="after_first")
    for conditions, words in (
        (skip, "there is deletion"),
        ([*skip, *zero], "there is deletion"),
        ([*skip, *mean[1:]], "mean at 'all' lacks layer 0"),
        ([*skip[:3], *zero[3:], *mean], "skip at 'all' lacks layer 3"),
        ([*skip, *mean, *spared[:2]], "skip at 'after_first' lacks layer 2"),
        ([*skip, *noise[0], *noise[1]], "takes noise at one setting"),
        ([*skip, *mean, *heads], "is not such: ask it in another sweep"),
    ):
        with pytest.raises(lr.InputError, match=words):
            lr.Sweep(made.model, made.tasks, conditions, protocols=["generation"], until="claims")


def test_bad_goals_are_refused() -> None:
    with pytest.raises(lr.InputError, match="goal='heads' is unknown: known are layers, claims"):
        lr.Decided(goal="heads")
    with pytest.raises(lr.InputError, match="leave them out"):
        lr.Decided(goal="claims", error=0.01)

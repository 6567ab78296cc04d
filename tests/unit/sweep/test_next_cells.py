"""What is asked only where it is needed: the same verdicts and claims as from asking everything."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

import layerroles as lr
from layerroles.results import cells_of, decisions_of, describe_answers, find_waiting
from layerroles.sweep.manifest_conditions import describe_condition
from layerroles.sweep.next_cells import Plan, expected_next, next_cells
from layerroles.sweep.store import Key
from tests.support import lm_eval_data
from tests.support.interruptions import run_with_interruptions
from tests.support.random_models import random_model
from tests.support.synthetic import synthetic_result

KEYS = ["condition", "task", "protocol", "example"]


def skips(n_layers: int) -> list[lr.Condition]:
    return [
        lr.Condition({lr.Site(layer): lr.Skip()}, at=at)
        for at in ("all", "after_first")
        for layer in range(n_layers)
    ]


def entries(conditions: list[lr.Condition]) -> list[dict[str, object]]:
    return [describe_condition(condition) for condition in conditions]


def plan_of(result: lr.SweepResult) -> Plan:
    """The command that asks everything that a result's manifest has."""
    cells = [[cell["task"], cell["protocol"], cell["n"]] for cell in result.manifest["cells"]]
    return {"cells": cells, "conditions": [c["hash"] for c in result.manifest["conditions"]]}


def without_unneeded(whole: lr.SweepResult) -> lr.SweepResult:
    """The result of a sweep that has asked `after_first` only where it is needed."""
    names = {entry["hash"]: entry["name"] for entry in whole.manifest["conditions"]}
    is_waiting = whole.frame["at"] == "after_first"
    less = dataclasses.replace(
        whole,
        frame=whole.frame[~is_waiting].reset_index(drop=True),
        manifest=whole.manifest | {"only_needed": True},
    )
    next_keys = next_cells(less, plan_of(whole))
    needed = {(names[hash], task, protocol) for hash, task, protocol in next_keys}
    keys = pd.MultiIndex.from_frame(whole.frame[KEYS[:3]])
    frame = whole.frame[~is_waiting | keys.isin(list(needed))].reset_index(drop=True)
    return dataclasses.replace(less, frame=frame)


def test_a_layer_after_first_waits_for_the_same_layer_at_all_positions() -> None:
    layer, head = lr.Site(1), lr.Site(1, "head", head=0)
    at_all = lr.Condition({layer: lr.Skip()})
    waits = lr.Condition({layer: lr.Skip()}, at="after_first")
    others = [
        lr.Condition({lr.Site(2): lr.Skip()}, at="after_first"),  # not asked at all positions
        lr.Condition({layer: lr.Zero()}, at="after_first"),
        lr.Condition({head: lr.Zero()}),
        lr.Condition({head: lr.Zero()}, at="after_first"),
        lr.Condition({layer: lr.Skip(), lr.Site(2): lr.Skip()}),
        lr.Condition({layer: lr.Skip(), lr.Site(2): lr.Skip()}, at="after_first"),
        lr.Condition({layer: lr.Skip()}, at="prompt"),
    ]
    found = find_waiting(entries([at_all, waits, *others]))
    assert found == {waits.hash: at_all.name}


MORE = [(64, 2), (400, 3)]


@pytest.mark.parametrize(
    ("n", "seed"), [(32, 0), *(pytest.param(*each, marks=pytest.mark.truth) for each in MORE)]
)
def test_verdicts_and_claims_are_those_of_asking_everything(n: int, seed: int) -> None:
    whole = synthetic_result(n=n, seed=seed, ablations=["skip", "mean"])
    less = without_unneeded(whole)
    n_kept = (less.frame["at"] == "after_first").sum()
    assert 0 < n_kept < (whole.frame["at"] == "after_first").sum() / 2
    roles, of_all = (lr.localize(result, ablation="skip") for result in (less, whole))
    assert set(of_all.layers["verdict"]) >= {"critical", "sink"}
    pd.testing.assert_series_equal(roles.layers["verdict"], of_all.layers["verdict"])
    for lists in ("critical", "spare", "undecided", "general", "specific", "sink"):
        pd.testing.assert_series_equal(roles.frame[lists], of_all.frame[lists])
    names = ["claim", "family", "protocol", "status"]
    pd.testing.assert_frame_equal(roles.claims[names], of_all.claims[names])
    if n == 400:
        assert {"supported"} <= set(of_all.claims["status"])
    assert "where a layer is critical" in roles.verdict
    assert "where a layer is critical" not in of_all.verdict
    # Of the layers that were not asked, there are no numbers at after_first.
    not_asked = roles.layers["verdict"].isin(["undecided", "spare"])
    assert roles.layers.loc[not_asked, "after_first_harm"].isna().all()
    # Selected layers do not count as the only ones that were tested.
    keys = ["condition", "task", "protocol"]
    p = less.effects().merge(whole.effects(), on=keys, suffixes=("", "_all"))
    assert (p["p_adjusted"] >= p["p_adjusted_all"] - 1e-9).all()


def test_a_sink_below_the_line_supports_no_claim() -> None:
    """Ten early layers harm by the first token alone, each too little to be asked after_first.

    Early minus late harm is then taken at all positions, where it is large under Skip. Means keep
    the first token's write, so the second kind shows nothing, and a claim takes both.
    """
    n_layers = 30
    early = [0.15] * 10 + [0.0] * 20
    none = [0.0] * n_layers
    by_kind = {
        kind: synthetic_result(
            n_layers,
            400,
            harms={
                family: {"all": harm if family == "knowledge" else none, "after_first": none}
                for family in ("knowledge", "language")
            },
            protocols=["generation"],
            ablations=[kind],
        )
        for kind, harm in (("skip", early), ("mean", none))
    }
    whole = dataclasses.replace(
        by_kind["skip"],
        frame=pd.concat([result.frame for result in by_kind.values()]).drop_duplicates(KEYS),
        manifest=by_kind["skip"].manifest
        | {
            "conditions": by_kind["skip"].manifest["conditions"]
            + by_kind["mean"].manifest["conditions"][1:]
        },
    )
    roles = lr.localize(without_unneeded(whole), ablation="skip")
    knowledge = roles.frame[roles.frame["family"] == "knowledge"].iloc[0]
    assert knowledge["ci_low"] > 0.05  # Skip alone would show it
    assert not knowledge["critical"]
    assert len(roles.claims)
    assert "supported" not in set(roles.claims["status"])


def test_rows_of_a_layer_that_is_critical_no_more_are_left_out() -> None:
    """It was critical among the first 8 questions, asked after_first, and is not any more."""
    whole = synthetic_result(n=64)
    less = without_unneeded(whole)
    early = (whole.frame["at"] == "after_first") & (whole.frame["layer"] == 7)
    few = whole.frame[early & (whole.frame.groupby(KEYS[:3]).cumcount() < 8)]
    frame = pd.concat([less.frame, few], ignore_index=True).drop_duplicates(KEYS)
    assert len(frame) > len(less.frame)
    roles, expected = lr.localize(dataclasses.replace(less, frame=frame)), lr.localize(less)
    pd.testing.assert_frame_equal(roles.contrasts, expected.contrasts)


def test_a_resumed_run_asks_after_first_what_a_run_of_that_size_asks() -> None:
    """Half of the questions show which critical layers are no sinks; a claim takes all of them."""
    whole = synthetic_result(n=128)
    less = without_unneeded(whole)
    is_second_half = whole.frame.groupby(KEYS[:3]).cumcount() >= 64
    late = pd.MultiIndex.from_frame(whole.frame.loc[is_second_half, KEYS])
    is_late = pd.MultiIndex.from_frame(less.frame[KEYS]).isin(late)
    is_kept = less.frame["at"] == "after_first"
    resumed = dataclasses.replace(less, frame=less.frame[~(is_late & is_kept)])
    decisions = decisions_of(cells_of(resumed), resumed.manifest)
    assert any(d.needs_after_first and not d.may_be_sink for d in decisions)
    names = {entry["hash"]: entry["name"] for entry in whole.manifest["conditions"]}
    keys = next_cells(resumed, plan_of(whole))
    asked = {(names[hash], task, protocol): n for (hash, task, protocol), n in keys.items()}
    expected = less.frame[is_kept].groupby(KEYS[:3]).size().to_dict()
    assert asked == expected
    assert set(expected.values()) == {128}


def test_a_critical_layer_that_is_still_to_be_asked_is_undecided() -> None:
    less = without_unneeded(synthetic_result(n=64))
    frame = less.frame[~((less.frame["at"] == "after_first") & (less.frame["layer"] == 0))]
    roles = lr.localize(dataclasses.replace(less, frame=frame.reset_index(drop=True)))
    assert set(roles.layers.loc[roles.layers["layer"] == 0, "verdict"]) == {"undecided"}
    kept = roles.contrasts[roles.contrasts["at"] == "after_first"]
    assert len(kept)
    assert kept["difference"].isna().all()


def test_sinks_are_looked_for_where_no_layer_is_critical() -> None:
    flat = {"knowledge": {"all": [0.0] * 6, "after_first": [0.0] * 6}}
    whole = synthetic_result(6, 64, harms=flat, protocols=["generation"])
    less = without_unneeded(whole)
    assert "after_first" not in set(less.frame["at"])
    assert "sinks cannot be identified" not in lr.localize(less).verdict


def test_the_share_of_all_answers_is_at_most_100_percent() -> None:
    """Deferred conditions count where they were asked, and only there."""
    whole = synthetic_result(n=8)
    manifest = whole.manifest | {"only_needed": True}
    some = whole.frame[(whole.frame["at"] != "after_first") | (whole.frame["layer"] < 3)]
    for frame in (whole.frame, some):
        asked = dataclasses.replace(whole, frame=frame.reset_index(drop=True), manifest=manifest)
        text = describe_answers(cells_of(asked), manifest)
        assert text == f"{len(frame):,} answers (100% of asking everything up to the limit)"


def test_what_will_be_asked_is_expected_from_fewer_examples() -> None:
    whole = synthetic_result(n=64)
    at_all = whole.frame["at"] != "after_first"
    manifest = whole.manifest | {"only_needed": True}
    asked_at_all = dataclasses.replace(
        whole, frame=whole.frame[at_all].reset_index(drop=True), manifest=manifest
    )
    asked = next_cells(asked_at_all, plan_of(whole))
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    early = (place < 16) & at_all
    first = dataclasses.replace(asked_at_all, frame=whole.frame[early].reset_index(drop=True))
    expected = sum(expected_next(first, plan_of(whole)).values())
    waits = find_waiting(whole.manifest["conditions"])
    assert len([key for key in next_cells(first, plan_of(whole)) if key[0] in waits]) < len(asked)
    # A question that is asked under two protocols counts once.
    assert expected == pytest.approx(64 * len({key[:2] for key in asked}), rel=0.25)


def test_layers_that_were_asked_after_first_are_not_expected_to_be_asked_so() -> None:
    whole = synthetic_result(n=64)
    assert expected_next(whole, plan_of(whole)) == {}


@pytest.fixture
def half_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model knows nothing: every second layer counts as critical."""

    def some(result: lr.SweepResult, plan: Plan) -> dict[Key, int]:
        waiting = find_waiting(result.manifest["conditions"])
        even = [hash for hash, name in waiting.items() if name in ("skip L0", "skip L2")]
        return {
            (hash, task, protocol): n
            for hash in even
            for task, protocol, n in plan["cells"]
            if hash in plan["conditions"] and protocol == "generation"
        }

    monkeypatch.setattr("layerroles.sweep.execution.next_cells", some)


def answers(result: lr.SweepResult) -> pd.DataFrame:
    return result.frame.sort_values(KEYS, ignore_index=True)[[*KEYS, "score", "response"]]


@pytest.mark.usefixtures("half_needed")
def test_what_is_not_needed_is_not_asked_and_a_killed_run_asks_the_same(tmp_path: Path) -> None:
    def sweep(**options: bool) -> lr.Sweep:
        tasks = [lr.task("facts"), lr.task("kv_retrieval", pairs=4)]
        return lr.Sweep(
            random_model("llama"), tasks, skips(3), limit=6, noise_floor=False, **options
        )

    everything = answers(sweep(only_needed=False, rounds=False).run(tmp_path / "everything"))
    assert len(everything) == 7 * 2 * 2 * 6
    result = sweep().run(tmp_path / "needed")
    assert not result.interim
    asked = set(result.frame.loc[result.frame["at"] == "after_first", "condition"])
    assert asked == {"skip L0 after_first", "skip L2 after_first"}
    assert len(result.frame) == (4 * 2 * 2 + 2 * 2) * 6
    same = everything.merge(answers(result)[KEYS], on=KEYS)
    pd.testing.assert_frame_equal(answers(result), same, rtol=1e-4)

    def is_interim() -> None:
        assert lr.read(tmp_path / "killed").interim

    resumed, n_stopped = run_with_interruptions(
        lambda: sweep().run(tmp_path / "killed"), is_interim
    )
    assert n_stopped > 1
    assert not resumed.interim
    pd.testing.assert_frame_equal(answers(resumed), answers(result), rtol=1e-4)
    # Asked everywhere later, it holds everything.
    extended = sweep(only_needed=False).run(tmp_path / "needed")
    pd.testing.assert_frame_equal(answers(extended), everything, rtol=1e-4)


def test_a_chance_that_is_measured_last_is_known_when_layers_are_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []

    def needs_all(result: lr.SweepResult, plan: Plan) -> dict[Key, int]:
        (cell,) = result.manifest["cells"]
        seen.append(cell["chance"])
        if cell["chance"] is None:  # no skill is known
            return {}
        waiting = find_waiting(result.manifest["conditions"])
        return {(hash, cell["task"], cell["protocol"]): cell["n"] for hash in waiting}

    monkeypatch.setattr("layerroles.sweep.execution.next_cells", needs_all)
    folder = lm_eval_data.own_tasks(tmp_path / "tasks")
    task = lr.task("lm_eval:own_sums", include_path=folder, num_fewshot=1)
    sweep = lr.Sweep(random_model("llama"), [task], skips(3), limit=4, noise_floor=False)
    result = sweep.run(tmp_path / "run")
    assert seen[-1] is not None
    assert (result.frame["at"] == "after_first").sum() == 3 * 4
    assert not result.interim


@pytest.mark.matrix
def test_a_planted_model_is_judged_as_from_asking_everything(tmp_path: Path) -> None:
    made = lr.planted()
    conditions = [
        condition
        for at in ("all", "after_first")
        for condition in lr.each_layer(made.model, lr.Skip(), at=at)
    ]
    roles = []
    for only_needed in (True, False):
        sweep = lr.Sweep(
            made.model,
            made.tasks,
            conditions,
            protocols=["generation"],
            limit=32,
            noise_floor=False,
            only_needed=only_needed,
        )
        result = sweep.run(tmp_path / str(only_needed))
        asked = result.frame["at"] == "after_first"
        n_layers = result.frame.loc[asked, "layer"].nunique()
        assert (n_layers < made.model.cfg.n_layers) == only_needed
        assert n_layers > 0
        roles.append(lr.localize(result))
    assert "critical" in set(roles[0].layers["verdict"])
    keys = ["family", "protocol", "layer", "verdict"]
    pd.testing.assert_frame_equal(roles[0].layers[keys], roles[1].layers[keys])

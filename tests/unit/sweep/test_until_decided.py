"""Sweeps until="decided": each condition is asked until its verdict is decided, and no further."""

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

import layerroles as lr
from benchmarks.played_sweeps import KEYS, as_decided, ask, plan_of
from layerroles import stats
from layerroles.results import INTACT, judge_interval
from layerroles.sweep.next_cells import next_cells
from tests.support.interruptions import run_with_interruptions
from tests.support.random_models import random_model
from tests.support.synthetic import synthetic_result

LIMIT = 512


@pytest.fixture(scope="module")
def whole() -> lr.SweepResult:
    return synthetic_result(n=LIMIT, protocols=["generation"])


@pytest.fixture(scope="module")
def decided(whole: lr.SweepResult) -> lr.SweepResult:
    return ask(whole, LIMIT)


def test_most_layers_are_decided_with_a_part_of_the_answers(
    whole: lr.SweepResult, decided: lr.SweepResult
) -> None:
    table = decided.decisions()
    assert (table["verdict"] != "undecided").mean() > 0.9
    assert len(decided.frame) < len(whole.frame) / 3
    # Layers 0 and 1 hold everything, layer 11 writes the sink, layer 23 holds knowledge.
    by_layer = table.set_index(["family", "layer"])["verdict"]
    for family in ("retrieval", "knowledge", "reasoning", "language"):
        assert list(by_layer[family][[0, 1, 11]]) == ["critical", "critical", "sink"]
        assert by_layer[family][3] in ("spare", "undecided")
    assert by_layer["knowledge"][23] == "critical"
    easy = table[table["layer"] == 0]
    assert set(easy["n"]) == {32}
    assert set(easy["look"]) == {1}


def test_roles_give_the_same_verdicts(decided: lr.SweepResult) -> None:
    roles = lr.localize(decided)
    keys = ["family", "protocol", "layer"]
    both = roles.layers.merge(decided.decisions(), on=keys, suffixes=("", "_decided"))
    assert len(both) == len(roles.layers)
    assert list(both["verdict"]) == list(both["verdict_decided"])
    assert not roles.interim
    assert "verdicts decided, with" in roles.verdict.splitlines()[0]


def test_a_critical_layer_that_may_be_a_sink_has_no_verdict_yet(whole: lr.SweepResult) -> None:
    """After the first look, layer 11 is as critical as layers 0 and 1, and is a sink."""
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    first = whole.frame[(place < 32) & (whole.frame["at"] != "after_first")]
    result = dataclasses.replace(as_decided(whole, LIMIT), frame=first.reset_index(drop=True))
    table = result.decisions().set_index(["family", "layer"])
    assert set(table.loc[(slice(None), [0, 1, 11]), "verdict"]) == {"undecided"}
    assert "critical" not in set(table["verdict"])
    layers = lr.localize(result).layers.set_index(["family", "layer"])
    assert list(layers["verdict"]) == list(table["verdict"].reindex(layers.index))
    asked = {hash for hash, _, _ in next_cells(result, plan_of(result, LIMIT))}
    kept = {e["hash"] for e in whole.manifest["conditions"] if e["name"] == "skip L11 after_first"}
    assert kept <= asked


def test_every_verdict_holds_at_the_look_that_decided_it(
    whole: lr.SweepResult, decided: lr.SweepResult
) -> None:
    """A decided condition was open at the look before, and no longer at its last."""
    looks = stats.Looks().extended(32, LIMIT)
    for row in decided.decisions().iloc[::7].itertuples(index=False):
        n = row.n
        assert n in looks.sizes
        kept = row.at == "all" and row.verdict in ("critical", "sink")  # also asked after_first
        for size in (s for s in looks.sizes if s <= n):
            harm = _harm(whole, row.task, row.condition, size, looks.level(size))
            stands = judge_interval(harm.interval) != "undecided"
            assert stands == (size == n and row.verdict != "undecided") or kept


def _harm(whole: lr.SweepResult, task: str, condition: str, n: int, level: float) -> stats.Contrast:
    frame = whole.frame[
        (whole.frame["task"] == task) & whole.frame["condition"].isin([INTACT, condition])
    ]
    first = frame[frame.groupby(KEYS[:3]).cumcount() < n].reset_index(drop=True)
    cut = dataclasses.replace(whole, frame=first)
    return cut.harm(task, "generation", {condition: 1.0}, level=level)


@pytest.mark.truth
def test_intervals_are_wider_than_those_of_a_sweep_that_looks_once(
    whole: lr.SweepResult, decided: lr.SweepResult
) -> None:
    looked = as_decided(whole, LIMIT)
    columns = ["harm", "effect", "score", "p"]
    once, often = whole.effects(), looked.effects()
    pd.testing.assert_frame_equal(once[columns[:3]], often[columns[:3]])
    for name in ("harm", "ci", "score"):
        low, high = f"{name}_low", f"{name}_high"
        known = once[low].notna() & (once[high] > once[low])
        assert (often[high] - often[low])[known].gt((once[high] - once[low])[known]).all()
    assert (often["p"] >= once["p"]).all()
    sums = (lr.localize(result).frame for result in (whole, looked))
    narrow, wide = ((frame["ci_high"] - frame["ci_low"]) for frame in sums)
    assert (wide > narrow).all()
    assert len(decided.effects()) < len(once)


def test_sums_over_layers_use_the_questions_that_all_of_them_were_asked(
    whole: lr.SweepResult, decided: lr.SweepResult
) -> None:
    names = [f"skip L{layer}" for layer in range(30)]
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    first = as_decided(
        dataclasses.replace(whole, frame=whole.frame[place < 32].reset_index(drop=True)), LIMIT
    )
    for task in ("facts", "copying"):
        harms = [
            result.harm(task, "generation", dict.fromkeys(names, 1 / 30))
            for result in (decided, first)
        ]
        assert harms[0].n == 32
        assert harms[0].numbers == pytest.approx(harms[1].numbers)


def test_a_family_without_skill_is_asked_of_the_intact_model_only() -> None:
    flat = {"knowledge": {"all": [0.0] * 6, "after_first": [0.0] * 6}}
    whole = synthetic_result(6, 128, harms=flat, protocols=["generation"])
    guessed = whole.frame.assign(score=0.0, correct=False)
    result = ask(dataclasses.replace(whole, frame=guessed), 128)
    asked = result.frame.groupby("condition")["example"].nunique()
    assert asked[INTACT] == 128
    assert set(asked.drop(INTACT)) == {32}
    assert set(result.decisions()["verdict"]) == {"not measurable"}


def test_a_stricter_error_asks_more() -> None:
    flat = {"knowledge": {"all": [0.0] * 6, "after_first": [0.0] * 6}}
    whole = synthetic_result(6, LIMIT, harms=flat, protocols=["generation"])
    result = as_decided(whole, LIMIT)
    counts = []
    for error, simultaneous in ((0.05, False), (0.001, False), (0.05, True)):
        until = {"error": error, "first": 32, "simultaneous": simultaneous}
        place = whole.frame.groupby(KEYS[:3]).cumcount()
        first = whole.frame[(place < 96) & (whole.frame["at"] != "after_first")]
        cut = dataclasses.replace(
            result,
            frame=first.reset_index(drop=True),
            manifest=result.manifest | {"until": until},
        )
        counts.append(len(next_cells(cut, plan_of(cut, LIMIT))))
    assert counts[0] < counts[2] <= counts[1]


def planted_sweep(limit: int, *, n_tasks: int = 1, **options: object) -> lr.Sweep:
    """A sweep over one or two tasks of one family, of which two layers are planted."""
    made = lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,))
    conditions = [
        condition
        for at in ("all", "after_first")
        for condition in lr.each_layer(made.model, lr.Skip(), at=at)
    ]
    return lr.Sweep(
        made.model,
        [made.tasks[0], dataclasses.replace(made.tasks[0], strength=0.9)][:n_tasks],
        conditions,
        protocols=["generation"],
        limit=limit,
        noise_floor=False,
        **options,
    )


def answers(result: lr.SweepResult) -> pd.DataFrame:
    return result.frame.sort_values(KEYS, ignore_index=True)[[*KEYS, "score", "response"]]


@pytest.mark.matrix
def test_rows_are_those_of_a_plain_sweep_and_a_killed_run_asks_the_same(tmp_path: Path) -> None:
    plain = answers(planted_sweep(64, n_tasks=2).run(tmp_path / "plain"))
    result = planted_sweep(64, n_tasks=2, until="decided").run(tmp_path / "decided")
    assert len(answers(result)) < len(plain)
    same = plain.merge(answers(result)[KEYS], on=KEYS)
    pd.testing.assert_frame_equal(answers(result), same, rtol=1e-4)
    assert (result.decisions()["verdict"] != "undecided").sum() > 2
    assert not result.manifest["asked_next"]

    def check_begun() -> None:
        """Check that verdicts fall when a look is stored whole."""
        begun = lr.read(tmp_path / "killed")
        assert begun.manifest["unfinished"]
        sizes = begun.frame.groupby(KEYS[:3]).size()
        assert set(sizes) <= {4, 8, 16, 32, 48, 64}
        if (sizes < 32).any():
            assert set(begun.decisions()["verdict"]) <= {"undecided", "not measurable"}

    resumed, n_stopped = run_with_interruptions(
        lambda: planted_sweep(64, n_tasks=2, until="decided").run(tmp_path / "killed"), check_begun
    )
    assert n_stopped > 2
    pd.testing.assert_frame_equal(answers(resumed), answers(result), rtol=1e-4)
    pd.testing.assert_frame_equal(resumed.decisions(), result.decisions())
    assert not resumed.manifest["unfinished"]


@pytest.mark.matrix
def test_commands_on_one_folder_may_ask_other_tasks_and_layers(tmp_path: Path) -> None:
    """Each layer is asked in one of the family's two tasks only, so it has no verdict."""
    both = planted_sweep(32, n_tasks=2)
    conditions = [condition for condition in both.conditions[1:] if condition.at == "all"]
    for until in (None, "decided"):
        folder = tmp_path / str(until)
        for cell, asked in zip(both.cells, (conditions[:3], conditions[3:]), strict=True):
            sweep = lr.Sweep(
                both.model,
                [cell.task],
                asked,
                protocols=["generation"],
                until=until,
                limit=32,
                noise_floor=False,
            )
            result = sweep.run(folder)
            assert not result.manifest["unfinished"]
        assert len(result.frame) == 2 * 4 * 32
        assert set(result.decisions()["verdict"]) == {"not measured"}
        assert set(lr.localize(result).layers["verdict"]) == {"not measured"}


def test_a_limit_between_looks_is_refused(tmp_path: Path) -> None:
    planted_sweep(48, until="decided").run(tmp_path / "run")
    for limit, until in ((40, None), (40, lr.Decided(first=8)), (16, lr.Decided(first=8))):
        with pytest.raises(lr.InputError, match=rf"limit={limit} is none of them"):
            planted_sweep(limit, until=until).run(tmp_path / "run")


@pytest.mark.matrix
def test_a_larger_limit_extends_a_run_and_keeps_its_looks(tmp_path: Path) -> None:
    before = planted_sweep(48, until="decided").run(tmp_path / "run")
    assert list(before.manifest["looks"].values()) == [[32, 48]]
    after = planted_sweep(128, until="decided").run(tmp_path / "run")
    assert list(after.manifest["looks"].values()) == [[32, 48, 64, 96, 128]]
    tables = before.decisions(), after.decisions()
    known = tables[0]["verdict"] != "undecided"
    assert not known.all()
    pd.testing.assert_frame_equal(tables[0][known], tables[1][known])
    critical = tables[1]["layer"].isin([1, 2])  # the layers that are planted
    assert set(tables[1].loc[critical, "verdict"]) == {"critical"}
    assert set(tables[1].loc[~critical, "verdict"]) == {"spare"}
    # Asked everything later, the looks count all the same.
    everything = planted_sweep(160).run(tmp_path / "run")
    assert list(everything.manifest["looks"].values()) == [[32, 48, 64, 96, 128, 160]]
    assert set(everything.frame.groupby(KEYS[:3]).size()) >= {160}
    assert not everything.interim


def test_time_budget_leaves_decisions_open_and_a_second_run_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hurried = lr.Decided(minutes=1e-6)
    result = planted_sweep(96, until=hurried).run(tmp_path / "run")
    assert "decisions open: run the same command again" in caplog.text
    assert set(result.frame.groupby(KEYS[:3]).size()) == {32}
    assert (result.decisions()["verdict"] == "undecided").any()
    assert not result.interim  # its verdicts hold
    later = planted_sweep(96, until="decided").run(tmp_path / "run")
    assert (later.decisions()["verdict"] != "undecided").all()


def test_a_budget_does_not_end_what_only_the_intact_model_is_asked(tmp_path: Path) -> None:
    model = random_model("llama")
    until = lr.Decided(first=8, minutes=30)
    sweep = lr.Sweep(
        model,
        [lr.task("facts")],
        lr.each_layer(model, lr.Skip()),
        protocols=["generation"],
        until=until,
        limit=24,
        noise_floor=False,
    )
    result = sweep.run(tmp_path / "run")
    sizes = result.frame.groupby("condition").size()
    assert sizes[INTACT] == 24
    assert set(sizes.drop(INTACT)) == {8}
    assert not result.manifest["unfinished"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"error": 0.5}, "error=0.5 is not a probability from 1e-6"),
        ({"error": 0}, "error=0 is not"),
        ({"first": 4}, "first=4 is not a whole number of 8 or more"),
        ({"error": 1e-9}, "error=1e-09 is not"),
        ({"minutes": 0}, "minutes=0 is not a number of minutes above 0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(lr.InputError, match=words):
        lr.Decided(**wrong)


def test_wrong_sweeps_are_refused() -> None:
    model = random_model("llama")
    tasks, conditions = [lr.task("facts")], lr.each_layer(model, lr.Skip())
    with pytest.raises(lr.InputError, match=r"first=32 is above limit=16"):
        lr.Sweep(model, tasks, conditions, until="decided", limit=16)
    with pytest.raises(lr.InputError, match=r"until='claimed' is unknown"):
        lr.Sweep(model, tasks, conditions, until="claimed")
    with pytest.raises(lr.InputError, match=r"'answer_logprob' scores in nats"):
        lr.Sweep(model, tasks, conditions, until="decided", protocols=["answer_logprob"])
    assert lr.Sweep(model, tasks, conditions, until="decided").limit == 512
    assert lr.Sweep(model, tasks, conditions).limit == 32

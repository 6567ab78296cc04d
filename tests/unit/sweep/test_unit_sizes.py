"""Units that take the time that is asked for, by the cost model, with the rows of large ones."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import layerroles as lr
from layerroles.engine import MEASURED_SHARE, Plan, Speed
from layerroles.sweep import unit_sizes
from layerroles.sweep.execution import Execution
from layerroles.sweep.work_units import Unit
from tests.support.random_models import model_path, random_model
from tests.support.scale import Scale

SLOW = Speed(products=1e9, attention=1e9, bandwidth=1e9, start=1e-5, text=1e-5, is_gpu=False)
TASKS = [lr.task("facts"), lr.task("kv_retrieval", pairs=4)]


def sweep(seconds: float = 20.0, **options: object) -> lr.Sweep:
    model = random_model("llama")
    conditions = lr.each_layer(model, lr.Skip())
    return lr.Sweep(model, TASKS, conditions, limit=12, unit_seconds=seconds, **options)  # type: ignore[arg-type]


def answers(result: lr.SweepResult) -> pd.DataFrame:
    keys = ["condition", "task", "protocol", "example"]
    return result.frame.sort_values(keys, ignore_index=True)[[*keys, "score", "response"]]


@pytest.fixture
def slow_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of known speed, for which no task is tiny."""
    monkeypatch.setattr(unit_sizes, "TINY", 0.0)
    monkeypatch.setattr(lr.Engine, "measured_speed", lambda _self: SLOW)


def new_manifest() -> dict[str, Any]:
    """What the manifest of a new run folder says of units."""
    sizes = {"rows_at_once": {}, "examples_at_once": {}, "looks": {}}
    return {**sizes, "only_needed": True, "rounds": False}


def chosen(one: lr.Sweep, engine: lr.Engine | None = None) -> dict[str, Any]:
    """The same after the sizes have been chosen."""
    manifest = new_manifest()
    one._choose_sizes(engine or lr.Engine(one.model), manifest, {})
    return manifest


def missing(one: lr.Sweep, manifest: dict[str, Any]) -> list[Unit]:
    return list(one._work(lr.Engine(one.model)).first_missing_units({}, manifest))


def seconds_of(one: lr.Sweep, unit: Unit) -> float:
    """What a unit takes on the slow device, as `layerroles estimate` counts it."""
    engine = lr.Engine(one.model)
    asked = [one._prepare(engine, cell, list(unit.examples)).requests for cell in unit.cells]
    requests = [request for of_cell in asked for request in of_cell]
    plan = engine.planned(requests, unit.conditions, speed=SLOW)
    assert plan.seconds is not None
    return plan.seconds / MEASURED_SHARE


@pytest.mark.usefixtures("slow_device")
@pytest.mark.parametrize("n_conditions", [3, 80])
def test_units_take_the_time_that_is_asked_for(n_conditions: int) -> None:
    model = random_model("llama")
    conditions = [
        lr.Condition({lr.Site(n % 3): Scale(n / 100)}, name=f"c{n}") for n in range(n_conditions)
    ]
    for task in TASKS:
        one = lr.Sweep(model, [task], conditions, limit=32)
        (whole, *_others) = missing(one, new_manifest())
        whole_seconds = seconds_of(one, whole)
        one.unit_seconds = whole_seconds / 2
        first = missing(one, chosen(one))[0]
        taken = seconds_of(one, first)
        assert len(first.conditions) == len(whole.conditions)
        assert len(first.examples) < len(whole.examples)
        # About as long as is asked for, unless much would be computed twice.
        repeated = taken / len(first.examples) * len(whole.examples) / whole_seconds
        assert taken <= 1.25 * one.unit_seconds or repeated > 1.05
        assert taken > 0.6 * one.unit_seconds
        # A second is far too short for this device.
        one.unit_seconds = 1e-9
        smallest = missing(one, chosen(one))[0]
        each = seconds_of(one, smallest) / smallest.n_rows
        assert each <= 1.16**2 * whole_seconds / whole.n_rows
        assert smallest.n_rows <= whole.n_rows / 4
        one.unit_seconds = 1e9
        assert chosen(one)["rows_at_once"] == {task.label: one.rows_at_once}


@pytest.mark.usefixtures("slow_device")
def test_where_fewer_examples_cost_much_a_unit_has_fewer_conditions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seconds(plan: Plan) -> float:  # a prefix of 100 requests; the intact model reads all of it
        return (1 + plan.n_conditions / 2) * (100 + plan.n_requests)

    monkeypatch.setattr(unit_sizes, "_seconds", seconds)
    model, task = random_model("llama"), lr.task("facts")
    conditions = [
        lr.Condition({lr.Site(0): Scale(n / 100)}, name=f"c{n} {at}", at=at)
        for at in ("all", "prompt")
        for n in range(16)
    ]
    one = lr.Sweep(model, [task], conditions, limit=32, unit_seconds=1e-9)
    manifest = chosen(one)
    # Half of the examples would cost 38% more each; 9 conditions 15.3%, 17 conditions 5.4%.
    assert manifest["examples_at_once"] == {task.label: 32}
    assert manifest["rows_at_once"] == {task.label: 32 * 17}
    assert [len(unit.conditions) for unit in missing(one, manifest)] == [17, 16]
    assert {len(unit.examples) for unit in missing(one, manifest)} == {32}
    # Rounds of fewer examples ask under more conditions at once.
    in_rounds = missing(one, manifest | {"rounds": True})
    assert (len(in_rounds[0].examples), len(in_rounds[0].conditions)) == (4, 33)
    assert (len(in_rounds[-1].examples), len(in_rounds[0].conditions)) == (16, 33)
    assert sum(unit.n_rows for unit in in_rounds) == 33 * 32 * 2


def test_tiny_tasks_are_not_cut_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: lr.Engine) -> None:
        raise AssertionError("the speed was measured")

    monkeypatch.setattr(lr.Engine, "measured_speed", fail)
    one = sweep(1e-9)
    whole = dict.fromkeys((task.label for task in TASKS), one.rows_at_once)
    assert chosen(one)["rows_at_once"] == whole


@pytest.mark.usefixtures("slow_device")
def test_without_weights_or_fused_answers_the_time_is_not_known() -> None:
    one = sweep(1e-9)
    whole = dict.fromkeys((task.label for task in TASKS), one.rows_at_once)
    plain = lr.Engine(one.model, executor="plain")
    assert chosen(one, plain)["rows_at_once"] == whole
    model = lr.load(model_path("llama"), device="meta")
    conditions = lr.each_layer(model, lr.Skip())
    meta = lr.Sweep(model, TASKS, conditions, limit=12, unit_seconds=1e-9)
    assert chosen(meta)["rows_at_once"] == whole


@pytest.mark.matrix
@pytest.mark.usefixtures("slow_device")
def test_small_units_give_the_same_rows_and_resume_with_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep(1e9).run(tmp_path / "whole")
    monkeypatch.setattr(unit_sizes, "MOST_REPEATED", 100.0)
    cut = chosen(sweep(1e-9))["rows_at_once"]
    assert cut == dict.fromkeys(cut, 1)  # an example under one condition

    stored: list[int] = []
    answer_units = Execution._answer_units

    def stop_after_some(self: Execution, units: list[Unit]) -> object:
        for n, part in enumerate(answer_units(self, units)):
            stored.append(part.n_rows)
            if n == 5:
                raise KeyboardInterrupt
            yield part

    with monkeypatch.context() as patched:
        patched.setattr(Execution, "_answer_units", stop_after_some)
        with pytest.raises(KeyboardInterrupt):
            sweep(1e-9).run(tmp_path / "cut")

    def fail(_self: lr.Engine) -> None:
        raise AssertionError("the speed was measured again")

    monkeypatch.setattr(lr.Engine, "measured_speed", fail)
    resumed = sweep(1e9).run(tmp_path / "cut")
    assert resumed.manifest["rows_at_once"] == cut
    pd.testing.assert_frame_equal(answers(resumed), answers(whole), rtol=1e-4)
    assert 0 < sum(stored) < len(whole.frame)


@pytest.mark.matrix
@pytest.mark.usefixtures("slow_device")
def test_an_extended_run_keeps_its_units_and_an_older_one_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_sizes, "MOST_REPEATED", 100.0)
    model = random_model("llama")
    conditions = lr.each_layer(model, lr.Skip())
    first = lr.Sweep(model, TASKS[:1], conditions, limit=4, unit_seconds=1e-9)
    assert first.run(tmp_path / "run").manifest["rows_at_once"] == {TASKS[0].label: 1}
    more = lr.Sweep(model, TASKS, conditions, limit=6, unit_seconds=1e9).run(tmp_path / "run")
    assert more.manifest["rows_at_once"] == {TASKS[0].label: 1, TASKS[1].label: 2048}
    # As a version without units of limited time left it.
    manifest = tmp_path / "run" / "manifest.json"
    stored = json.loads(manifest.read_text(encoding="utf-8"))
    del stored["rows_at_once"]
    manifest.write_text(json.dumps(stored), encoding="utf-8")
    again = lr.Sweep(model, TASKS, conditions, limit=7, unit_seconds=1e-9).run(tmp_path / "run")
    assert set(again.manifest["rows_at_once"].values()) == {2048}


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_seconds_are_a_positive_number(seconds: float) -> None:
    with pytest.raises(lr.InputError, match=r"unit_seconds=.* is not a number of seconds"):
        sweep(seconds)

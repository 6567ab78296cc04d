"""Units that take the time that is asked for, by the cost model, with the rows of large ones."""

import json
from pathlib import Path

import pandas as pd
import pytest

import layerroles as lr
from layerroles.engine import MEASURED_SHARE, Speed
from layerroles.sweep import units
from layerroles.sweep.execution import Execution
from layerroles.sweep.units import Unit
from tests.support.random_models import model_path, random_model
from tests.support.scale import Scale

SLOW = Speed(
    products=1e9, attention=1e9, bandwidth=1e9, start=1e-5, text=1e-5, queues=False, fuses=True
)
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
    monkeypatch.setattr(units, "_TINY", 0.0)
    monkeypatch.setattr(lr.Engine, "measured_speed", lambda _self: SLOW)


def chosen(one: lr.Sweep, engine: lr.Engine | None = None) -> dict[str, int]:
    """The sizes in a new run folder."""
    sizes: dict[str, int] = {}
    manifest = {"rows_at_once": sizes, "only_needed": True}
    one._choose_sizes(engine or lr.Engine(one.model), manifest, {})
    return sizes


def missing(one: lr.Sweep, rows_of_task: dict[str, int]) -> list[Unit]:
    work = one._work(lr.Engine(one.model))
    return list(work.missing({}, rows_of_task, rounds=False, only_needed=False))


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
        (whole, *_others) = missing(one, {})
        whole_seconds = seconds_of(one, whole)
        one.unit_seconds = whole_seconds / 2
        first = missing(one, chosen(one))[0]
        taken = seconds_of(one, first)
        assert len(first.conditions) == len(whole.conditions)
        assert len(first.examples) < len(whole.examples)
        # No longer than is asked for, unless much would be computed twice; not far below.
        repeated = taken / len(first.examples) * len(whole.examples) / whole_seconds
        assert taken <= one.unit_seconds or repeated > 1.05
        assert taken > one.unit_seconds / 3
        # A second is far too short for this device.
        one.unit_seconds = 1e-9
        smallest = missing(one, chosen(one))[0]
        each = seconds_of(one, smallest) / len(smallest.examples)
        assert each <= 1.16 * whole_seconds / len(whole.examples)
        one.unit_seconds = 1e9
        assert chosen(one) == {task.label: one.rows_at_once}


def test_tiny_tasks_are_not_cut_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: lr.Engine) -> None:
        raise AssertionError("the speed was measured")

    monkeypatch.setattr(lr.Engine, "measured_speed", fail)
    one = sweep(1e-9)
    assert chosen(one) == dict.fromkeys((task.label for task in TASKS), one.rows_at_once)


@pytest.mark.usefixtures("slow_device")
def test_without_weights_or_fused_answers_the_time_is_not_known() -> None:
    one = sweep(1e-9)
    whole = dict.fromkeys((task.label for task in TASKS), one.rows_at_once)
    assert chosen(one, lr.Engine(one.model, executor="plain")) == whole
    model = lr.load(model_path("llama"), device="meta")
    conditions = lr.each_layer(model, lr.Skip())
    assert chosen(lr.Sweep(model, TASKS, conditions, limit=12, unit_seconds=1e-9)) == whole


@pytest.mark.usefixtures("slow_device")
def test_rows_are_those_of_large_units_and_a_killed_run_goes_on_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sweep(1e9).run(tmp_path / "whole")
    monkeypatch.setattr(units, "_MOST_REPEATED", 100.0)
    cut = chosen(sweep(1e-9))
    assert cut == dict.fromkeys(cut, 4)  # an example under four conditions

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


@pytest.mark.usefixtures("slow_device")
def test_an_extended_run_keeps_its_units_and_an_older_one_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_MOST_REPEATED", 100.0)
    model = random_model("llama")
    conditions = lr.each_layer(model, lr.Skip())
    first = lr.Sweep(model, TASKS[:1], conditions, limit=4, unit_seconds=1e-9)
    assert first.run(tmp_path / "run").manifest["rows_at_once"] == {TASKS[0].label: 4}
    more = lr.Sweep(model, TASKS, conditions, limit=6, unit_seconds=1e9).run(tmp_path / "run")
    assert more.manifest["rows_at_once"] == {TASKS[0].label: 4, TASKS[1].label: 2048}
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

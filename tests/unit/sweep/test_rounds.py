"""Sweeps in rounds: the same rows, a smaller sweep after each, reports that state the progress."""

import dataclasses
import time
from pathlib import Path

import pandas as pd
import pytest

import layerroles as lr
from layerroles.engine import Computed
from layerroles.progress import Advance
from layerroles.sweep import report_file as module
from layerroles.sweep.execution import Execution
from layerroles.sweep.missing_work import missing_units
from layerroles.sweep.remaining_time import Pace
from layerroles.sweep.task_protocol_cells import make_cells
from layerroles.sweep.unit_sizes import UnitSizes
from layerroles.sweep.work_units import Unit
from tests.support import lm_eval_data
from tests.support.random_models import random_model
from tests.support.tiers import mark_rest

KEYS = ["condition", "task", "protocol", "example"]


def answers(result: lr.SweepResult) -> pd.DataFrame:
    return result.frame.sort_values(KEYS, ignore_index=True)[[*KEYS, "score", "response"]]


def sweep(limit: int = 10, **options: bool) -> lr.Sweep:
    model = random_model("llama")
    tasks = [lr.task("facts"), lr.task("kv_retrieval", pairs=4)]
    conditions = lr.each_layer(model, lr.Skip())
    return lr.Sweep(model, tasks, conditions, limit=limit, noise_floor=False, **options)


def stop_in_round(patched: pytest.MonkeyPatch, number: int) -> None:
    """Stop runs, as Ctrl-C does, after the first answers of a round."""
    answer_units = Execution._answer_units

    def stop(self: Execution, units: list[Unit]) -> object:
        for part in answer_units(self, units):
            yield part
            if units[part.unit].round == number:
                raise KeyboardInterrupt

    patched.setattr(Execution, "_answer_units", stop)


@pytest.mark.parametrize(
    "kind", mark_rest("matrix", ["skip", "mean", "resample", "heads", "lm-eval"], first=["skip"])
)
def test_rows_are_those_of_a_sweep_without_rounds(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("llama")
    tasks = [lr.task("facts"), lr.task("kv_retrieval", pairs=4)]
    if kind == "lm-eval":
        sums = [(f"{n} + 3", str(n + 3)) for n in range(12)]
        monkeypatch.setattr(lm_eval_data, "SUMS", sums)
        folder = lm_eval_data.own_tasks(tmp_path / "tasks")
        tasks = [lr.task("lm_eval:own_sums", include_path=folder, num_fewshot=1)]
    conditions = {
        "lm-eval": lambda: lr.each_layer(model, lr.Skip()),
        "skip": lambda: lr.each_layer(model, lr.Skip()),
        "mean": lambda: lr.each_layer(model, lr.Mean(lr.Reference())),
        "resample": lambda: lr.each_layer(model, lr.Resample(lr.Reference())),
        "heads": lambda: [
            lr.Condition({lr.Site(layer, "head", head=head): lr.Zero()})
            for layer in range(2)
            for head in range(2)
        ],
    }[kind]()
    results = [
        lr.Sweep(
            model, tasks, conditions, limit=10, noise_floor=False, rounds=rounds, unit_seconds=1e9
        ).run(tmp_path / str(rounds))
        for rounds in (False, True)
    ]
    assert [result.manifest["rounds"] for result in results] == [False, True]
    assert results[1].intact()["n"].min() == 10
    pd.testing.assert_frame_equal(answers(results[1]), answers(results[0]), rtol=1e-4)


def test_each_round_leaves_a_smaller_complete_sweep_and_an_interim_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, write = tmp_path / "page" / "report.html", module.write_report
    seen: list[tuple[str, int, bool]] = []

    def note(file: Path, result: lr.SweepResult) -> None:
        write(file, result)
        n_of = result.frame.groupby(KEYS[:3])["example"].nunique()
        assert n_of.nunique() == 1
        assert len(n_of) == 4 * 2 * 2
        text = page.read_text("utf-8")
        seen.append((result.interim, n_of.iloc[0], "Interim" in text))
        assert (f"{n_of.iloc[0]} of 10 questions" in text) == bool(result.interim)

    monkeypatch.setattr(module, "write_report", note)
    result = sweep().run(tmp_path / "run", report=page)
    assert seen == [
        ("4 of 10 questions", 4, True),
        ("8 of 10 questions", 8, True),
        ("", 10, False),
    ]
    assert not result.interim
    # Nothing is missing: the report is written once.
    seen.clear()
    sweep().run(tmp_path / "run", report=page)
    assert [n for _, n, _ in seen] == [10]


def test_a_stopped_run_leaves_the_report_of_its_last_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in_round(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        sweep().run(tmp_path / "run", report=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "4 of 10 questions" in text
    result = lr.read(tmp_path / "run")
    assert result.interim
    assert set(lr.localize(result).layers["verdict"]) <= {"undecided", "not measurable"}


def test_a_report_in_place_of_the_rows_raises_before_the_run_starts(tmp_path: Path) -> None:
    model = random_model("llama")
    asked = lr.Sweep(model, [lr.task("facts")], lr.each_layer(model, lr.Skip()), limit=2)
    with pytest.raises(lr.InputError, match=r"rows\.sqlite' does not end in \.html"):
        asked.run(tmp_path / "run", report=tmp_path / "run" / "rows.sqlite")


def test_unwritable_report_raises_before_the_run_starts(tmp_path: Path) -> None:
    with pytest.raises(lr.InputError, match=r"report=.* cannot be written: Is a directory"):
        sweep().run(tmp_path / "run", report=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_report_that_fails_in_between_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_file: Path, result: lr.SweepResult) -> None:
        if result.interim:
            raise lr.InputError("no space")

    monkeypatch.setattr(module, "write_report", fail)
    result = sweep().run(tmp_path / "run", report=tmp_path / "report.html")
    assert not result.interim
    assert "the interim report was not written: no space" in caplog.text


@pytest.mark.matrix
def test_an_older_folder_and_a_larger_limit_keep_what_was_begun(tmp_path: Path) -> None:
    sweep(4, rounds=False).run(tmp_path / "run")
    more = sweep(12).run(tmp_path / "run")
    assert not more.manifest["rounds"]
    whole = sweep(12, rounds=False).run(tmp_path / "whole")
    pd.testing.assert_frame_equal(answers(more), answers(whole), rtol=1e-4)


@pytest.fixture
def units() -> list[Unit]:
    """Units of one condition, four examples each: facts, then word problems."""
    tasks = [lr.task("facts"), lr.task("word_problems")]
    cells = make_cells(tasks, ["generation"], limit=8, seed=0)
    return list(missing_units(cells, [lr.Condition({})], {}, UnitSizes(1, 4)))


def test_the_time_left_is_of_the_latest_units_of_each_task(
    units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    facts, problems = (
        [unit for unit in units if unit.cells[0].task.label.startswith(name)]
        for name in ("facts", "word")
    )
    pace = Pace({facts[0].cells[0].task.label: 1.0, problems[0].cells[0].task.label: 3.0})
    assert pace.seconds_left() == 0
    pace.add(units)
    assert pace.seconds_left() == 8 * 1 + 8 * 3  # by the cost model
    now = 8.0
    pace.add_stored(facts[0], 1, 7.0, ends_unit=False)  # reads what the others share
    assert pace.seconds_left() == pytest.approx((7 * 1 + 8 * 3) * 8 / 7)
    pace.add_stored(facts[0], 3, 1.0, ends_unit=True)  # twice as slow as expected
    assert pace.seconds_left() == pytest.approx(4 * 2 + 8 * 6)
    assert pace.seconds_left(facts[1], 2.0) == pytest.approx(2 * 2 + 8 * 6)
    now = 12.0
    pace.add_stored(problems[0], 4, 4.0, ends_unit=True)
    assert pace.seconds_left() == pytest.approx(4 * 2 + 4 * 1)
    pace.expect({facts[0].cells[0].task.label: 10.0})
    assert pace.seconds_left() == pytest.approx(14 * 2 + 4 * 1)
    # A trial before the first pass, and reports between, are not repeated.
    now = 22.0
    pace.leave_out(5.0)
    pace.leave_out_preparation(5.0)
    assert pace.seconds_left() == pytest.approx(14 * 2 + 4 * 1)
    # Two workers take half the time.
    pace.add_stored(problems[1], 4, 5.0 + 12.0, ends_unit=True)
    assert pace.seconds_left() == pytest.approx(14 * 2 * 12 / 24)


def test_a_question_takes_as_long_in_one_cell_as_in_two() -> None:
    """Protocols share the reading of a prompt, which is most of the work."""
    both, one = (
        list(missing_units(cells, [lr.Condition({})], {}, UnitSizes(1, 4)))
        for cells in (
            make_cells([lr.task("facts")], protocols, limit=8, seed=0)
            for protocols in (["continuation", "generation"], ["generation"])
        )
    )
    assert [unit.n_rows for unit in (both[0], one[0])] == [8, 4]
    pace = Pace({both[0].cells[0].task.label: 3.0})
    pace.add(both)
    assert pace.seconds_left() == 8 * 3
    pace.add(one)
    assert pace.seconds_left() == 16 * 3


def test_questions_that_may_follow_count_up_to_the_deadline(
    units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    label = units[0].cells[0].task.label
    facts = [unit for unit in units if unit.cells[0].task.label == label]
    pace = Pace({label: 1.0}, deadline=50.0)
    pace.add(facts)
    pace.expect({label: 10.0})
    assert pace.seconds_left() == 18
    pace.expect({label: 10_000.0})
    assert pace.seconds_left() == 50
    assert pace.seconds_left(facts[0], 2.0) == 50
    now = 48.0  # the questions that were added are asked even if they take longer
    assert pace.seconds_left() == 8


def test_how_much_of_a_unit_is_computed_follows_what_the_last_one_wrote(
    units: list[Unit],
) -> None:
    pace = Pace({})
    read = Computed(to_read=100.0, to_write=0.0, read=25.0)
    assert pace.share(units[0], read) == 0.25
    half = Computed(to_read=100.0, to_write=200.0, read=100.0)
    assert pace.share(units[0], half) == 0.5  # texts are taken to be half as long as they may be
    half.written = 50.0
    pace.share(units[0], half)
    pace.add_stored(units[0], 4, 1.0, ends_unit=True)
    half.written = 0.0
    assert pace.share(units[2], half) == pytest.approx(100 / 150)
    half.written = 500.0
    assert pace.share(units[2], half) == 1


def test_a_fused_answer_tells_what_it_has_computed() -> None:
    model = random_model("llama")
    engine, seen = lr.Engine(model, executor="fused"), list[tuple[float, float]]()
    conditions = lr.each_layer(model, lr.Skip())
    requests = [("silver fence church", {"until": ["."], "max_gen_toks": 5})]
    plan = engine.plan(requests, conditions)

    def on_step(computed: Computed) -> None:
        seen.append((computed.read, computed.written))
        assert computed.to_read == pytest.approx(plan.tokens_read)
        assert computed.to_write == len(conditions) * 5

    with engine.report_steps(on_step):
        engine.generate_until(requests, conditions)
    assert seen == sorted(seen)
    assert seen[-1][0] == pytest.approx(plan.tokens_read)
    assert 0 < seen[-1][1] <= len(conditions) * 5
    n_seen = len(seen)
    engine.generate_until(requests, conditions)
    assert len(seen) == n_seen


@pytest.mark.matrix
def test_a_smaller_command_does_not_finish_a_larger_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stop_in_round(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            sweep(20).run(tmp_path)
    assert sweep(8).run(tmp_path).interim.endswith(" of 20 questions")
    finished = sweep(20).run(tmp_path)
    assert not finished.interim
    # Neither does a command that asks nothing new begin one.
    with monkeypatch.context() as patched:
        patched.setattr(Execution, "_end", lambda _self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep(8).run(tmp_path)
    assert not lr.read(tmp_path).interim


def test_a_log_shows_harms_of_layers_only_where_layers_are_ablated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="layerroles.progress")
    model, tasks = random_model("llama"), [lr.task("facts")]
    for name, conditions in (
        ("layers", lr.each_layer(model, lr.Skip())),
        ("heads", lr.each_head(model, lr.Zero(), layers=[0])),
        ("intact", []),
    ):
        caplog.clear()
        lr.Sweep(model, tasks, conditions, limit=10, noise_floor=False).run(tmp_path / name)
        assert any(line.startswith("sweep: ") for line in caplog.messages)
        shown = [line for line in caplog.messages if line.startswith("Harm of each layer")]
        assert bool(shown) == (name == "layers")


def test_an_error_in_what_is_shown_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_file: Path, result: lr.SweepResult) -> None:
        if result.interim:
            raise ZeroDivisionError("a figure")

    monkeypatch.setattr(module, "write_report", fail)
    assert not sweep().run(tmp_path / "run", report=tmp_path / "report.html").interim
    assert "what is known so far could not be shown" in caplog.text


def test_the_time_of_the_noise_floor_is_not_part_of_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The noise floor seems to take a day; all units together take seconds."""
    monotonic, repeat_intact = time.monotonic, Execution._repeat_intact
    day, estimates = 0.0, list[float]()

    def repeat_for_a_day(self: Execution, advance_file: Advance) -> None:
        nonlocal day
        repeat_intact(self, advance_file)
        day = 86400.0

    def answer(self: Execution, units: list[Unit], what: str, _: Advance) -> None:
        run_units(
            self, units, what, lambda rows, now, outlook: estimates.append(outlook.left or 0.0)
        )

    run_units = Execution._answer
    monkeypatch.setattr("time.monotonic", lambda: monotonic() + day)
    monkeypatch.setattr(Execution, "_repeat_intact", repeat_for_a_day)
    monkeypatch.setattr(Execution, "_answer", answer)
    made = lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,))
    conditions = lr.each_layer(made.model, lr.Skip())
    # Of one family, so that a layer that is not decided is asked a unit of each.
    tasks = [made.tasks[0], dataclasses.replace(made.tasks[0], strength=0.9)]
    two_tasks = lr.Sweep(
        made.model, tasks, conditions, protocols=["generation"], until="decided", limit=48
    )
    two_tasks.run(tmp_path)
    assert day
    assert max(estimates) < 600

"""How a sweep is cut into units: by what it asks, not by what is already stored."""

import random
from dataclasses import dataclass
from typing import ClassVar

import pytest

import layerroles as lr
from layerroles.sweep.manifest_conditions import distinct_conditions
from layerroles.sweep.missing_work import missing_units
from layerroles.sweep.store import Key
from layerroles.sweep.task_protocol_cells import make_cells
from layerroles.sweep.unit_sizes import UnitSizes, count_together
from layerroles.sweep.work_units import Unit


def keys(unit: Unit) -> list[tuple[Key, str]]:
    """Condition, task, protocol and example of each row that a unit gives."""
    return [
        ((condition.hash, *cell.names), example.id)
        for cell in unit.cells
        for condition in unit.conditions
        for example in unit.examples
    ]


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("n_layers", [1, 30, 64, 150])
def test_units_are_whole_and_stay_what_they_are_when_some_are_done(
    n_layers: int, rounds: bool
) -> None:
    tasks = [lr.task("facts"), lr.task("word_problems")]
    cells = make_cells(tasks, ["answer_logprob", "generation"], limit=70, seed=0)
    conditions = distinct_conditions(
        [lr.Condition({}), *(lr.Condition({lr.Site(n): lr.Skip()}) for n in range(n_layers))]
    )
    sizes = UnitSizes(count_together(len(conditions)), 500, rounds=rounds)
    first = list(missing_units(cells, conditions, {}, sizes))
    rows = [row for unit in first for row in keys(unit)]
    assert len(rows) == len(set(rows)) == 2 * 2 * 70 * len(conditions)
    assert all(len(unit.conditions) <= 64 for unit in first)
    assert all(len(unit.conditions) * len(unit.examples) <= 500 for unit in first)
    assert {len(unit.cells) for unit in first} == {2}
    # Workers are done in any order.
    done = random.Random(n_layers).sample(first, len(first) // 2)
    known: dict[Key, set[str]] = {}
    for unit in done:
        for key, example in keys(unit):
            known.setdefault(key, set()).add(example)
    left = list(missing_units(cells, conditions, known, sizes))
    assert left == [unit for unit in first if unit not in done]


def test_equal_shares_of_conditions() -> None:
    cells = make_cells([lr.task("facts")], ["generation"], limit=4, seed=0)
    conditions = [lr.Condition({}), *(lr.Condition({lr.Site(n): lr.Skip()}) for n in range(64))]
    found = missing_units(cells, conditions, {}, UnitSizes(count_together(65), 1024))
    assert [len(unit.conditions) for unit in found] == [33, 32]


def test_tasks_take_turns() -> None:
    tasks = [lr.task("facts"), lr.task("word_problems"), lr.task("kv_retrieval")]
    cells = make_cells(tasks, ["generation"], limit=32, seed=0)
    most = {tasks[0].label: 2, tasks[1].label: 8, tasks[2].label: 100}  # rows of one condition
    units = list(missing_units(cells, [lr.Condition({})], {}, UnitSizes(1, 2048, most)))
    assert {
        task: max(len(u.examples) for u in units if u.cells[0].task.label == task) for task in most
    } == {tasks[0].label: 2, tasks[1].label: 8, tasks[2].label: 32}
    assert [unit.cells[0].task.label for unit in units[:3]] == list(most)
    # When the second task is half done, so is the first.
    places = [n for n, unit in enumerate(units) if unit.cells[0].task.label == tasks[1].label]
    before = [unit for unit in units[: places[2]] if unit.cells[0].task.label == tasks[0].label]
    assert sum(len(unit.examples) for unit in before) in (16, 18)


def test_rounds_ask_four_examples_of_all_tasks_first_and_then_as_many_again() -> None:
    tasks = [lr.task("facts"), lr.task("word_problems")]
    cells = make_cells(tasks, ["continuation", "generation"], limit=40, seed=0)
    conditions = [lr.Condition({}), lr.Condition({lr.Site(0): lr.Skip()})]
    sizes = UnitSizes(2, 2048, {tasks[1].label: 8}, rounds=True)
    units = list(missing_units(cells, conditions, {}, sizes))
    assert [unit.round for unit in units] == sorted(unit.round for unit in units)
    for number, asked in enumerate([4, 4, 8, 16, 8]):
        of_round = [unit for unit in units if unit.round == number]
        for task in tasks:
            own = [unit for unit in of_round if unit.cells[0].task.label == task.label]
            assert sum(len(unit.examples) for unit in own) == asked
            assert all(unit.conditions == tuple(conditions) for unit in own)
            most = 4 if task is tasks[1] else 16
            assert max(len(unit.examples) for unit in own) <= most


def test_a_wanted_cell_alone_is_asked() -> None:
    cells = make_cells([lr.task("facts")], ["continuation", "generation"], limit=6, seed=0)
    conditions = [lr.Condition({lr.Site(n): lr.Skip()}) for n in range(3)]
    wanted = {
        (conditions[0].hash, *cells[0].names),
        *((conditions[2].hash, *cell.names) for cell in cells),
    }
    units = list(missing_units(cells, conditions, {}, UnitSizes(3, 2048), wanted))
    assert {key for unit in units for key, _ in keys(unit)} == wanted
    assert sum(unit.n_rows for unit in units) == 3 * 6


@lr.tasks.register("numbered")
@dataclass(frozen=True)
class Numbered(lr.Task):
    """Questions with these ids."""

    ids: tuple[str, ...] = ()
    family: ClassVar[str] = "knowledge"

    def examples(self, limit: int, seed: int) -> list[lr.Example]:
        return [lr.Example(id=id, prompt=f"{n}", answer="a") for n, id in enumerate(self.ids)]

    def held_out(self, limit: int, seed: int) -> list[str]:
        return []


@pytest.mark.parametrize(
    ("ids", "line"), [(("0", "1", "0"), "several questions have the id '0'"), ((), "no questions")]
)
def test_ids_of_questions_are_checked(ids: tuple[str, ...], line: str) -> None:
    with pytest.raises(lr.InputError, match=line):
        make_cells([Numbered(ids=ids)], ["generation"], limit=8, seed=0)

"""Compute the answers that a run folder lacks, one unit of work at a time; report the progress.

The answers of a unit are computed and stored together (`work_units.Unit`). A cell is one task under
one protocol. A run asks in rounds: the first examples of every task under every condition, then
further ones. After each round the folder holds a complete, smaller sweep. Then the intact model is
run again, to measure the noise floor (how many answers change with the batch shape) and chance.
Questions that depend on earlier answers are asked last (see `next_cells`), up to the next *look*:
the number of questions after which the results are judged again.
"""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from layerroles.ablations import INTACT
from layerroles.backends import Job, JobPart, OpenBackend
from layerroles.engine import Computed, Engine
from layerroles.errors import InputError
from layerroles.progress import Advance, Outlook, Picture, is_progress_shown, show_progress
from layerroles.protocols import Answer, Asked, add_coherence
from layerroles.results import ROW, SweepResult, find_waiting, read
from layerroles.sweep import noise_floor
from layerroles.sweep.cpu_contention import Contention
from layerroles.sweep.missing_work import Work
from layerroles.sweep.next_cells import (
    ask_for,
    expected_next,
    is_answered,
    next_cells,
    open_decisions,
)
from layerroles.sweep.remaining_time import Pace
from layerroles.sweep.status import write_progress
from layerroles.sweep.store import Key, Store
from layerroles.sweep.task_protocol_cells import SweepCell
from layerroles.sweep.text_harm_map import layer_strips, strip_lines
from layerroles.sweep.work_units import Unit

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_STEPS = 0.5
# What the questions that depend on earlier answers are about, as shown with the progress.
_NOW = {"look": "what is not decided yet", "sinks": "layers that may be sinks"}


class Execution:
    """One run of a sweep into an open run folder.

    Args:
        work: the cells and conditions that the sweep asks.
        asked: all examples of each cell, encoded, by the labels of its task and protocol.
        store: the open run folder.
        workers: the open backend.
        engine: the engine of this process.
        expected: seconds per row by task, from the cost model, for the tasks for which it is known.
        after_round: a function to call with the folder's rows so far, after each round but the last
            and after each look that follows the rounds; None if there is nothing to call.
        minutes: the time after which questions that depend on earlier answers are no longer asked;
            None for no limit.
    """

    def __init__(
        self,
        work: Work,
        asked: Mapping[tuple[str, str], Asked],
        store: Store,
        workers: OpenBackend,
        engine: Engine,
        expected: Mapping[str, float],
        after_round: Callable[[SweepResult], None] | None,
        minutes: float | None = None,
    ) -> None:
        self._work, self._store, self._workers, self._engine = work, store, workers, engine
        self._asked, self._after_round = asked, after_round
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes
        only_needed = bool(store.manifest["only_needed"])
        self._may_follow = work.until is not None or (
            only_needed and bool(find_waiting(store.manifest["conditions"]))
        )
        self._shows_layers = any(
            [site.part for site in condition] == ["block"] for condition in work.conditions
        )
        self._pace, self._contention = Pace(expected, self._deadline), Contention()
        self._unit_index = 0  # the index of the unit that was begun last
        self._unit_started: float | None = None  # when it was begun; None after its first pass

    def run(self) -> None:
        """Compute and store the answers, noise floors and chance that the folder lacks."""
        store, work = self._store, self._work
        answered = store.answered_ids()
        n_stored = sum(map(len, answered.values()))
        units = list(work.first_missing_units(answered, store.manifest))
        del answered  # large
        unfinished = store.manifest["unfinished"]
        is_begun = bool(units or self._may_follow) and work.plan not in unfinished
        if is_begun:
            unfinished.append(work.plan)
        # Not saved earlier, so that a finished run's manifest does not grow before it is marked as
        # unfinished.
        store.save_manifest()
        needed = [] if units else self._needed_units()
        if is_begun and not (units or needed):
            unfinished.remove(work.plan)
            store.save_manifest()
        n_missing = _n_rows([*units, *needed])
        with write_progress(store.folder, n_missing, n_stored) as advance_file:
            self._answer(units, "sweep", advance_file)
            # Which questions are next depends on whether a family has skill (a score above chance),
            # which is not known before its chance is.
            began = time.monotonic()
            self._repeat_intact(advance_file)
            self._pace.leave_out(time.monotonic() - began)
            n_known = _n_rows(needed)
            while needed := self._needed_units():
                what = "look" if work.until else "sinks"
                advance_file(0, _NOW[what], Outlook(more=_n_rows(needed) - n_known))
                n_known = 0
                self._answer(needed, what, advance_file)
                if work.until:
                    advance_file(0, _NOW[what], Outlook(picture=self._end_round()))
            self._end()

    def _needed_units(self) -> list[Unit]:
        """Return units with the questions that `next_cells` chooses, given the stored rows.

        The manifest keeps the chosen numbers of examples until all are answered, so that a run that
        is killed on the way to a look resumes with the same questions.
        """
        if not self._may_follow:
            return []
        manifest = self._store.manifest
        noted = {(str(c), str(t), str(p)): int(n) for c, t, p, n in manifest["asked_next"]}
        if units := self._units_for(noted):
            return units
        result = read(self._store.folder)
        if self._deadline is None:
            needed = next_cells(result, self._work.plan)
        else:
            needed = self._choose_in_time(result, self._deadline - time.monotonic())
        manifest["asked_next"] = [[*key, n] for key, n in needed.items()]
        self._store.save_manifest()
        return self._units_for(needed)

    def _choose_in_time(self, result: SweepResult, left: float) -> dict[Key, int]:
        """Return what `next_cells` returns, limited to what can be asked in the time left.

        If there is too little time for all undecided verdicts or claims, those that are expected to
        need the fewest further questions are chosen. Since a claim costs far more than a verdict on
        a layer, at most half of the undecided claims (rounded up) are chosen at each look. If there
        is no time for even one verdict or claim, logs a warning and returns an empty dict.

        Args:
            result: all rows so far.
            left: the seconds that are left.
        """
        plan = self._work.plan
        nearest = open_ = open_decisions(result, plan)
        if plan["until"] == "claims":
            nearest = open_[: math.ceil(len(open_) / 2)]
        needed = ask_for(nearest, result, plan)
        while nearest and self._pace.cost(self._units_for(needed)) > left:
            nearest = nearest[: len(nearest) // 2]
            needed = ask_for(nearest, result, plan)
        is_late = left <= 0 or self._pace.cost(self._units_for(needed)) > left
        if (open_ and not nearest) or (needed and is_late):
            log.warning(
                "the time limit is reached with %d decisions open: run the same command again to "
                "continue",
                len(open_),
            )
            return {}
        return needed

    def _units_for(self, needed: Mapping[Key, int]) -> list[Unit]:
        done = self._store.answered_ids()
        return list(self._work.needed_missing_units(done, self._store.manifest, needed))

    def _end(self) -> None:
        """Remove fully answered commands (`Sweep.run` calls) from the manifest's `unfinished`."""
        manifest, done = self._store.manifest, self._store.answered_ids()
        if manifest["unfinished"]:
            result = read(self._store.folder)
            manifest["unfinished"] = [
                plan
                for plan in manifest["unfinished"]
                if not is_answered(plan, done, manifest)
                or any(len(done.get(key, ())) < n for key, n in next_cells(result, plan).items())
            ]
        self._store.save_manifest()

    def _answer(self, units: Sequence[Unit], what: str, advance_file: Advance) -> None:
        """Answer and store units; report progress in a bar named `what` and by `advance_file`."""
        with show_progress(_n_rows(units), what) as advance_bar:

            def advance(rows: int, now: str, outlook: Outlook) -> None:
                advance_bar(rows, now, outlook)
                advance_file(rows, now, outlook)

            self._answer_with_progress(units, advance)

    def _answer_with_progress(
        self, units: Sequence[Unit], advance: Callable[[int, str, Outlook], None]
    ) -> None:
        pace, last_shown = self._pace, 0.0
        n_stored = 0  # rows of the unit that was begun last
        pace.expect({})
        pace.add(units)
        n_left = Counter(unit.round for unit in units)

        def on_step(computed: Computed) -> None:
            nonlocal last_shown
            if self._unit_started is not None:
                pace.leave_out_preparation(time.monotonic() - self._unit_started)
                self._unit_started = None
            self._contention.check()
            unit = units[self._unit_index]
            rows = max(0.0, pace.share(unit, computed) * unit.n_rows - n_stored)
            if time.monotonic() - last_shown < _SECONDS_BETWEEN_STEPS:
                return
            last_shown = time.monotonic()
            left = pace.seconds_left(unit, rows)
            advance(0, _describe(unit, computed), Outlook(rows, left))

        with self._engine.report_steps(on_step):
            for part in self._answer_units(units):
                unit = units[part.unit]
                pace.add_stored(unit, part.n_rows, part.seconds, ends_unit=part.ends_unit)
                n_stored = 0 if part.ends_unit else n_stored + part.n_rows
                advance(part.n_rows, part.now, Outlook(left=pace.seconds_left()))
                n_left[unit.round] -= part.ends_unit
                rounds_left = {number for number, n in n_left.items() if n}
                if part.ends_unit and rounds_left and min(rounds_left) > unit.round:
                    picture = self._end_round()
                    advance(0, part.now, Outlook(left=pace.seconds_left(), picture=picture))

    def _end_round(self) -> Picture | None:
        """Update the expected number of further questions, call `after_round`, return a picture.

        The picture, the harm of each layer so far, is shown with the progress. It is None if no
        condition ablates exactly one whole layer, or if no progress is shown. An exception, such as
        one of `after_round`, is logged as a warning, and None is returned.
        """
        is_shown = self._shows_layers and is_progress_shown()
        if not (self._may_follow or is_shown or self._after_round is not None):
            return None
        began = time.monotonic()
        try:
            result = read(self._store.folder)
            self._pace.expect(expected_next(result, self._work.plan))
            if self._after_round is not None:
                self._after_round(result)
            return Picture(layer_strips(result), strip_lines(result)) if is_shown else None
        except Exception:  # an interim display must not end a run
            log.warning("what is known so far could not be shown", exc_info=True)
            return None
        finally:
            self._pace.leave_out(time.monotonic() - began)

    def _answer_units(self, units: Sequence[Unit]) -> Iterator["_Stored"]:
        """Answer and store units; yield a record of each part that was stored.

        Answers that depend on which requests share their batch are stored together, so that an
        interrupted run computes the same batches again.
        """
        work, store = self._work, self._store
        asked_by_unit: dict[int, list[Asked]] = {}  # of the units that are being answered
        n_rows_left = [unit.n_rows for unit in units]

        def jobs() -> Iterator[Job]:
            for index, unit in enumerate(units):
                self._unit_index = index
                asked_by_unit[index] = [work.prepare(cell, unit.examples) for cell in unit.cells]
                task = unit.cells[0].task.label
                self._unit_started = time.monotonic()
                yield Job(
                    task,
                    tuple(asked.requests for asked in asked_by_unit[index]),
                    work.references.conditions(task, unit.conditions),
                    apart=all(asked.apart for asked in asked_by_unit[index]),
                    coherence=work.coherence,
                )

        last_saved = time.monotonic()
        for index, part in self._workers.answer_jobs(jobs()):
            unit = units[index]
            rows = _judge_part(unit, asked_by_unit[index], part)
            store.add_rows(rows)
            # Not saved for every part: a killed run keeps all stored rows, and loses only the
            # recorded time of the latest of them.
            if _add_statistics(store.manifest, part) or time.monotonic() - last_saved > 1:
                store.save_manifest()
                last_saved = time.monotonic()
            n_rows = sum(map(len, rows.values()))
            n_rows_left[index] -= n_rows
            if not n_rows_left[index]:
                del asked_by_unit[index]
            last = max(condition for condition, _ in part.answers)
            now = f"{unit.cells[0].task.label}, {unit.conditions[last].name}"
            yield _Stored(index, n_rows, now, part.seconds, not n_rows_left[index])
        store.save_manifest()

    def _repeat_intact(self, advance_file: Advance) -> None:
        """Run the intact model again in cells without a noise floor or chance, and store these."""
        store, prepare, asked_by_cell = self._store, self._work.prepare, self._asked
        cells = [
            cell
            for cell in self._work.first_cells(store.manifest)
            if any(self._needs_floor_and_chance(cell, asked_by_cell[cell.names]))
        ]
        batches = [
            (cell, list(batch))
            for cell in cells
            for batch in noise_floor.split_batches(cell.examples)
        ]
        jobs = (
            Job("noise floor", (prepare(cell, batch).requests,), (INTACT,))
            for cell, batch in batches
        )
        answers_by_batch: dict[int, list[Any]] = {}
        n_batches_left = Counter(cell.names for cell, _ in batches)
        with show_progress(sum(len(batch) for _, batch in batches), "noise floor") as advance:
            for index, part in self._workers.answer_jobs(jobs):
                answers_by_batch[index] = part.answers[0, 0]
                cell, batch = batches[index]
                _add_statistics(store.manifest, replace(part, seconds=0.0))
                n_batches_left[cell.names] -= 1
                if not n_batches_left[cell.names]:
                    own_batches = [i for i, (of, _) in enumerate(batches) if of.names == cell.names]
                    answers = [answer for i in own_batches for answer in answers_by_batch.pop(i)]
                    self._store_noise_floor(cell, asked_by_cell[cell.names], answers)
                advance(len(batch), ", ".join(cell.names))
                advance_file(0, f"noise floor of {', '.join(cell.names)}")  # not counted as rows

    def _store_noise_floor(self, cell: SweepCell, asked: Asked, answers: list[Any]) -> None:
        """Store the noise floor and chance of a cell.

        Args:
            cell: the cell.
            asked: the cell's encoded examples.
            answers: the intact model's results when it was run again on these examples.
        """
        store = self._store
        in_manifest = store.manifest_cell(*cell.names)
        needs_floor, needs_chance = self._needs_floor_and_chance(cell, asked)
        if len(answers) < len(asked.requests):
            asked = self._work.prepare(cell, cell.examples)
        if needs_floor:
            ids = (example.id for example in cell.examples)
            repeated = dict(zip(ids, asked.judge(answers), strict=True))
            before = store.read_answers(INTACT.hash, *cell.names)
            store.add_noise_floor(noise_floor.measure_noise_floor(in_manifest, before, repeated))
        if (estimate := asked.shuffled(answers)) is not None:
            in_manifest["shuffled"] = estimate
            if needs_chance:
                in_manifest |= {"chance": estimate, "chance_from": "shuffled answers"}
        store.save_manifest()

    def _needs_floor_and_chance(self, cell: SweepCell, asked: Asked) -> tuple[bool, bool]:
        """Return whether a cell's noise floor, and whether its chance, is still to be measured."""
        store, n = self._store, len(cell.examples)
        needs_floor = self._work.noise_floor and noise_floor.needs_floor(
            store.manifest, cell.names, n
        )
        return needs_floor, noise_floor.needs_chance(store.manifest_cell(*cell.names), asked)


@dataclass(frozen=True)
class _Stored:
    """A part of a unit that was stored in one step.

    Attributes:
        unit: the index of the unit.
        n_rows: the number of rows.
        now: the task and the last condition of the rows, as text.
        seconds: the seconds that a worker took for them.
        ends_unit: whether all rows of the unit are stored now.
    """

    unit: int
    n_rows: int
    now: str
    seconds: float
    ends_unit: bool


def _n_rows(units: Sequence[Unit]) -> int:
    return sum(unit.n_rows for unit in units)


def _describe(unit: Unit, computed: Computed) -> str:
    """Describe the progress of a unit, such as `facts@2: 84% read, 1,204 tokens written`."""
    share = min(1.0, computed.read / computed.to_read) if computed.to_read else 1.0
    text = f"{unit.cells[0].task.label}: {share:.0%} read"
    return f"{text}, {computed.written:,.0f} tokens written" if computed.to_write else text


def _judge_part(
    unit: Unit, asked_cells: Sequence[Asked], part: JobPart
) -> dict[Key, dict[str, tuple[object, ...]]]:
    """Score the answers in a part of a unit; return the rows to store.

    Returns the values of the columns `ROW` by key (condition hash, task, protocol) and example id.
    """
    rows: dict[Key, dict[str, tuple[object, ...]]] = {}
    for (condition, cell), outputs in part.answers.items():
        answers = asked_cells[cell].judge(outputs)
        if other := [answer for answer in answers if not isinstance(answer, Answer)]:
            raise InputError(
                f"protocol {unit.cells[cell].protocol.label!r}: judge returned {other[0]!r:.80}, "
                f"which is no layerroles.protocols.Answer"
            )
        answers = add_coherence(part.coherence, asked_cells[cell].requests, outputs, answers)
        rows[unit.conditions[condition].hash, *unit.cells[cell].names] = {
            example.id: _row_values(answer)
            for example, answer in zip(unit.examples, answers, strict=True)
        }
    return rows


def _add_statistics(manifest: dict[str, Any], part: JobPart) -> bool:
    """Add a part's time, memory and executors to a manifest.

    Returns whether the executors, or how often batches were halved, changed in the manifest.
    """
    before = manifest["executors"], manifest["memory_halved"]
    manifest["seconds"] += part.seconds
    manifest["executors"] = sorted({*manifest["executors"], *part.executors})
    manifest["memory_halved"] = max(manifest["memory_halved"], part.times_halved)
    manifest["peak_memory"] = max(manifest["peak_memory"], part.peak_memory)
    return before != (manifest["executors"], manifest["memory_halved"])


def _row_values(answer: Answer) -> tuple[object, ...]:
    details = json.dumps(answer.details, ensure_ascii=False) if answer.details else ""
    return tuple(details if name == "details" else getattr(answer, name) for name in ROW)

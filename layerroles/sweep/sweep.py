"""Run a sweep, conditions x (task, protocol) with one row per example, into a run folder.

Example:
    sweep = Sweep(model, tasks, each_layer(model, Skip()), protocols=["generation"], limit=32)
    result = sweep.run("runs/first")          # if interrupted, run it again to resume
    result = read("runs/first")               # the same, later
"""

import datetime
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles import __version__
from layerroles.ablations import INTACT, Condition, as_conditions
from layerroles.backends import Backend, Job, JobPart, OpenBackend, Workers, make_backend
from layerroles.engine import Engine
from layerroles.errors import InputError
from layerroles.models import check_template, prepared
from layerroles.progress import show_progress
from layerroles.protocols import Answer, Asked, Protocol, add_coherence
from layerroles.results import SweepResult
from layerroles.sweep import noise_floor
from layerroles.sweep.manifest_entries import command_line, describe_condition
from layerroles.sweep.reading import read as read
from layerroles.sweep.reference_prompts import References
from layerroles.sweep.status import write_progress
from layerroles.sweep.store import ROW, Key, Store, lock_folder, open_store
from layerroles.sweep.units import (
    EngineCall,
    SweepCell,
    Unit,
    choose_rows,
    count_together,
    distinct_conditions,
    make_cells,
    missing_units,
)
from layerroles.tasks import Example, Task, as_tasks

# Examples of each task whose work is planned, to choose the size of its units.
_N_PLANNED = 32


class Sweep:
    """The tasks, conditions and protocols to run; `run` runs them.

    Args:
        model: from `load` or `prepare`.
        tasks: the tasks whose examples are asked.
        conditions: the conditions to ask under; the intact model is always added.
        protocols: the protocols to ask under, as objects or labels such as
            `"continuation[norm=byte]"`. A task that names its own protocol is asked only under
            that.
        limit: the number of examples of each task.
        seed: the seed of the tasks' examples.
        engine: the engine that answers; None for `Engine(model)`.
        chat: whether to ask in the chat template of the model's tokenizer, with shots as turns.
        coherence: whether to measure how likely the intact model finds the texts written under each
            condition. Each is read once more, which adds about a third to a sweep by generation.
        noise_floor: whether to ask the intact model again in batches of another shape and count the
            answers that change. This takes as long as one condition that shares no computation with
            others.

        unit_seconds: the time that a unit of work, whose answers are computed and stored together,
            should take. A run that is killed loses the unit that is being computed. It is kept in
            the run folder, and is known only if this process runs the model fused: other units hold
            up to `rows_at_once` rows of each cell, and none is made so short that much is computed
            twice.

    Class attributes:
        rows_at_once: about how many rows of each cell a unit holds at the most.

    Raises:
        InputError: nothing to run, an unknown protocol, a task that a protocol cannot ask, a limit
            below 1, two conditions of one name, a site that the model lacks, a reference that holds
            an example that is asked, a task without held-out questions for an open reference, or
            `chat` with a model that has no chat template.

    Example:
        conditions = lr.each_layer(model, lr.Skip())
        sweep = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=4)
        again = sweep.run("runs/again")  # if interrupted, run it again to resume
        again.effects()
    """

    rows_at_once: ClassVar[int] = 2048

    def __init__(
        self,
        model: TransformerBridge,
        tasks: Iterable[Task],
        conditions: Iterable[Condition],
        *,
        protocols: Sequence[str | Protocol] = ("continuation", "generation"),
        limit: int = 32,
        seed: int = 0,
        engine: Engine | None = None,
        chat: bool = False,
        coherence: bool = False,
        noise_floor: bool = True,
        unit_seconds: float = 20.0,
    ) -> None:
        tasks = as_tasks(tasks)
        if isinstance(protocols, str) or not isinstance(protocols, Iterable):
            raise InputError(f"protocols={protocols!r} is one, not several: write [{protocols!r}]")
        if not isinstance(limit, int) or limit < 1:
            raise InputError(f"limit={limit!r} asks nothing: use a whole number of 1 or more")
        if not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed={seed!r} is not a whole number of 0 or more")
        if not (isinstance(unit_seconds, int | float) and unit_seconds > 0):
            raise InputError(f"unit_seconds={unit_seconds!r} is not a number of seconds above 0")
        if not tasks or not protocols:
            raise InputError("a sweep needs at least one task and one protocol")
        if engine is not None and engine.model is not model:
            raise InputError("the sweep's engine is one of another model: use Engine(model)")
        if chat:
            check_template(model)
        self.model = model
        self.conditions = distinct_conditions([INTACT, *as_conditions(conditions)])
        self.limit = limit
        self.seed = seed
        self.chat = chat
        self.coherence = coherence
        self.noise_floor = noise_floor
        self.unit_seconds = unit_seconds
        self.cells = make_cells(tasks, protocols, limit, seed)
        self._engine = engine
        self.references = References(tasks, self.conditions, seed)
        for condition in self.references.distinct_conditions():
            condition.check(model)
        self._check_evidence()
        self.references.check(self.cells)

    def __repr__(self) -> str:
        n_rows = len(self.conditions) * sum(len(cell.examples) for cell in self.cells)
        labels = dict.fromkeys(cell.task.label for cell in self.cells)
        ways = dict.fromkeys(cell.protocol.label for cell in self.cells)
        return (
            f"Sweep: {prepared(self.model).name}, {n_rows:,} rows\n"
            f"  conditions  {len(self.conditions)}, intact among them\n"
            f"  tasks       {', '.join(labels)}\n"
            f"  protocols   {', '.join(ways)}\n"
            f'Next: sweep.run("runs/NAME") runs it, and goes on where it was stopped.'
        )

    def run(
        self,
        path: str | Path,
        *,
        backend: str | Backend = "local",
        address: str | None = None,
        workers: int | Literal["auto"] | None = None,
        gpus_per_worker: float | None = None,
        timeout: float | None = None,
    ) -> SweepResult:
        """Run what the run folder lacks; return all that it then holds.

        Args:
            path: the run folder.
            backend: what answers: `"local"`, this process; `"ray"`, workers of a Ray cluster, each
                with its own model (the sweep's model may then be on `device="meta"`); or a
                `Backend`.
            address: the address of the Ray cluster. This and the arguments below are for `"ray"`
                only; None is the default of `backends.Ray`, which has the details.
            workers: the number of processes that hold a model.
            gpus_per_worker: the number of GPUs of each worker.
            timeout: seconds after which a worker is considered hung.

        Raises:
            InputError: the folder cannot be written, or holds another run; a prompt is longer than
                the model's context; no worker can answer.
        """
        options = {"address": address, "workers": workers, "gpus_per_worker": gpus_per_worker}
        chosen_backend = make_backend(backend, options | {"timeout": timeout})
        engine = self._engine or Engine(self.model)
        chosen_backend.check(engine)
        asked_by_cell = {
            cell.names: self._prepare(engine, cell, list(cell.examples)) for cell in self.cells
        }
        question_versions = _package_versions(self.cells)
        with ExitStack() as closing:
            # A folder that another process writes to is refused before workers are started.
            closing.enter_context(lock_folder(Path(path)))
            open_backend = closing.enter_context(chosen_backend.opened(engine))
            store = closing.enter_context(
                open_store(Path(path), self._new_manifest(open_backend.workers, question_versions))
            )
            for cell in self.cells:
                store.add_examples(*cell.names, self._describe_examples(cell))
            done, rows_of_task = store.answered_ids(), store.manifest["rows_at_once"]
            if any(self._missing_units(done, rows_of_task)):
                rows_of_task |= self._choose_rows_at_once(engine, done, known=rows_of_task)
                store.save_manifest()
            units = list(self._missing_units(done, rows_of_task))
            total = sum(unit.n_rows for unit in units)
            with write_progress(store.folder, total) as report_status:
                with show_progress(total, "sweep") as advance:
                    for n_rows, now_at in self._answer_units(store, open_backend, engine, units):
                        advance(n_rows, now_at)
                        report_status(n_rows, now_at)
                self._repeat_intact(store, open_backend, engine, asked_by_cell, report_status)
        return read(path)

    def calls(self) -> Iterator[EngineCall]:
        """Yield the engine calls of a run into a new folder, without running them.

        Units are not limited in time: what shorter ones compute again is left out. The texts that
        `coherence` scores are not known beforehand and are left out.

        Raises:
            InputError: a prompt is longer than the model's context.
        """
        engine = self._engine or Engine(self.model)
        for unit in self._missing_units({}, {}):
            asked_cells = [self._prepare(engine, cell, list(unit.examples)) for cell in unit.cells]
            requests = tuple(asked.requests for asked in asked_cells)
            task = unit.cells[0].task.label
            yield EngineCall(task, requests, self.references.conditions(task, unit.conditions))
        for cell in self.cells:
            for batch in noise_floor.split_batches(cell.examples):
                asked_batch = self._prepare(engine, cell, list(batch))
                if self.noise_floor or noise_floor.needs_chance(cell.to_manifest(), asked_batch):
                    yield EngineCall("noise floor", (asked_batch.requests,), (INTACT,))

    def _prepare(self, engine: Engine, cell: SweepCell, examples: list[Example]) -> Asked:
        try:
            return cell.protocol.prepare(engine, cell.task, examples, chat=self.chat)
        except InputError as error:
            raise InputError(f"task {cell.task.label!r}: {error}") from error

    def _missing_units(
        self, done: Mapping[Key, set[str]], rows_of_task: Mapping[str, int]
    ) -> Iterator[Unit]:
        return missing_units(self.cells, self.conditions, done, self.rows_at_once, rows_of_task)

    def _choose_rows_at_once(
        self, engine: Engine, done: Mapping[Key, set[str]], known: Mapping[str, int]
    ) -> dict[str, int]:
        """Return how many rows of each cell a unit holds, for the tasks that are not known.

        A task that a run folder of an earlier version has begun keeps that version's units.
        """
        cells_by_task: dict[str, list[SweepCell]] = {}
        for cell in self.cells:
            if cell.task.label not in known:
                cells_by_task.setdefault(cell.task.label, []).append(cell)
        begun = {task for (_, task, _), ids in done.items() if ids}
        together = self.conditions[: count_together(len(self.conditions))]
        chosen = dict.fromkeys(cells_by_task, self.rows_at_once)
        for task, cells in cells_by_task.items():
            if task in begun:
                continue

            def call(n: int, task: str = task, cells: list[SweepCell] = cells) -> EngineCall:
                examples = list(cells[0].examples[:n])
                requests = (self._prepare(engine, cell, examples).requests for cell in cells)
                conditions = self.references.conditions(task, together)
                return EngineCall(task, tuple(requests), conditions)

            n_examples = min(_N_PLANNED, len(cells[0].examples))
            chosen[task] = choose_rows(
                engine, call, n_examples, self.unit_seconds, self.rows_at_once
            )
        return chosen

    def _answer_units(
        self, store: Store, workers: OpenBackend, engine: Engine, units: Sequence[Unit]
    ) -> Iterator[tuple[int, str]]:
        """Answer and store units; yield (number of rows stored, their task and condition).

        Answers that depend on what shares their batch are stored together, so that an interrupted
        run computes the same batches again.
        """
        asked_by_unit: dict[int, list[Asked]] = {}  # of the units that are being answered
        n_rows_left = [unit.n_rows for unit in units]

        def jobs() -> Iterator[Job]:
            for index, unit in enumerate(units):
                asked_by_unit[index] = [
                    self._prepare(engine, cell, list(unit.examples)) for cell in unit.cells
                ]
                task = unit.cells[0].task.label
                yield Job(
                    task,
                    tuple(asked.requests for asked in asked_by_unit[index]),
                    self.references.conditions(task, unit.conditions),
                    apart=all(asked.apart for asked in asked_by_unit[index]),
                    coherence=self.coherence,
                )

        last_saved = time.monotonic()
        for index, part in workers.answer_jobs(jobs()):
            unit = units[index]
            rows = _judge_part(unit, asked_by_unit[index], part)
            store.add_rows(rows)
            # The rows are stored; a killed run may lose a second of the time recorded for them.
            if _add_statistics(store.manifest, part) or time.monotonic() - last_saved > 1:
                store.save_manifest()
                last_saved = time.monotonic()
            n_rows = sum(map(len, rows.values()))
            n_rows_left[index] -= n_rows
            if not n_rows_left[index]:
                del asked_by_unit[index]
            last = max(condition for condition, _ in part.answers)
            yield n_rows, f"{unit.cells[0].task.label}, {unit.conditions[last].name}"
        store.save_manifest()

    def _repeat_intact(
        self,
        store: Store,
        workers: OpenBackend,
        engine: Engine,
        asked_by_cell: Mapping[tuple[str, str], Asked],
        report_status: Callable[[int, str], None],
    ) -> None:
        """Ask the intact model again in cells without a noise floor or chance, and store both."""
        cells = [
            cell
            for cell in self.cells
            if any(self._needs_floor_and_chance(store, cell, asked_by_cell[cell.names]))
        ]
        batches = [
            (cell, list(batch))
            for cell in cells
            for batch in noise_floor.split_batches(cell.examples)
        ]
        jobs = (
            Job("noise floor", (self._prepare(engine, cell, batch).requests,), (INTACT,))
            for cell, batch in batches
        )
        answers_by_batch: dict[int, list[Any]] = {}
        n_batches_left = Counter(cell.names for cell, _ in batches)
        with show_progress(sum(len(batch) for _, batch in batches), "noise floor") as advance:
            for index, part in workers.answer_jobs(jobs):
                answers_by_batch[index] = part.answers[0, 0]
                cell, batch = batches[index]
                _add_statistics(store.manifest, replace(part, seconds=0.0))
                n_batches_left[cell.names] -= 1
                if not n_batches_left[cell.names]:
                    own_batches = [i for i, (of, _) in enumerate(batches) if of.names == cell.names]
                    answers = [answer for i in own_batches for answer in answers_by_batch.pop(i)]
                    self._store_noise_floor(store, cell, asked_by_cell[cell.names], answers)
                advance(len(batch), ", ".join(cell.names))
                report_status(0, f"noise floor of {', '.join(cell.names)}")  # not counted as rows

    def _store_noise_floor(
        self, store: Store, cell: SweepCell, asked: Asked, answers: list[Any]
    ) -> None:
        """Store the noise floor and chance of a cell, from its repeated answers."""
        in_manifest = store.manifest_cell(*cell.names)
        needs_floor, needs_chance = self._needs_floor_and_chance(store, cell, asked)
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

    def _needs_floor_and_chance(
        self, store: Store, cell: SweepCell, asked: Asked
    ) -> tuple[bool, bool]:
        """Return whether a cell's noise floor, and its chance, are still to be measured."""
        n = len(cell.examples)
        needs_floor = self.noise_floor and noise_floor.needs_floor(store.manifest, cell.names, n)
        return needs_floor, noise_floor.needs_chance(store.manifest_cell(*cell.names), asked)

    def _describe_examples(self, cell: SweepCell) -> dict[str, tuple[str | float | None, ...]]:
        guesses = {} if cell.guess is None else cell.guess.scores
        return {
            example.id: (
                cell.protocol.prompt(self.model, example, chat=self.chat),
                example.prompt,
                example.answer,
                json.dumps([example.prompt[start:end] for start, end in example.evidence]),
                example.question,
                example.cluster,
                guesses.get(example.id),
            )
            for example in cell.examples
        }

    def _check_evidence(self) -> None:
        condition = next((c for c in self.conditions if c.at == "evidence"), None)
        if condition is None:
            return
        for cell in self.cells:
            for example in cell.examples:
                prompt = cell.protocol.prompt(self.model, example, chat=self.chat)
                if not cell.protocol.evidence(example, prompt):
                    raise InputError(
                        f"{condition.name}: task {cell.task.label!r} does not say where the "
                        f"evidence of example {example.id!r} is, protocol {cell.protocol.label!r}"
                    )

    def _new_manifest(self, workers: Workers, question_versions: dict[str, str]) -> dict[str, Any]:
        model = dict(workers.model)
        return {
            "layerroles": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": model,
            "versions": model.pop("versions") | question_versions,
            "seed": self.seed,
            "chat": self.chat,
            "coherence": self.coherence,
            "limit": self.limit,
            "cells": [
                cell.to_manifest()
                | cell.protocol.noted()
                | self.references.to_manifest(cell.task.label)
                for cell in self.cells
            ],
            "conditions": [describe_condition(condition) for condition in self.conditions],
            "noise_floor": [],
            "rows_at_once": {},
            "executors": [],
            "memory_halved": 0,
            "peak_memory": 0,
            "command": command_line(),
            "seconds": 0.0,
            "machine": workers.machine,
        }


def _judge_part(
    unit: Unit, asked_cells: Sequence[Asked], part: JobPart
) -> dict[Key, dict[str, tuple[object, ...]]]:
    """Judge the answers of a part; return values of `ROW` by key, then by example id."""
    rows: dict[Key, dict[str, tuple[object, ...]]] = {}
    for (condition, cell), outputs in part.answers.items():
        answers = asked_cells[cell].judge(outputs)
        answers = add_coherence(part.coherence, asked_cells[cell].requests, outputs, answers)
        rows[unit.conditions[condition].hash, *unit.cells[cell].names] = {
            example.id: _row_values(answer)
            for example, answer in zip(unit.examples, answers, strict=True)
        }
    return rows


def _package_versions(cells: Sequence[SweepCell]) -> dict[str, str]:
    """Return the versions of the packages on which the cells' questions depend.

    Raises:
        InputError: a task names one that is not installed.
    """
    versions = {}
    for task in (cell.task for cell in cells):
        for name in task.question_packages:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                raise InputError(
                    f"task {task.label!r} names the package {name!r}, which is not installed: "
                    f"pip install {name}"
                ) from None
    return versions


def _add_statistics(manifest: dict[str, Any], part: JobPart) -> bool:
    """Add a part's statistics to a manifest; return True if executors or back-offs changed."""
    before = manifest["executors"], manifest["memory_halved"]
    manifest["seconds"] += part.seconds
    manifest["executors"] = sorted({*manifest["executors"], *part.executors})
    manifest["memory_halved"] = max(manifest["memory_halved"], part.times_halved)
    manifest["peak_memory"] = max(manifest["peak_memory"], part.peak_memory)
    return before != (manifest["executors"], manifest["memory_halved"])


def _row_values(answer: Answer) -> tuple[object, ...]:
    details = json.dumps(answer.details, ensure_ascii=False) if answer.details else ""
    return tuple(details if name == "details" else getattr(answer, name) for name in ROW)

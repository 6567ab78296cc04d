"""Run a sweep: ask tasks under protocols and conditions, and store one row per answer.

Example:
    sweep = Sweep(model, tasks, each_layer(model, Skip()), protocols=["generation"], limit=32)
    result = sweep.run("runs/first")          # if interrupted, run it again to resume
    result = read("runs/first")               # the same, later
"""

import datetime
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles import __version__
from layerroles.ablations import INTACT, Condition, as_conditions
from layerroles.backends import Backend, Workers, make_backend
from layerroles.engine import Engine
from layerroles.errors import InputError
from layerroles.models import check_template, prepared
from layerroles.protocols import Asked, Protocol
from layerroles.results import SweepResult, read
from layerroles.sweep import noise_floor, report_file
from layerroles.sweep.command_and_packages import command_line, package_versions
from layerroles.sweep.execution import Execution
from layerroles.sweep.held_out_references import OpenReferences
from layerroles.sweep.manifest_conditions import describe_condition, distinct_conditions
from layerroles.sweep.missing_work import Work
from layerroles.sweep.stopping_rule import (
    Decided,
    check_chance,
    check_kinds,
    describe_looks,
    make_until,
)
from layerroles.sweep.store import Key, lock_folder, open_store
from layerroles.sweep.task_protocol_cells import SweepCell, make_cells
from layerroles.sweep.unit_sizes import TaskSize, choose_size, count_together
from layerroles.sweep.work_units import EngineCall
from layerroles.tasks import Example, Task, as_tasks

_LIMIT, _LIMIT_UNTIL_DECIDED = 32, 512
# The number of examples of each task for which calls are planned, to choose the size of units.
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
        until: `"decided"` or a `Decided`: ask questions under each condition only until its verdict
            is decided, judged after 32, 48, 64, 96, ... examples up to `limit`; `"claims"`: ask
            only until each claim of the literature is decided, with a second kind of ablation only
            where a claim depends on it. None to ask `limit` examples under every condition.
        limit: the largest number of examples of each task; by default 32, and 512 with `until`.
        seed: the seed that selects the tasks' examples.
        engine: the engine that answers; None for `Engine(model)`.
        chat: whether to ask in the chat template of the model's tokenizer, with shots as turns.
        coherence: whether to measure how likely the intact model finds the texts written under each
            condition. Each text is read once more, which adds about a third to the time of a sweep
            by generation.
        noise_floor: whether to ask the intact model again in batches of another shape and count the
            answers that change. This takes as long as one condition that shares no computation with
            others.
        rounds: whether to ask in rounds: 4 examples of every task under every condition, then as
            many again, and so on, so that first results are available early. Tasks with up to 8
            examples are asked in one round. The answers are the same either way.
        only_needed: whether to ablate a layer `after_first` only where that can matter. If a layer
            has conditions both at all positions and `after_first`, the latter then come last, and
            only in families in which the layer is critical at all positions. For the other layers,
            sums over layers use the harm at all positions.
        unit_seconds: the time that a unit of work, whose answers are computed and stored together,
            should take. A run that is killed loses the unit that is being computed. The sizes of
            units are stored in the run folder. They depend on this time only if this process runs
            the model, with the fused executor (many conditions in one batch); otherwise a unit has
            up to `rows_at_once` rows of each cell. A unit is not made so small that much shared
            work is computed again.

    Class attributes:
        rows_at_once: the approximate maximum of rows per cell (task under a protocol) in a unit.

    Raises:
        InputError: nothing to run, an unknown protocol, a task that a protocol cannot ask,
            a task without questions or with repeated ids, a limit
            below 1, two conditions of one name, a site that the model lacks, a reference that holds
            an example that is asked, a task without held-out questions for an open reference,
            `chat` with a model that has no chat template, or `until` with a first look above the
            limit, with a protocol whose scores have no chance level, or for claims with fewer than
            two kinds of ablation of each layer.

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
        until: Decided | str | None = None,
        limit: int | None = None,
        seed: int = 0,
        engine: Engine | None = None,
        chat: bool = False,
        coherence: bool = False,
        noise_floor: bool = True,
        rounds: bool = True,
        only_needed: bool = True,
        unit_seconds: float = 20.0,
    ) -> None:
        tasks = as_tasks(tasks)
        if isinstance(protocols, str) or not isinstance(protocols, Iterable):
            raise InputError(f"protocols={protocols!r} is one, not several: write [{protocols!r}]")
        if limit is None:
            limit = _LIMIT if until is None else _LIMIT_UNTIL_DECIDED
        _check_numbers(limit, seed, unit_seconds)
        if not tasks or not protocols:
            raise InputError("a sweep needs at least one task and one protocol")
        if engine is not None and engine.model is not model:
            raise InputError("the sweep's engine is one of another model: use Engine(model)")
        if chat:
            check_template(model)
        self.model = model
        self.conditions = distinct_conditions([INTACT, *as_conditions(conditions)])
        self.until = make_until(until, limit)
        self.limit = limit
        self.seed = seed
        self.chat = chat
        self.coherence = coherence
        self.noise_floor = noise_floor
        self.rounds = rounds
        self.only_needed = only_needed
        self.unit_seconds = unit_seconds
        self.cells = make_cells(tasks, protocols, limit, seed)
        if self.until is not None:
            check_chance(self.cells)
            if self.until.goal == "claims":
                check_kinds(self.conditions, int(model.cfg.n_layers))
        self._engine = engine
        self.references = OpenReferences(tasks, self.conditions, seed)
        for condition in self.references.distinct_conditions():
            condition.check(model)
        self._check_evidence()
        self.references.check(self.cells)

    def __repr__(self) -> str:
        n_rows = len(self.conditions) * sum(len(cell.examples) for cell in self.cells)
        most = "" if self.until is None else "at most "
        labels = dict.fromkeys(cell.task.label for cell in self.cells)
        ways = dict.fromkeys(cell.protocol.label for cell in self.cells)
        return (
            f"Sweep: {prepared(self.model).name}, {most}{n_rows:,} rows\n"
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
        report: str | Path | None = None,
    ) -> SweepResult:
        """Compute the answers that the run folder lacks; return the result of all its answers.

        Args:
            path: the run folder; created if missing.
            backend: what answers: `"local"`, this process; `"ray"`, workers of a Ray cluster, each
                with its own model (the sweep's model may then be on `device="meta"`); or a
                `Backend`.
            address: the address of the Ray cluster. This and the next three arguments are for
                `"ray"` only; None selects the default described in `backends.Ray`.
            workers: the number of processes that hold a model.
            gpus_per_worker: the number of GPUs of each worker.
            timeout: seconds after which a worker is considered hung.
            report: an HTML file for the report, written after each round and at the end. Until the
                end it is marked as interim and has no verdicts.

        Raises:
            InputError: an unknown backend, or an option that it does not take; the folder or the
                report cannot be written; the folder is damaged or of an early version, or holds
                another run; a prompt is longer than the model's context; no worker can answer.
        """
        options = {"address": address, "workers": workers, "gpus_per_worker": gpus_per_worker}
        chosen_backend = make_backend(backend, options | {"timeout": timeout})
        if report is not None:
            report_file.check_writable(Path(report))
        engine = self._engine or Engine(self.model)
        chosen_backend.check(engine)
        work = self._work(engine)
        asked = {cell.names: work.prepare(cell, cell.examples) for cell in self.cells}
        question_versions = package_versions(self.cells)
        with ExitStack() as closing:
            # Locked before workers are started: another process may be writing to the folder.
            closing.enter_context(lock_folder(Path(path)))
            open_backend = closing.enter_context(chosen_backend.opened(engine))
            store = closing.enter_context(
                open_store(Path(path), self._new_manifest(open_backend.workers, question_versions))
            )
            expected = self._choose_sizes(engine, store.manifest, store.answered_ids())
            for cell in self.cells:
                store.add_examples(
                    *cell.names,
                    self._describe_examples(cell),
                    are_all=len(cell.examples) < self.limit,
                )
            after_round = (
                None if report is None else functools.partial(report_file.write_interim, report)
            )
            minutes = None
            if self.until is not None and self.until.minutes is not None:
                minutes = float(self.until.minutes)
            Execution(
                work, asked, store, open_backend, engine, expected, after_round, minutes
            ).run()
        result = read(path)
        if report is not None:
            report_file.write_report(report, result)
        return result

    def calls(self) -> Iterator[EngineCall]:
        """Yield the engine calls of a run into a new folder, without running them.

        All conditions are included, also those that `only_needed` may skip. In a sweep with
        `until`, each condition is assumed to need `EXPECTED_QUESTIONS`, and conditions that are
        used only if earlier answers require it (`results.find_deferred`) are left out. Each call
        has the maximum size, so work that a run with smaller units repeats is not counted. The
        texts that `coherence` scores are not known beforehand and are left out.

        Raises:
            InputError: a prompt is longer than the model's context.
        """
        engine = self._engine or Engine(self.model)
        for unit in self._work(engine).expected_units():
            asked_cells = [self._prepare(engine, cell, unit.examples) for cell in unit.cells]
            requests = tuple(asked.requests for asked in asked_cells)
            task = unit.cells[0].task.label
            yield EngineCall(task, requests, self.references.conditions(task, unit.conditions))
        n_first = None if self.until is None else self.until.first
        for cell in (replace(cell, examples=cell.examples[:n_first]) for cell in self.cells):
            for batch in noise_floor.split_batches(cell.examples):
                asked_batch = self._prepare(engine, cell, batch)
                if self.noise_floor or noise_floor.needs_chance(cell.to_manifest(), asked_batch):
                    yield EngineCall("noise floor", (asked_batch.requests,), (INTACT,))

    def _prepare(self, engine: Engine, cell: SweepCell, examples: Sequence[Example]) -> Asked:
        try:
            return cell.protocol.prepare(engine, cell.task, list(examples), chat=self.chat)
        except InputError as error:
            raise InputError(f"task {cell.task.label!r}: {error}") from error

    def _work(self, engine: Engine) -> Work:
        return Work(
            cells=self.cells,
            conditions=self.conditions,
            references=self.references,
            prepare=functools.partial(self._prepare, engine),
            rows_at_once=self.rows_at_once,
            coherence=self.coherence,
            noise_floor=self.noise_floor,
            until=None if self.until is None else self.until.goal,
        )

    def _choose_sizes(
        self, engine: Engine, manifest: dict[str, Any], done: Mapping[Key, set[str]]
    ) -> dict[str, float]:
        """Add missing sizes of units to the manifest; return the expected seconds per row by task.

        A task that an earlier version began in this folder, without storing a size, keeps that
        version's size of units.
        """
        begun = {task for (_, task, _), ids in done.items() if ids}
        asked = self._work(engine).asked_first(manifest)
        together = asked[: count_together(len(asked))]
        seconds: dict[str, float] = {}
        for label in dict.fromkeys(cell.task.label for cell in self.cells):
            if label in manifest["rows_at_once"]:
                continue
            cells = [cell for cell in self.cells if cell.task.label == label]

            def call(n: int, k: int, task: str = label, of: list[SweepCell] = cells) -> EngineCall:
                examples = of[0].examples[:n]
                requests = (self._prepare(engine, cell, examples).requests for cell in of)
                conditions = self.references.conditions(task, together[:k])
                return EngineCall(task, tuple(requests), conditions)

            size = TaskSize(self.rows_at_once)
            if label not in begun:
                n_examples, k = min(_N_PLANNED, len(cells[0].examples)), len(together)
                most = self.rows_at_once
                size = choose_size(engine, call, n_examples, k, self.unit_seconds, most)
            manifest["rows_at_once"][label] = size.rows
            if size.examples is not None:
                manifest["examples_at_once"][label] = size.examples
            if size.seconds is not None:
                seconds[label] = size.seconds
        return seconds

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
            "unfinished": [],
            "asked_next": [],
            "rounds": self.rounds,
            "only_needed": self.only_needed,
            **describe_looks(self.until, self.cells),
            "rows_at_once": {},
            "examples_at_once": {},
            "executors": [],
            "memory_halved": 0,
            "peak_memory": 0,
            "command": command_line(),
            "seconds": 0.0,
            "machine": workers.machine,
        }


def _check_numbers(limit: object, seed: object, unit_seconds: object) -> None:
    """Check the limit, the seed and the seconds per unit of a sweep.

    Raises:
        InputError: a number of another type, or outside its range.
    """
    if not isinstance(limit, int):
        raise InputError(f"limit={limit!r} is no whole number: int(...) makes one")
    if limit < 1:
        raise InputError(f"limit={limit!r} asks nothing: use a whole number of 1 or more")
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed={seed!r} is not a whole number of 0 or more")
    if not (isinstance(unit_seconds, int | float) and unit_seconds > 0):
        raise InputError(f"unit_seconds={unit_seconds!r} is not a number of seconds above 0")

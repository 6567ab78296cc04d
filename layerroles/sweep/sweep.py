"""A sweep: conditions x (task, protocol), giving one row per example, into a run folder.

Example:
    sweep = Sweep(model, tasks, each_layer(model, Skip()), protocols=["generation"], limit=32)
    result = sweep.run("runs/first")          # interrupted, the same line goes on where it was
    result = read("runs/first")               # the same, later
"""

import datetime
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles import __version__
from layerroles.ablations import INTACT, Condition, as_conditions
from layerroles.backends import Answering, Backend, Job, Part, Workers
from layerroles.backends import backend as chosen
from layerroles.engine import Engine
from layerroles.errors import InputError
from layerroles.models import check_template, prepared
from layerroles.progress import progress
from layerroles.protocols import Answer, Asked, Protocol, add_coherence
from layerroles.results import SweepResult
from layerroles.sweep import noise_floor
from layerroles.sweep.manifest import command, described
from layerroles.sweep.reading import read as read
from layerroles.sweep.references import References
from layerroles.sweep.status import write_progress
from layerroles.sweep.store import ROW, Key, Store, opened, reserved
from layerroles.sweep.units import Call, Cell, Unit, cells_of, distinct, missing
from layerroles.tasks import Example, Task, as_tasks


class Sweep:
    """What to run; `run` does it.

    Args:
        model: from `load` or `prepare`.
        tasks: whose examples are asked.
        conditions: under which they are asked; the intact model is always added.
        protocols: under each of which every task is asked that does not name its own: labels such
            as `"continuation[norm=byte]"`, or protocols.
        limit: examples of each task.
        seed: of the tasks' examples.
        engine: by default `Engine(model)`.
        chat: ask in the template of the model's tokenizer, shots as turns.
        coherence: measure how likely the intact model finds what was written under each condition;
            each text is read once more, which adds about a third to a sweep by generation alone.
        noise_floor: ask the intact model once more in batches of another shape, and note how many
            answers change; as long as one condition takes that shares nothing with others.

    Class attributes:
        rows_at_once: about how many rows of each cell are asked, and stored, together: what one
            worker does at a stretch, and what a run loses that is killed.

    Raises:
        InputError: nothing to run, an unknown protocol, a task that a protocol cannot ask, a limit
            below 1, two conditions of one name, a site that the model lacks, a reference that
            holds an example that is asked, a task that keeps no questions apart for its own
            reference, or a chat with a model that has no template.

    Example:
        conditions = lr.each_layer(model, lr.Skip())
        sweep = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=4)
        again = sweep.run("runs/again")  # interrupted, the same line goes on where it was
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
    ) -> None:
        tasks = as_tasks(tasks)
        if isinstance(protocols, str) or not isinstance(protocols, Iterable):
            raise InputError(f"protocols={protocols!r} is one, not several: write [{protocols!r}]")
        if not isinstance(limit, int) or limit < 1:
            raise InputError(f"limit={limit!r} asks nothing: use a whole number of 1 or more")
        if not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed={seed!r} is not a whole number of 0 or more")
        if not tasks or not protocols:
            raise InputError("a sweep needs at least one task and one protocol")
        if engine is not None and engine.model is not model:
            raise InputError("the sweep's engine is one of another model: use Engine(model)")
        if chat:
            check_template(model)
        self.model = model
        self.conditions = distinct([INTACT, *as_conditions(conditions)])
        self.limit = limit
        self.seed = seed
        self.chat = chat
        self.coherence = coherence
        self.noise_floor = noise_floor
        self.cells = cells_of(tasks, protocols, limit, seed)
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
        """Run what is not in the run folder yet; returns everything that is in it then.

        Args:
            path: the run folder.
            backend: who answers: `"local"`, this process; `"ray"`, workers of a Ray cluster, each
                with a model of its own (the sweep's may then be one of `device="meta"`); or a
                backend.
            address: of the Ray cluster; of this and what follows `backends.Ray` tells more.
            workers: how many processes hold a model.
            gpus_per_worker: that each of them takes.
            timeout: seconds after which a worker is taken for hung.

        Raises:
            InputError: the folder cannot be written, or holds another run; a prompt is longer than
                the model's context; nobody can answer.
        """
        options = {"address": address, "workers": workers, "gpus_per_worker": gpus_per_worker}
        answering = chosen(backend, options | {"timeout": timeout})
        engine = self._engine or Engine(self.model)
        answering.check(engine)
        asked = {
            cell.names: self._prepare(engine, cell, list(cell.examples)) for cell in self.cells
        }
        with ExitStack() as closing:
            # A folder that somebody writes to is refused before workers are started.
            closing.enter_context(reserved(Path(path)))
            there = closing.enter_context(answering.opened(engine))
            store = closing.enter_context(opened(Path(path), self._manifest(there.workers)))
            for cell in self.cells:
                store.add_examples(*cell.names, self._described(cell))
            work = list(self._work(store.done()))
            total = sum(unit.n_rows for unit in work)
            with write_progress(store.folder, total) as tell:
                with progress(total, "sweep") as advance:
                    for n_rows, now_at in self._do(store, there, engine, work):
                        advance(n_rows, now_at)
                        tell(n_rows, now_at)
                self._ask_again(store, there, engine, asked, tell)
        return read(path)

    def calls(self) -> Iterator[Call]:
        """What a run asks the engine, if nothing is in its folder yet; nothing is run.

        (What `coherence` reads again is what is written, so it is not among it.)

        Raises:
            InputError: a prompt is longer than the model's context.
        """
        engine = self._engine or Engine(self.model)
        for unit in self._work({}):
            asked = [self._prepare(engine, cell, list(unit.examples)) for cell in unit.cells]
            requests = tuple(each.requests for each in asked)
            task = unit.cells[0].task.label
            yield Call(task, requests, self.references.conditions(task, unit.conditions))
        for cell in self.cells:
            for some in noise_floor.batches(cell.examples):
                part = self._prepare(engine, cell, list(some))
                if self.noise_floor or noise_floor.needs_chance(cell.noted(), part):
                    yield Call("noise floor", (part.requests,), (INTACT,))

    def _prepare(self, engine: Engine, cell: Cell, examples: list[Example]) -> Asked:
        try:
            return cell.protocol.prepare(engine, cell.task, examples, chat=self.chat)
        except InputError as error:
            raise InputError(f"task {cell.task.label!r}: {error}") from error

    def _work(self, done: Mapping[Key, set[str]]) -> Iterator[Unit]:
        return missing(self.cells, self.conditions, done, self.rows_at_once)

    def _do(
        self, store: Store, there: Answering, engine: Engine, work: Sequence[Unit]
    ) -> Iterator[tuple[int, str]]:
        """Ask and store; how many rows have been stored, and what they are of, as it is done.

        Answers that depend on what is computed together are stored together, so that a run that
        was interrupted computes the same together again.
        """
        asked: dict[int, list[Asked]] = {}  # of the units that are being answered
        left = [unit.n_rows for unit in work]

        def jobs() -> Iterator[Job]:
            for place, unit in enumerate(work):
                asked[place] = [
                    self._prepare(engine, cell, list(unit.examples)) for cell in unit.cells
                ]
                task = unit.cells[0].task.label
                yield Job(
                    task,
                    tuple(each.requests for each in asked[place]),
                    self.references.conditions(task, unit.conditions),
                    apart=all(each.apart for each in asked[place]),
                    coherence=self.coherence,
                )

        saved = time.monotonic()
        for place, part in there.answers(jobs()):
            unit = work[place]
            rows = _rows(unit, asked[place], part)
            store.add_rows(rows)
            # Rows are what counts: of how long they took, a second may be lost.
            if _note(store.manifest, part) or time.monotonic() - saved > 1:
                store.save_manifest()
                saved = time.monotonic()
            n_rows = sum(map(len, rows.values()))
            left[place] -= n_rows
            if not left[place]:
                del asked[place]
            last = max(condition for condition, _ in part.found)
            yield n_rows, f"{unit.cells[0].task.label}, {unit.conditions[last].name}"
        store.save_manifest()

    def _ask_again(
        self,
        store: Store,
        there: Answering,
        engine: Engine,
        asked: Mapping[tuple[str, str], Asked],
        tell: Callable[[int, str], None],
    ) -> None:
        """Ask the intact model once more, where its noise floor or chance is not known yet."""
        cells = [cell for cell in self.cells if any(self._unknown(store, cell, asked[cell.names]))]
        batches = [
            (cell, list(some)) for cell in cells for some in noise_floor.batches(cell.examples)
        ]
        jobs = (
            Job("noise floor", (self._prepare(engine, cell, some).requests,), (INTACT,))
            for cell, some in batches
        )
        answered: dict[int, list[Any]] = {}
        left = Counter(cell.names for cell, _ in batches)
        with progress(sum(len(some) for _, some in batches), "noise floor") as advance:
            for place, part in there.answers(jobs):
                answered[place] = part.found[0, 0]
                cell, some = batches[place]
                _note(store.manifest, replace(part, seconds=0.0))
                left[cell.names] -= 1
                if not left[cell.names]:
                    mine = [at for at, (of, _) in enumerate(batches) if of.names == cell.names]
                    found = [one for at in mine for one in answered.pop(at)]
                    self._find_out(store, cell, asked[cell.names], found)
                advance(len(some), ", ".join(cell.names))
                tell(0, f"noise floor of {', '.join(cell.names)}")  # these are no rows

    def _find_out(self, store: Store, cell: Cell, asked: Asked, found: list[Any]) -> None:
        """Store the noise floor and chance of a cell that was asked once more."""
        noted = store.cell(*cell.names)
        floor, chance = self._unknown(store, cell, asked)
        if floor:
            ids = (example.id for example in cell.examples)
            judged = dict(zip(ids, asked.judge(found), strict=True))
            before = store.answers(INTACT.hash, *cell.names)
            store.add_noise_floor(noise_floor.noise_floor(noted, before, judged))
        if (estimate := asked.shuffled(found)) is not None:
            noted["shuffled"] = estimate
            if chance:
                noted |= {"chance": estimate, "chance_from": "shuffled answers"}
        store.save_manifest()

    def _unknown(self, store: Store, cell: Cell, asked: Asked) -> tuple[bool, bool]:
        """Whether a cell's noise floor, and its chance, are still to be found out."""
        n = len(cell.examples)
        floor = self.noise_floor and noise_floor.needs_floor(store.manifest, cell.names, n)
        return floor, noise_floor.needs_chance(store.cell(*cell.names), asked)

    def _described(self, cell: Cell) -> dict[str, tuple[str | float | None, ...]]:
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
        needed = next((c for c in self.conditions if c.at == "evidence"), None)
        if needed is None:
            return
        for cell in self.cells:
            for example in cell.examples:
                prompt = cell.protocol.prompt(self.model, example, chat=self.chat)
                if not cell.protocol.evidence(example, prompt):
                    raise InputError(
                        f"{needed.name}: task {cell.task.label!r} does not say where the evidence "
                        f"of example {example.id!r} is, protocol {cell.protocol.label!r}"
                    )

    def _manifest(self, workers: Workers) -> dict[str, Any]:
        model = dict(workers.model)
        return {
            "layerroles": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": model,
            "versions": model.pop("versions") | _versions(self.cells),
            "seed": self.seed,
            "chat": self.chat,
            "coherence": self.coherence,
            "limit": self.limit,
            "cells": [
                cell.noted() | cell.protocol.noted() | self.references.noted(cell.task.label)
                for cell in self.cells
            ],
            "conditions": [described(condition) for condition in self.conditions],
            "noise_floor": [],
            "executors": [],
            "memory_halved": 0,
            "peak_memory": 0,
            "command": command(),
            "seconds": 0.0,
            "machine": workers.machine,
        }


def _rows(
    unit: Unit, asked: Sequence[Asked], part: Part
) -> dict[Key, dict[str, tuple[object, ...]]]:
    """The rows of the conditions that are answered."""
    rows: dict[Key, dict[str, tuple[object, ...]]] = {}
    for (place, which), found in part.found.items():
        answers = asked[which].judge(found)
        answers = add_coherence(part.coherence, asked[which].requests, found, answers)
        rows[unit.conditions[place].hash, *unit.cells[which].names] = {
            example.id: _values(answer)
            for example, answer in zip(unit.examples, answers, strict=True)
        }
    return rows


def _versions(cells: Sequence[Cell]) -> dict[str, str]:
    """Versions of packages that decide what some of these cells ask."""
    return {name: version(name) for cell in cells for name in cell.task.packages}


def _note(manifest: dict[str, Any], part: Part) -> bool:
    """Add to a manifest what it took to answer; whether it tells of more than time and memory."""
    before = manifest["executors"], manifest["memory_halved"]
    manifest["seconds"] += part.seconds
    manifest["executors"] = sorted({*manifest["executors"], *part.executors})
    manifest["memory_halved"] = max(manifest["memory_halved"], part.halved)
    manifest["peak_memory"] = max(manifest["peak_memory"], part.peak_memory)
    return before != (manifest["executors"], manifest["memory_halved"])


def _values(answer: Answer) -> tuple[object, ...]:
    details = json.dumps(answer.details, ensure_ascii=False) if answer.details else ""
    return tuple(details if name == "details" else getattr(answer, name) for name in ROW)

"""A sweep: conditions x (task, protocol), giving one row per example, into a run folder.

Example:
    sweep = Sweep(model, tasks, each_layer(model, Skip()), protocols=["generation"], limit=32)
    result = sweep.run("runs/first")          # interrupted, the same line goes on where it was
    result = read("runs/first")               # the same, later
"""

import datetime
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from layerroles import __version__, again
from layerroles.ablations import INTACT, Condition
from layerroles.chat import check_template
from layerroles.engine import Engine
from layerroles.errors import InputError
from layerroles.frame import read as read
from layerroles.manifest import command, described
from layerroles.models import provenance
from layerroles.progress import progress
from layerroles.protocols import Answer, Asked, Protocol
from layerroles.protocols.coherence import add_coherence
from layerroles.results import SweepResult
from layerroles.status import telling
from layerroles.store import ROW, Key, Store, opened
from layerroles.tasks import Example, LmEval, Task
from layerroles.units import Call, Cell, Unit, cells_of, distinct

# Conditions that are asked together: what they have in common is computed once.
_CONDITIONS_AT_ONCE = 64


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

    Raises:
        InputError: nothing to run, an unknown protocol, a task that a protocol cannot ask, a limit
            below 1, two conditions of one name, a site that the model lacks, a reference that
            holds an example that is asked, or a chat with a model that has no template.
    """

    def __init__(
        self,
        model: TransformerBridge,
        tasks: Sequence[Task],
        conditions: Sequence[Condition],
        *,
        protocols: Sequence[str | Protocol] = ("continuation", "generation"),
        limit: int = 32,
        seed: int = 0,
        engine: Engine | None = None,
        chat: bool = False,
        coherence: bool = False,
        noise_floor: bool = True,
    ) -> None:
        if limit < 1:
            raise InputError(f"limit={limit} asks nothing: use a limit of 1 or more")
        if not tasks or not protocols:
            raise InputError("a sweep needs at least one task and one protocol")
        if engine is not None and engine.model is not model:
            raise InputError("the sweep's engine is one of another model: use Engine(model)")
        if chat:
            check_template(model)
        self.model = model
        self.conditions = distinct([INTACT, *conditions])
        self.limit = limit
        self.seed = seed
        self.chat = chat
        self.coherence = coherence
        self.noise_floor = noise_floor
        self.cells = cells_of(tasks, protocols, limit, seed)
        self._engine = engine
        for condition in self.conditions:
            condition.check(model)
        self._check_evidence()
        self._check_references()

    def run(self, path: str | Path) -> SweepResult:
        """Run what is not in the run folder yet; returns everything that is in it then.

        Raises:
            InputError: the folder cannot be written, or holds another run; a prompt is longer than
                the model's context.
        """
        engine = self._engine or Engine(self.model)
        engine.used.clear()  # the manifest tells what answered here
        asked = {
            cell.names: self._prepare(engine, cell, list(cell.examples)) for cell in self.cells
        }
        with opened(Path(path), self._manifest(engine)) as store:
            for cell in self.cells:
                store.add_examples(*cell.names, self._described(cell))
            work = list(self._work(store.done()))
            total = sum(unit.n_rows for unit in work)
            with telling(store.folder, total) as tell:
                with progress(total, "sweep") as advance:
                    for unit in work:
                        ready = self._ready(engine, unit, asked)
                        for n_rows, now_at in self._do(store, engine, unit, ready):
                            advance(n_rows, now_at)
                            tell(n_rows, now_at)
                for cell in self.cells:
                    self._ask_again(store, engine, cell, asked[cell.names])
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
            yield Call(unit.cells[0].task.label, requests, unit.conditions)
        for cell in self.cells:
            for some in again.batches(cell.examples):
                part = self._prepare(engine, cell, list(some))
                if self.noise_floor or again.needs_chance(cell.noted(), part):
                    yield Call("noise floor", (part.requests,), (INTACT,))

    def _prepare(self, engine: Engine, cell: Cell, examples: list[Example]) -> Asked:
        try:
            return cell.protocol.prepare(engine, cell.task, examples, chat=self.chat)
        except InputError as error:
            raise InputError(f"task {cell.task.label!r}: {error}") from error

    def _ready(
        self, engine: Engine, unit: Unit, asked: Mapping[tuple[str, str], Asked]
    ) -> list[Asked]:
        """What is asked in each cell of a unit: all of its examples, or some."""
        whole = len(unit.examples) == len(unit.cells[0].examples)
        return [
            asked[cell.names] if whole else self._prepare(engine, cell, list(unit.examples))
            for cell in unit.cells
        ]

    def _work(self, done: Mapping[Key, set[str]]) -> Iterator[Unit]:
        """What is missing: conditions that lack the same examples of a task under some protocols.

        A task's protocols are asked together, since most of their contexts are the same.
        """
        for cells in self._by_task():
            lacking: dict[tuple[tuple[int, ...], tuple[str, ...]], list[Condition]] = {}
            for condition in self.conditions:
                # Of this condition: the examples that are missing, with the cells that miss them.
                missing: dict[tuple[str, ...], list[int]] = {}
                for place, cell in enumerate(cells):
                    known = done.get((condition.hash, *cell.names), set())
                    ids = tuple(example.id for example in cell.examples if example.id not in known)
                    missing.setdefault(ids, []).append(place)
                for ids, places in missing.items():
                    if ids:
                        lacking.setdefault((tuple(places), ids), []).append(condition)
            for (those, ids), conditions in lacking.items():
                wanted = set(ids)
                examples = tuple(one for one in cells[0].examples if one.id in wanted)
                for start in range(0, len(conditions), _CONDITIONS_AT_ONCE):
                    some = tuple(conditions[start : start + _CONDITIONS_AT_ONCE])
                    yield Unit(tuple(cells[place] for place in those), some, examples)

    def _by_task(self) -> list[list[Cell]]:
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.task.label, []).append(cell)
        return list(found.values())

    def _do(
        self, store: Store, engine: Engine, unit: Unit, asked: Sequence[Asked]
    ) -> Iterator[tuple[int, str]]:
        """Ask and store; how many rows have been stored, and what they are of, as it is done.

        Answers that depend on what is computed together are stored together, so that a run that
        was interrupted computes the same together again.
        """
        began = time.monotonic()
        answered: dict[int, dict[int, list[Any]]] = {}  # by the places of conditions and cells
        apart = all(each.apart for each in asked)
        whole: set[int] = set()
        requests = [each.requests for each in asked]
        for which, place, found in engine.answer_each(requests, unit.conditions):
            mine = answered.setdefault(place, {})
            mine[which] = found
            if len(mine) == len(unit.cells):
                whole.add(place)
            if whole and (apart or len(whole) == len(unit.conditions)):
                ready = {each: answered.pop(each) for each in sorted(whole)}
                rows = self._rows(engine, unit, asked, ready)
                store.add_rows(rows)
                whole.clear()
                _note(store.manifest, engine, time.monotonic() - began)
                store.save_manifest()
                began = time.monotonic()
                now_at = f"{unit.cells[0].task.label}, {unit.conditions[place].name}"
                yield sum(map(len, rows.values())), now_at

    def _rows(
        self,
        engine: Engine,
        unit: Unit,
        asked: Sequence[Asked],
        answered: dict[int, dict[int, list[Any]]],
    ) -> dict[Key, dict[str, tuple[object, ...]]]:
        """The rows of the conditions that are answered."""
        judged = {
            (place, which): asked[which].judge(found)
            for place, each in answered.items()
            for which, found in each.items()
        }
        if self.coherence:
            found = {(place, which): answered[place][which] for place, which in judged}
            requests = {(place, which): asked[which].requests for place, which in judged}
            judged = add_coherence(engine, requests, found, judged)
        return {
            (unit.conditions[place].hash, *unit.cells[which].names): {
                example.id: _values(answer)
                for example, answer in zip(unit.examples, answers, strict=True)
            }
            for (place, which), answers in judged.items()
        }

    def _ask_again(self, store: Store, engine: Engine, cell: Cell, asked: Asked) -> None:
        """Ask the intact model once more, where its noise floor or chance is not known yet."""
        noted = store.cell(*cell.names)
        floor = self.noise_floor and again.needs_floor(
            store.manifest, cell.names, len(cell.examples)
        )
        chance = again.needs_chance(noted, asked)
        if not floor and not chance:
            return
        found: list[Any] = []
        with progress(len(cell.examples), "noise floor") as advance:
            for some in again.batches(cell.examples):
                part = self._prepare(engine, cell, list(some))
                for _, _, answers in engine.answer_each([part.requests], [INTACT]):
                    found += answers
                advance(len(some), ", ".join(cell.names))
        if floor:
            ids = (example.id for example in cell.examples)
            judged = dict(zip(ids, asked.judge(found), strict=True))
            before = store.answers(INTACT.hash, *cell.names)
            store.add_noise_floor(again.noise_floor(noted, before, judged))
        if chance and (estimate := asked.shuffled(found)) is not None:
            noted |= {"chance": estimate, "chance_from": "shuffled answers"}
        _note(store.manifest, engine, 0.0)
        store.save_manifest()

    def _described(self, cell: Cell) -> dict[str, tuple[str, str, str, str]]:
        return {
            example.id: (
                cell.protocol.prompt(self.model, example, chat=self.chat),
                example.prompt,
                example.answer,
                json.dumps([example.prompt[start:end] for start, end in example.evidence]),
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

    def _check_references(self) -> None:
        # A plain text has no context: it is what is asked.
        asked = {
            example.context(worked=worked) or example.answer
            for cell in self.cells
            for example in cell.examples
            for worked in (True, False)
        }
        for condition in self.conditions:
            for reference in condition.references:
                if asked & set(reference.prompts):
                    raise InputError(
                        f"condition {condition.name!r}: its reference holds prompts that the sweep "
                        f"asks; lower the limit, or use other prompts"
                    )

    def _manifest(self, engine: Engine) -> dict[str, Any]:
        return {
            "layerroles": __version__,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": (model := provenance(self.model).to_dict()),
            "versions": model.pop("versions") | _versions(self.cells),
            "seed": self.seed,
            "chat": self.chat,
            "coherence": self.coherence,
            "limit": self.limit,
            "cells": [{**cell.noted(), **cell.protocol.noted()} for cell in self.cells],
            "conditions": [described(condition) for condition in self.conditions],
            "noise_floor": [],
            "executors": [],
            "memory_halved": 0,
            "peak_memory": 0,
            "command": command(),
            "seconds": 0.0,
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {model['device']}",
        }


def _versions(cells: Sequence[Cell]) -> dict[str, str]:
    """Versions of packages that decide what some of these cells ask."""
    asked = any(isinstance(cell.task, LmEval) for cell in cells)
    return {"lm-eval": version("lm_eval")} if asked else {}


def _note(manifest: dict[str, Any], engine: Engine, seconds: float) -> None:
    """Add to a manifest what it took to answer."""
    manifest["seconds"] += seconds
    manifest["executors"] = sorted({*manifest["executors"], *engine.used})
    manifest["memory_halved"] = max(manifest["memory_halved"], engine.halved)
    manifest["peak_memory"] = max(manifest["peak_memory"], engine.peak())


def _values(answer: Answer) -> tuple[object, ...]:
    details = json.dumps(answer.details, ensure_ascii=False) if answer.details else ""
    return tuple(details if name == "details" else getattr(answer, name) for name in ROW)

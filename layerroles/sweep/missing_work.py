"""Find what a sweep asks, and split the answers that a run folder lacks into units of work.

A unit is work whose answers are computed and stored together (`work_units.Unit`). A cell is one
task under one protocol.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any

from layerroles.ablations import Condition
from layerroles.protocols import Asked
from layerroles.results import find_deferred
from layerroles.sweep.held_out_references import OpenReferences
from layerroles.sweep.manifest_conditions import describe_condition
from layerroles.sweep.next_counts import count_first
from layerroles.sweep.stopping_rule import Goal
from layerroles.sweep.store import Key
from layerroles.sweep.task_protocol_cells import SweepCell
from layerroles.sweep.unit_sizes import UnitSizes, count_together
from layerroles.sweep.work_units import Unit
from layerroles.tasks import Example

# The mean number of questions per condition that a sweep until="decided" is expected to ask: the
# mean in simulations with a mixture of layers like that of SmolLM2-135M (`benchmarks/looks.py`).
EXPECTED_QUESTIONS = 170
_ONE_ROUND: Mapping[str, Any] = {
    **{"rows_at_once": {}, "examples_at_once": {}},
    **{"rounds": False, "only_needed": False, "looks": {}},
}


@dataclass(frozen=True)
class Work:
    """The cells and conditions that a sweep asks, and the settings that its execution needs.

    Attributes:
        cells: the cells.
        conditions: the conditions, the intact model first.
        references: the references (prompts with the intact model's statistics) of the conditions.
        prepare: a function that encodes examples of a cell.
        rows_at_once: the approximate maximum of rows per cell in a unit.
        coherence: whether the intact model scores the generated texts.
        noise_floor: whether the intact model is asked a second time.
        until: what the sweep decides (`Decided.goal`: "layers" or "claims") before it stops asking;
            None if it asks all questions.
    """

    cells: Sequence[SweepCell]
    conditions: Sequence[Condition]
    references: OpenReferences
    prepare: Callable[[SweepCell, Sequence[Example]], Asked]
    rows_at_once: int
    coherence: bool
    noise_floor: bool
    until: Goal | None = None

    def asked_first(self, manifest: Mapping[str, Any]) -> list[Condition]:
        """Return the conditions that no earlier answers can make unnecessary (`find_deferred`)."""
        entries = [describe_condition(condition) for condition in self.conditions]
        deferred = find_deferred(entries, self.plan, only_needed=manifest["only_needed"])
        return [condition for condition in self.conditions if condition.hash not in deferred]

    @property
    def plan(self) -> dict[str, Any]:
        """What one call of `Sweep.run` asks (a command), as a dict; see `next_cells.is_answered`.

        The manifest lists it under `unfinished` as long as answers are missing.
        """
        return {
            "cells": [[*cell.names, len(cell.examples)] for cell in self.cells],
            "conditions": [condition.hash for condition in self.conditions],
            **({"until": self.until} if self.until else {}),
        }

    def first_cells(self, manifest: Mapping[str, Any]) -> list[SweepCell]:
        """Return the cells, each cut to the examples that are asked first (`count_first`)."""
        looks = manifest["looks"]
        return [
            _cut(cell, count_first(self.plan, looks, cell.task.label, len(cell.examples)))
            for cell in self.cells
        ]

    def first_missing_units(
        self, done: Mapping[Key, set[str]], manifest: Mapping[str, Any] = _ONE_ROUND
    ) -> Iterator[Unit]:
        """Yield units with the missing answers to the first questions, which are always asked.

        These are the examples of `first_cells` under the conditions of `asked_first`.

        Args:
            done: the ids of the answered examples, by condition hash, task and protocol.
            manifest: the manifest of the run folder; by default one that asks everything in a
                single round, with units of the maximum size.
        """
        asked = self.asked_first(manifest)
        sizes = self._sizes(len(asked), manifest, rounds=manifest["rounds"])
        return missing_units(self.first_cells(manifest), asked, done, sizes)

    def expected_units(self) -> Iterator[Unit]:
        """Yield the units that a run into an empty folder is expected to answer.

        Without `until`, these are all questions under all conditions, in a single round. With
        `until`, each condition is assumed to need `EXPECTED_QUESTIONS`, and conditions that earlier
        answers may make unnecessary (`find_deferred`) are left out.
        """
        if not self.until:
            return self.first_missing_units({})
        cells = [_cut(cell, EXPECTED_QUESTIONS) for cell in self.cells]
        conditions = self.asked_first({"only_needed": True})
        return replace(self, cells=cells, conditions=conditions, until=None).first_missing_units({})

    def needed_missing_units(
        self, done: Mapping[Key, set[str]], manifest: Mapping[str, Any], needed: Mapping[Key, int]
    ) -> Iterator[Unit]:
        """Yield units with the missing answers among the first `needed[key]` examples of each key.

        No unit has examples from both sides of a look (a number of questions after which the
        results are judged). So the units are the same whether the questions up to several looks are
        asked in one call or in several.

        Args:
            done: the ids of the answered examples, by condition hash, task and protocol.
            manifest: the manifest of the run folder.
            needed: the number of examples by condition hash, task and protocol.
        """
        for task, n in dict.fromkeys((task, n) for (_, task, _), n in needed.items()):
            cells = [_cut(cell, n) for cell in self.cells if cell.task.label == task]
            wanted = {key for key, target in needed.items() if (key[1], target) == (task, n)}
            hashes = {condition for condition, _, _ in wanted}
            asked = [condition for condition in self.conditions if condition.hash in hashes]
            if not cells or not asked:  # the questions of another command
                continue
            sizes = self._sizes(len(asked), manifest, rounds=False)
            ends = [size for size in manifest["looks"].get(task, ()) if size < n]
            yield from missing_units(cells, asked, done, replace(sizes, looks=ends), wanted)

    def _sizes(self, n_conditions: int, manifest: Mapping[str, Any], *, rounds: bool) -> UnitSizes:
        return UnitSizes(
            count_together(n_conditions),
            self.rows_at_once,
            manifest["rows_at_once"],
            manifest["examples_at_once"],
            rounds,
        )


def _cut(cell: SweepCell, n: int) -> SweepCell:
    return replace(cell, examples=cell.examples[:n])


def missing_units(
    cells: Sequence[SweepCell],
    conditions: Sequence[Condition],
    done: Mapping[Key, set[str]],
    sizes: UnitSizes,
    wanted: Collection[Key] | None = None,
) -> Iterator[Unit]:
    """Yield units that together ask for all answers that are not stored yet.

    A unit holds conditions that lack answers to the same examples. The cells of a task (one for
    each protocol) are in one unit, since most of their contexts are the same.

    Args:
        cells: the cells of the sweep.
        conditions: the conditions under which the examples are asked.
        done: the ids of the answered examples, by condition hash, task and protocol.
        sizes: the sizes of units.
        wanted: the keys (condition hash, task, protocol) to ask; None for every condition in every
            cell.
    """
    for number, task_cells, block in _split_blocks(cells, sizes):
        lacking: dict[tuple[tuple[int, ...], tuple[str, ...]], list[Condition]] = {}
        for condition in conditions:
            # The examples that are missing under this condition, and the cells that lack them.
            cells_lacking: dict[tuple[str, ...], list[int]] = {}
            for index, cell in enumerate(task_cells):
                key = (condition.hash, *cell.names)
                if wanted is not None and key not in wanted:
                    continue
                answered = done.get(key, set())
                ids = tuple(example.id for example in block if example.id not in answered)
                cells_lacking.setdefault(ids, []).append(index)
            for ids, indices in cells_lacking.items():
                if ids:
                    lacking.setdefault((tuple(indices), ids), []).append(condition)
        for (places, ids), together in lacking.items():
            asked = set(ids)
            examples = tuple(example for example in block if example.id in asked)
            own_cells = tuple(task_cells[index] for index in places)
            step = sizes.n_conditions(own_cells[0].task.label, len(examples))
            for start in range(0, len(together), step):
                yield Unit(own_cells, tuple(together[start : start + step]), examples, number)


def _split_blocks(
    cells: Sequence[SweepCell], sizes: UnitSizes
) -> list[tuple[int, list[SweepCell], tuple[Example, ...]]]:
    """Return (round, a task's cells, examples) of each block, in the order in which they are asked.

    A block holds consecutive examples that are computed together. The round is -1 if the sweep does
    not ask in rounds. The blocks of all tasks are interleaved within a round, so that at any time
    about the same share of each task is done.

    Blocks do not depend on which rows are stored or on the backend, so a resumed run and all
    workers compute the same examples together.
    """
    by_task: dict[str, list[SweepCell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task.label, []).append(cell)
    blocks: list[tuple[float, int, list[SweepCell], tuple[Example, ...]]] = []
    for label, task_cells in by_task.items():
        examples = task_cells[0].examples
        ends_of_rounds = sizes.ends_of_rounds(len(examples))
        for number, (begin, end) in enumerate(pairwise([0, *ends_of_rounds])):
            n_blocks = math.ceil((end - begin) / sizes.n_examples(label))
            cuts = [begin + (end - begin) * i // n_blocks for i in range(n_blocks + 1)]
            for first, last in pairwise(cuts):
                place = number + (first - begin) / (end - begin)
                blocks.append((place, number, task_cells, examples[first:last]))
    return [
        (number if sizes.rounds else -1, task_cells, block)
        for _, number, task_cells, block in sorted(blocks, key=itemgetter(0))
    ]

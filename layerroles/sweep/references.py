"""What each task of a sweep is asked under, and that no reference holds what is asked.

A reference without a source is made of the asked task's own held-out prompts. So a condition that
declares one is another condition for each task: the same edits, the same name, other prompts. Rows
are stored under the condition that the user gave; the manifest says which prompts each cell had.
"""

import re
from collections.abc import Iterable, Sequence, Set

from layerroles.ablations import Condition, Reference
from layerroles.errors import InputError
from layerroles.sweep.units import Cell
from layerroles.tasks import Example, Task


class References:
    """The references of a sweep, those without a source made of each task's prompts.

    Args:
        tasks: that are asked.
        conditions: that the user gave.
        seed: of the sweep.

    Raises:
        InputError: a task has no prompts that it does not ask, or too few for an ablation.
    """

    def __init__(self, tasks: Iterable[Task], conditions: Sequence[Condition], seed: int) -> None:
        declared = {one for condition in conditions for one in condition.references}
        is_open = sorted((one for one in declared if one.is_open), key=lambda one: one.digest)
        self._made: dict[str, dict[Reference, Reference]] = {}
        self._conditions: dict[str, dict[Condition, Condition]] = {}
        for task in tasks:
            try:
                made = {one: one.of_task(task, seed) for one in is_open}
                self._conditions[task.label] = {
                    one: one.with_references(made) if made.keys() & one.references.keys() else one
                    for one in conditions
                }
            except InputError as error:
                raise InputError(f"task {task.label!r}: {error}") from error
            self._made[task.label] = made

    def conditions(
        self, task: str, conditions: Iterable[Condition] | None = None
    ) -> tuple[Condition, ...]:
        """What a task is asked under in place of some conditions, by default of all."""
        known = self._conditions[task]
        return tuple(known.values() if conditions is None else (known[one] for one in conditions))

    def distinct_conditions(self) -> list[Condition]:
        """Everything that some task is asked under."""
        return list(dict.fromkeys(one for task in self._made for one in self.conditions(task)))

    def noted(self, task: str) -> dict[str, dict[str, str]]:
        """What a manifest says of a task's cells: hashes of the prompts, by the open reference."""
        made = self._made[task]
        return {"references": {one.digest: made[one].digest for one in made}} if made else {}

    def check(self, cells: Sequence[Cell]) -> None:
        """Check that no reference holds a question that is asked, with or without its answer.

        An open reference is held against the questions of its own task.

        Raises:
            InputError: one does.
        """
        everything = _asked(example for cell in cells for example in cell.examples)
        checked: set[tuple[str, Reference]] = set()
        for task, known in self._conditions.items():
            own = _asked(e for cell in cells if cell.task.label == task for e in cell.examples)
            made = self._made[task].values()
            for given, condition in known.items():
                for reference in condition.references:
                    of = task if reference in made else ""
                    if (of, reference) in checked:
                        continue
                    checked.add((of, reference))
                    if _holds(reference, own if of else everything):
                        raise InputError(
                            f"condition {given.name!r}: its reference holds prompts that the sweep "
                            f"asks; lower the limit, or use others, as in lr.Reference(), which "
                            f"takes each task's own that are not asked"
                        )


def _asked(examples: Iterable[Example]) -> set[str]:
    """The texts that no reference may hold: questions with and without shots and answers."""
    found = set()
    for example in examples:
        if not example.prompt:  # a plain text is what is asked
            found.add(example.answer)
            continue
        found |= {example.context(), example.context(worked=True), example.prompt}
        answers = (example.answer, example.solution) if example.solution else (example.answer,)
        found |= {f"{example.prompt} {answer}" for answer in answers}
    return found


def _holds(reference: Reference, asked: Set[str]) -> bool:
    """Whether a prompt, or a stretch of it between blank lines, is one of these texts."""
    longest = max(map(len, asked), default=0)
    for prompt in reference.prompts:
        breaks = [found.span() for found in re.finditer("\n\n", prompt)]
        starts = [0, *(end for _, end in breaks)]
        ends = [*(start for start, _ in breaks), len(prompt)]
        for first, start in enumerate(starts):
            for end in ends[first:]:
                if end - start > longest:
                    break
                if prompt[start:end] in asked:
                    return True
    return False

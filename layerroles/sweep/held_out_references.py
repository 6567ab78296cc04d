"""Fill a sweep's open references for each task, and check references for questions that are asked.

A reference holds prompts, and the statistics of the intact model on them that ablations use. An
open reference is one without prompts; for each task, it is filled with the task's held-out prompts.
So a condition with an open reference becomes a different condition for each task, with the same
edits and name but other prompts. Rows are stored under the condition that the user gave; the
manifest says which prompts were used in each cell (a task under a protocol).
"""

import re
from collections.abc import Iterable, Sequence, Set

from layerroles.ablations import Condition, Reference
from layerroles.errors import InputError
from layerroles.sweep.task_protocol_cells import SweepCell
from layerroles.tasks import Example, Task


class OpenReferences:
    """The conditions of a sweep for each task, with open references filled from that task.

    Args:
        tasks: the tasks of the sweep.
        conditions: the conditions that the user gave.
        seed: the seed of the sweep.

    Raises:
        InputError: a task has no held-out prompts, or too few for an ablation.
    """

    def __init__(self, tasks: Iterable[Task], conditions: Sequence[Condition], seed: int) -> None:
        references = {reference for condition in conditions for reference in condition.references}
        is_open = [reference for reference in references if reference.is_open]
        is_open.sort(key=lambda reference: reference.digest)
        self._open_made: dict[str, dict[Reference, Reference]] = {}
        self._by_task: dict[str, dict[Condition, Condition]] = {}
        for task in tasks:
            try:
                made = {reference: reference.of_task(task, seed) for reference in is_open}
                self._by_task[task.label] = {
                    condition: condition.with_references(made)
                    if made.keys() & condition.references.keys()
                    else condition
                    for condition in conditions
                }
            except InputError as error:
                raise InputError(f"task {task.label!r}: {error}") from error
            self._open_made[task.label] = made

    def conditions(
        self, task: str, conditions: Iterable[Condition] | None = None
    ) -> tuple[Condition, ...]:
        """Return conditions (None for all) with open references filled from a task's prompts."""
        resolved = self._by_task[task]
        given = resolved if conditions is None else conditions
        return tuple(resolved[condition] for condition in given)

    def distinct_conditions(self) -> list[Condition]:
        """Return the distinct conditions of all tasks, with open references filled."""
        return list(dict.fromkeys(one for task in self._by_task for one in self.conditions(task)))

    def to_manifest(self, task: str) -> dict[str, dict[str, str]]:
        """Return the part of a task's manifest entries that says how open references were filled.

        Its key "references" maps the digest of each open reference to the digest of the reference
        that was made for this task. Empty if there is no open reference.
        """
        made = self._open_made[task]
        if not made:
            return {}
        return {"references": {given.digest: resolved.digest for given, resolved in made.items()}}

    def check(self, cells: Sequence[SweepCell]) -> None:
        """Check that no reference contains a question that is asked, with or without its answer.

        An open reference is compared with the questions of its own task only.

        Raises:
            InputError: a reference contains such a question.
        """
        all_texts = _texts_asked(example for cell in cells for example in cell.examples)
        checked: set[tuple[str, Reference]] = set()
        for task, resolved in self._by_task.items():
            task_texts = _texts_asked(
                e for cell in cells if cell.task.label == task for e in cell.examples
            )
            made = self._open_made[task].values()
            for given, condition in resolved.items():
                for reference in condition.references:
                    own_task = task if reference in made else ""
                    if (own_task, reference) in checked:
                        continue
                    checked.add((own_task, reference))
                    if _contains_any(reference, task_texts if own_task else all_texts):
                        raise InputError(
                            f"condition {given.name!r}: its reference holds prompts that the sweep "
                            f"asks; lower the limit, or use others, as in lr.Reference(), which "
                            f"takes each task's own that are not asked"
                        )


def _texts_asked(examples: Iterable[Example]) -> set[str]:
    """Return texts that no reference may contain: questions, with and without shots and answers."""
    texts = set()
    for example in examples:
        if not example.prompt:  # a plain text to score, which is the answer
            texts.add(example.answer)
            continue
        texts |= {example.context(), example.context(worked=True), example.prompt}
        answers = (example.answer, example.solution) if example.solution else (example.answer,)
        texts |= {f"{example.prompt} {answer}" for answer in answers}
    return texts


def _contains_any(reference: Reference, texts: Set[str]) -> bool:
    """Return whether a prompt of a reference, or consecutive paragraphs of one, equals a text."""
    longest = max(map(len, texts), default=0)
    for prompt in reference.prompts:
        breaks = [match.span() for match in re.finditer("\n\n", prompt)]
        starts = [0, *(end for _, end in breaks)]
        ends = [*(start for start, _ in breaks), len(prompt)]
        for first, start in enumerate(starts):
            for end in ends[first:]:
                if end - start > longest:
                    break
                if prompt[start:end] in texts:
                    return True
    return False

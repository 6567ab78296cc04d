"""Identify rows that ask the same question in different tasks, protocols or contexts.

The same question has the same id in every task that asks it, or the same `question` (such as a
digest of an lm-eval document) if the task gives one. Ids in users' files may agree by accident, so
tasks share questions by their ids only if the answers of all shared ids agree too.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

# Example id to the name of its question, by task.
QuestionNames = Mapping[str, Mapping[str, str]]


class _Question(NamedTuple):
    """A question: its name, whether the task gives the name (else an example's id), its answer."""

    name: str
    is_given: bool
    answer: str


def name_questions(frame: pd.DataFrame, examples: pd.DataFrame) -> QuestionNames:
    """Map task and example id to the name of the question, which is the same in all tasks.

    Args:
        frame: the rows of a sweep.
        examples: a row per task and example, with `answer` and perhaps `question`; if empty, tasks
            share no questions.
    """
    ids: dict[str, list[str]] = defaultdict(list)
    for task, example in _text_rows(frame[["task", "example"]].drop_duplicates()):
        ids[task].append(example)
    known = _read_examples(examples)
    questions = {task: _name_by_example(task, ids[task], known) for task in sorted(ids)}
    groups: list[list[str]] = []
    for task in questions:
        for group in groups:
            if all(_share_questions(questions[task], questions[other]) for other in group):
                group.append(task)
                break
        else:
            groups.append([task])
    first_task = {task: group[0] for group in groups for task in group}
    return {
        task: {
            example: each.name if each.is_given else f"{first_task[task]}\n{each.name}"
            for example, each in by_example.items()
        }
        for task, by_example in questions.items()
    }


def _read_examples(examples: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """Return `question` and `answer` by task and example; "" where one is unknown."""
    columns = ["task", "example", "question", "answer"]
    rows = _text_rows(examples.reindex(columns=columns)) if not examples.empty else []
    return {(task, id): (question, answer) for task, id, question, answer in reversed(rows)}


def _text_rows(frame: pd.DataFrame) -> list[list[str]]:
    """Return the rows as lists of text, "" for a missing value."""
    text = frame.astype(object).where(frame.notna(), "").astype(str)
    rows: list[list[str]] = text.to_numpy(object).tolist()
    return rows


def _name_by_example(
    task: str, ids: list[str], known: Mapping[tuple[str, str], tuple[str, str]]
) -> dict[str, _Question]:
    """Map example ids to questions; a name that occurred before gets a suffix, such as `#1`."""
    questions, n_named = {}, Counter[str]()
    for id in ids:
        question, answer = known.get((task, id), ("", ""))
        name = question or id
        suffix = f"#{n_named[name]}" if n_named[name] else ""
        questions[id] = _Question(name + suffix, bool(question), answer)
        n_named[name] += 1
    return questions


def _share_questions(one: Mapping[str, _Question], two: Mapping[str, _Question]) -> bool:
    """Return whether two tasks share example ids, with known and equal answers for all of these.

    Questions that a task names itself (`is_given`) are ignored.
    """
    answers, others = (
        {each.name: each.answer for each in by_example.values() if not each.is_given}
        for by_example in (one, two)
    )
    shared = answers.keys() & others.keys()
    return bool(shared) and all(answers[name] == others[name] != "" for name in shared)

"""Identify rows that ask the same question in different tasks, protocols or contexts.

The same question has the same id in every task that asks it, or the same `question` (such as a
digest of an lm-eval document) if the task gives one. Ids in users' files may agree by accident, so
tasks share questions by their ids only if the answers of all shared ids agree too.
"""

from collections.abc import Mapping

import pandas as pd

# Example id to the name of its question, by task.
QuestionNames = Mapping[str, Mapping[str, str]]


def name_questions(frame: pd.DataFrame, examples: pd.DataFrame) -> QuestionNames:
    """Map task and example id to the name of the question, which is the same in all tasks.

    Args:
        frame: the rows of a sweep.
        examples: a row per task and example, with `answer` and perhaps `question`; if empty, tasks
            share no questions.
    """
    questions = {
        str(task): _name_by_example(rows, _select_task(examples, task))
        for task, rows in frame.groupby("task")
    }
    groups: list[list[str]] = []
    for task in sorted(questions):
        for group in groups:
            if all(_share_questions(questions[task], questions[other]) for other in group):
                group.append(task)
                break
        else:
            groups.append([task])
    first_task = {task: group[0] for group in groups for task in group}
    return {
        task: {
            str(example): name if is_given else f"{first_task[task]}\n{name}"
            for example, name, is_given in zip(rows.index, rows["name"], rows["given"], strict=True)
        }
        for task, rows in questions.items()
    }


def _select_task(examples: pd.DataFrame, task: object) -> pd.DataFrame:
    if examples.empty:
        return pd.DataFrame(columns=["answer", "question"])
    rows = examples[examples["task"] == task]
    rows = rows.assign(example=rows["example"].astype(str)).drop_duplicates("example")
    return rows.set_index("example").reindex(columns=["answer", "question"])


def _name_by_example(rows: pd.DataFrame, task_examples: pd.DataFrame) -> pd.DataFrame:
    """Return a row per example: the question's `name`, whether it is `given`, and the `answer`.

    A name is given if the task sets it; otherwise it is the example's id.
    """
    questions = task_examples.reindex(rows["example"].astype(str).unique()).astype(object)
    is_given = questions["question"].fillna("").astype(bool)
    name = (
        questions["question"]
        .where(is_given, pd.Series(questions.index, index=questions.index))
        .astype(str)
    )
    # A data set may hold a document twice.
    twice = name.groupby(name).cumcount()
    name = name.where(twice == 0, name + "#" + twice.astype(str))
    return pd.DataFrame({"name": name, "given": is_given, "answer": questions["answer"].fillna("")})


def _share_questions(one: pd.DataFrame, two: pd.DataFrame) -> bool:
    """Return whether two tasks share question ids and give the same answers to all shared ones."""
    shared = one[~one["given"]].merge(two[~two["given"]], on="name")
    same = (shared["answer_x"] == shared["answer_y"]) & (shared["answer_x"] != "")
    return not shared.empty and bool(same.all())

"""Find the rows that ask the same question, across tasks, protocols and contexts.

The same question has the same id in every task that asks it, or, where a task says so, the same
`question` (a digest of an lm-eval document, say). Ids of users' files may agree by accident, so
tasks share questions by their ids only if the answers of all shared ids agree too.
"""

from collections.abc import Mapping

import pandas as pd

# Example id to the name of its question, by task.
Questions = Mapping[str, Mapping[str, str]]


def questions_of(frame: pd.DataFrame, examples: pd.DataFrame) -> Questions:
    """Name the questions of every task; questions that tasks share get the same name.

    Args:
        frame: rows of a sweep.
        examples: a row per task and example, with `answer` and perhaps `question`; may be empty:
            then no two tasks share any.
    """
    asked = {str(task): _named(rows, _of(examples, task)) for task, rows in frame.groupby("task")}
    groups: list[list[str]] = []
    for task in sorted(asked):
        for group in groups:
            if all(_alike(asked[task], asked[other]) for other in group):
                group.append(task)
                break
        else:
            groups.append([task])
    first = {task: group[0] for group in groups for task in group}
    return {
        task: {
            str(example): name if given else f"{first[task]}\n{name}"
            for example, name, given in zip(rows.index, rows["name"], rows["given"], strict=True)
        }
        for task, rows in asked.items()
    }


def _of(examples: pd.DataFrame, task: object) -> pd.DataFrame:
    if examples.empty:
        return pd.DataFrame(columns=["answer", "question"])
    rows = examples[examples["task"] == task]
    rows = rows.assign(example=rows["example"].astype(str)).drop_duplicates("example")
    return rows.set_index("example").reindex(columns=["answer", "question"])


def _named(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Return by example the name of its question, whether the task gave it, and the answer."""
    named = known.reindex(rows["example"].astype(str).unique()).astype(object)
    given = named["question"].fillna("").astype(bool)
    name = named["question"].where(given, pd.Series(named.index, index=named.index)).astype(str)
    # A data set may hold a document twice.
    twice = name.groupby(name).cumcount()
    name = name.where(twice == 0, name + "#" + twice.astype(str))
    return pd.DataFrame({"name": name, "given": given, "answer": named["answer"].fillna("")})


def _alike(one: pd.DataFrame, two: pd.DataFrame) -> bool:
    """Return whether two tasks share questions by their ids."""
    both = one[~one["given"]].merge(two[~two["given"]], on="name")
    same = (both["answer_x"] == both["answer_y"]) & (both["answer_x"] != "")
    return not both.empty and bool(same.all())

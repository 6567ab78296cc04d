"""Which rows ask the same question, whatever task, protocol or context asks it.

The same question has the same id in every task that asks it, or, where a task says so, the same
`question` (a digest of an lm-eval document, say). Ids of users' files may agree by accident, so two
tasks share questions only if all that have one name have one answer too.
"""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd

# Example id to the name of its question, by task.
Questions = Mapping[str, Mapping[str, str]]


def questions_of(frame: pd.DataFrame, examples: pd.DataFrame) -> Questions:
    """Name the questions of every task, alike where tasks share them.

    Args:
        frame: rows of a sweep.
        examples: a row per task and example, with `answer` and perhaps `question`; may be empty.
    """
    asked = {str(task): _named(rows, _of(examples, task)) for task, rows in frame.groupby("task")}
    first = {task: task for task in asked}
    for one, two in combinations(sorted(asked), 2):
        if _alike(asked[one], asked[two]):
            first[two] = first[one]
    return {
        task: {str(example): f"{first[task]}\n{name}" for example, name in rows["name"].items()}
        for task, rows in asked.items()
    }


def _of(examples: pd.DataFrame, task: object) -> pd.DataFrame:
    if examples.empty:
        return pd.DataFrame(columns=["answer", "question"])
    own = examples[examples["task"] == task].drop_duplicates("example").set_index("example")
    return own.reindex(columns=["answer", "question"])


def _named(rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """By example: the name of its question, whether the task gave it, and the answer."""
    named = known.reindex(rows["example"].unique()).astype(object)
    given = named["question"].fillna("").astype(bool)
    name = named["question"].where(given, pd.Series(named.index, index=named.index)).astype(str)
    # A data set may hold a document twice.
    twice = name.groupby(name).cumcount()
    name = name.where(twice == 0, name + "#" + twice.astype(str))
    return pd.DataFrame({"name": name, "given": given, "answer": named["answer"].fillna("")})


def _alike(one: pd.DataFrame, two: pd.DataFrame) -> bool:
    """Whether two tasks share questions."""
    both = one.merge(two, on="name")
    if both.empty:
        return False
    given = both["given_x"] & both["given_y"]
    return bool((given | (both["answer_x"] == both["answer_y"])).all())

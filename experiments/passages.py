"""Questions of SciQ without their passage, with it, and with it between two others."""

import hashlib
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from files import drop_repeated_rows, read_rows, write_rows

import layerroles as lr

CONTEXTS = ("none", "support", "distractors")
WRONG = ("distractor1", "distractor2", "distractor3")
FIELDS = ("question", "support", "correct_answer", *WRONG)


def make_sciq_tasks(source: Path, folder: Path) -> dict[str, lr.Task]:
    """Return a task per context on SciQ's questions whose passage holds the answer."""
    read = read_rows(source, "validation*.jsonl", dict.fromkeys(FIELDS, str))
    rows = [
        row | {name: row[name].strip() for name in FIELDS}
        for row in drop_repeated_rows(read, "question")
    ]
    rows = [row for row in rows if find_answer(row["correct_answer"], row["support"])]
    if len({row["support"] for row in rows}) < 3:
        raise lr.InputError(f"--data {str(source)!r}: too few passages hold their answer")
    tasks = {}
    for context in CONTEXTS:
        asked = (make_local_row(row, rows, context) for row in rows)
        tasks[context] = lr.task(f"local:{write_rows(folder / f'{context}.jsonl', asked)}")
    return tasks


def make_local_row(
    row: dict[str, Any], rows: Sequence[dict[str, Any]], context: str
) -> dict[str, Any]:
    """A question in one context, as a row of a file of questions."""
    digest = hashlib.sha256(row["question"].encode()).hexdigest()[:12]
    passages = [] if context == "none" else [row["support"]]
    if context == "distractors":
        others = [other for other in rows if other["support"] != row["support"]]
        first, last = random.Random(digest).sample(others, 2)
        passages = [first["support"], *passages, last["support"]]
    question = f"Question: {row['question']}\nAnswer:"
    prompt = "\n\n".join([*passages, question])
    asked: dict[str, Any] = {"id": digest, "family": "knowledge", "prompt": prompt}
    if passages:
        passage = row["support"]
        place = prompt.index(passage)
        answers = find_answer(row["correct_answer"], passage)
        asked["evidence"] = [[place + one.start(), place + one.end()] for one in answers]
    choices = list(dict.fromkeys(row[name] for name in ("correct_answer", *WRONG)))
    return asked | {"answer": row["correct_answer"], "choices": choices}


def find_answer(answer: str, passage: str) -> list[re.Match[str]]:
    """Return the matches of the answer in a passage, as whole words in any case."""
    whole = rf"(?<!\w){re.escape(answer)}(?!\w)"
    return list(re.finditer(whole, passage, re.IGNORECASE)) if answer else []

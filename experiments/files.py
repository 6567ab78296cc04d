"""Questions from files that a user has: read row by row, and put where lm-eval finds them."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import layerroles as lr

PLACE = "_place"  # where a row comes from, among its fields
MATHQA = """task: mathqa_rows
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{gold}}}}"
doc_to_choice: choices
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
GSM8K = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: train.jsonl
  - split: test
    path: test.jsonl
---
"""


def rows_of(folder: Path, pattern: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the JSONL files of that name, each with its place.

    Raises:
        InputError: no such file, or a row without one of the fields.
    """
    if not (files := sorted(folder.glob(pattern))):
        raise lr.InputError(f"--data: {str(folder)!r} holds no {pattern}: see --help")
    rows = []
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                    rows.append(
                        {name: row[name] for name in fields} | {PLACE: f"{file}, line {number}"}
                    )
                except (ValueError, KeyError, TypeError):
                    raise lr.InputError(
                        f"--data: {file}, line {number} is no JSON object with the fields "
                        f"{', '.join(fields)}"
                    ) from None
    return rows


def mapped(
    rows: Iterable[dict[str, Any]], one: Callable[[dict[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Each row made into another.

    Raises:
        InputError: a row whose fields are not of the types that they should be.
    """
    found = []
    for row in rows:
        try:
            found.append(one(row))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise lr.InputError(
                f"--data: {row[PLACE]} cannot be read as --help says ({what})"
            ) from None
    return found


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a JSONL file, and the folders on the way to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(_own(row))}\n" for row in rows), encoding="utf-8")
    return file


def _own(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != PLACE}


def once(rows: Iterable[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The rows without those that say the same in these fields: some files repeat themselves."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        first.setdefault(tuple(json.dumps(row[name]) for name in names), row)
    return list(first.values())


def gsm8k(source: Path, folder: Path) -> lr.Task:
    """GSM8K as lm-eval asks it, from `test*.jsonl` and `train*.jsonl` of `question`, `answer`."""
    for split in ("train", "test"):
        rows = rows_of(source, f"{split}*.jsonl", ("question", "answer"))
        write_rows(folder / f"{split}.jsonl", rows)
    (folder / "README.md").write_text(GSM8K, encoding="utf-8")
    return lr.task("lm_eval:gsm8k", num_fewshot=5, data=str(folder))


def mathqa(source: Path, folder: Path) -> lr.Task:
    """MathQA by the likelihood of its options, from `test*.jsonl` as `--help` says."""
    read = rows_of(source, "test*.jsonl", ("question", "options", "answer"))
    rows = mapped(
        read,
        lambda row: {
            "question": row["question"],
            "choices": list(row["options"].values()),
            "gold": list(row["options"]).index(row["answer"]),
        },
    )
    file = write_rows(folder / "test.jsonl", rows).resolve()
    (folder / "mathqa_rows.yaml").write_text(MATHQA.format(file=file), encoding="utf-8")
    return lr.task("lm_eval:mathqa_rows", include_path=str(folder), family="reasoning")

"""Benchmarks as lm-eval asks them, from files that a user has."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from files import map_rows, read_rows, select_choice, write_rows

import layerroles as lr

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


def make_gsm8k_task(source: Path, folder: Path) -> lr.Task:
    """GSM8K as lm-eval asks it, from `test*.jsonl` and `train*.jsonl` of `question`, `answer`."""
    for split in ("train", "test"):
        rows = read_rows(source, f"{split}*.jsonl", {"question": str, "answer": str})
        write_rows(folder / f"{split}.jsonl", rows)
    (folder / "README.md").write_text(GSM8K, encoding="utf-8")
    return lr.task("lm_eval:gsm8k", num_fewshot=5, data=str(folder))


def make_mathqa_task(source: Path, folder: Path) -> lr.Task:
    """MathQA by the likelihood of its options, from `test*.jsonl` as `reasoning.py` describes."""
    read = read_rows(source, "test*.jsonl", {"question": str, "options": dict, "answer": str})
    rows = map_rows(
        read,
        lambda row: check_answer(
            {
                "question": row["question"],
                "choices": list(row["options"].values()),
                "gold": list(row["options"]).index(row["answer"]),
            }
        ),
    )
    file = write_rows(folder / "test.jsonl", rows)
    asked = "Question: {{question}}\nAnswer:"
    write_task_file(folder / "mathqa_rows.yaml", "test", file, asked, metrics=["acc"])
    return lr.task("lm_eval:mathqa_rows", include_path=str(folder), family="reasoning")


def write_task_file(
    file: Path, split: str, rows: Path, asked: str, *, metrics: Sequence[str]
) -> None:
    """Write a task file of lm-eval for rows with `choices` and `gold`.

    Args:
        file: the file to write; its name without the suffix is the task's.
        split: the split that the rows are, such as `test`.
        rows: the JSONL file of the rows.
        asked: the prompt, with fields of a row in double braces.
        metrics: metrics of lm-eval, such as `acc`.
    """
    task = {
        "task": file.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(rows.resolve())}},
        "output_type": "multiple_choice",
        f"{split}_split": split,
        "doc_to_text": asked,
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "choices",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics
        ],
    }
    file.write_text(json.dumps(task, indent=1), encoding="utf-8")  # YAML reads JSON


def check_answer(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row; raise `ValueError` if its answer is not the index of a choice."""
    select_choice(row["choices"], row["answer"] if "answer" in row else row["gold"])
    return row


def write_mmlu(source: Path, folder: Path) -> Path:
    """Write MMLU to `folder` as its repository on the hub has it: a configuration per subject."""
    splits = {"dev": "dev*.jsonl", "test": "test*.jsonl"}
    fields = {"question": str, "subject": str, "choices": list, "answer": int}
    subjects: dict[str, dict[str, list[Any]]] = {}
    for split, pattern in splits.items():
        for row in map_rows(read_rows(source, pattern, fields), check_answer):
            subjects.setdefault(row["subject"], {}).setdefault(split, []).append(row)
    head = "---\nconfigs:\n"
    for subject, rows in sorted(subjects.items()):
        head += f"- config_name: {subject}\n  data_files:\n"
        for split, each in rows.items():
            file = folder / subject / f"{split}.jsonl"
            write_rows(file, each)
            head += f"  - split: {split}\n    path: {subject}/{split}.jsonl\n"
    (folder / "README.md").write_text(head + "---\n", encoding="utf-8")
    return folder


def write_hellaswag(source: Path, folder: Path) -> Path:
    """Write HellaSwag, whose endings must be cleaned already, and its task file to `folder`."""
    fields = {"query": str, "choices": list, "gold": int}
    rows = map_rows(read_rows(source, "validation*.jsonl", fields), check_answer)
    file = write_rows(folder / "validation.jsonl", rows)
    asked, metrics = "{{query}}", ["acc", "acc_norm"]
    write_task_file(folder / "hellaswag_rows.yaml", "validation", file, asked, metrics=metrics)
    return folder

r"""Do knowledge and commonsense lean on shallow layers when they are asked by likelihood?

Claim
    "Knowledge and commonsense lean on shallow layers": by the likelihood of given choices, only
    the first few layers matter (arXiv 2510.02091, on HellaSwag, OpenBookQA and the like).

Setting
    The package's facts, and copying as the control; with `--data FOLDER`, every benchmark that it
    holds as `openbookqa/`, `arc_easy/` or `hellaswag/`, each with `test*.jsonl` or
    `validation*.jsonl` of `query`, `choices` and `gold`. Each layer is skipped in turn; the answer
    is the likeliest of the choices, per byte; effects are paired. Two worked
    examples before a fact, one before a text to copy.

Cost
    6.5 minutes for 32 questions of facts, copying and the three benchmarks with a 135M model in
    bfloat16 on one core.

Run
    python experiments/knowledge.py --data FOLDER --out runs/knowledge  # again, and it goes on
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from files import drop_repeated_rows, map_rows, read_rows, select_choice, write_rows
from sentences import describe_task, list_claims, select_role
from setting import (
    Options,
    add_thorough,
    add_until_claims,
    ask,
    conclude,
    make_layer_conditions,
    run,
)

import layerroles as lr

FAMILIES = {"openbookqa": "knowledge", "arc_easy": "knowledge", "hellaswag": "commonsense"}
PROTOCOL = "continuation[norm=byte]"


def main(argv: Sequence[str] | None = None) -> None:
    """Ask by likelihood, sweep, report."""
    options = Options(__doc__, limit=32, out="runs/knowledge")
    options.add_argument("--data", type=Path, help="a folder with folders of benchmarks")
    add_thorough(options)
    add_until_claims(options)
    args = options.parse(argv)
    tasks = [lr.task("facts"), lr.task("copying")]
    if args.data:
        tasks += make_benchmark_tasks(args.data, args.out / "data")
    model = lr.load(args.model, dtype=args.dtype)
    sweep = lr.Sweep(
        model,
        tasks,
        make_layer_conditions(model, thorough=args.thorough),
        protocols=[PROTOCOL],
        until=args.until,
        limit=args.limit,
        noise_floor=False,
    )
    result = ask(sweep, args.out)
    roles = lr.localize(result, ablation="skip")
    lines = [describe_task(task.label, select_role(result, task.label, PROTOCOL)) for task in tasks]
    conclude(args, __doc__, result, lines + list_claims(roles, "knowledge", "commonsense"))


def make_benchmark_tasks(source: Path, folder: Path, only: str = "") -> list[lr.Task]:
    """Return tasks on the benchmarks in `source` (or `only` one); write their files to `folder`.

    Raises:
        InputError: `source` holds none.
    """
    found = []
    for name, family in FAMILIES.items():
        if (only and name != only) or not (source / name).is_dir():
            continue
        splits = ("validation*.jsonl", "test*.jsonl")  # the labels of HellaSwag's test are withheld
        splits = splits if name == "hellaswag" else splits[::-1]
        split = next((one for one in splits if list((source / name).glob(one))), splits[0])
        rows = read_rows(source / name, split, {"query": str, "choices": list, "gold": int})
        lines = [{"family": family, **row} for row in map_rows(rows, make_local_row)]
        found.append(
            lr.task(
                f"local:{write_rows(folder / f'{name}.jsonl', drop_repeated_rows(lines, 'prompt'))}"
            )
        )
    if not found:
        raise lr.InputError(f"--data {str(source)!r} holds none of {only or ', '.join(FAMILIES)}")
    return found


def make_local_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a benchmark's row as a row of a file for the task `local`."""
    return {
        "prompt": row["query"],
        "answer": select_choice(row["choices"], row["gold"]).strip(),
        "choices": list(dict.fromkeys(choice.strip() for choice in row["choices"])),
    }


if __name__ == "__main__":
    run("knowledge", main)

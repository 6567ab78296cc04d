r"""Do the same questions need other layers once the answer stands in the prompt?

Claim
    "Retrieval augmentation changes which layers matter": asked closed-book, a question leans on
    other layers than with the supporting text before it (arXiv 2510.02091).

Setting
    Facts as the beginning of a sentence: closed-book, with the fact in the prompt, and with the
    fact among four others of its relation. With `--data FOLDER`, questions of SciQ instead, with
    their passage and with it between two other passages; the folder holds `validation.jsonl` of
    `question`, `support`, `correct_answer` and `distractor1` to `3`, of which those are asked whose
    passage holds the answer. Each layer is skipped in turn, the same questions are asked in each
    context, by the likelihood of four choices and by greedy generation.

Cost
    7 minutes for 48 facts in each context with a 135M model in bfloat16 on one core; passages of
    SciQ are about four times as long.

Run
    python experiments/rag.py --out runs/rag  # again, and it goes on where it was
"""

import math
from collections.abc import Sequence
from pathlib import Path

from passages import CONTEXTS, sciq
from sentences import leaning, listed, on_task, role
from setting import Options, conclude, run, skipped, thorough

import layerroles as lr

PROTOCOLS = ("continuation", "generation")


def main(argv: Sequence[str] | None = None) -> None:
    """Ask in each context, compare what the layers are worth, report."""
    options = Options(__doc__, limit=48, out="runs/rag")
    options.add_argument("--data", type=Path, help="a folder with the questions of SciQ")
    thorough(options)
    args = options.parse(argv)
    tasks = {context: lr.task("facts", context=context) for context in CONTEXTS}
    if args.data:
        tasks = sciq(args.data, args.out / "data")
    model = lr.load(args.model, dtype=args.dtype)
    how = {"protocols": PROTOCOLS, "limit": args.limit, "noise_floor": False}
    result = lr.Sweep(model, list(tasks.values()), skipped(model, args), **how).run(args.out)
    conclude(args, __doc__, result, findings(result, {c: task.label for c, task in tasks.items()}))


def findings(result: lr.SweepResult, labels: dict[str, str]) -> list[str]:
    """A sentence on each context and on what changes with it, under each protocol."""
    lines, moved = [], []
    for protocol in PROTOCOLS:
        roles = {context: role(result, label, protocol) for context, label in labels.items()}
        lines += [on_task(f"{labels[one]}, {protocol}", row) for one, row in roles.items()]
        closed = roles.pop("none")
        for context, given in roles.items():
            lines.append(leaning(f"{context} against closed-book, {protocol}", closed, given))
            if "leans more on" in lines[-1]:
                moved.append(f"{context}, {protocol}")
            if math.isnan(closed["early_minus_late"] - given["early_minus_late"]):
                continue
            gone = sorted(set(closed["critical"]) & set(given["spare"]))
            new = sorted(set(closed["spare"]) & set(given["critical"]))
            lines.append(
                f"{context}, {protocol}: critical closed-book and spare with the text: "
                f"{listed(gone)}; spare closed-book and critical with the text: {listed(new)}."
            )
    shown = f"shown for {'; '.join(moved)}" if moved else "not shown"
    return [*lines, f"A text in the prompt changes which end of the depth is leant on: {shown}."]


if __name__ == "__main__":
    run("rag", main)

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

from collections.abc import Sequence
from pathlib import Path

from passages import CONTEXTS, make_sciq_tasks
from sentences import (
    describe_claim,
    describe_lean_difference,
    describe_task,
    format_interval,
    select_role,
)
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

PROTOCOLS = ("continuation", "generation")


def main(argv: Sequence[str] | None = None) -> None:
    """Ask in each context, compare what the layers are worth, report."""
    options = Options(__doc__, limit=48, out="runs/rag")
    options.add_argument("--data", type=Path, help="a folder with the questions of SciQ")
    add_thorough(options)
    add_until_claims(options)
    args = options.parse(argv)
    tasks = {context: lr.task("facts", context=context) for context in CONTEXTS}
    if args.data:
        tasks = make_sciq_tasks(args.data, args.out / "data")
    model = lr.load(args.model, dtype=args.dtype)
    how = {"protocols": PROTOCOLS, "until": args.until, "limit": args.limit, "noise_floor": False}
    sweep = lr.Sweep(
        model, list(tasks.values()), make_layer_conditions(model, thorough=args.thorough), **how
    )
    result = ask(sweep, args.out)
    conclude(args, __doc__, result, findings(result, {c: task.label for c, task in tasks.items()}))


def findings(result: lr.SweepResult, labels: dict[str, str]) -> list[str]:
    """A sentence on each context and on what changes with it, under each protocol."""
    lines = []
    for protocol in PROTOCOLS:
        for label in labels.values():
            lines.append(
                describe_task(f"{label}, {protocol}", select_role(result, label, protocol))
            )
        for context, label in labels.items():
            if context != "none":
                words = f"{context} against closed-book, {protocol}"
                lines.append(
                    describe_lean_difference(
                        words, result, (labels["none"], protocol), (label, protocol)
                    )
                )
    differences = result.differences()
    for pair, rows in differences.groupby(["task", "task_b", "protocol_a", "at", "ablation"]):
        one, two, protocol, at, ablation = pair
        rows = rows[rows["protocol_a"] == rows["protocol_b"]]
        told = [
            f"L{row.layer} {format_interval(row.difference, row.low, row.high)}"
            for row in rows[rows["p_adjusted"] < 0.05].itertuples()
        ]
        if rows["difference"].notna().any():
            lines.append(
                f"{two} minus {one}, {protocol}, {ablation} at {at}: layers whose harm changes "
                f"(paired, Holm): {', '.join(told) or 'none'}."
            )
    claims = lr.localize(result, ablation="skip").claims
    own = claims[claims["claim"].str.startswith("Retrieval augmentation")].to_dict("records")
    return lines + [describe_claim(row, row["protocol"]) for row in own]


if __name__ == "__main__":
    run("rag", main)

r"""Does retrieval live in shallow layers, however much there is to search and wherever it stands?

Claim
    "Retrieval lives in shallow layers": in key-value look-up, skipping layers 1 and 2 costs up to
    0.8 of accuracy, deep layers almost nothing (arXiv 2510.02091).

Setting
    Look-up in JSON objects of 5, 10 and 20 pairs, those of 10 with the asked pair in the first, the
    middle and the last third; and a password hidden in 100 words of prose (a needle). Each layer is
    skipped in turn; answers are written greedily; effects are paired with the intact model on the
    same questions. Every setting is a task of its own, so each has its own numbers.

Cost
    8 minutes for 24 questions of each of the six tasks with a 135M model in bfloat16 on one core;
    it grows with `--limit`, and threefold with `--thorough`.

Run
    python experiments/retrieval.py --out runs/retrieval  # again, and it goes on where it was
"""

from collections.abc import Sequence

from sentences import describe_lean_difference, describe_task, list_claims, select_role
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

FEW, MANY = (lr.task("kv_retrieval", pairs=pairs).label for pairs in (5, 20))
EARLY, MIDDLE, LATE = (
    lr.task("kv_retrieval", position=position).label for position in ("early", "middle", "late")
)
NEEDLE = lr.task("needle").label
TASKS = (FEW, EARLY, MIDDLE, LATE, MANY, NEEDLE)


def main(argv: Sequence[str] | None = None) -> None:
    """Sweep every setting, compare them, report."""
    options = Options(__doc__, limit=24, out="runs/retrieval")
    add_thorough(options)
    add_until_claims(options)
    args = options.parse(argv)
    model = lr.load(args.model, dtype=args.dtype)
    sweep = lr.Sweep(
        model,
        [lr.task(name) for name in TASKS],
        make_layer_conditions(model, thorough=args.thorough),
        protocols=["generation"],
        until=args.until,
        limit=args.limit,
        noise_floor=False,
    )
    result = ask(sweep, args.out)
    conclude(args, __doc__, result, findings(result))


def findings(result: lr.SweepResult) -> list[str]:
    """A sentence on each setting, on what differs between them, and on the claim."""
    pairs = {
        "20 pairs against 5": (FEW, MANY),
        "A key in the middle against an early one": (EARLY, MIDDLE),
        "A late key against an early one": (EARLY, LATE),
        "A needle in prose against 20 pairs": (MANY, NEEDLE),
    }
    return [
        *(describe_task(name, select_role(result, name, "generation")) for name in TASKS),
        *(
            describe_lean_difference(words, result, (one, "generation"), (two, "generation"))
            for words, (one, two) in pairs.items()
        ),
        *list_claims(lr.localize(result, ablation="skip"), "retrieval"),
    ]


if __name__ == "__main__":
    run("retrieval", main)

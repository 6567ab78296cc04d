r"""Which layers can be dropped so that reasoning by generation stays?

Question
    At 1, 2 and 3 dropped layers, do layers chosen by what they cost reasoning under generation keep
    it as well as layers chosen in the usual ways: by block influence (ShortGPT, arXiv 2403.03853),
    by angular distance (arXiv 2403.17887), by likelihood, at random?

Material
    Two-step word problems; look-up and facts beside them, which no plan looks at. Plans are made on
    examples of seed 0, judged on those of seed 1; an example in both is left out of the second.

Method
    Greedy search with joint re-evaluation (`lr.plan_pruning`); all plans are swept together. The
    role-aware one is compared with the best of the others, chosen with hindsight on these very
    examples, to its disadvantage. It is not worse if the paired interval lies above -5 points.

Cost
    11 minutes for 100 problems with a 135M model in bfloat16 on one core; 45 for 330 in float32.

Run
    python experiments/pruning.py --limit 330 --out runs/pruning  # again, and it goes on
"""

import argparse
import logging
from collections.abc import Sequence
from typing import Any

import pandas as pd
from setting import Options, ask, conclude, name_folder, run

import layerroles as lr

METHODS = ("role_aware", "likelihood", "block_influence", "angular", "random")
PLANNED, HELD_OUT = 0, 1  # the seeds of the examples that plans are made and judged on
MARGIN = 0.05  # of the score, by which a plan may be worse
SHOWN = ["drop", "method", "layers", "task", "protocol", "n", "intact", "score"]
SHOWN += ["harm", "harm_low", "harm_high", "difference", "low", "high", "best_baseline"]


def main(argv: Sequence[str] | None = None) -> None:
    """Plan, ask other examples, compare."""
    options = Options(__doc__, limit=100, out="runs/pruning")
    options.add_argument("--keep", default="word_problems", help="the task that is to stay")
    options.add_argument("--others", nargs="*", default=["kv_retrieval", "facts"])
    options.add_argument("--drop", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--plan-limit", type=int, default=32, help="examples of the plans")
    options.add_argument("--beside", default="chain_logprob", help="a second protocol of --keep")
    options.add_argument("--others-limit", type=int, default=32, help="of each other task")
    args = options.parse(argv)
    if min(args.plan_limit, args.others_limit) < 1:
        raise lr.InputError("--plan-limit and --others-limit are 1 or more")
    logging.getLogger().setLevel(logging.INFO)

    model = lr.load(args.model, dtype=args.dtype)
    kept, others = lr.task(args.keep), [lr.task(name) for name in args.others]
    lr.protocols.protocol(args.beside)  # raises before anything is run
    known = set(range(1, model.cfg.n_layers))
    if not set(args.drop) <= known or len(set(args.drop)) < len(args.drop):
        named = " ".join(map(str, args.drop))
        raise lr.InputError(f"--drop {named}: name each number once, of 1 to {len(known)} layers")
    plans, left_out = make_plans(model, kept, args)
    asked: dict[str, Any] = {"conditions": [plan.condition for plan in plans]}
    asked |= {"seed": HELD_OUT, "noise_floor": False}
    both = ["generation", args.beside]
    sweep = lr.Sweep(model, [kept], protocols=both, limit=args.limit, **asked)
    result = drop_planned(ask(sweep, args.out), kept, args.plan_limit)
    ways = [lr.protocols.protocol(name).label for name in both]
    tables = [lr.compare_plans(result[way], plans) for way in ways]
    for task in others:
        how = asked | {"protocols": ["generation"], "limit": args.others_limit}
        other = ask(lr.Sweep(model, [task], **how), args.out / name_folder(task.label))
        tables.append(lr.compare_plans(drop_planned(other, task, args.plan_limit), plans))
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(args.out / "pruning.csv", index=False)
    print(table[SHOWN].round(3).to_string(index=False))
    lr.figures.pruned_harm(table).write_html(args.out / "pruning.html", include_plotlyjs=True)
    conclude(args, __doc__, result, left_out + list_verdicts(table, kept.label))


def make_plans(
    model: Any, kept: lr.Task, args: argparse.Namespace
) -> tuple[list[lr.PruningPlan], list[str]]:
    """Return a plan per method and number of layers, and why the missing ones were not made."""
    plans, left_out = [], []
    for method in METHODS:
        for drop in args.drop:
            asked = {"method": method, "limit": args.plan_limit, "path": args.out / "plans"}
            asked |= {"tasks": [kept], "seed": PLANNED}
            try:
                plans.append(lr.plan_pruning(model, drop=drop, **asked))
                print(f"{plans[-1]}\n")
            except lr.InputError as error:  # where likelihood shows no skill
                if method != "likelihood":
                    raise
                left_out.append(f"likelihood cannot choose {drop}: {error}.")
    return plans, left_out


def drop_planned(result: lr.SweepResult, task: lr.Task, limit: int) -> lr.SweepResult:
    """Return the result without the `limit` examples of `task` on which plans were made."""
    planned = {example.id for example in task.examples(limit, PLANNED)}
    new = ~result.frame["example"].isin(planned)
    if not new.any():
        raise lr.InputError("every held-out example was planned on: ask more of them")
    return lr.SweepResult(result.frame[new], result.manifest, result.examples)


def list_verdicts(table: pd.DataFrame, task: str) -> list[str]:
    """A sentence for each number of layers, and one for all."""
    lines, kept = [], []
    own = table[(table["task"] == task) & (table["protocol"] == "generation")]
    for drop, rows in own[own["best_baseline"]].groupby("drop"):
        best = rows.sort_values("low").iloc[0]
        inside = bool(best["low"] > -MARGIN)
        kept += [str(drop)] if inside else []
        held = "is not" if inside else "cannot be said not to be"
        lines.append(
            f"{drop} dropped: role-aware {held} more than {100 * MARGIN:.0f} points worse than the "
            f"best baseline ({best['method']}, {best['layers']}): it scores "
            f"{best['difference']:+.3f} [{best['low']:+.3f}, {best['high']:+.3f}] more, intact "
            f"{best['intact']:.2f}, n = {best['n']}."
        )
    shown = f"shown for {', '.join(kept)} dropped" if kept else "not shown"
    return [*lines, f"Layers chosen by their role keep {task} as well as any others: {shown}."]


if __name__ == "__main__":
    run("pruning", main)

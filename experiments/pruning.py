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

Run
    python experiments/pruning.py --limit 300 --out runs/pruning  # again, and it goes on
"""

import argparse
import logging
import sys
from pathlib import Path

import pandas as pd
from setting import asked_now, folder

import layerroles as lr

METHODS = ("role_aware", "likelihood", "block_influence", "angular", "random")
MARGIN = 0.05
PLANNED, HELD_OUT = 0, 1  # seeds


def main() -> None:
    """Plan, ask other examples, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--keep", default="word_problems", help="the task that is to stay")
    parser.add_argument("--others", nargs="*", default=["kv_retrieval", "facts"])
    parser.add_argument("--drop", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--plan-limit", type=int, default=64, help="examples of the plans")
    parser.add_argument("--beside", default="chain_logprob", help="a second protocol of --keep")
    parser.add_argument("--limit", type=int, default=300, help="held-out examples of what is kept")
    parser.add_argument("--others-limit", type=int, default=60, help="and of each other task")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    model = lr.load(args.model, dtype=args.dtype)
    kept, others = lr.task(args.keep), [lr.task(name) for name in args.others]
    plans = made(model, kept, args)
    conditions = [plan.condition for plan in plans]
    sizes = [(kept, args.limit), *((task, args.others_limit) for task in others)]
    tables = []
    for task, limit in sizes:
        protocols = ["generation", args.beside] if task == kept else ["generation"]
        options = {"limit": limit, "seed": HELD_OUT, "noise_floor": False}
        sweep = lr.Sweep(model, [task], conditions, protocols=protocols, **options)
        result = unseen(sweep.run(args.out / folder(task.label)), task, args.plan_limit)
        tables += [lr.compare_plans(asked_now(result, task.label, p), plans) for p in protocols]
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(args.out / "pruning.csv", index=False)
    shown = ["drop", "method", "layers", "task", "protocol", "n", "intact", "score", "harm"]
    shown += ["harm_low", "harm_high", "difference", "low", "high", "best_baseline"]
    print(table[shown].round(3).to_string(index=False))
    lr.figures.pruned_harm(table).write_html(args.out / "pruning.html", include_plotlyjs=True)
    for line in verdict(table, kept.label):
        print(line)


def made(model: object, kept: lr.Task, args: argparse.Namespace) -> list[lr.PruningPlan]:
    """A plan for each method and number of layers; a method that cannot choose is left out."""
    plans = []
    for method in METHODS:
        for drop in args.drop:
            asked = {"method": method, "limit": args.plan_limit, "path": args.out / "plans"}
            try:
                plans.append(lr.plan_pruning(model, drop=drop, tasks=[kept], **asked))
                print(f"{plans[-1]}\n")
            except lr.InputError as error:  # where likelihood shows no skill
                if method != "likelihood":
                    raise
                print(f"likelihood cannot choose {drop}: {error}")
    return plans


def unseen(result: lr.SweepResult, task: lr.Task, limit: int) -> lr.SweepResult:
    """The rows of examples that no plan was made on."""
    planned = {example.id for example in task.examples(limit, PLANNED)}
    new = ~result.frame["example"].isin(planned)
    if not new.any():
        raise lr.InputError("every held-out example was planned on: ask more of them")
    return lr.SweepResult(result.frame[new], result.manifest, result.examples)


def verdict(table: pd.DataFrame, task: str) -> list[str]:
    """One line for each number of layers."""
    lines = []
    own = table[(table["task"] == task) & (table["protocol"] == "generation")]
    for drop, rows in own[own["best_baseline"]].groupby("drop"):
        best = rows.sort_values("low").iloc[0]
        held = "is" if best["low"] > -MARGIN else "is not shown to be"
        lines.append(
            f"{drop} dropped: role-aware {held} within {100 * MARGIN:.0f} points of the best "
            f"baseline ({best['method']}, {best['layers']}): it scores {best['difference']:+.3f} "
            f"[{best['low']:+.3f}, {best['high']:+.3f}] more, intact {best['intact']:.2f}, "
            f"n {best['n']}"
        )
    return lines


if __name__ == "__main__":
    try:
        main()
    except lr.InputError as error:
        print(f"pruning: error: {error}", file=sys.stderr)
        sys.exit(2)

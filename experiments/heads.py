r"""Do the heads that look like retrieval heads carry retrieval, and nothing else?

Question
    Which heads copy the evidence into the answer? If they are ablated together, does retrieval
    suffer more than if as many random heads are, and does another skill suffer too?

Material
    Key-value look-up in JSON (retrieval); two-step word problems (reasoning), whose numbers are
    copied too; and cloze facts (knowledge), which have nothing to copy.

Method
    Every head is scored on look-up questions that are not asked again, by what it copies (Wu et
    al., arXiv 2404.15574; where the model wrote half the evidence or more). The `k` heads with the
    largest mean score are zeroed together, and so are, for several seeds, as many random others of
    each of their layers. Effects are paired with the intact model on the same questions; the
    interval of the random heads is over seeds, by Student's t.

Cost
    3 minutes with a 135M model in bfloat16 on one core, 5 in float32.

Run
    python experiments/heads.py --out runs/heads  # again, and it goes on where it was
"""

from collections.abc import Sequence

import pandas as pd
from scipy.stats import t
from sentences import describe_claim, format_interval
from setting import Options, add_thorough, ask, conclude, run

import layerroles as lr
from layerroles.roles import carried_by_few

ASKED = ("kv_retrieval", "word_problems", "facts")


def main(argv: Sequence[str] | None = None) -> None:
    """Score the heads, ablate the best and random ones, compare."""
    options = Options(__doc__, limit=48, out="runs/heads")
    options.add_argument("--score", default="retrieval_score:score", help="PROBE:COLUMN, of heads")
    options.add_argument("--heads", type=int, default=10, help="how many are ablated together")
    options.add_argument("--seeds", type=int, default=8, help="draws of other heads")
    options.add_argument("--protocol", default="generation")
    add_thorough(options)
    args = options.parse(argv)
    if args.heads < 1 or args.seeds < 2:
        raise lr.InputError("--heads is 1 or more, --seeds 2 or more")

    model = lr.load(args.model, dtype=args.dtype)
    tasks = [lr.task(name) for name in ASKED]
    probe, _, column = args.score.partition(":")
    made = lr.probes.PROBES.make(probe, {})
    scores = lr.probes.measure_into(args.out, made, model, tasks[:1], limit=16, seed=1)
    if not {"layer", "head", column} <= set(scores):
        raise lr.InputError(f"--score {args.score}: {probe} has the columns {', '.join(scores)}")
    if "recall" in scores:
        scores = scores[scores["recall"] >= 0.5]
    n, best = scores["example"].nunique(), scores.groupby(["layer", "head"])[column].mean()
    best = best[best > 0].nlargest(args.heads)
    named = ", ".join(f"L{layer}.H{head} {score:.2f}" for (layer, head), score in best.items())
    lines = [f"Largest {args.score} (n = {n}): {named or 'none above zero'}."]
    chosen = [lr.Site(int(layer), "head", head=int(head)) for layer, head in best.index]
    conditions = []
    if chosen:
        conditions = [lr.Condition(dict.fromkeys(chosen, lr.Zero()), name=f"top {len(chosen)}")]
        conditions += [
            lr.random_heads(model, lr.Zero(), like=chosen, seed=seed) for seed in range(args.seeds)
        ]
        names = [one.name for one in conditions]
        if args.thorough:
            mean = lr.Mean(lr.Reference())  # of other questions of the asked task
            conditions += [
                lr.Condition(dict.fromkeys(one, mean), name=f"mean: {one.name}")
                for one in conditions
            ]
    how = {"protocols": [args.protocol], "limit": args.limit, "noise_floor": False}
    result = ask(lr.Sweep(model, tasks, conditions, **how), args.out)
    if chosen:
        table = compare_with_random([result[task.label].effects() for task in tasks], names)
        table.to_csv(args.out / "heads.csv", index=False)
        claims = [claim.row() for claim in carried_by_few(result)]
        statuses = "; ".join(f"{row['family']} {row['status']}" for row in claims)
        lines += list_effects(table)
        lines += [describe_claim(row, row["family"]) for row in claims]
        lines.append(f"A few heads carry the family: {statuses or 'nothing could be judged'}.")
    elif n:
        lines.append("No head copies the evidence into the answer: none is ablated.")
    else:
        lines.append("No head was scored, since the model wrote half the evidence in no answer.")
    conclude(args, __doc__, result, lines)


def compare_with_random(effects: Sequence[pd.DataFrame], names: Sequence[str]) -> pd.DataFrame:
    """Compare the effect of the best heads (`names[0]`) with random ones (the rest), by task."""
    rows = []
    for own in effects:
        best = own[own["condition"] == names[0]].iloc[0]
        drawn = own.loc[own["condition"].isin(names[1:]), "effect"]
        mean, reach = drawn.mean(), t.ppf(0.975, len(drawn) - 1) * drawn.sem()
        row = {"task": best["task"], "n": best["n"], "intact": best["intact"]}
        row |= {"top": best["effect"], "low": best["ci_low"], "high": best["ci_high"]}
        row |= {"random": mean, "random_low": mean - reach, "random_high": mean + reach}
        row |= {"worst": drawn.min(), "draws": len(drawn)}
        row["as_bad"] = int((drawn <= best["effect"]).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def list_effects(table: pd.DataFrame) -> list[str]:
    """Return a sentence on each task, from the table that `compare_with_random` returns."""
    return [
        f"{row.task}: intact {row.intact:.2f} (n = {row.n}); the best heads "
        f"{format_interval(row.top, row.low, row.high)}, others "
        f"{format_interval(row.random, row.random_low, row.random_high)}; "
        f"worst draw {row.worst:+.2f}, {row.as_bad} of {row.draws} as bad."
        for row in table.itertuples()
    ]


if __name__ == "__main__":
    run("heads", main)

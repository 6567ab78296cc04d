r"""Do the heads that look like retrieval heads carry retrieval, and nothing else?

Question
    Which heads copy the evidence into the answer? If they are silenced together, does retrieval
    suffer more than if as many random heads are, and does another skill suffer too?

Material
    Key-value look-up in JSON (retrieval) and cloze facts (knowledge), which have nothing to copy.

Method
    Every head is scored on look-up questions that are not asked again, by what it copies (Wu et
    al., arXiv 2404.15574; where the model wrote half the evidence or more). The `k` heads with the
    largest mean score are zeroed together, and so are, for several seeds, as many random others of
    each of their layers. Effects are paired with the intact model on the same questions; the
    interval of the random heads is over seeds, by Student's t.

Run
    python experiments/heads.py --limit 48 --out runs/heads  # again, and it goes on where it was
"""

import argparse
import logging
import random
import sys
from pathlib import Path

import pandas as pd
from scipy import stats

import layerroles as lr

ASKED = ("kv_retrieval", "facts")


def main() -> None:
    """Score the heads, silence the best and random ones, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--score", default="retrieval_score:score", help="PROBE:COLUMN, of heads")
    parser.add_argument("--heads", type=int, default=10, help="how many are silenced together")
    parser.add_argument("--seeds", type=int, default=8, help="draws of other heads")
    parser.add_argument("--protocol", default="generation")
    parser.add_argument("--limit", type=int, default=48, help="questions of each task")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    model = lr.load(args.model, dtype=args.dtype)
    tasks = [lr.task(name) for name in ASKED]
    probe, _, column = args.score.partition(":")
    scores = lr.probes.measure_into(
        args.out, lr.probes.PROBES.make(probe, {}), model, tasks[:1], limit=16, seed=1
    )
    if not {"layer", "head", column} <= set(scores):
        raise lr.InputError(f"--score {args.score}: {probe} has the columns {', '.join(scores)}")
    if "recall" in scores:
        scores = scores[scores["recall"] >= 0.5]
    best = scores.groupby(["layer", "head"])[column].mean().nlargest(args.heads)
    print(f"Largest {args.score} over {scores['example'].nunique()} questions:")
    print(", ".join(f"L{layer}.H{head} {score:.2f}" for (layer, head), score in best.items()))

    chosen = [lr.Site(int(layer), "head", head=int(head)) for layer, head in best.index]
    top = lr.Condition(dict.fromkeys(chosen, lr.Zero()), name=f"top {len(chosen)}")
    others = [unchosen(chosen, model.cfg.n_heads, seed) for seed in range(args.seeds)]
    options = {"protocols": [args.protocol], "limit": args.limit, "noise_floor": False}
    sweep = lr.Sweep(model, tasks, [top, *others], **options)
    table = compared(sweep.run(args.out), top.name)
    print(table.round(3).to_string(index=False))
    table.to_csv(args.out / "heads.csv", index=False)


def unchosen(chosen: list[lr.Site], n_heads: int, seed: int) -> lr.Condition:
    """As many heads of each layer, drawn from those that were not chosen."""
    rng = random.Random(seed)
    drawn = []
    for layer in sorted({site.layer for site in chosen}):
        heads = {site.head for site in chosen if site.layer == layer}
        rest = [head for head in range(n_heads) if head not in heads]
        if len(rest) < len(heads):
            raise lr.InputError(f"layer {layer} has {len(rest)} heads left to draw: ask for fewer")
        drawn += [lr.Site(layer, "head", head=head) for head in rng.sample(rest, len(heads))]
    return lr.Condition(dict.fromkeys(drawn, lr.Zero()), name=f"{len(drawn)} others, seed {seed}")


def compared(result: lr.SweepResult, top: str) -> pd.DataFrame:
    """The effect of the best heads beside that of random ones, a row per task."""
    rows = []
    for task, effects in result.effects().groupby("task", sort=False):
        best = effects[effects["condition"] == top].iloc[0]
        drawn = effects.loc[effects["condition"] != top, "effect"]
        reach = stats.t.ppf(0.975, len(drawn) - 1) * drawn.sem()
        rows.append(
            {
                "task": task,
                "n": best["n"],
                "intact": best["intact"],
                "top": best["effect"],
                "low": best["ci_low"],
                "high": best["ci_high"],
                "random": drawn.mean(),
                "random_low": drawn.mean() - reach,
                "random_high": drawn.mean() + reach,
                "worst_random": drawn.min(),
                "as_bad": int((drawn <= best["effect"]).sum()),
                "draws": len(drawn),
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    try:
        main()
    except lr.InputError as error:
        print(f"heads: error: {error}", file=sys.stderr)
        sys.exit(2)

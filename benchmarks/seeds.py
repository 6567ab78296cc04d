"""Ask the intact model under several seeds: do its scores vary as their intervals say?

    python benchmarks/seeds.py --out runs/seeds

A seed draws the questions and the sets of worked examples. The variance of a score over seeds is
held against the one that follows from each seed's own answers: that of a mean, times the design
effect of the sets (`stats.design_effect`). Both are added up over tasks and protocols; their ratio
is 1 where the intervals tell the whole of it, and larger where they leave something out.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import layerroles as lr
from layerroles import stats

TASKS = ("kv_retrieval", "facts", "word_problems", "copying", "needle")
PROTOCOLS = ("continuation", "exact", "generation")


def main() -> None:
    """Ask under each seed, and write the table."""
    parser = argparse.ArgumentParser(description="Scores of the intact model over seeds.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    args = parser.parse_args()
    model = lr.load(args.model)
    tasks = [lr.task(name) for name in TASKS]
    rows = []
    for seed in range(args.seeds):
        sweep = lr.Sweep(
            model, tasks, [], protocols=PROTOCOLS, limit=args.limit, seed=seed, noise_floor=False
        )
        result = sweep.run(args.out / f"seed-{seed}")
        rows += [{"seed": seed, **row} for row in scores(result)]
    table = pooled(pd.DataFrame(rows))
    page = table.to_markdown(index=False, floatfmt=".4f")
    (args.out / "seeds.md").write_text(page + "\n", encoding="utf-8")
    print(page)


def scores(result: lr.SweepResult) -> list[dict[str, object]]:
    """The mean score of each task and protocol, and the variance that its answers imply."""
    answered = result.frame.merge(
        result.examples[["task", "example", "cluster"]], on=["task", "example"]
    )
    return [
        {"task": task, "protocol": protocol, **implied(cell["score"], cell["cluster"])}
        for (task, protocol), cell in answered.groupby(["task", "protocol"])
    ]


def implied(score: "pd.Series[float]", cluster: "pd.Series[str]") -> dict[str, float]:
    """A mean score, and its variance by the answers of one seed."""
    values = score.to_numpy(float)
    effect = 1.0
    if stats.are_clusters(cluster):
        effect = stats.design_effect(values - values.mean(), list(cluster))
    return {"score": values.mean(), "implied": effect * values.var(ddof=1) / len(values)}


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """The variance over seeds against the implied one, by task and protocol and in all."""
    by = rows.groupby(["task", "protocol"])
    table = by.agg(
        score=("score", "mean"),
        least=("score", "min"),
        most=("score", "max"),
        observed=("score", lambda one: np.var(one, ddof=1)),
        implied=("implied", "mean"),
    ).reset_index()
    total = table[["observed", "implied"]].sum()
    table.loc[len(table)] = {"task": "all", **total}
    table["ratio"] = table["observed"] / table["implied"]
    return table


if __name__ == "__main__":
    main()

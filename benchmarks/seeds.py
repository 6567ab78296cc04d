"""Ask the intact model under several seeds: do its scores vary as their intervals say?

    python benchmarks/seeds.py --out runs/seeds

A seed draws the questions and their worked examples. The variance of a score over seeds is compared
with two variances that follow from each seed's own answers: that of the mean of its clusters
(templates), and the larger one on which intervals are built, which counts each question as one over
`stats.design_effect`. Variances are summed over tasks and protocols. The first ratio is 1 if
clusters explain all of the variance; the second is below 1 because the design effect is never below
1.
"""

import argparse
from pathlib import Path

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
    values, n = score.to_numpy(float), len(score)
    residuals, clusters = values - values.mean(), list(cluster)
    variance = values.var(ddof=1) / n
    found = {"score": values.mean(), "clusters": variance, "intervals": variance}
    if stats.are_clusters(clusters):
        totals = stats.cluster_totals(residuals, clusters)
        found["clusters"] = (totals**2).sum() * len(totals) / (len(totals) - 1) / n**2
        found["intervals"] *= stats.design_effect(residuals, clusters)
    return found


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """The variance over seeds against the implied ones, by task and protocol and in all."""
    table = rows.groupby(["task", "protocol"]).agg(
        score=("score", "mean"),
        least=("score", "min"),
        most=("score", "max"),
        observed=("score", "var"),
        clusters=("clusters", "mean"),
        intervals=("intervals", "mean"),
    )
    table.loc[("all", ""), :] = table[["observed", "clusters", "intervals"]].sum()
    for implied_by in ("clusters", "intervals"):
        table[f"by {implied_by}"] = table["observed"] / table[implied_by]
    return table.reset_index()


if __name__ == "__main__":
    main()

r"""Held-out word problems: what models score, and their differences on the same questions.

Run
    python experiments/held_out.py --also runs/twins/solver --limit 200 --out runs/held_out

It takes as long as generating for so many questions with each model.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from setting import Options, asked_now, folder, run

import layerroles as lr
from layerroles import stats


def main(argv: Sequence[str] | None = None) -> None:
    """Examine models by name."""
    options = Options(__doc__, limit=100, out="runs/held_out")
    options.add_argument("--also", action="append", default=[], help="another; several times")
    options.add_argument("--task", default="word_problems", help="a task's label")
    args = options.parse(argv)
    names = [args.model, *args.also]
    models = {Path(name).name: lr.load(name, dtype=args.dtype) for name in names}
    if len(models) < len(names):
        raise lr.InputError("--also: the last parts of the models' names must differ")
    runs = examined(models, args.task, args.limit, args.out)
    print("\n".join([f"{args.task} by generation:", *compared(runs)]))


def examined(models: dict[str, Any], task: str, limit: int, out: Path) -> dict[str, lr.SweepResult]:
    """Ask all models the same questions by generation; a run of each."""
    runs, what = {}, lr.task(task)
    for name, model in models.items():
        options = {"protocols": ["generation"], "limit": limit, "noise_floor": False}
        run = lr.Sweep(model, [what], [], **options).run(out / folder(what.label) / name)
        runs[name] = asked_now(run, what.label, "generation")
    return runs


def compared(runs: dict[str, lr.SweepResult]) -> list[str]:
    """Lines: the intact score of each run, and the difference of each pair, with intervals."""
    scores = {name: intact(run) for name, run in runs.items()}
    shared = set.intersection(*(set(own.index) for own in scores.values()))
    scores = {name: own[own.index.isin(shared)] for name, own in scores.items()}
    lines = []
    for name, own in scores.items():
        of = spread(own.to_numpy())
        lines.append(f"{name}: {own.mean():.2f} [{of.low:.2f}, {of.high:.2f}], n = {len(own)}")
    for (one, a), (two, b) in itertools.combinations(scores.items(), 2):
        of = apart(a.to_numpy(), b.loc[a.index].to_numpy())
        lines.append(f"{two} - {one}: {(b - a).mean():+.2f} [{of.low:+.2f}, {of.high:+.2f}]")
    return lines


def better(runs: dict[str, lr.SweepResult]) -> str:
    """Which models are better than the one called `base`, in a sentence."""
    base, told = intact(runs["base"]).to_numpy(), []
    for name in (name for name in runs if name != "base"):
        of = apart(base, intact(runs[name]).to_numpy())
        side = "better" if of.low > 0 else "worse" if of.high < 0 else "neither better nor worse"
        told.append(f"{name} is {side}")
    return f"On held-out problems, by 95% intervals against the base: {', '.join(told)}."


def spread(scores: np.ndarray) -> stats.Interval:
    """The interval of a mean: Wilson's where scores are 0 and 1."""
    if np.isin(scores, (0, 1)).all():
        return stats.wilson(int(scores.sum()), len(scores))
    return stats.mean_interval(scores, np.random.default_rng(0))


def apart(one: np.ndarray, two: np.ndarray) -> stats.Interval:
    """The interval of a paired difference: Tango's where scores are 0 and 1."""
    if np.isin([one, two], (0, 1)).all():
        return stats.paired_binary(one, two).interval
    return stats.mean_interval(two - one, np.random.default_rng(0))


def intact(run: lr.SweepResult) -> "pd.Series[float]":
    """Scores of the intact model by example, in one order."""
    rows = run.frame[run.frame["condition"] == "intact"]
    return rows.set_index("example")["score"].astype(float).sort_index()


if __name__ == "__main__":
    run("held_out", main)

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
from setting import Options, ask, name_folder, run

import layerroles as lr
from layerroles import stats
from layerroles.results import Cell, cells_of, estimate_paired_effect
from layerroles.results.effects import score_interval


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
    runs = ask_models(models, args.task, args.limit, args.out)
    print("\n".join([f"{args.task} by generation:", *list_scores(runs)]))


def ask_models(
    models: dict[str, Any], task: str, limit: int, out: Path
) -> dict[str, lr.SweepResult]:
    """Ask all models the same questions by generation; return their runs by name."""
    runs, what = {}, lr.task(task)
    for name, model in models.items():
        options = {"protocols": ["generation"], "limit": limit, "noise_floor": False}
        runs[name] = ask(
            lr.Sweep(model, [what], [], **options), out / name_folder(what.label) / name
        )
    return runs


def list_scores(runs: dict[str, lr.SweepResult]) -> list[str]:
    """Lines: the intact score of each run, and the difference of each pair, with intervals."""
    scores, cell = select_intact_scores(runs)
    clusters, lines = cell.clusters_of(list(scores.index)), []
    for name, own in scores.items():
        rng = np.random.default_rng(0)
        of = score_interval(own.to_numpy(), clusters, cell.unit, rng)
        lines.append(f"{name}: {own.mean():.2f} [{of.low:.2f}, {of.high:.2f}], n = {len(own)}")
    for one, two in itertools.combinations(scores, 2):
        change = estimate_difference(scores[one], scores[two], cell)
        of = change.interval
        lines.append(f"{two} - {one}: {change.effect:+.2f} [{of.low:+.2f}, {of.high:+.2f}]")
    return lines


def describe_base_comparison(runs: dict[str, lr.SweepResult]) -> str:
    """Which models are better than the one called `base`, in a sentence."""
    scores, cell = select_intact_scores(runs)
    told = []
    for name in scores.columns.drop("base"):
        of = estimate_difference(scores["base"], scores[name], cell).interval
        side = "better" if of.low > 0 else "worse" if of.high < 0 else "neither better nor worse"
        told.append(f"{name} is {side}")
    return f"On held-out problems, by 95% intervals against the base: {', '.join(told)}."


def estimate_difference(
    one: "pd.Series[float]", two: "pd.Series[float]", cell: Cell
) -> stats.PairedEffect:
    """The mean of `two - one`, with an interval that accounts for questions of one template."""
    clusters, rng = cell.clusters_of(list(one.index)), np.random.default_rng(0)
    return estimate_paired_effect(one.to_numpy(), two.to_numpy(), clusters, cell.unit, rng)


def select_intact_scores(runs: dict[str, lr.SweepResult]) -> tuple[pd.DataFrame, Cell]:
    """Intact scores, question x run, of the questions that all runs scored; and a run's cell.

    The cell is that of the first run: the unit and the clusters are the same in all.
    """
    cells = {name: cells_of(run)[0] for name, run in runs.items()}
    scores = pd.DataFrame({name: cell.scores.loc["intact"] for name, cell in cells.items()})
    return scores.dropna().sort_index(), next(iter(cells.values()))


if __name__ == "__main__":
    run("held_out", main)

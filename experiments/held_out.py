r"""Held-out word problems: what models score, and their differences on the same questions.

Run
    python experiments/held_out.py --model smollm2-135m --model runs/twins/solver --limit 200 \
        --out runs/twins/held_out

It takes as long as generating for so many questions with each model.
"""

import argparse
import itertools
import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from setting import asked_now, folder

import layerroles as lr
from layerroles import stats


def main() -> None:
    """Examine models by name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", required=True, help="give it several times")
    parser.add_argument("--task", default="word_problems", help="a task's label")
    parser.add_argument("--limit", type=int, default=100, help="questions")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    models = {Path(name).name: lr.load(name, dtype=args.dtype) for name in args.model}
    print(examined(models, args.task, args.limit, args.out))


def examined(models: dict[str, Any], task: str, limit: int, out: Path) -> str:
    """Ask all models the same questions by generation; what they score, and by how much more."""
    runs, what = {}, lr.task(task)
    for name, model in models.items():
        options = {"protocols": ["generation"], "limit": limit, "noise_floor": False}
        run = lr.Sweep(model, [what], [], **options).run(out / folder(what.label) / name)
        runs[name] = asked_now(run, what.label, "generation")
    text = "\n".join([f"{what.label} by generation:", *compared(runs), ""])
    (out / "held_out.txt").write_text(text, encoding="utf-8")
    return text


def compared(runs: dict[str, lr.SweepResult]) -> list[str]:
    """Lines: the intact score of each run, and the difference of each pair, with intervals."""
    scores = {name: intact(run) for name, run in runs.items()}
    shared = set.intersection(*(set(own.index) for own in scores.values()))
    scores = {name: own[own.index.isin(shared)] for name, own in scores.items()}
    lines = []
    for name, own in scores.items():
        right = stats.wilson(int(own.sum()), len(own))
        spread = f"[{right.low:.2f}, {right.high:.2f}]"
        lines.append(f"{name}: {own.mean():.2f} {spread}, n = {len(own)}")
    for (one, a), (two, b) in itertools.combinations(scores.items(), 2):
        pair = stats.paired_binary(a.to_numpy(), b.loc[a.index].to_numpy())
        bounds = f"[{pair.interval.low:+.2f}, {pair.interval.high:+.2f}]"
        lines.append(f"{two} - {one}: {pair.effect:+.2f} {bounds}")
    return lines


def intact(run: lr.SweepResult) -> "pd.Series[float]":
    """Scores of the intact model by example, in one order."""
    rows = run.frame[run.frame["condition"] == "intact"]
    return rows.set_index("example")["score"].astype(float).sort_index()


if __name__ == "__main__":
    try:
        main()
    except lr.InputError as error:
        print(f"held_out: error: {error}", file=sys.stderr)
        sys.exit(2)

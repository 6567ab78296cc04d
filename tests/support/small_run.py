"""A small sweep of a planted model, with the same weights and answers on every machine.

`python -m tests.support.small_run` writes `tests/data/run_2026_11`, a run folder, and beside it
`effects.csv` (the folder's effects) and `rows.csv` (the rows of the same sweep at a larger limit).
The folder stands for the folders that users have: do not rewrite it to make a test pass.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pandas as pd

import layerroles as lr
from layerroles.plants import Plant

DATA = Path(__file__).resolve().parents[1] / "data"
RUN, ROWS, EFFECTS = DATA / "run_2026_11", DATA / "rows.csv", DATA / "effects.csv"
LIMIT, LARGER = 3, 4
PROTOCOLS = ("continuation[norm=byte]", "generation", "answer_logprob")
TEXTS = ("gold leaf money find", "bridge fence gold follow", "hotel arrow leaf find")
KEYS = ["task", "protocol", "condition"]
# Files of the writing process: its lock, its progress (with the host name), SQLite's journal.
OF_THE_PROCESS = (".lock", "progress.json", "rows.sqlite-shm", "rows.sqlite-wal")


def plant() -> Plant:
    """Make a planted model without noise, because the last digits of noise depend on the CPU."""
    with mock.patch("layerroles.plants.wiring._add_noise"):
        return lr.planted(
            n_layers=4, retrieval=(0, 1), reasoning=(3,), knowledge=(2,), inert=(), heads=2
        )


def sweep(
    made: Plant,
    limit: int,
    protocols: Sequence[str] = PROTOCOLS,
    engine: lr.Engine | None = None,
) -> lr.Sweep:
    """Build a sweep of two tasks, three protocols and every ablation but `Swap`."""
    model, texts = made.model, lr.Reference(TEXTS)
    head, mlp = lr.Site(1, "head", 0), lr.Site(2, "mlp")
    conditions = [
        *lr.each_layer(model, lr.Skip(), layers=[1]),
        *lr.pairs(model, lr.Skip(), layers=[1, 3]),
        lr.Condition({head: lr.Zero(), mlp: lr.Zero()}, at="after_first"),
        lr.Condition({mlp: lr.Mean(lr.Reference())}, name="own mean"),
        lr.Condition({lr.Site(1): lr.Resample(texts, seed=1)}, at="prompt"),
        lr.Condition({lr.Site(0): lr.Noise(0.01, texts)}, at="last"),
    ]
    tasks = [lr.task("planted_look_up"), lr.task("planted_fact", strength=0.6)]
    return lr.Sweep(model, tasks, conditions, protocols=protocols, limit=limit, engine=engine)


def rows(result: lr.SweepResult) -> pd.DataFrame:
    """Return the columns that depend on the answers, sorted by key."""
    given = ["model", "ablation", "at", "site", "layer", "part", "head", "family"]
    frame = result.frame.drop(columns=given)
    return frame.sort_values([*KEYS, "example"], ignore_index=True)


def effects(result: lr.SweepResult) -> pd.DataFrame:
    """Return scores, effects and harms with their intervals, sorted by key."""
    numbers = ["n", "intact", "chance", "score", "effect", "ci_low", "ci_high"]
    numbers += ["harm", "harm_low", "harm_high", "p", "p_adjusted"]
    return result.effects().sort_values(KEYS, ignore_index=True)[KEYS + numbers]


def as_csv(frame: pd.DataFrame) -> str:
    """Write a frame as CSV text, floats with seven digits."""
    text: str = frame.to_csv(index=False, float_format="%.7g", lineterminator="\n")
    return text


def lens(made: Plant, run: Path) -> pd.DataFrame:
    """Measure the logit lens on one task and store it in the run folder."""
    probe = lr.probes.LogitLens(top=1)
    return lr.probes.measure_into(run, probe, made.model, [lr.task("planted_look_up")], limit=1)


if __name__ == "__main__":
    made = plant()
    for limit, frame, file in ((LARGER, rows, ROWS), (LIMIT, effects, EFFECTS)):
        shutil.rmtree(RUN, ignore_errors=True)
        file.write_text(as_csv(frame(sweep(made, limit).run(RUN))), encoding="utf-8")
    lens(made, RUN)
    for name in OF_THE_PROCESS:
        (RUN / name).unlink(missing_ok=True)

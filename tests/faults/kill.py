"""Kill a sweep with SIGKILL at random moments; no row may be lost, duplicated or changed.

A child process runs the sweep and is killed; the next one goes on in the same folder, until the run
is whole; then a new folder is begun. After each kill everything that was stored before is still
there as it was, and no more rows were reported than are stored. A whole run has the rows of one
that was left alone.

    python -m tests.faults.kill --kills 25
"""

import argparse
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import layerroles as lr
from layerroles.sweep import status
from layerroles.sweep.status import read_status
from tests.support.random_models import random_model

KEY = ["condition", "task", "protocol", "example"]


@dataclass
class Found:
    """What the kills came to: how many hit a run at work, and how many runs became whole."""

    kills: int = 0
    whole: int = 0
    half_done: int = 0


def sweep() -> lr.Sweep:
    """Two protocols over every layer of a random model, some seconds of work."""
    model = random_model("llama")
    tasks = [lr.task("facts", num_fewshot=shots) for shots in (0, 1)]
    return lr.Sweep(model, tasks, lr.each_layer(model, lr.Skip()), limit=4, noise_floor=False)


def killed_at_random(folder: Path, kills: int, seed: int = 0) -> Found:
    """Kill so many times; raises AssertionError where something is wrong.

    Args:
        folder: for the runs.
        kills: of a process at work; one that was done before its time came does not count.
        seed: of the moments.
    """
    assert not status.SECONDS_BETWEEN_WRITES, "a child that reports late is never killed at work"
    chance, found, job = random.Random(seed), Found(), sweep()
    began = time.monotonic()
    expected = rows(job.run(folder / "left alone"))
    seconds = time.monotonic() - began
    run, before = folder / "run 0", expected.iloc[:0]
    while found.kills < kills:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                job.run(run)
                code = 0
            finally:
                os._exit(code)
        # Every other child dies at a random time, the others once they have stored rows: by time
        # alone, a busy machine may see all of them die before their first row.
        if found.kills % 2:
            time.sleep(chance.uniform(0, seconds))
        else:
            _wait_for_rows(run, child, chance.randint(1, len(expected) // 2))
        os.kill(child, signal.SIGKILL)
        _, how = os.waitpid(child, 0)
        assert how in (0, signal.SIGKILL), "a sweep failed by itself"
        now = _stored(run, expected.iloc[:0])
        same(before, now.loc[now.index.intersection(before.index)])
        reported = _rows_reported(run, child)
        stored = len(now) - len(before)
        assert reported <= stored, f"{reported} rows were reported, {stored} are stored"
        found.kills += how == signal.SIGKILL
        found.half_done += 0 < len(now) < len(expected)
        before = now
        if how != signal.SIGKILL or chance.random() < 0.2:
            same(expected, rows(job.run(run)))
            found.whole += 1
            run, before = folder / f"run {found.whole}", expected.iloc[:0]
    same(expected, rows(job.run(run)))
    found.whole += 1
    return found


def _wait_for_rows(run: Path, child: int, rows_done: int) -> None:
    """Return when the child has reported so many rows, or has ended."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if _rows_reported(run, child) >= rows_done:
            return
        time.sleep(0.002)


def _rows_reported(run: Path, process: int) -> int:
    """Return how many rows a process has reported as stored."""
    if not (run / "progress.json").is_file():
        return 0
    found = read_status(run)
    return found.rows_done if found.pid == process else 0


def _stored(run: Path, nothing: pd.DataFrame) -> pd.DataFrame:
    """What can be read of a run that may not have got far enough to be read."""
    try:
        return rows(lr.read(run))
    except lr.InputError as error:
        # Killed before there was a table, or while it was made.
        early = ("not a run folder", "no such table", "readonly database", "unable to open")
        assert any(words in str(error) for words in early), error
        return nothing


def rows(result: Any) -> pd.DataFrame:
    frame: pd.DataFrame = result.frame.set_index(KEY).sort_index()
    assert not frame.index.has_duplicates
    return frame[["score", "response", "outcome", "status"]]


def same(one: pd.DataFrame, two: pd.DataFrame) -> None:
    assert len(one) == len(two)
    if len(one):  # the types of what is empty are others
        pd.testing.assert_frame_equal(one, two, check_exact=False, atol=1e-5, rtol=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # no other thread may hold a lock when a child is made
    status.SECONDS_BETWEEN_WRITES = 0.0  # every report is written
    with tempfile.TemporaryDirectory() as scratch:
        print(killed_at_random(Path(scratch), args.kills, args.seed))

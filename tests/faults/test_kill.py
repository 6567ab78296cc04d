"""A few of the kills that `tests/faults/kill.py` makes many of, and kills at set moments."""

import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import layerroles as lr
from tests.faults.kill import KEY, killed_at_random

# No other thread may hold a lock when a child is made.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.matrix)])
def test_a_sweep_that_is_killed_loses_nothing(
    kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerroles.sweep.status.SECONDS_BETWEEN_WRITES", 0.0)
    found = killed_at_random(tmp_path, kills, seed=1)
    assert found.kills == kills
    assert found.half_done > 0


REPORT, CHOICE = "sweep.report_file.write_report", "sweep.execution.next_cells"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> lr.SweepResult:
    return asked_until_decided(tmp_path_factory.mktemp("left alone") / "run")


@pytest.mark.parametrize(
    ("called", "call", "in_rounds"),
    [
        pytest.param(REPORT, 1, True, id="after the first round", marks=pytest.mark.matrix),
        pytest.param(REPORT, 4, False, id="after the first look"),
        pytest.param(CHOICE, 2, False, id="a look is chosen, not noted", marks=pytest.mark.matrix),
    ],
)
def test_a_kill_between_rounds_or_at_a_look_changes_nothing(
    called: str, call: int, in_rounds: bool, alone: lr.SweepResult, tmp_path: Path
) -> None:
    child = os.fork()
    if child == 0:
        try:
            die_at(called, call)
            asked_until_decided(tmp_path / "killed")
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    killed = lr.read(tmp_path / "killed")
    n_asked = killed.frame.groupby("condition").size()
    # Rounds ask every condition as much; looks ask further only what is not decided.
    assert (n_asked.nunique() == 1) == in_rounds
    assert len(killed.frame) < len(alone.frame)

    resumed = asked_until_decided(tmp_path / "killed")
    pd.testing.assert_frame_equal(answers(resumed), answers(alone), check_exact=True)
    assert resumed.decisions().equals(alone.decisions())


def asked_until_decided(run: Path) -> lr.SweepResult:
    """A sweep in rounds whose verdicts are looked at a few times, with a report after each."""
    planted = lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,))
    return lr.Sweep(
        planted.model,
        [task for task in planted.tasks if task.family == "retrieval"],
        lr.each_layer(planted.model, lr.Skip()),
        protocols=["generation"],
        until="decided",
        limit=96,
        noise_floor=False,
    ).run(run, report=run.with_suffix(".html"))


def die_at(called: str, call: int) -> None:
    """Let this process kill itself at the end of a call of one of the package's functions."""
    module, name = f"layerroles.{called}".rsplit(".", 1)
    function, n_calls = getattr(importlib.import_module(module), name), 0

    def counted(*args: Any) -> Any:
        nonlocal n_calls
        found = function(*args)
        n_calls += 1
        if n_calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(importlib.import_module(module), name, counted)


def answers(result: lr.SweepResult) -> pd.DataFrame:
    columns = [*KEY, "score", "response", "outcome", "status"]
    return result.frame[columns].sort_values(KEY, ignore_index=True)

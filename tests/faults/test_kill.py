"""A few of the kills that `tests/faults/kill.py` makes many of."""

from pathlib import Path

import pytest
import torch

from tests.faults.kill import killed_at_random


def test_a_sweep_that_is_killed_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerroles.sweep.status._SECONDS_BETWEEN_WRITES", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # no other thread may hold a lock when a child is made
    try:
        found = killed_at_random(tmp_path, 5, seed=1)
    finally:
        torch.set_num_threads(threads)
    assert found.kills == 5
    assert found.half_done > 0

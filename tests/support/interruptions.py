"""Runs that are stopped after every part that they store, and started again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from layerroles.results import SweepResult
from layerroles.sweep.execution import Execution
from layerroles.sweep.work_units import Unit


def run_with_interruptions(
    run: Callable[[], SweepResult], after_each: Callable[[], None]
) -> tuple[SweepResult, int]:
    """Start a run again and again, each time stopped after one more part than before.

    Returns the result of the first run that ends, and the number of those that were stopped.

    Args:
        run: starts the run, or goes on with it.
        after_each: called after each run that was stopped.
    """
    answer_units = Execution._answer_units
    n_stopped = 0

    def stop(self: Execution, units: Sequence[Unit]) -> Iterator[Any]:
        nonlocal n_parts
        for part in answer_units(self, units):
            n_parts += 1
            if n_parts == n_stopped + 1:
                raise KeyboardInterrupt
            yield part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Execution, "_answer_units", stop)
        while True:
            n_parts = 0
            try:
                return run(), n_stopped
            except KeyboardInterrupt:
                n_stopped += 1
                after_each()

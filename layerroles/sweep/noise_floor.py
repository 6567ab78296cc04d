"""Measure the noise floor: how many of the intact model's answers change in other batches.

Floating-point rounding depends on the shape of a batch, so a few answers change. An effect that
changes no more answers than rounding does cannot be distinguished from noise. The noise floor is
measured in each cell (one task under one protocol).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerroles.protocols import Answer, Asked
from layerroles.tasks import Example

_AT_ONCE = 4
# Continuous scores count as the same up to this relative difference.
_SAME = 1e-6


def split_batches(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Yield the examples in batches of four, or one by one if there are at most four."""
    size = _AT_ONCE if len(examples) > _AT_ONCE else 1
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def needs_floor(manifest: Mapping[str, Any], names: tuple[str, str], n: int) -> bool:
    """Return whether a cell's noise floor is still to be measured on `n` examples.

    Args:
        manifest: the run's manifest.
        names: the cell's task and protocol.
        n: the number of examples asked.
    """
    return not any(
        (floor["task"], floor["protocol"]) == names and floor["n"] >= n
        for floor in manifest["noise_floor"]
    )


def needs_chance(cell: Mapping[str, Any], asked: Asked) -> bool:
    """Return whether a cell's chance is unknown and can be estimated by shuffling its answers.

    Args:
        cell: the cell's manifest entry.
        asked: the cell's encoded examples.
    """
    can_shuffle = type(asked).shuffled is not Asked.shuffled
    return can_shuffle and cell["unit"] == "accuracy" and cell["chance"] is None


def measure_noise_floor(
    cell: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]], repeated: Mapping[str, Answer]
) -> dict[str, Any]:
    """Return a cell's noise floor: the number of changed answers, and both mean scores.

    Args:
        cell: the cell's manifest entry.
        before: the stored rows of the intact model, by example.
        repeated: the intact model's answers in another batch shape, by example.

    Returns:
        A manifest entry with `task`, `protocol`, `n` (examples), `n_changed`, `score` (the mean of
        `repeated`) and `intact` (the mean of `before`); a mean is None if no score is finite.
    """
    continuous = cell["unit"] != "accuracy"
    changed = [_answer_changed(before[id], answer, continuous) for id, answer in repeated.items()]
    return {
        "task": cell["task"],
        "protocol": cell["protocol"],
        "n": len(repeated),
        "n_changed": sum(changed),
        "score": _mean([answer.score for answer in repeated.values()]),
        "intact": _mean([before[id]["score"] for id in repeated]),
    }


def _answer_changed(before: Mapping[str, Any], repeated: Answer, continuous: bool) -> bool:
    if before["status"] != "ok" or repeated.status != "ok":
        return bool(before["status"] != repeated.status)
    if continuous:
        return not math.isclose(before["score"], repeated.score, rel_tol=_SAME)
    return (before["response"], before["outcome"]) != (repeated.response, repeated.outcome)


def _mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean of the finite scores; None if there are none. SQLite stores NaN as None."""
    finite = [score for score in scores if score is not None and math.isfinite(score)]
    return sum(finite) / len(finite) if finite else None

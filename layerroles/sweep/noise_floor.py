"""What the intact model's answers, asked for once more, tell: the noise floor, and what chance is.

A batch of another shape rounds otherwise, and a few answers change by that alone. An effect on as
few answers as that is none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from layerroles.protocols import Answer, Asked
from layerroles.tasks import Example

_AT_ONCE = 4
# Scores that are measurements are the same if they agree to this, relative.
_SAME = 1e-6


def batches(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Examples in batches of another shape than all at once: by fours, or one by one."""
    size = _AT_ONCE if len(examples) > _AT_ONCE else 1
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def needs_floor(manifest: Mapping[str, Any], names: tuple[str, str], n: int) -> bool:
    """Whether the noise floor of a cell is not known yet for this many examples."""
    return not any(
        (floor["task"], floor["protocol"]) == names and floor["n"] >= n
        for floor in manifest["noise_floor"]
    )


def needs_chance(cell: Mapping[str, Any], asked: Asked) -> bool:
    """Whether a cell's chance can be estimated only, and has not been."""
    can = type(asked).shuffled is not Asked.shuffled
    return can and cell["unit"] == "accuracy" and cell["chance"] is None


def noise_floor(
    cell: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]], again: Mapping[str, Answer]
) -> dict[str, Any]:
    """How many of a cell's answers changed, and both mean scores.

    Args:
        cell: of the manifest.
        before: the rows of the intact model, by example.
        again: its answers in another batch shape.
    """
    continuous = cell["unit"] != "accuracy"
    changed = [_changed(before[id], answer, continuous) for id, answer in again.items()]
    return {
        "task": cell["task"],
        "protocol": cell["protocol"],
        "n": len(again),
        "n_changed": sum(changed),
        "score": _mean([answer.score for answer in again.values()]),
        "intact": _mean([before[id]["score"] for id in again]),
    }


def _changed(before: Mapping[str, Any], again: Answer, continuous: bool) -> bool:
    if before["status"] != "ok" or again.status != "ok":
        return bool(before["status"] != again.status)
    if continuous:
        return not math.isclose(before["score"], again.score, rel_tol=_SAME)
    return (before["response"], before["outcome"]) != (again.response, again.outcome)


def _mean(scores: Sequence[float | None]) -> float | None:
    """The mean of the finite ones; SQLite gives None for NaN."""
    finite = [score for score in scores if score is not None and math.isfinite(score)]
    return sum(finite) / len(finite) if finite else None

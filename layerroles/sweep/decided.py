"""When a sweep `until="decided"` may stop asking about a condition."""

from dataclasses import asdict, dataclass
from typing import Any

from layerroles.errors import InputError

DECIDED = "decided"


@dataclass(frozen=True)
class Decided:
    """Ask about each condition until its verdict is decided, or the sweep's limit is reached.

    Questions come in looks: after 32, 48, 64, 96, 128, ... questions of each task, the conditions
    with a verdict are asked no more. Verdicts and intervals hold under this looking
    (`stats.Looks`), so a verdict is wrong with probability `error` at most.

    Attributes:
        error: the probability with which a verdict may be wrong, from 1e-6 to below 0.5.
        first: the number of questions of each task before the first look, at least 8.
        minutes: the time to spend; at every look, the conditions that are likely to need the fewest
            further questions are asked first. None for no limit.
        simultaneous: whether `error` holds for all conditions of one ablation in a family and
            protocol together, instead of for each verdict.

    Raises:
        InputError: an attribute outside its range.

    Example:
        until = lr.Decided(error=0.01, minutes=30)
        sweep = lr.Sweep(model, tasks, conditions, until=until, limit=1024)
    """

    error: float = 0.05
    first: int = 32
    minutes: float | None = None
    simultaneous: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.error, int | float) or not 1e-6 <= self.error < 0.5:
            raise InputError(f"error={self.error!r} is not a probability from 1e-6 to below 0.5")
        if not isinstance(self.first, int) or self.first < 8:
            raise InputError(f"first={self.first!r} is not a whole number of 8 or more")
        if self.minutes is not None and not (
            isinstance(self.minutes, int | float) and self.minutes > 0
        ):
            raise InputError(f"minutes={self.minutes!r} is not a number of minutes above 0")
        if not isinstance(self.simultaneous, bool):
            raise InputError(f"simultaneous={self.simultaneous!r} is neither True nor False")

    def to_manifest(self) -> dict[str, Any]:
        """Return what verdicts depend on, for the manifest."""
        values = asdict(self)
        del values["minutes"]
        return values


def make_until(given: object, limit: int) -> Decided | None:
    """Return the rule that `Sweep(until=)` names; None if everything is asked up to the limit.

    Raises:
        InputError: neither a `Decided` nor "decided", or the first look is above the limit.
    """
    if given is None:
        return None
    until = Decided() if given == DECIDED else given
    if not isinstance(until, Decided):
        raise InputError(f"until={given!r} is unknown: use {DECIDED!r} or a Decided(...)")
    if until.first > limit:
        raise InputError(
            f"first={until.first} is above limit={limit}: look first after {limit} questions or "
            f"fewer, or raise the limit"
        )
    return until

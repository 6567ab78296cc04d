"""Checks of the parameters that a task or a protocol is made with."""

from collections.abc import Iterable

from layerroles.errors import InputError


def whole(
    name: str, parameter: str, value: object, low: int, high: int, *, kind: str = "task"
) -> None:
    """Require a whole number from `low` to `high`, both included.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(
            f"{kind} {name!r}: {parameter}={value!r} is not a whole number from {low} to {high}"
        )


def one_of(
    name: str, parameter: str, value: object, known: Iterable[str], *, kind: str = "task"
) -> None:
    """Require one of the known words.

    Raises:
        InputError: it is none of them.
    """
    names = list(known)
    if value not in names:
        raise InputError(
            f"{kind} {name!r}: {parameter}={value!r} is unknown: known are {', '.join(names)}"
        )

"""Which parameters of a test `make test` runs; `make test-all` runs them all."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mark_rest(mark: str, values: Iterable[Any], *, first: Collection[Any]) -> list[Any]:
    """Return parameters of a test, those that are not among the `first` marked.

    Args:
        mark: a marker of pyproject.toml, the reason why the others are left out of `make test`.
        values: the parameters; each is one argument of the test.
        first: the parameters that `make test` runs too.

    Raises:
        ValueError: one of the first is not a parameter.
    """
    values = list(values)
    if unknown := [value for value in first if value not in values]:
        raise ValueError(f"{unknown} are not among {values}")
    marked = getattr(pytest.mark, mark)
    return [value if value in first else pytest.param(value, marks=marked) for value in values]

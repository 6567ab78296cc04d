"""The interface that all executors (ways to run the model) have in common."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from layerroles.ablations import Condition
from layerroles.engine.requests import Requests


@runtime_checkable
class Executor(Protocol):
    """A way to run a model on encoded requests under conditions.

    Attributes:
        name: the executor's name, as given to `Engine(executor=...)`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def refusal(self, condition: Condition) -> str | None:
        """Return why the executor cannot run the model under a condition; None if it can."""
        ...

    def answer(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """Answer lists of requests under every condition.

        Yields triples: the index of a list, the index of a condition, and the answers to the list's
        requests under that condition (a `Score` or a `Writing` each, in order). There is one triple
        for each pair of list and condition, yielded as soon as it is ready.
        """
        ...

"""Stories in which a number changes step by step, for word problems."""

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Calculation:
    """One operation: `left op right`."""

    left: int
    op: str
    right: int

    @property
    def result(self) -> int:
        """The result of the operation; a division leaves no remainder."""
        return compute(self.left, self.op, self.right)

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


@dataclass(frozen=True)
class Operation:
    """One change of a story's current number.

    Attributes:
        op: `+`, `-`, `*` or `/`; or `~`, which subtracts the current number from the other one.
        by: the other number; ignored if `of` is given.
        of: index of an earlier result that is the other number (0 for the start), or None.
    """

    op: str
    by: int = 0
    of: int | None = None


@dataclass(frozen=True)
class Story:
    """A story with its question and its numbers.

    Attributes:
        sentences: the sentences in the order of the text.
        needed: for each of `sentences`, whether the answer depends on it.
        asked: the text of the question.
        start: the number before the first operation.
        operations: the operations in the order in which they are computed.
        unused: the numbers in the sentences on which the answer does not depend.
    """

    sentences: tuple[str, ...]
    needed: tuple[bool, ...]
    asked: str
    start: int
    operations: tuple[Operation, ...]
    unused: tuple[int, ...] = ()

    @property
    def steps(self) -> tuple[Calculation, ...]:
        """The operations as calculations; each has both of its numbers and its result."""
        results, calculations = [self.start], list[Calculation]()
        for operation in self.operations:
            calculation = _next_calculation(results, operation)
            calculations.append(calculation)
            results.append(calculation.result)
        return tuple(calculations)

    @property
    def answer(self) -> int:
        """The result of the last step."""
        return self.steps[-1].result

    @property
    def numbers(self) -> set[int]:
        """The numbers that the story shows in digits."""
        return {int(number) for number in re.findall(r"\d+", " ".join(self.sentences))}


def compute(left: int, op: str, right: int) -> int:
    """Return the result of `left op right`, where op is one of `+ - * /`; `/` rounds down."""
    match op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left // right


def work_out(start: int, operations: Sequence[Operation]) -> int | None:
    """Return the result of the last operation; None if any result is not a whole number above 0."""
    results = [start]
    for operation in operations:
        calculation = _next_calculation(results, operation)
        if calculation.op == "/" and (
            calculation.right == 0 or calculation.left % calculation.right
        ):
            return None
        results.append(calculation.result)
        if results[-1] <= 0:
            return None
    return results[-1]


def _next_calculation(results: list[int], operation: Operation) -> Calculation:
    result = results[-1]
    number = operation.by if operation.of is None else results[operation.of]
    if operation.op == "~":
        return Calculation(number, "-", result)
    if operation.of is not None and operation.op == "+":
        return Calculation(number, "+", result)
    return Calculation(result, operation.op, number)

"""Stories in which a number changes step by step: the stuff of word problems."""

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
        """What comes out; a division always comes out even."""
        return compute(self.left, self.op, self.right)

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right} = {self.result}"


@dataclass(frozen=True)
class Operation:
    """What happens to the number that a story has come to.

    Attributes:
        op: `+`, `-`, `*`, `/`, or `~` for `by` minus the number.
        by: the other number; without meaning if `of` is given.
        of: the index of an earlier result to be used instead (0 for the start), or None.
    """

    op: str
    by: int = 0
    of: int | None = None


@dataclass(frozen=True)
class Story:
    """A story with its numbers.

    Attributes:
        sentences: the story, in the order of telling.
        needed: for each sentence, whether the answer needs it.
        asked: the question.
        start: the number before the first operation.
        operations: in the order in which they are worked out.
        unused: the numbers of the sentences that the answer does not need.
    """

    sentences: tuple[str, ...]
    needed: tuple[bool, ...]
    asked: str
    start: int
    operations: tuple[Operation, ...]
    unused: tuple[int, ...] = ()

    @property
    def steps(self) -> tuple[Calculation, ...]:
        """The operations, each with the numbers on its two sides."""
        results, calculations = [self.start], list[Calculation]()
        for operation in self.operations:
            calculation = _next_calculation(results, operation)
            calculations.append(calculation)
            results.append(calculation.result)
        return tuple(calculations)

    @property
    def answer(self) -> int:
        """What the last step comes to."""
        return self.steps[-1].result

    @property
    def numbers(self) -> set[int]:
        """The numbers that the story shows in digits."""
        return {int(number) for number in re.findall(r"\d+", " ".join(self.sentences))}


def compute(left: int, op: str, right: int) -> int:
    """Compute `left op right`, where op is one of `+ - * /`."""
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
    """Return what operations come to; None if a result is not a whole number above zero."""
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

"""Wrong answers to word problems: what comes out of a slip in working a story out.

Wrong and right numbers must look alike without the story. So as many of the wrong numbers
are above the right one as if all four were drawn from the answers of such problems, and a number
that is seldom an answer is seldom a wrong one. Slips alone would also make the right number the one
from which the others differ by little: in three of four questions two of the slips are therefore
made on the way to a third, and near misses, which stand in for missing slips, come in pairs.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from layerroles.tasks.stories import Operation, Story, work_out

WRONG = 3

# Slips in counting and carrying.
_CARRIED = (1, 10, 2, 3)
# How often a number that the story shows is among the wrong ones; the right one is seldom shown.
_SHOWN = 0.2
# How often the answer to another problem is, so that common answers are as often wrong as right.
_OTHER = 0.5
_TRIES = 40

_Working = tuple[int, tuple[Operation, ...]]


def wrong_numbers(rng: random.Random, story: Story, answers: Counter[int]) -> list[int]:
    """Draw three wrong numbers above zero.

    Args:
        rng: what draws them.
        story: the story that is worked out wrongly.
        answers: how often each number is the answer of such problems.
    """
    picker = _WrongNumbers(rng, story, answers)
    if rng.random() < _SHOWN:
        picker.offer_shown()
    if rng.random() < _OTHER:
        picker.offer_other()
    way = story.start, story.operations
    slips = list(_work_out_mistakes(way, story.unused))
    rng.shuffle(slips)
    if slips and rng.random() < 0.75:
        way, number = slips[0]
        further = list(_work_out_mistakes(way, story.unused))
        rng.shuffle(further)
        slips = [(way, number), *further]
    for _, number in slips:
        picker.offer(number)
    picker.fill()
    return picker.wrong


class _WrongNumbers:
    """Collects the wrong numbers of one question."""

    def __init__(self, rng: random.Random, story: Story, answers: Counter[int]) -> None:
        self.rng = rng
        self.right = right = story.answer
        self.answers = answers
        # Counts are small: from here on a number is as often an answer as any.
        self.common = 0.4 * max(answers.values())
        higher = sum(count for number, count in answers.items() if number > right)
        lower = sum(count for number, count in answers.items() if number < right)
        above = sum(rng.random() * (higher + lower) < higher for _ in range(WRONG))
        self.room = {True: above, False: WRONG - above}
        self.shown = story.numbers
        self.wrong: list[int] = []

    def offer(self, number: int, *, always: bool = False) -> bool:
        """Take a number if it fits, more readily if it is often an answer."""
        side = number > self.right
        fits = number > 0 and number not in {self.right, *self.wrong} and self.room[side] > 0
        if not fits:
            return False
        if not always:
            likely = self.answers[number] > self.rng.random() * self.common
            if number in self.shown or not likely:
                return False
        self.wrong.append(number)
        self.room[side] -= 1
        return True

    def offer_shown(self) -> None:
        """Take one of the numbers that the story shows."""
        for number in self.rng.sample(sorted(self.shown), len(self.shown)):
            if self.answers[number] and self.offer(number, always=True):
                return

    def offer_other(self) -> None:
        """Take the answer to another problem."""
        for number in self.rng.choices([*self.answers], [*self.answers.values()], k=_TRIES):
            if self.offer(number, always=True):
                return

    def fill(self) -> None:
        """Complete the numbers by near misses."""
        match WRONG - len(self.wrong):
            case 3:
                self._take_square()
            case 2:
                distance = self._take_near([self.right])
                if distance:
                    self._take_near(self.wrong[:1], (distance,))
            case 1:
                from_right = self.rng.random() < 0.5
                self._take_near([self.right] if from_right else self.wrong)
        for _ in range(WRONG - len(self.wrong)):
            self.offer_other()
        while len(self.wrong) < WRONG:  # too few answers are on one side
            self.offer(self.right + self.rng.randint(-9, 9), always=True)

    def _take_near(self, bases: Sequence[int], carried: Sequence[int] = _CARRIED) -> int:
        """Take a number near one of the bases and return how near, or 0."""
        for _ in range(_TRIES):
            distance = self.rng.choice(carried)
            if self.offer(self.rng.choice(bases) + self.rng.choice((distance, -distance))):
                return distance
        return 0

    def _take_square(self) -> None:
        """Take three numbers so that each of the four has one neighbor at each of two distances."""
        place = self.room[False]
        for _ in range(_TRIES):
            one, two = self.rng.sample(_CARRIED, 2)
            corners = sorted((0, one, two, one + two))
            numbers = [self.right + corner - corners[place] for corner in corners]
            del numbers[place]
            likely = min(self.answers[number] for number in numbers)
            if likely > self.rng.random() * self.common and not self.shown & {*numbers}:
                for number in numbers:
                    self.offer(number, always=True)
                return


def _work_out_mistakes(way: _Working, unused: Sequence[int]) -> Iterator[tuple[_Working, int]]:
    """The ways with one mistake more, and what they come to."""
    for mistaken in _make_mistakes(*way, unused):
        number = work_out(*mistaken)
        if number is not None:
            yield mistaken, number


def _make_mistakes(
    start: int, operations: tuple[Operation, ...], unused: Sequence[int]
) -> Iterator[_Working]:
    repeats = any(operation.of is not None for operation in operations)
    for at, operation in enumerate(operations):
        before, after = operations[:at], operations[at + 1 :]
        wrong_operations = [replace(operation, op=op) for op in "+-*/" if op != operation.op]
        # A number that plays no part in place of one that does.
        wrong_operations += [Operation(operation.op, number) for number in unused]
        if operation.op == "*" and operation.of is None:
            # The next rows of the multiplication table.
            wrong_operations += [
                replace(operation, by=operation.by + row) for row in (-2, -1, 1, 2)
            ]
        for wrong_operation in wrong_operations:
            yield start, (*before, wrong_operation, *after)
        if operation.op == "*" and at == 0:
            yield from ((start + row, operations) for row in (-2, -1, 1, 2))
        # Done twice, left out, and where the solution stops too early.
        yield start, (*before, operation, operation, *after)
        if not repeats and len(operations) > 1:
            yield start, (*before, *after)
        if before:
            yield start, before
        for number in unused:
            yield start, (*before, operation, Operation("+", number), *after)
        # Two numbers swapped.
        if operation.of is None:
            yield operation.by, (*before, replace(operation, by=start), *after)
        for place in range(at):
            swapped = list(operations)
            swapped[at] = replace(operation, by=operations[place].by)
            swapped[place] = replace(operations[place], by=operation.by)
            yield start, tuple(swapped)

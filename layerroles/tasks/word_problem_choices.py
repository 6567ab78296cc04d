"""Draw wrong answers to word problems: the results of mistakes (slips) in working out a story.

A reader who sees only the choices must not be able to pick the right one. So the number of wrong
choices above the right number is distributed as if all four choices were drawn from the answers to
problems of this level and number of steps, and a number that is rarely an answer is rarely a wrong
choice. If each wrong number were the result of a single slip, the right number would be the one to
which all others are close. So in three of four questions, one wrong number results from one slip,
and the others from the same slip and a second one. If there are too few slips, numbers near the
right one or near a wrong one are used.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from layerroles.tasks.story_operations import Operation, Story, work_out

WRONG = 3

# Distances of near misses: slips in counting and carrying.
_CARRIED = (1, 10, 2, 3)
# Probability of trying a wrong number that occurs in the story; the right number rarely does.
_SHOWN = 0.2
# Probability of trying the answer to another problem, so that common answers are often wrong ones.
_OTHER = 0.5
_TRIES = 40

_Working = tuple[int, tuple[Operation, ...]]


def wrong_numbers(rng: random.Random, story: Story, answers: Counter[int]) -> list[int]:
    """Draw three distinct wrong numbers above zero.

    Args:
        rng: the random generator.
        story: the story of the problem.
        answers: how often each number is the answer to a problem of the same level and number of
            steps.
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
    """The wrong numbers of one question, collected one by one."""

    def __init__(self, rng: random.Random, story: Story, answers: Counter[int]) -> None:
        self.rng = rng
        self.right = right = story.answer
        self.answers = answers
        # Counts are small: numbers with this count or more are treated as equally common.
        self.common = 0.4 * max(answers.values())
        higher = sum(count for number, count in answers.items() if number > right)
        lower = sum(count for number, count in answers.items() if number < right)
        above = sum(rng.random() * (higher + lower) < higher for _ in range(WRONG))
        self.room = {True: above, False: WRONG - above}
        self.shown = story.numbers
        self.wrong: list[int] = []

    def offer(self, number: int, *, always: bool = False) -> bool:
        """Add a number to the wrong numbers if it is suitable; return whether it was added.

        The number must be positive, new, and on a side of the right number (above or below) where a
        wrong number is still missing. Unless `always` is set, it must not occur in the story, and
        the probability of adding it rises with how often it is the answer to other problems.
        """
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
        """Add to the wrong numbers one number that occurs in the story, if one is suitable.

        A number is suitable if it is positive, new, on a side where a number is missing (see
        `offer`), and the answer to some other problem.
        """
        for number in self.rng.sample(sorted(self.shown), len(self.shown)):
            if self.answers[number] and self.offer(number, always=True):
                return

    def offer_other(self) -> None:
        """Add to the wrong numbers the answer to some other problem.

        Answers are drawn by frequency until one is positive, new and on a side where a number is
        missing (see `offer`); after 40 draws, nothing is added.
        """
        for number in self.rng.choices([*self.answers], [*self.answers.values()], k=_TRIES):
            if self.offer(number, always=True):
                return

    def fill(self) -> None:
        """Add wrong numbers until there are three.

        They are near the right number or another wrong one. If none of these is suitable, they are
        answers to other problems or, as a last resort, any numbers within 9 of the right one.
        """
        match WRONG - len(self.wrong):
            case 3:
                self._add_square()
            case 2:
                distance = self._add_number_near([self.right])
                if distance:
                    self._add_number_near(self.wrong[:1], (distance,))
            case 1:
                from_right = self.rng.random() < 0.5
                self._add_number_near([self.right] if from_right else self.wrong)
        for _ in range(WRONG - len(self.wrong)):
            self.offer_other()
        while len(self.wrong) < WRONG:  # too few answers are on one side
            self.offer(self.right + self.rng.randint(-9, 9), always=True)

    def _add_number_near(self, bases: Sequence[int], carried: Sequence[int] = _CARRIED) -> int:
        """Try to add one wrong number that differs from one of `bases` by one of `carried`.

        Return the absolute difference; 0 if no number was added.
        """
        for _ in range(_TRIES):
            distance = self.rng.choice(carried)
            if self.offer(self.rng.choice(bases) + self.rng.choice((distance, -distance))):
                return distance
        return 0

    def _add_square(self) -> None:
        """Try to add three wrong numbers that form a square with the right one.

        The four numbers are x, x + a, x + b and x + a + b, with different a and b.
        """
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
    """Yield (calculation, result) for each calculation that differs from `way` by one mistake.

    A calculation is (number at the start, operations). It is yielded only if the results of all
    operations are whole numbers above 0. Mistakes may use the story's irrelevant numbers, `unused`.
    """
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
        # An irrelevant number instead of the right one.
        wrong_operations += [Operation(operation.op, number) for number in unused]
        if operation.op == "*" and operation.of is None:
            # Neighbouring rows of the multiplication table.
            wrong_operations += [
                replace(operation, by=operation.by + row) for row in (-2, -1, 1, 2)
            ]
        for wrong_operation in wrong_operations:
            yield start, (*before, wrong_operation, *after)
        if operation.op == "*" and at == 0:
            yield from ((start + row, operations) for row in (-2, -1, 1, 2))
        # The operation done twice or left out, or the solution stopped before it.
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

"""Reasoning: arithmetic word problems of one to three steps, with worked solutions.

In the manner of GSM8K (Cobbe et al. 2021, arXiv 2110.14168), small enough for small models: whole
numbers up to 100, a few plain sentences. Under protocols that generate, the worked examples show
solutions; under likelihood protocols they show the bare answer.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

from layerroles.tasks.base import Example, Grade, register
from layerroles.tasks.generated import Generated, with_wrong
from layerroles.tasks.numbers import grade_number
from layerroles.tasks.parameters import one_of, whole
from layerroles.tasks.stories import OPENINGS, SUMS, Step, Story, apply, tell

OPERATIONS = ("add", "all")
_OTHER = {"+": "-", "-": "+", "*": "+", "/": "-"}


@register("word_problems")
@dataclass(frozen=True, kw_only=True)
class WordProblems(Generated):
    """Solve a word problem.

    Wrong choices are what is found on the way (the numbers in between), what another operation
    gives in place of one of the right ones, and near misses. Evidence is the sentences of the
    story.

    Attributes:
        steps: operations from what is told to the answer, 1 to 3.
        operations: `add`, sums only, which small models can do; or `all`: sums, differences,
            products and equal shares.
        num_fewshot: worked examples before each problem, stories that open as it does.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("word_problems", steps=1, num_fewshot=0).examples(limit=1, seed=0)
        >>> example.answer in example.choices, example.solution.endswith(f"{example.answer}.")
        (True, True)
    """

    family: ClassVar[str] = "reasoning"
    until: ClassVar[tuple[str, ...]] = ("\n\n", "Question:")

    steps: int = 2
    operations: str = "add"
    num_fewshot: int = 3

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `steps` or `operations` is not one of those above.
        """
        super().__post_init__()
        whole(self.name, "steps", self.steps, 1, 3)
        one_of(self.name, "operations", self.operations, OPERATIONS)

    @property
    def max_gen_toks(self) -> int:
        """About twice what a worked solution takes."""
        return 32 + 16 * self.steps

    @property
    def kinds(self) -> int:
        """One kind for each way in which a story opens."""
        return len(SUMS if self.operations == "add" else OPENINGS)

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a story that opens in the way `kind` and put its question."""
        story = tell(rng, OPENINGS[kind], self.steps, sums_only=self.operations == "add")
        head = "Question: "
        told = " ".join(story.told)
        answer = str(story.steps[-1].after)
        return Example(
            id="",
            prompt=f"{head}{told} {story.asked}\nAnswer:",
            answer=answer,
            choices=with_wrong(answer, [str(number) for number in _wrong(rng, story)], rng),
            evidence=((len(head), len(head) + len(told)),),
            solution=_solution(story),
        )

    def grade(self, response: str, example: Example) -> Grade:
        """Strict: "answer is N" with the right number. Flexible: the last number is right."""
        return grade_number(response, example.answer)


def _solution(story: Story) -> str:
    worked = " ".join(f"{step}." for step in story.steps)
    return f"{worked} The answer is {story.steps[-1].after}."


def _wrong(rng: random.Random, story: Story) -> list[int]:
    """Three wrong numbers, each above zero."""
    right = story.steps[-1].after
    tempting = [step.after for step in story.steps[:-1]]
    tempting += [_with_other_operation(story.steps, at) for at in range(len(story.steps))]
    near = [right + 1, right - 1, right + 2, right - 2, right + 10, right - 10]
    rng.shuffle(tempting)
    rng.shuffle(near)
    # At most two that come of a wrong calculation, so that the right one is not the odd one out.
    wrong: list[int] = []
    for number in tempting:
        if number > 0 and number != right and number not in wrong and len(wrong) < 2:
            wrong.append(number)
    for number in near:
        if number > 0 and number not in wrong and len(wrong) < 3:
            wrong.append(number)
    return wrong


def _with_other_operation(steps: tuple[Step, ...], at: int) -> int:
    """What comes out if step `at` adds where it should take away, and the like."""
    number = steps[0].before
    for place, step in enumerate(steps):
        # A step that takes what came out from something else keeps the two sides as they are.
        swapped = place > 0 and step.before != steps[place - 1].after
        op = _OTHER[step.op] if place == at else step.op
        number = apply(step.before, op, number) if swapped else apply(number, op, step.by)
    return number

"""Reasoning: arithmetic word problems of one to three steps, with worked solutions.

The problems follow GSM8K (Cobbe et al. 2021, arXiv 2110.14168) but are easy enough for small
models: whole numbers up to 100, a few plain sentences. Under protocols that generate, the worked
examples show solutions; under likelihood protocols they show the bare answer.

Level 1 is addition: adding up all numbers of a problem nearly always solves it. In levels 2 and 3
only the story tells which operation applies to which number.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

from layerroles.tasks.base import Example, Grade, check_whole_number, register
from layerroles.tasks.grade_numbers import grade_number
from layerroles.tasks.story_operations import Story
from layerroles.tasks.story_templates import LEVELS, Template, answer_counts, load_templates
from layerroles.tasks.task_base_classes import Generated, shuffle_choices
from layerroles.tasks.word_problem_choices import wrong_numbers
from layerroles.tasks.wordings import WORD_PROBLEMS, check_template, reword

# Problems are drawn in the wording of template 0.
_HEAD, _TAIL = WORD_PROBLEMS[0].split("{body}")


@register("word_problems")
@dataclass(frozen=True, kw_only=True)
class WordProblems(Generated):
    """Solve a word problem.

    Wrong choices are the results of slips: a wrong operation, a step left out or done twice, a
    number from another step, an irrelevant number, an intermediate result, a wrong carry. Equally
    often, 0, 1, 2 or 3 of them are larger than the right answer. Evidence is the sentences of the
    story on which the answer depends.

    Attributes:
        steps: number of operations, 1 to 3.
        level: 1: sums only, which small models can solve by adding all numbers; 2: sums and
            differences; 3: also products, equal shares, irrelevant numbers, and stories that tell
            the first event last.
        num_fewshot: worked examples before each problem, from other story templates than its own.
        shot_order: the order of the worked examples: `drawn` or `reversed`.
        template: the wording of the prompt, 0 to 3; see `tasks.wordings`.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("word_problems", steps=1, num_fewshot=0).examples(limit=1, seed=0)
        >>> example.answer in example.choices, example.solution.endswith(f"{example.answer}.")
        (True, True)
    """

    family: ClassVar[str] = "reasoning"
    version: ClassVar[int] = 3

    steps: int = 2
    level: int = 1
    num_fewshot: int = 3
    template: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `steps` or `level` is not a whole number from 1 to 3, or there is no such
                `template`.
        """
        super().__post_init__()
        check_whole_number(self.name, "steps", self.steps, 1, 3)
        check_whole_number(self.name, "level", self.level, LEVELS[0], LEVELS[-1])
        check_template(self.name, self.template, WORD_PROBLEMS)

    @property
    def skill(self) -> str:
        """The tested skill, if narrower than the family: `adding numbers` (level 1), else empty."""
        return "adding numbers" if self.level == 1 else ""

    @property
    def until(self) -> tuple[str, ...]:
        """Strings that end an answer: a blank line, and the word that opens a problem.

        That word is `Question:` by default; it depends on `template`.
        """
        return "\n\n", WORD_PROBLEMS[self.template].split()[0]

    @property
    def max_gen_toks(self) -> int:
        """The maximum number of generated tokens, about twice the length of a worked solution."""
        return 32 + 16 * self.steps

    @property
    def kinds(self) -> int:
        """The number of kinds of questions: one for each story template of the level."""
        return len(load_templates(self.level))

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a problem from the level's story template with index `kind`."""
        template = load_templates(self.level)[kind]
        story = template.draw(rng, self.steps)
        answer = str(story.answer)
        counts = answer_counts(self.level, self.steps)
        wrong = [str(number) for number in wrong_numbers(rng, story, counts)]
        return Example(
            id="",
            prompt=f"{_HEAD}{' '.join(story.sentences)} {story.asked}{_TAIL}",
            answer=answer,
            choices=shuffle_choices(answer, wrong, rng),
            evidence=_find_evidence(story),
            solution=_write_solution(story),
            cluster=_name_cluster(kind, template),
        )

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a worked example from a story template whose index is not `kind`."""
        other = rng.randrange(self.kinds - 1)
        return self.question(rng, other + (other >= kind))

    def suits(self, shot: Example, question: Example) -> bool:
        """Return whether a worked example is from another story template than the question."""
        return shot.cluster != question.cluster

    def reworded(self, example: Example) -> Example:
        """Return a question or a shot in the wording that `template` selects."""
        body = len(_HEAD), len(example.prompt) - len(_TAIL)
        return reword(example, body, WORD_PROBLEMS[self.template])

    def grade(self, response: str, example: Example) -> Grade:
        """Grade a number by value.

        Strict: the number after "answer is", or the whole response, is right. Flexible: the last
        number is right. See `grade_number`.
        """
        return grade_number(response, example.answer)


def _name_cluster(kind: int, template: Template) -> str:
    return f"template {kind:02} {template.name}"


def _find_evidence(story: Story) -> tuple[tuple[int, int], ...]:
    """Return the spans in the prompt of the sentences that the answer depends on.

    A span is (start, end) in characters; adjacent spans are merged.
    """
    spans: list[tuple[int, int]] = []
    start = len(_HEAD)
    for sentence, needed in zip(story.sentences, story.needed, strict=True):
        end = start + len(sentence)
        if needed and spans and spans[-1][1] == start - 1:
            spans[-1] = (spans[-1][0], end)
        elif needed:
            spans.append((start, end))
        start = end + 1
    return tuple(spans)


def _write_solution(story: Story) -> str:
    worked = " ".join(f"{step}." for step in story.steps)
    return f"{worked} The answer is {story.answer}."

"""Let the model write, greedily, and read its answer from the text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from layerroles.engine import Writing
from layerroles.protocols.base import Answer, register
from layerroles.protocols.outcome import in_form, outcome
from layerroles.protocols.turns import Turn, as_text, worked
from layerroles.protocols.writing import GenerationProtocol
from layerroles.tasks import Example, Task
from layerroles.tasks.parameters import whole

_MOST_TOKENS = 32768


@register("generation")
@dataclass(frozen=True)
class Generation(GenerationProtocol):
    """Score 1 if the right answer was written in some form (`strict`: in the form of the shots).

    Attributes:
        max_gen_toks: tokens after which an answer is cut; 0 leaves it to the task, whose limit is
            meant for answers without thinking.

    Example:
        >>> from layerroles.protocols import Generation
        >>> Generation(max_gen_toks=64).label
        'generation[max_gen_toks=64]'
    """

    measures_chance: ClassVar[bool] = True

    max_gen_toks: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `max_gen_toks` is no whole number, or below 0.
        """
        whole("generation", "max_gen_toks", self.max_gen_toks, 0, _MOST_TOKENS, kind="protocol")

    def check(self, example: Example) -> None:
        """Every example has an answer that can be written."""

    def chance(self, examples: Sequence[Example]) -> float | None:
        """It is measured."""
        return None

    def guess_score(self, task: Task, example: Example, text: str) -> float:
        """1 if the task's rules accept the text."""
        return float(task.grade(text, example).flexible)

    def limit(self, task: Task) -> int:
        """As the parameter says, else as the task does."""
        return self.max_gen_toks or task.max_gen_toks

    def context(self, example: Example) -> str:
        """The question behind its shots, which show worked solutions where there are any."""
        return as_text(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """The same as a chat."""
        return worked(example)

    def judge(self, task: Task, example: Example, writing: Writing) -> Answer:
        """Grade the text by the task's rules."""
        grade = task.grade(writing.text, example)
        kind = outcome(writing.text, grade, ended=writing.ended)
        fine = writing.finite
        return Answer(
            score=float(grade.flexible) if fine else float("nan"),
            correct=grade.flexible if fine else None,
            strict=grade.strict if fine else None,
            outcome=kind if fine else "",
            response=writing.text,
            status="ok" if fine else "not finite",
            changed=writing.changed,
            n_tokens=writing.n_tokens,
            form=in_form(grade, kind) if fine else None,
        )

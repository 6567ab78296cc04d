"""Let the model write, greedily, and read its answer from the text."""

from collections.abc import Sequence
from dataclasses import dataclass

from layerroles.engine import Writing
from layerroles.protocols.base import Answer, GenerationProtocol, register
from layerroles.protocols.outcome import outcome
from layerroles.tasks import Example, Task


@register("generation")
@dataclass(frozen=True)
class Generation(GenerationProtocol):
    """Score 1 if the right answer was written in some form (`strict`: in the form of the shots)."""

    def check(self, example: Example) -> None:
        """Every example has an answer that can be written."""

    def chance(self, examples: Sequence[Example]) -> float | None:
        """Nobody guesses a text."""
        return 0.0

    def context(self, example: Example) -> str:
        """The question behind its shots, which show worked solutions where there are any."""
        return example.context(worked=True)

    def judge(self, task: Task, example: Example, writing: Writing) -> Answer:
        """Grade the text by the task's rules."""
        grade = task.grade(writing.text, example)
        fine = writing.finite
        return Answer(
            score=float(grade.flexible) if fine else float("nan"),
            correct=grade.flexible if fine else None,
            strict=grade.strict if fine else None,
            outcome=outcome(writing.text, grade, ended=writing.ended) if fine else "",
            response=writing.text,
            status="ok" if fine else "not finite",
            changed=writing.changed,
            n_tokens=writing.n_tokens,
        )

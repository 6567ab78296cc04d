"""Protocols that let the model write, greedily, and read its answer from the text."""

import dataclasses
import math
import statistics
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from layerroles.engine import Engine, Writing, Written, encode_written
from layerroles.protocols.base import Answer, Asked, Protocol, register
from layerroles.protocols.outcome import is_in_form, make_details, outcome
from layerroles.protocols.turns import (
    Turn,
    join_turns,
    opens_thinking,
    split_thinking,
    turns_with_solutions,
)
from layerroles.tasks import Example, Task, check_whole_number

# Other examples whose answer an example is given.
_SHUFFLES = 8
_MOST_TOKENS = 32768


class GenerationProtocol(Protocol):
    """A protocol that lets the model write and reads its answer from the text.

    Example:
        >>> from layerroles.protocols import GenerationProtocol, protocol
        >>> isinstance(protocol("generation"), GenerationProtocol)
        True
    """

    @abstractmethod
    def judge(self, task: Task, example: Example, writing: Writing) -> Answer:
        """An answer from what was written."""

    def limit(self, task: Task) -> int:
        """Tokens after which what is written is cut; by default as the task says."""
        return task.max_gen_toks

    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> Asked:
        """Encode a request for each example, with the task's own stopping rules.

        In a chat the model ends its turn itself, and may begin it with a blank line: the task's
        `until` does not apply.
        """
        options = {"until": () if chat else task.until, "max_gen_toks": self.limit(task)}
        prompts = [self.prompt(engine.model, example, chat=chat) for example in examples]
        evidence = [
            self.evidence(example, prompt)
            for example, prompt in zip(examples, prompts, strict=True)
        ]
        requests = encode_written(engine.model, [(prompt, options) for prompt in prompts], evidence)
        return AskedWritings(
            self, task, examples, requests, [opens_thinking(text) for text in prompts]
        )


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
        check_whole_number(
            "generation", "max_gen_toks", self.max_gen_toks, 0, _MOST_TOKENS, kind="protocol"
        )

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
        return join_turns(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """The same as a chat."""
        return turns_with_solutions(example)

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
            form=is_in_form(grade, kind) if fine else None,
        )


@dataclass(frozen=True)
class AskedWritings(Asked):
    """Generation requests, one for each example.

    Attributes:
        opened: whether each prompt itself begins the model's thinking.
    """

    protocol: "GenerationProtocol"
    task: Task
    examples: Sequence[Example]
    requests: list[Written]
    opened: list[bool]

    apart: ClassVar[bool] = False  # rows of several conditions are decoded in one batch

    def judge(self, found: Sequence[Writing]) -> list[Answer]:
        """Judge what was written for each example, without the thinking before it.

        Details: `repetition`, `distinct_1` and `distinct_2` of all that was written, and
        `thinking`, where there was some. Thinking that never ended has no answer: it is truncated.
        """
        return [
            self._judge(example, writing, opened)
            for example, writing, opened in zip(self.examples, found, self.opened, strict=True)
        ]

    def shuffled(self, found: Sequence[Writing]) -> float | None:
        """The mean score if each example is given the answer to another one."""
        n = len(self.examples)
        scores = [
            self._judge(example, found[(place + shift) % n], self.opened[(place + shift) % n]).score
            for shift in range(1, min(_SHUFFLES + 1, n))
            for place, example in enumerate(self.examples)
        ]
        finite = [score for score in scores if not math.isnan(score)]
        return statistics.fmean(finite) if finite else None

    def _judge(self, example: Example, writing: Writing, opened: bool) -> Answer:
        reply = split_thinking(writing.text, opened=opened)
        answer_writing = dataclasses.replace(writing, text=reply.answer)
        answer = self.protocol.judge(self.task, example, answer_writing)
        details = {**answer.details, **make_details(writing.text, reply)}
        answer = dataclasses.replace(answer, thought=reply.closed, details=details)
        if reply.closed is False and writing.finite:
            answer = dataclasses.replace(answer, outcome="truncated")
        return answer

"""Protocols that let the model write: what they share."""

import dataclasses
import math
import statistics
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from layerroles.engine import Engine, Writing, Written, written
from layerroles.protocols.base import Answer, Asked, Protocol
from layerroles.protocols.outcome import details_of
from layerroles.protocols.thinking import opens, said
from layerroles.tasks import Example, Task

# Other examples whose answer an example is given.
_SHUFFLES = 8


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
        parts = said(writing.text, opened=opened)
        read = dataclasses.replace(writing, text=parts.answer)
        answer = self.protocol.judge(self.task, example, read)
        details = {**answer.details, **details_of(writing.text, parts)}
        answer = dataclasses.replace(answer, thought=parts.closed, details=details)
        if parts.closed is False and writing.finite:
            answer = dataclasses.replace(answer, outcome="truncated")
        return answer


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
        requests = written(engine.model, [(prompt, options) for prompt in prompts], evidence)
        return AskedWritings(self, task, examples, requests, [opens(text) for text in prompts])

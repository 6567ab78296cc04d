"""Protocols that extract the answer from a text that the model generates by greedy decoding."""

import dataclasses
import math
import statistics
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from layerroles.engine import Engine, Writing, Written, encode_written
from layerroles.protocols.base import Answer, Asked, Protocol, register
from layerroles.protocols.failure_modes import is_in_form, make_details, outcome
from layerroles.protocols.prompt_format import Turn, join_turns, turns_with_solutions
from layerroles.protocols.thinking_parser import opens_thinking, split_thinking
from layerroles.tasks import Example, Task, check_whole_number

# To estimate chance, each example is judged with the answers to this many other examples.
_SHUFFLES = 8
_MOST_TOKENS = 32768


class GenerationProtocol(Protocol):
    """A protocol that extracts the answer from a text that the model generates.

    Example:
        >>> from layerroles.protocols import GenerationProtocol, protocol
        >>> isinstance(protocol("generation"), GenerationProtocol)
        True
    """

    @abstractmethod
    def judge(self, task: Task, example: Example, writing: Writing) -> Answer:
        """Return the answer to an example that the generated text gives, with its score."""

    def limit(self, task: Task) -> int:
        """Return the maximum number of generated tokens; by default the task's."""
        return task.max_gen_toks

    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> Asked:
        """Encode a request for each example, with the task's stopping strings and token limit.

        In a chat, the stopping strings are not used: the model ends its turn itself, and may begin
        it with a blank line.
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
    """Score 1 if the model writes the right answer in any form that the task accepts, else 0.

    Attributes:
        max_gen_toks: the maximum number of generated tokens; 0 uses the task's, which is meant for
            answers without thinking.

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
            InputError: `max_gen_toks` is not a whole number, is negative, or is too large.
        """
        check_whole_number(
            "generation", "max_gen_toks", self.max_gen_toks, 0, _MOST_TOKENS, kind="protocol"
        )

    def guess_score(self, task: Task, example: Example, text: str) -> float:
        """Return 1 if the task accepts the text in any form, else 0."""
        return float(task.grade(text, example).flexible)

    def limit(self, task: Task) -> int:
        """Return the parameter `max_gen_toks`, or the task's if it is 0."""
        return self.max_gen_toks or task.max_gen_toks

    def context(self, example: Example) -> str:
        """Return the shots, with worked solutions if any, and the question as one text."""
        return join_turns(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """Return the shots, with worked solutions if any, and the question as chat turns."""
        return turns_with_solutions(example)

    def judge(self, task: Task, example: Example, writing: Writing) -> Answer:
        """Grade a text: 1 if it gives the right answer in any form that the task accepts, else 0.

        If a logit was not finite, the score is NaN, and `correct`, `strict` and `form` are None.
        """
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
        protocol: the protocol that scores the generated texts.
        task: the task that grades the texts for the protocol.
        examples: the examples.
        requests: a request for each example.
        opened: for each prompt, whether it ends within a thinking block (`<think>` not yet closed).
    """

    protocol: "GenerationProtocol"
    task: Task
    examples: Sequence[Example]
    requests: list[Written]
    opened: list[bool]

    apart: ClassVar[bool] = False  # rows of several conditions are decoded in one batch

    def judge(self, results: Sequence[Writing]) -> list[Answer]:
        """Score the text generated for each example, without its thinking block if it has one.

        The details of an answer are `repetition`, `distinct_1` and `distinct_2` of the whole text
        (see `failure_modes`) and, if there was a thinking block, its text `thinking`. If the block
        was not closed, the answer is empty and its outcome `truncated`.
        """
        return [
            self._judge(example, writing, opened)
            for example, writing, opened in zip(self.examples, results, self.opened, strict=True)
        ]

    def shuffled(self, results: Sequence[Writing]) -> float | None:
        """Estimate chance: the mean score if each example is given the answers to other examples.

        Returns None if there are no finite scores.
        """
        n = len(self.examples)
        scores = [
            self._judge(
                example, results[(place + shift) % n], self.opened[(place + shift) % n]
            ).score
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

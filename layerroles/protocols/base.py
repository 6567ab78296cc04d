"""What a protocol is: how a task's examples become requests, and answers become scores.

The same example under another protocol is the same question put in another way. What a protocol
needs of an example (choices, say) it checks before anything is run.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from layerroles.engine import Engine, Score, Scored, Writing, Written, scored, written
from layerroles.errors import InputError
from layerroles.registry import Registry
from layerroles.tasks import Example, Task

Unit = Literal["accuracy", "score", "nats", "nats per token", "nats per byte"]


@dataclass(frozen=True)
class Answer:
    """What one example came to under one condition.

    Attributes:
        score: 1 or 0 for right or wrong, or nats per token; NaN if `status` is not `"ok"`.
        correct: whether the answer was right; None where the protocol does not say.
        strict: whether it stood where and how the shots put it; None outside generation.
        outcome: `"correct"`, or how it failed; empty where the protocol does not say.
        response: what the model answered, as text.
        status: `"ok"`, or `"not finite"` if a scored logit was NaN or infinite.
        changed: whether the condition's edits changed anything for this example.
        n_tokens: tokens scored or generated.
        form: whether the answer came in the form of the shots, right or wrong; None outside
            generation.
        thought: whether a thinking block was closed before the answer; None where there was none.
        details: what else the protocol measured, such as `{"steps": [-0.3, -0.1]}`; values that
            JSON can hold.
    """

    score: float
    correct: bool | None
    strict: bool | None
    outcome: str
    response: str
    status: str
    changed: bool
    n_tokens: int
    form: bool | None = None
    thought: bool | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Protocol(ABC):
    """A way of asking. Subclasses are frozen dataclasses.

    Class attributes:
        unit: what a score is.
    """

    unit: ClassVar[Unit] = "accuracy"

    @property
    def name(self) -> str:
        """The registered name, such as `generation`."""
        return PROTOCOLS.name_of(type(self))

    @abstractmethod
    def check(self, example: Example) -> None:
        """Check that the example allows this protocol.

        Raises:
            InputError: it lacks something, such as choices.
        """

    @abstractmethod
    def context(self, example: Example) -> str:
        """The text that the model reads before it answers."""

    def evidence(self, example: Example) -> list[tuple[int, int]] | None:
        """Where the example's evidence is in `context(example)`; None if it has none there."""
        if not example.evidence:
            return None
        context = self.context(example)
        # The question stands last; what asks for its answer may be put anew.
        before = context.rfind(example.prompt.removesuffix("Answer:").rstrip())
        if before < 0:
            return None
        return [(before + start, before + end) for start, end in example.evidence]

    @abstractmethod
    def chance(self, examples: Sequence[Example]) -> float | None:
        """The mean score of guessing; None where there is no such thing."""

    @property
    def aggregation(self) -> dict[str, str | None]:
        """How measures in `details` are aggregated by lm-eval; none outside its tasks."""
        return {}

    @abstractmethod
    def prepare(self, engine: Engine, task: Task, examples: Sequence[Example]) -> "Asked":
        """Encode the requests for these examples."""


class Asked(ABC):
    """Encoded requests for some examples, and how the answers to them are judged.

    Attributes:
        requests: all of one verb.
        apart: whether what is computed for a condition does not depend on which other conditions
            are asked together with it.
    """

    requests: Sequence[Scored] | Sequence[Written]
    apart: ClassVar[bool]

    @abstractmethod
    def judge(self, found: Sequence[Any]) -> list[Answer]:
        """Each example's answer, from the model's answers to the requests."""


@dataclass(frozen=True)
class AskedScores(Asked):
    """Likelihood requests, some for each example, and how their scores become an answer."""

    protocol: "LikelihoodProtocol"
    examples: Sequence[Example]
    requests: list[Scored]
    n_each: list[int]

    apart: ClassVar[bool] = True

    def judge(self, found: Sequence[Score]) -> list[Answer]:
        """Judge each example by the scores of its continuations."""
        left = iter(found)
        return [
            self.protocol.judge(example, [next(left) for _ in range(n)])
            for example, n in zip(self.examples, self.n_each, strict=True)
        ]


class LikelihoodProtocol(Protocol):
    """A protocol that compares or reports likelihoods of given continuations."""

    @abstractmethod
    def continuations(self, example: Example) -> list[str]:
        """What is scored after the context, leading spaces included."""

    @abstractmethod
    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """An answer from the continuations' scores."""

    def prepare(self, engine: Engine, task: Task, examples: Sequence[Example]) -> Asked:
        """Encode a request for each continuation of each example."""
        texts = [self.continuations(example) for example in examples]
        pairs = [
            (self.context(example), text)
            for example, each in zip(examples, texts, strict=True)
            for text in each
        ]
        evidence = [
            self.evidence(example)
            for example, each in zip(examples, texts, strict=True)
            for _ in each
        ]
        requests = scored(engine.model, pairs, evidence)
        return AskedScores(self, examples, requests, [len(each) for each in texts])


@dataclass(frozen=True)
class AskedWritings(Asked):
    """Generation requests, one for each example."""

    protocol: "GenerationProtocol"
    task: Task
    examples: Sequence[Example]
    requests: list[Written]

    apart: ClassVar[bool] = False  # rows of several conditions are decoded in one batch

    def judge(self, found: Sequence[Writing]) -> list[Answer]:
        """Judge what was written for each example."""
        return [
            self.protocol.judge(self.task, example, writing)
            for example, writing in zip(self.examples, found, strict=True)
        ]


class GenerationProtocol(Protocol):
    """A protocol that lets the model write and reads its answer from the text."""

    @abstractmethod
    def judge(self, task: Task, example: Example, writing: Writing) -> Answer:
        """An answer from what was written."""

    def prepare(self, engine: Engine, task: Task, examples: Sequence[Example]) -> Asked:
        """Encode a request for each example, with the task's own stopping rules."""
        options = {"until": task.until, "max_gen_toks": task.max_gen_toks}
        asked = [(self.context(example), options) for example in examples]
        evidence = [self.evidence(example) for example in examples]
        return AskedWritings(self, task, examples, written(engine.model, asked, evidence))


PROTOCOLS: Registry[Protocol] = Registry("protocol", Protocol)
register = PROTOCOLS.register


def need_choices(name: str, example: Example) -> None:
    """Check that an example has choices to tell apart.

    Raises:
        InputError: it has fewer than two.
    """
    if len(example.choices) < 2:
        raise InputError(
            f"protocol {name!r} needs choices, and example {example.id!r} has none: "
            f"use generation or answer_logprob"
        )

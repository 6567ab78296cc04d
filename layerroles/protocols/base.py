"""What a protocol is: how a task's examples become requests, and answers become scores.

Another protocol asks the same question of an example in another way. Each protocol checks, before
anything is run, that examples have what it needs, such as choices.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Engine, Scored, Written
from layerroles.errors import InputError
from layerroles.protocols.turns import Turn, apply_template
from layerroles.registry import Registry, label_of, read_label
from layerroles.tasks import Example, Task

Unit = Literal["accuracy", "score", "nats", "nats per token", "nats per byte"]


@dataclass(frozen=True)
class Answer:
    """What one example came to under one condition.

    Attributes:
        score: 1 or 0 for right or wrong, or nats per token or byte; NaN if `status` is not `"ok"`.
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

    Example:
        >>> from layerroles.protocols import Answer
        >>> answer = Answer(score=1.0, correct=True, strict=True, outcome="correct", response=" 8",
        ...                 status="ok", changed=False, n_tokens=2)
        >>> answer.form is None, dict(answer.details)
        (True, {})
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
    """A way of asking. Subclasses are frozen dataclasses; their fields are parameters.

    Class attributes:
        unit: what a score is.
        measures_chance: whether the score of guessing is measured, by `guess_score`, instead of
            stated by `chance`.

    Example:
        >>> from layerroles.protocols import protocol
        >>> byte = protocol("continuation[norm=byte]")
        >>> byte.name, byte.label, byte.unit
        ('continuation', 'continuation[norm=byte]', 'accuracy')
    """

    unit: ClassVar[Unit] = "accuracy"
    measures_chance: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The registered name, such as `generation`."""
        return PROTOCOLS.name_of(type(self))

    @property
    def label(self) -> str:
        """The name with every parameter that is not the default: `continuation[norm=byte]`."""
        return label_of(self.name, self)

    @abstractmethod
    def check(self, example: Example) -> None:
        """Check that the example allows this protocol.

        Raises:
            InputError: it lacks something, such as choices.
        """

    @abstractmethod
    def context(self, example: Example) -> str:
        """The text that the model reads before it answers."""

    def turns(self, example: Example) -> list[Turn]:
        """Return the context as turns of a chat; by default all of it is one user turn."""
        return [Turn("user", self.context(example))]

    def prompt(self, model: TransformerBridge, example: Example, *, chat: bool) -> str:
        """Return what this model reads: the context, or in a chat turns in the model's template.

        Raises:
            InputError: a chat with a model that has no template.
        """
        return apply_template(model, self.turns(example)) if chat else self.context(example)

    def evidence(
        self, example: Example, context: str | None = None
    ) -> list[tuple[int, int]] | None:
        """Return the evidence's spans in a context, by default the example's; None if absent."""
        if not example.evidence:
            return None
        if context is None:
            context = self.context(example)
        # The question comes last; the text that asks for its answer may differ.
        question_start = context.rfind(example.prompt.removesuffix("Answer:").rstrip())
        if question_start < 0:
            return None
        return [(question_start + start, question_start + end) for start, end in example.evidence]

    @abstractmethod
    def chance(self, examples: Sequence[Example]) -> float | None:
        """Return the mean score of guessing; None if there is none, or if it is measured."""

    def guess_score(self, task: Task, example: Example, text: str) -> float:
        """Return a text's score as the answer to an example, where chance is measured."""
        raise NotImplementedError(f"protocol {self.name!r} states its chance")

    def noted(self) -> dict[str, Any]:
        """Return more about this protocol for a run's manifest, as JSON.

        A run folder whose cell has other `rules` is refused.
        """
        return {}

    @abstractmethod
    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> "Asked":
        """Encode the requests for these examples; `chat` puts them into the model's template."""


class Asked(ABC):
    """Encoded requests for some examples, and how the answers to them are judged.

    Attributes:
        requests: all of one verb.
        apart: whether the results of a condition do not depend on which other conditions are
            asked together with it.

    Example:
        from layerroles.protocols import Continuation

        examples = tasks[0].examples(limit=2, seed=0)
        asked = Continuation().prepare(lr.Engine(model), tasks[0], examples)
        len(asked.requests)  # one for each choice of each
    """

    requests: Sequence[Scored] | Sequence[Written]
    apart: ClassVar[bool]

    @abstractmethod
    def judge(self, found: Sequence[Any]) -> list[Answer]:
        """Return each example's answer, from the model's answers to the requests."""

    def shuffled(self, found: Sequence[Any]) -> float | None:
        """Estimate the score of guessing: the mean score if right answers were shuffled.

        Used if a protocol whose scores are accuracies cannot state its chance; None if chance
        cannot be estimated this way either.
        """
        return None


PROTOCOLS: Registry[Protocol] = Registry("protocol", Protocol)
register = PROTOCOLS.register


def protocol(label: str, **parameters: object) -> Protocol:
    """Make a protocol by its name: `protocol("continuation", norm="byte")`.

    A label works too: `protocol("continuation[norm=byte]")`.

    Raises:
        InputError: unknown protocol or parameter, or a value that the protocol does not take.

    Example:
        >>> from layerroles.protocols import protocol
        >>> protocol("continuation", norm="byte").label
        'continuation[norm=byte]'
    """
    name, label_parameters = read_label("protocol", label)
    return PROTOCOLS.make(name, {**label_parameters, **parameters})


def check_choices(name: str, example: Example) -> None:
    """Check that an example has choices to tell apart.

    Raises:
        InputError: it has fewer than two.
    """
    if len(example.choices) < 2:
        raise InputError(
            f"protocol {name!r} needs choices, and example {example.id!r} has none: "
            f"use generation or answer_logprob"
        )

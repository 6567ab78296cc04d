"""The base class of protocols: how examples become requests, and answers become scores.

Different protocols ask the same question in different ways. Each checks, before anything is run,
that examples have what it needs, such as choices.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Engine, Scored, Written
from layerroles.protocols.prompt_format import Turn, apply_template, strip_cue
from layerroles.registry import Registry, label_of, read_label
from layerroles.tasks import Example, Task

Unit = Literal["accuracy", "score", "nats", "nats per token", "nats per byte"]


@dataclass(frozen=True)
class Answer:
    """The answer to one example under one condition, and its score.

    Attributes:
        score: 1 or 0 for right or wrong, or a measurement in the protocol's unit; NaN if `status`
            is not `"ok"`.
        correct: whether the answer was right; None if the protocol does not say or `status` is not
            `"ok"`.
        strict: whether the answer was right in the place and form that the worked examples (shots)
            show; None outside generation.
        outcome: `"correct"`, or how the answer failed (see `OUTCOMES`); empty if the protocol does
            not say.
        response: the generated text, or the given text that was chosen; empty for measurements.
        status: `"ok"`, or `"not finite"` if a scored logit was NaN or infinite.
        changed: whether the condition's edits changed any value for this example.
        n_tokens: number of tokens scored or generated.
        form: whether the answer, right or wrong, has the form that the shots show; None outside
            generation.
        thought: whether a thinking block (`<think>...</think>`) was closed before the answer; None
            if there was none.
        details: further measurements, such as `{"steps": [-0.3, -0.1]}`, as JSON-compatible values.

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
    """A way to turn examples into requests, and answers into scores.

    Subclasses are frozen dataclasses; their fields are the protocol's parameters.

    Class attributes:
        unit: the unit of a score.
        measures_chance: whether the score of guessing is measured with `guess_score`, instead of
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
        """The name and all parameters that differ from the default: `continuation[norm=byte]`."""
        return label_of(self.name, self)

    def check(self, example: Example) -> None:  # noqa: B027  # many ask every example
        """Check that the example can be asked under this protocol; by default it always can.

        Raises:
            InputError: the example lacks something that the protocol needs, such as choices.
        """

    @abstractmethod
    def context(self, example: Example) -> str:
        """Return the text that the model reads before it answers."""

    def turns(self, example: Example) -> list[Turn]:
        """Return the context as turns of a chat; by default as one user turn."""
        return [Turn("user", self.context(example))]

    def prompt(self, model: TransformerBridge, example: Example, *, chat: bool) -> str:
        """Return the text that the model reads: the context, with `chat` in the chat template.

        Raises:
            InputError: `chat` is set and the model has no chat template.
        """
        return apply_template(model, self.turns(example)) if chat else self.context(example)

    def evidence(
        self, example: Example, context: str | None = None
    ) -> list[tuple[int, int]] | None:
        """Return the character spans of the evidence in a context, by default `context(example)`.

        Returns None if the example has no evidence, or if its prompt is not found in the context.
        """
        if not example.evidence:
            return None
        if context is None:
            context = self.context(example)
        # The question comes last; the cue after it, such as "Answer:", may differ.
        question_start = context.rfind(strip_cue(example.prompt))
        if question_start < 0:
            return None
        return [(question_start + start, question_start + end) for start, end in example.evidence]

    def chance(self, examples: Sequence[Example]) -> float | None:
        """Return the mean score of guessing; by default None.

        None means that chance is undefined, as for a log-likelihood, or measured by `guess_score`.
        """
        return None

    def chooses(self, examples: Sequence[Example]) -> bool:
        """Return whether an answer is one of the choices, of which exactly one scores 1.

        If so, and a rule that ignores the question is shown to score more than `chance` (see
        `tasks.best_choice`), the score of that rule is used as chance. By default False.
        """
        return False

    def guess_score(self, task: Task, example: Example, text: str) -> float:
        """Return the score of `text` as the answer to an example.

        Raises:
            NotImplementedError: `measures_chance` is false, so `chance` states the score of
                guessing.
        """
        raise NotImplementedError(f"protocol {self.name!r} states its chance")

    def noted(self) -> dict[str, Any]:
        """Return what a run's manifest stores about this protocol beyond its label, as JSON values.

        If the dict has an entry `rules`, a run folder in which the stored entry differs is refused.
        """
        return {}

    @abstractmethod
    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> "Asked":
        """Encode the requests for these examples; with `chat`, in the model's chat template.

        Returns an `Asked`, which holds the requests and scores the model's results for them.
        """


class Asked(ABC):
    """Encoded requests for some examples, and how the model's results become scored answers.

    Attributes:
        requests: either all likelihood requests (`Scored`), or all generation requests (`Written`).
        apart: whether the results of a condition are independent of which other conditions share
            its batch.

    Example:
        from layerroles.protocols import Continuation

        examples = tasks[0].examples(limit=2, seed=0)
        asked = Continuation().prepare(lr.Engine(model), tasks[0], examples)
        len(asked.requests)  # one for each choice of each example
    """

    requests: Sequence[Scored] | Sequence[Written]
    apart: ClassVar[bool]

    @abstractmethod
    def judge(self, results: Sequence[Any]) -> list[Answer]:
        """Return the scored answer to each example, in the order of the examples.

        Args:
            results: the model's results under one condition, in the order of `requests`: a `Score`
                for each `Scored` request, a `Writing` for each `Written` one.
        """

    def shuffled(self, results: Sequence[Any]) -> float | None:
        """Estimate the score of guessing: the mean score if answers are shuffled among examples.

        Used for accuracies whose chance the protocol cannot state. Returns None (the default) if
        the score of guessing cannot be estimated in this way.
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

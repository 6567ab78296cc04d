"""Protocols that score given answers instead of letting the model write one.

Each example has some continuations of its context. The engine scores their tokens, in nats, and the
protocol judges the example by these scores: it compares the continuations (`continuation`,
`letter`), asks whether greedy decoding would write one (`exact`), or reports how likely one is
(`answer_logprob`).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, ClassVar

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Engine, Score, Scored, encode_scored
from layerroles.errors import InputError
from layerroles.protocols.base import Answer, Asked, Protocol, Unit, check_choices, register
from layerroles.protocols.turns import Turn, join_turns, turns_with_answers
from layerroles.tasks import Example, Task, check_one_of

NORMS = ("sum", "token", "byte", "unconditional")


class LikelihoodProtocol(Protocol):
    """A protocol that compares or reports likelihoods of given continuations.

    Example:
        >>> from layerroles.protocols import LikelihoodProtocol, protocol
        >>> isinstance(protocol("letter"), LikelihoodProtocol)
        True
    """

    @abstractmethod
    def continuations(self, example: Example) -> list[str]:
        """What is scored after the context, leading spaces included."""

    @abstractmethod
    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """An answer from the continuations' scores."""

    def pairs(self, example: Example, context: str, *, chat: bool) -> list[tuple[str, str]]:
        """What is scored after what; a reply in a chat begins without a space, as in lm-eval."""
        texts = self.continuations(example)
        return [(context, text.removeprefix(" ") if chat else text) for text in texts]

    def requests(self, model: TransformerBridge, example: Example, *, chat: bool) -> list[Scored]:
        """The example's pairs, encoded."""
        context = self.prompt(model, example, chat=chat)
        pairs = self.pairs(example, context, chat=chat)
        evidence = self.evidence(example, context)
        return encode_scored(model, pairs, None if evidence is None else [evidence] * len(pairs))

    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> Asked:
        """Encode a request for each continuation of each example."""
        by_example = [self.requests(engine.model, example, chat=chat) for example in examples]
        requests = [request for example_requests in by_example for request in example_requests]
        return AskedScores(
            self, examples, requests, [len(example_requests) for example_requests in by_example]
        )


class ChoiceProtocol(LikelihoodProtocol):
    """The model's answer is the choice whose continuation is likeliest."""

    def check(self, example: Example) -> None:
        """Choices to tell apart are needed."""
        check_choices(self.name, example)

    def chance(self, examples: Sequence[Example]) -> float | None:
        """One over the number of choices, on average."""
        return sum(1 / len(example.choices) for example in examples) / len(examples)

    def compare_scores(self, example: Example, scores: list[Score]) -> list[float]:
        """What decides between the choices; by default their continuations' nats."""
        return [score.logprob for score in scores]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Right if the right choice is likeliest; ties count as wrong.

        Details: `logprobs`, nats of each choice in the order of the choices, and `margin`, of the
        right one over the best other in what is compared.
        """
        n = len(example.choices)
        right = example.choices.index(example.answer)
        compared = self.compare_scores(example, scores)
        best = max(range(n), key=lambda index: compared[index])
        margin = compared[right] - max(compared[i] for i in range(n) if i != right)
        details = {"logprobs": [score.logprob for score in scores[:n]], "margin": margin}
        return _right_or_wrong(margin > 0, example.choices[best], scores, details)


@register("continuation")
@dataclass(frozen=True)
class Continuation(ChoiceProtocol):
    """Compare the likelihoods of the choices' texts.

    Attributes:
        norm: what is compared. `sum`, over a choice's tokens (lm-eval's `acc`); `token`, the sum
            over the number of tokens; `byte`, over that of UTF-8 bytes (`acc_bytes`; for ASCII
            texts `acc_norm`); `unconditional`, how much likelier the context makes the choice:
            log P(choice | context) - log P(choice) (`acc_mutual_info`).

    Example:
        >>> from layerroles.protocols import Continuation
        >>> from layerroles.tasks import Example
        >>> Continuation(norm="byte").continuations(
        ...     Example(id="1", prompt="2 + 2 =", answer="4", choices=("3", "4")))
        [' 3', ' 4']
    """

    norm: str = "sum"

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `norm` is none of those above.
        """
        check_one_of("continuation", "norm", self.norm, NORMS, kind="protocol")

    def context(self, example: Example) -> str:
        """The question behind its shots, which show bare answers."""
        return join_turns(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """The same as a chat."""
        return turns_with_answers(example)

    def evidence(
        self, example: Example, context: str | None = None
    ) -> list[tuple[int, int]] | None:
        """As everywhere; but what is scored after no context at all has no evidence to act on."""
        return None if self.norm == "unconditional" else super().evidence(example, context)

    def continuations(self, example: Example) -> list[str]:
        """Each choice after one space."""
        return [f" {choice}" for choice in example.choices]

    def pairs(self, example: Example, context: str, *, chat: bool) -> list[tuple[str, str]]:
        """Each choice after the context, and where the norm needs it after nothing."""
        pairs = super().pairs(example, context, chat=chat)
        return pairs + [("", text) for _, text in pairs] * (self.norm == "unconditional")

    def compare_scores(self, example: Example, scores: list[Score]) -> list[float]:
        """Nats, by the norm."""
        match self.norm:
            case "token":
                return [score.logprob / score.n_tokens for score in scores]
            case "byte":
                sizes = [len(choice.encode()) for choice in example.choices]
                return [s.logprob / size for s, size in zip(scores, sizes, strict=True)]
            case "unconditional":
                n = len(example.choices)
                both = zip(scores[:n], scores[n:], strict=True)
                return [after.logprob - alone.logprob for after, alone in both]
        return super().compare_scores(example, scores)


@register("letter")
@dataclass(frozen=True)
class Letter(ChoiceProtocol):
    """List the choices under letters and compare the likelihoods of the letters (as in MMLU).

    Example:
        >>> from layerroles.protocols import Letter
        >>> from layerroles.tasks import Example
        >>> two = Example(id="1", prompt="2 + 2 =", answer="4", choices=("3", "4"))
        >>> print(Letter().context(two))
        2 + 2 =
        A. 3
        B. 4
        Answer:
    """

    def check(self, example: Example) -> None:
        """Choices are needed, in the shots too, and no more than there are letters.

        Raises:
            InputError: there are none, or too many.
        """
        for shown in (example, *example.shots):
            check_choices(self.name, shown)
            if len(shown.choices) > len(ascii_uppercase):
                raise InputError(
                    f"protocol 'letter' has letters for 26 choices, not for {shown.id}"
                )

    def context(self, example: Example) -> str:
        """Question, lettered choices and `Answer:`, behind shots of the same form."""
        return join_turns(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """The same as a chat."""
        shots = [
            turn
            for shot in example.shots
            for turn in (
                Turn("user", _list_under_letters(shot)),
                Turn("assistant", _find_letter(shot)),
            )
        ]
        return [*shots, Turn("user", _list_under_letters(example))]

    def continuations(self, example: Example) -> list[str]:
        """Each letter after one space."""
        return [f" {letter}" for letter in ascii_uppercase[: len(example.choices)]]


@register("exact")
@dataclass(frozen=True)
class Exact(LikelihoodProtocol):
    """Score 1 if the answer is what greedy decoding would write, token by token, else 0.

    Every token of the answer has to be the likeliest one after the context and the answer's tokens
    before it: `is_greedy` of lm-eval's `loglikelihood`. This stands between `continuation` and
    `generation`. The context is the text of `continuation`, so from `continuation` to `exact`
    strictness alone changes: all of the vocabulary competes at every token, and not some choices.
    From `exact` to `generation` the writing changes: the model goes on from its own tokens, ends
    its answer by itself, and may put it in another form, or in other tokens. The contexts of those
    two are the same for tasks without worked solutions only; the shots of `generation` show them.

    Any of the example's `aliases` will do as well as its answer, as in `generation`.

    Example:
        >>> from layerroles.protocols import Exact
        >>> from layerroles.tasks import Example
        >>> Exact().continuations(Example(id="1", prompt="2 + 2 =", answer="4", aliases=("four",)))
        [' 4', ' four']
    """

    measures_chance: ClassVar[bool] = True

    def check(self, example: Example) -> None:
        """Every example has an answer."""

    def chance(self, examples: Sequence[Example]) -> float | None:
        """It is measured."""
        return None

    def guess_score(self, task: Task, example: Example, text: str) -> float:
        """1 if the text is the answer or an alias."""
        return float(text in (example.answer, *example.aliases))

    def context(self, example: Example) -> str:
        """The question behind its shots, which show bare answers."""
        return join_turns(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """The same as a chat."""
        return turns_with_answers(example)

    def continuations(self, example: Example) -> list[str]:
        """The answer after one space, then each of its aliases."""
        return [f" {text}" for text in (example.answer, *example.aliases)]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Right if the answer, or an alias, would be written.

        The response is that text; empty where it is none of them, for what the model would write
        instead is not known. Details: `logprob`, nats of the answer.
        """
        texts = zip((example.answer, *example.aliases), scores, strict=True)
        greedy_texts = [text for text, score in texts if score.is_greedy]
        details = {"logprob": scores[0].logprob}
        return _right_or_wrong(
            bool(greedy_texts), greedy_texts[0] if greedy_texts else "", scores, details
        )


@register("answer_logprob")
@dataclass(frozen=True)
class AnswerLogprob(LikelihoodProtocol):
    """How likely the right answer is, in nats per token (0 at best).

    Example:
        >>> from layerroles.protocols import AnswerLogprob
        >>> from layerroles.tasks import Example
        >>> AnswerLogprob().continuations(Example(id="1", prompt="2 + 2 =", answer="4"))
        [' 4']
    """

    unit: ClassVar[Unit] = "nats per token"

    def check(self, example: Example) -> None:
        """Every example has an answer."""

    def chance(self, examples: Sequence[Example]) -> float | None:
        """There is no such thing as guessing here."""
        return None

    def context(self, example: Example) -> str:
        """The question behind its shots, which show bare answers."""
        return join_turns(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """The same as a chat."""
        return turns_with_answers(example)

    def continuations(self, example: Example) -> list[str]:
        """The answer after one space."""
        return [f" {example.answer}"]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Nats per token of the answer."""
        (score,) = scores
        return make_measurement(score.logprob / score.n_tokens, scores, {})


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
        scores = iter(found)
        return [
            self.protocol.judge(example, [next(scores) for _ in range(n)])
            for example, n in zip(self.examples, self.n_each, strict=True)
        ]


def _right_or_wrong(
    correct: bool, response: str, scores: Sequence[Score], details: Mapping[str, Any]
) -> Answer:
    """An answer that is right or wrong; neither where a score is not finite."""
    finite = all(score.finite for score in scores)
    return Answer(
        score=float(correct) if finite else float("nan"),
        correct=correct if finite else None,
        strict=None,
        outcome=("correct" if correct else "wrong") if finite else "",
        response=response if finite else "",
        status="ok" if finite else "not finite",
        changed=any(score.changed for score in scores),
        n_tokens=sum(score.n_tokens for score in scores),
        details=details if finite else {},
    )


def make_measurement(score: float, scores: Sequence[Score], details: Mapping[str, Any]) -> Answer:
    """An answer that is a measurement, neither right nor wrong, from what `scores` say."""
    finite = all(each.finite for each in scores)
    return Answer(
        score=score if finite else float("nan"),
        correct=None,
        strict=None,
        outcome="",
        response="",
        status="ok" if finite else "not finite",
        changed=any(each.changed for each in scores),
        n_tokens=sum(each.n_tokens for each in scores),
        details=details if finite else {},
    )


def _list_under_letters(example: Example) -> str:
    # A prompt may already ask for its answer ("Answer:"); the choices come before that.
    question = example.prompt.removesuffix("Answer:").rstrip()
    lines = [
        f"{letter}. {choice}"
        for letter, choice in zip(ascii_uppercase, example.choices, strict=False)
    ]
    return "\n".join([question, *lines, "Answer:"])


def _find_letter(example: Example) -> str:
    return ascii_uppercase[example.choices.index(example.answer)]

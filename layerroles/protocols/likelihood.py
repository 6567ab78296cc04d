"""Protocols that score given answers instead of letting the model write one.

The engine scores the tokens of one or more continuations of an example's context, in nats, and the
protocol judges the example by these scores: it compares the continuations (`continuation`,
`letter`), checks whether greedy decoding would write one (`exact`), or reports how likely one is
(`answer_logprob`).
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, ClassVar

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Engine, Score, Scored, encode_scored
from layerroles.errors import InputError
from layerroles.protocols.base import Answer, Asked, Protocol, Unit, register
from layerroles.protocols.prompt_format import Turn, join_turns, strip_cue, turns_with_answers
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
        """Return the texts that are scored after the context, with leading white space."""

    @abstractmethod
    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Return the answer to an example, given the scores of its continuations in their order."""

    def pairs(self, example: Example, context: str, *, chat: bool) -> list[tuple[str, str]]:
        """Return a (context, continuation) pair for each continuation.

        With `chat`, continuations have no leading space, as in lm-eval.
        """
        texts = self.continuations(example)
        return [(context, text.removeprefix(" ") if chat else text) for text in texts]

    def requests(self, model: TransformerBridge, example: Example, *, chat: bool) -> list[Scored]:
        """Return an example's (context, continuation) pairs, encoded as requests."""
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


class FewShotProtocol(LikelihoodProtocol):
    """A protocol that shows the shots, by default with bare answers, and then the question."""

    def context(self, example: Example) -> str:
        """Return the shots and the question as one text."""
        return join_turns(self.turns(example))

    def turns(self, example: Example) -> list[Turn]:
        """Return the shots (with bare answers) and the question as chat turns."""
        return turns_with_answers(example)


class ChoiceProtocol(FewShotProtocol):
    """A protocol that answers with the choice whose continuation is likeliest."""

    def check(self, example: Example) -> None:
        """Check that the example has choices.

        Raises:
            InputError: the example has fewer than two choices.
        """
        n_choices = len(example.choices)
        if n_choices < 2:
            raise InputError(
                f"protocol {self.name!r} needs choices, and example {example.id!r} has "
                f"{'only one' if n_choices else 'none'}: use generation, exact or answer_logprob"
            )

    def chance(self, examples: Sequence[Example]) -> float | None:
        """Return the mean over examples of 1/k, where k is the number of choices."""
        return sum(1 / len(example.choices) for example in examples) / len(examples)

    def chooses(self, examples: Sequence[Example]) -> bool:
        """Return True: an answer is one of the choices."""
        return True

    def compared(self, example: Example, scores: list[Score]) -> list[float]:
        """Return the number by which each choice is compared; the choice with the largest wins.

        By default the number is the choice's log-likelihood in nats.
        """
        return [score.logprob for score in scores]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Score 1 if the right choice has a larger number in `compared` than all others, else 0.

        Details: `logprobs`, the log-likelihood of each choice in nats, and `margin`, the number by
        which the right choice is compared minus the largest number of the others.
        """
        n = len(example.choices)
        right = example.choices.index(example.answer)
        compared = self.compared(example, scores)
        best = max(range(n), key=lambda index: compared[index])
        margin = compared[right] - max(compared[i] for i in range(n) if i != right)
        details = {"logprobs": [score.logprob for score in scores[:n]], "margin": margin}
        return _right_or_wrong(margin > 0, example.choices[best], scores, details)


@register("continuation")
@dataclass(frozen=True)
class Continuation(ChoiceProtocol):
    """Compare the likelihoods of the choices' texts.

    Attributes:
        norm: what is compared: `sum`, the log-likelihood summed over a choice's tokens (lm-eval's
            `acc`); `token`, this sum per token; `byte`, this sum per UTF-8 byte (`acc_bytes`; for
            ASCII texts `acc_norm`); `unconditional`, how much likelier the context makes the
            choice: log P(choice | context) - log P(choice) (`acc_mutual_info`).

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
            InputError: `norm` is not one of the values listed above.
        """
        check_one_of("continuation", "norm", self.norm, NORMS, kind="protocol")

    def evidence(
        self, example: Example, context: str | None = None
    ) -> list[tuple[int, int]] | None:
        """Return the result of `Protocol.evidence`; always None for `unconditional`.

        With that norm, choices are also scored without the context, where there is no evidence.
        """
        return None if self.norm == "unconditional" else super().evidence(example, context)

    def continuations(self, example: Example) -> list[str]:
        """Return the texts to be scored: each choice, preceded by one space."""
        return [f" {choice}" for choice in example.choices]

    def pairs(self, example: Example, context: str, *, chat: bool) -> list[tuple[str, str]]:
        """Return (context, choice) pairs; for `unconditional`, followed by ("", choice) pairs."""
        pairs = super().pairs(example, context, chat=chat)
        return pairs + [("", text) for _, text in pairs] * (self.norm == "unconditional")

    def compared(self, example: Example, scores: list[Score]) -> list[float]:
        """Return the log-likelihood of each choice in nats, normalized by `norm`."""
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
        return super().compared(example, scores)


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
        """Check that the example and each of its shots have 2 to 26 choices.

        Raises:
            InputError: one of them has fewer than 2 choices, or more than 26.
        """
        for shown in (example, *example.shots):
            super().check(shown)
            if len(shown.choices) > len(ascii_uppercase):
                raise InputError(
                    f"protocol 'letter' has letters for 26 choices, not for {shown.id}"
                )

    def turns(self, example: Example) -> list[Turn]:
        """Return the shots and the question, each with lettered choices and `Answer:`."""
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
        """Return the texts to be scored: the letter of each choice, preceded by one space."""
        return [f" {letter}" for letter in ascii_uppercase[: len(example.choices)]]


@register("exact")
@dataclass(frozen=True)
class Exact(FewShotProtocol):
    """Score 1 if the answer is what greedy decoding would write, token by token, else 0.

    Every token of the answer must be the likeliest one after the context and the tokens of the
    answer before it: `is_greedy` of lm-eval's `loglikelihood`.

    This is between `continuation` and `generation` in strictness. It has the context of
    `continuation`, but each token competes with the whole vocabulary instead of a few choices. In
    `generation` the model continues from its own tokens, ends its answer itself, and may use
    another form or other tokens. There, shots also show worked solutions, so the contexts are the
    same only for tasks without solutions.

    Any of the example's `aliases` is accepted like its answer, as in `generation`.

    Example:
        >>> from layerroles.protocols import Exact
        >>> from layerroles.tasks import Example
        >>> Exact().continuations(Example(id="1", prompt="2 + 2 =", answer="4", aliases=("four",)))
        [' 4', ' four']
    """

    measures_chance: ClassVar[bool] = True

    def guess_score(self, task: Task, example: Example, text: str) -> float:
        """Return 1 if the text is the answer or an alias, else 0."""
        return float(text in (example.answer, *example.aliases))

    def continuations(self, example: Example) -> list[str]:
        """Return the texts to be scored: the answer and each alias, each preceded by one space."""
        return [f" {text}" for text in (example.answer, *example.aliases)]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Score 1 if greedy decoding would write the answer or an alias, else 0.

        The response is that text, or empty if there is none: other texts that the model would write
        are not known. Details: `logprob`, the log-likelihood of the answer in nats.
        """
        scored_texts = zip((example.answer, *example.aliases), scores, strict=True)
        greedy_texts = [text for text, score in scored_texts if score.is_greedy]
        details = {"logprob": scores[0].logprob}
        return _right_or_wrong(
            bool(greedy_texts), greedy_texts[0] if greedy_texts else "", scores, details
        )


@register("answer_logprob")
@dataclass(frozen=True)
class AnswerLogprob(FewShotProtocol):
    """Score the log-likelihood of the right answer, in nats per token (0 at best).

    Example:
        >>> from layerroles.protocols import AnswerLogprob
        >>> from layerroles.tasks import Example
        >>> AnswerLogprob().continuations(Example(id="1", prompt="2 + 2 =", answer="4"))
        [' 4']
    """

    unit: ClassVar[Unit] = "nats per token"

    def continuations(self, example: Example) -> list[str]:
        """Return the text to be scored: the answer, preceded by one space."""
        return [f" {example.answer}"]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Score an example by the log-likelihood of its answer, in nats per token."""
        (score,) = scores
        return make_measurement(score.logprob / score.n_tokens, scores, {})


@dataclass(frozen=True)
class AskedScores(Asked):
    """Likelihood requests, in the order of the examples.

    Attributes:
        protocol: the protocol that turns an example's scores into an answer.
        examples: the examples.
        requests: the requests of all examples.
        n_each: the number of requests of each example.
    """

    protocol: "LikelihoodProtocol"
    examples: Sequence[Example]
    requests: list[Scored]
    n_each: list[int]

    apart: ClassVar[bool] = True

    def judge(self, results: Sequence[Score]) -> list[Answer]:
        """Return the answer to each example, from the scores of its continuations."""
        scores = iter(results)
        return [
            self.protocol.judge(example, [next(scores) for _ in range(n)])
            for example, n in zip(self.examples, self.n_each, strict=True)
        ]


def _right_or_wrong(
    correct: bool, response: str, scores: Sequence[Score], details: Mapping[str, Any]
) -> Answer:
    """Return an answer with score 1 if `correct`, else 0; NaN if one of `scores` is not finite."""
    answer = make_measurement(float(correct), scores, details)
    if answer.status != "ok":
        return answer
    kind = "correct" if correct else "wrong"
    return dataclasses.replace(answer, correct=correct, outcome=kind, response=response)


def make_measurement(score: float, scores: Sequence[Score], details: Mapping[str, Any]) -> Answer:
    """Return an answer whose score is the measurement `score`, in the protocol's unit.

    If one of `scores` is not finite, the score is NaN and `details` are left out.
    """
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
    question = strip_cue(example.prompt)
    lines = [
        f"{letter}. {choice}"
        for letter, choice in zip(ascii_uppercase, example.choices, strict=False)
    ]
    return "\n".join([question, *lines, "Answer:"])


def _find_letter(example: Example) -> str:
    return ascii_uppercase[example.choices.index(example.answer)]

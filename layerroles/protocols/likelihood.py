"""Protocols that score given answers instead of letting the model write one."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import ClassVar

from layerroles.engine import Score
from layerroles.errors import InputError
from layerroles.protocols.base import Answer, LikelihoodProtocol, Unit, need_choices, register
from layerroles.tasks import Example


class Choosing(LikelihoodProtocol):
    """The model's answer is the choice whose continuation is likeliest."""

    def check(self, example: Example) -> None:
        """Choices to tell apart are needed."""
        need_choices(self.name, example)

    def chance(self, examples: Sequence[Example]) -> float | None:
        """One over the number of choices, on average."""
        return sum(1 / len(example.choices) for example in examples) / len(examples)

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Right if the right choice is likeliest; ties count as wrong."""
        finite = all(score.finite for score in scores)
        right = example.choices.index(example.answer)
        best = max(range(len(scores)), key=lambda index: scores[index].logprob)
        others = (s.logprob for i, s in enumerate(scores) if i != right)
        correct = finite and scores[right].logprob > max(others)
        return Answer(
            score=float(correct) if finite else float("nan"),
            correct=correct if finite else None,
            strict=None,
            outcome=("correct" if correct else "wrong") if finite else "",
            response=example.choices[best] if finite else "",
            status="ok" if finite else "not finite",
            changed=any(score.changed for score in scores),
            n_tokens=sum(score.n_tokens for score in scores),
        )


@register("continuation")
@dataclass(frozen=True)
class Continuation(Choosing):
    """Compare the likelihoods of the choices' texts, summed over their tokens (lm-eval's `acc`)."""

    def context(self, example: Example) -> str:
        """The question behind its shots, which show bare answers."""
        return example.context()

    def continuations(self, example: Example) -> list[str]:
        """Each choice after one space."""
        return [f" {choice}" for choice in example.choices]


@register("letter")
@dataclass(frozen=True)
class Letter(Choosing):
    """List the choices under letters and compare the likelihoods of the letters (as in MMLU)."""

    def check(self, example: Example) -> None:
        """Choices are needed, in the shots too, and no more than there are letters."""
        for one in (example, *example.shots):
            need_choices(self.name, one)
            if len(one.choices) > len(ascii_uppercase):
                raise InputError(f"protocol 'letter' has letters for 26 choices, not for {one.id}")

    def context(self, example: Example) -> str:
        """Question, lettered choices and `Answer:`, behind shots of the same form."""
        shots = [f"{_lettered(shot)} {_letter(shot)}" for shot in example.shots]
        return "\n\n".join([*shots, _lettered(example)])

    def continuations(self, example: Example) -> list[str]:
        """Each letter after one space."""
        return [f" {letter}" for letter in ascii_uppercase[: len(example.choices)]]


@register("answer_logprob")
@dataclass(frozen=True)
class AnswerLogprob(LikelihoodProtocol):
    """How likely the right answer is, in nats per token (0 at best)."""

    unit: ClassVar[Unit] = "nats per token"

    def check(self, example: Example) -> None:
        """Every example has an answer."""

    def chance(self, examples: Sequence[Example]) -> float | None:
        """There is no such thing as guessing here."""
        return None

    def context(self, example: Example) -> str:
        """The question behind its shots, which show bare answers."""
        return example.context()

    def continuations(self, example: Example) -> list[str]:
        """The answer after one space."""
        return [f" {example.answer}"]

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Nats per token of the answer."""
        (score,) = scores
        return Answer(
            score=score.logprob / score.n_tokens,
            correct=None,
            strict=None,
            outcome="",
            response="",
            status="ok" if score.finite else "not finite",
            changed=score.changed,
            n_tokens=score.n_tokens,
        )


def _lettered(example: Example) -> str:
    # A prompt may already ask for its answer ("Answer:"); the choices come before that.
    question = example.prompt.removesuffix("Answer:").rstrip()
    lines = [
        f"{letter}. {choice}"
        for letter, choice in zip(ascii_uppercase, example.choices, strict=False)
    ]
    return "\n".join([question, *lines, "Answer:"])


def _letter(example: Example) -> str:
    return ascii_uppercase[example.choices.index(example.answer)]

"""Protocols that score given texts: what they share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Engine, Score, Scored, scored
from layerroles.protocols.base import Answer, Asked, Protocol
from layerroles.tasks import Example, Task


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
        return scored(model, pairs, None if evidence is None else [evidence] * len(pairs))

    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> Asked:
        """Encode a request for each continuation of each example."""
        each = [self.requests(engine.model, example, chat=chat) for example in examples]
        requests = [request for own in each for request in own]
        return AskedScores(self, examples, requests, [len(own) for own in each])


def measured(score: float, scores: Sequence[Score], details: Mapping[str, Any]) -> Answer:
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

"""What a probe is: a measurement on the intact model, on the prompts that the sweep asks.

Probes look at the *answering position*: the token after which the answer is told from the other
choices. That is the last token of the context (shots show bare answers, as under `continuation`)
and of what all choices begin with, such as an opening quote; without choices, of the context.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.reference import pad_left
from layerroles.engine import scored
from layerroles.errors import InputError
from layerroles.models import forward, prepared
from layerroles.registry import Registry
from layerroles.tasks import Example, Task

_BATCH = 8


class Probe(ABC):
    """A measurement. Subclasses are frozen dataclasses; `measure` gives a tidy frame."""

    @property
    def name(self) -> str:
        """The registered name, such as `logit_lens`."""
        return PROBES.name_of(type(self))

    def measure(
        self, model: TransformerBridge, tasks: Sequence[Task], *, limit: int = 32, seed: int = 0
    ) -> pd.DataFrame:
        """Measure on the first `limit` examples of each task.

        Returns:
            A tidy frame that begins with the columns probe, model, task, family, example.

        Raises:
            InputError: no task, a limit below 1, or a prompt longer than the model's context.
        """
        if limit < 1 or not tasks:
            raise InputError(f"a probe needs tasks and a limit of 1 or more, not limit={limit}")
        rows = [
            {
                "probe": self.name,
                "model": prepared(model).name,
                "task": task.label,
                "family": task.family,
                "example": example,
                **values,
            }
            for task in tasks
            for batch in batches(model, task.examples(limit, seed))
            for example, values in self.rows(model, batch)
        ]
        return pd.DataFrame(rows)

    @abstractmethod
    def rows(
        self, model: TransformerBridge, batch: "Batch"
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Example ids and the probe's own columns, any number of rows for each example."""


PROBES: Registry[Probe] = Registry("probe", Probe)
register = PROBES.register


@dataclass(frozen=True)
class Batch:
    """Examples read together.

    Attributes:
        examples: the examples.
        tokens: what comes before the answering token, padded on the left: the last column answers.
        attended: 1 at real tokens.
        answers: the token of each answer that tells it from the other choices.
    """

    examples: list[Example]
    tokens: Int[Tensor, "row pos"]
    attended: Int[Tensor, "row pos"]
    answers: list[int]

    def run(self, model: TransformerBridge, hooks: dict[str, Any]) -> Tensor:
        """Run the model with functions `(value) -> None` at hook points; the last logits."""
        bound = [(name, partial(_call, function)) for name, function in hooks.items()]
        with model.hooks(fwd_hooks=bound):
            logits, _ = forward(model, self.tokens, self.attended, keep=1)
        return logits[:, -1]


def batches(model: TransformerBridge, examples: Sequence[Example]) -> Iterator[Batch]:
    """Examples of like length together, each read up to its answering position."""
    read = sorted(
        ((example, *_answering(model, example)) for example in examples),
        key=lambda item: len(item[1]),
    )
    for start in range(0, len(read), _BATCH):
        some, rows, answers = zip(*read[start : start + _BATCH], strict=True)
        yield Batch(list(some), *pad_left(rows, model), list(answers))


def _answering(model: TransformerBridge, example: Example) -> tuple[tuple[int, ...], int]:
    """The tokens up to the answering position, and the answer's token there."""
    texts = [example.answer, *(text for text in example.choices if text != example.answer)]
    right, *others = scored(model, [(example.context(), f" {text}") for text in texts])
    n = 0
    while n < len(right.continuation) - 1 and all(
        other.continuation[: n + 1] == right.continuation[: n + 1] for other in others
    ):
        n += 1
    n = n if others else 0
    return (*right.context, *right.continuation[:n]), right.continuation[n]


def _call(function: Any, value: Tensor, *, hook: object) -> None:
    function(value)

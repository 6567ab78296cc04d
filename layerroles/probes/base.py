"""The interface of probes: measurements on a model while it reads the examples of tasks.

The model may be intact, or ablated as a condition says, for example to see what a skipped layer
changes downstream. Probes measure at the *answering position*: the position whose next token is the
first in which the answer differs from the other choices. The text before it is the context of the
protocol `continuation`, with worked examples that show bare answers. If all choices begin with the
same tokens, such as an opening quote, these tokens are read too, and the answering position is the
last of them. Otherwise it is the last token of the context.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, Prompt, ablated, as_condition, pad_left
from layerroles.engine import encode_scored
from layerroles.errors import InputError
from layerroles.models import can_batch, check_weights, forward, prepared
from layerroles.registry import Registry
from layerroles.tasks import Example, Task, as_tasks

_BATCH = 8


class Probe(ABC):
    """Base class of probes: measurements on a model, made example by example.

    A subclass is a frozen dataclass that implements `rows(model, batch)`; `measure` calls it for
    batches of examples and returns a tidy pandas frame.

    Class attributes:
        needs: what an example must have to be measured, such as "evidence"; the error names it if
            no example has it. Empty if every example can be measured.

    Example:
        from dataclasses import dataclass

        @lr.probes.register("length")
        @dataclass(frozen=True)
        class Length(lr.probes.Probe):
            "Count the tokens of a prompt; `rows` yields example ids with the values of columns."

            def rows(self, model, batch):
                for example, attended in zip(batch.examples, batch.attended, strict=True):
                    yield example.id, {"n_tokens": int(attended.sum())}

        Length().measure(model, tasks, limit=4)
    """

    needs: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The registered name, such as `logit_lens`."""
        return PROBES.name_of(type(self))

    def measure(
        self,
        model: TransformerBridge,
        tasks: Sequence[Task],
        *,
        limit: int = 32,
        seed: int = 0,
        condition: Condition | None = None,
    ) -> pd.DataFrame:
        """Measure on the first `limit` examples of each task.

        Args:
            model: from `load` or `prepare`.
            tasks: the tasks whose examples are read.
            limit: the number of examples of each task.
            seed: the seed that orders each task's examples.
            condition: the condition under which to measure; None for the intact model.

        Returns:
            A tidy frame that begins with the columns probe, model, condition (`intact`, or the
            condition's name), task, family, example.

        Raises:
            InputError: no task, a limit below 1, a prompt longer than the model's context, a model
                that the probe or the condition does not fit, or no example that has what the probe
                needs.
        """
        tasks = as_tasks(tasks)
        if limit < 1 or not tasks:
            raise InputError(f"a probe needs tasks and a limit of 1 or more, not limit={limit}")
        check_weights(model)
        self.check(model)
        condition = INTACT if condition is None else as_condition(condition)
        self.check_condition(condition)
        rows = [
            {
                "probe": self.name,
                "model": prepared(model).name,
                "condition": condition.name,
                "task": task.label,
                "family": task.family,
                "example": example,
                **values,
            }
            for task in tasks
            for batch in make_batches(model, task.examples(limit, seed))
            for example, values in self._rows_under(model, batch, condition)
        ]
        if self.needs and not rows:
            labels = ", ".join(task.label for task in tasks)
            raise InputError(
                f"probe {self.name!r} needs examples with {self.needs}, and none of {labels} has "
                f"any: choose other tasks"
            )
        return pd.DataFrame(rows)

    def _rows_under(
        self, model: TransformerBridge, batch: "Batch", condition: Condition
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the probe's rows, with the condition applied in every forward pass."""
        with (
            nullcontext()
            if condition.is_intact
            else ablated(model, condition, prompts=batch.prompts)
        ):
            yield from self.rows(model, batch)

    def check_condition(self, condition: Condition) -> None:  # noqa: B027  # most fit every one
        """Check that the probe can measure under a condition.

        Raises:
            InputError: the condition does something that the probe cannot account for; by default,
                never raised.
        """

    def check(self, model: TransformerBridge) -> None:  # noqa: B027  # most fit every model
        """Check that the probe can measure a model.

        Raises:
            InputError: the probe cannot measure the model; by default, never raised.
        """

    @abstractmethod
    def rows(
        self, model: TransformerBridge, batch: "Batch"
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (example id, dict of the probe's own columns), any number of rows per example."""


PROBES: Registry[Probe] = Registry("probe", Probe)
register = PROBES.register


@dataclass(frozen=True)
class Batch:
    """A batch of examples, left-padded, each up to its answering position.

    Attributes:
        examples: the examples.
        tokens: the tokens before the answer token, padded on the left: the last column is the
            answering position.
        attended: 1 at real tokens, 0 at pads.
        answers: for each example, the answer's first token that differs from other choices; without
            choices, its first token.
        others: for each example, the distinct tokens of the other choices at the position of the
            token in `answers`, without that token; empty if there are no choices.
        prompts: the contexts with the positions of their evidence, by which a condition's `at`
            (such as `"evidence"`) finds the tokens to ablate.

    Example:
        class Answering(lr.probes.Probe):
            def rows(self, model, batch):
                logits = batch.run(model, {})  # [row, d_vocab], of the answering position
                for row, example in enumerate(batch.examples):
                    yield example.id, {"logit": float(logits[row, batch.answers[row]])}

        lr.probes.register("answering")(Answering)().measure(model, tasks, limit=4)
    """

    examples: list[Example]
    tokens: Int[Tensor, "row pos"]
    attended: Int[Tensor, "row pos"]
    answers: list[int]
    others: list[tuple[int, ...]]
    prompts: list[Prompt]

    def run(self, model: TransformerBridge, hooks: dict[str, Any]) -> Tensor:
        """Run the model; return the logits at the answering position, `[row, d_vocab]`.

        `hooks` maps hook points to functions `(value) -> None`, called with values after ablation.
        """
        with call_at_hooks(model, hooks):
            logits, _ = forward(model, self.tokens, self.attended, keep=1)
        return logits[:, -1]


def make_batches(model: TransformerBridge, examples: Sequence[Example]) -> Iterator[Batch]:
    """Yield batches of examples of similar length, each example cut at its answering position."""
    positions = sorted(
        (_find_answering(model, example) for example in examples),
        key=lambda position: len(position.tokens),
    )
    size = _BATCH if can_batch(model) else 1
    for start in range(0, len(positions), size):
        together = positions[start : start + size]
        yield Batch(
            [position.example for position in together],
            *pad_left([position.tokens for position in together], model),
            [position.answer for position in together],
            [position.others for position in together],
            [position.prompt for position in together],
        )


@dataclass(frozen=True)
class _AnsweringPosition:
    """The tokens of an example up to its answering position, and the candidate next tokens."""

    example: Example
    tokens: tuple[int, ...]
    answer: int
    others: tuple[int, ...]
    prompt: Prompt


def _find_answering(model: TransformerBridge, example: Example) -> _AnsweringPosition:
    texts = [example.answer, *(text for text in example.choices if text != example.answer)]
    context = example.context()
    spans = shift_spans(example, example.evidence) or None
    answer_request, *others = encode_scored(
        model,
        [(context, f" {text}") for text in texts],
        None if spans is None else [spans] * len(texts),
    )
    n_shared = 0
    while n_shared < len(answer_request.continuation) - 1 and all(
        other.continuation[: n_shared + 1] == answer_request.continuation[: n_shared + 1]
        for other in others
    ):
        n_shared += 1
    n_shared = n_shared if others else 0
    answer = answer_request.continuation[n_shared]
    next_tokens = dict.fromkeys(
        token for other in others for token in other.continuation[n_shared : n_shared + 1]
    )
    return _AnsweringPosition(
        example,
        (*answer_request.context, *answer_request.continuation[:n_shared]),
        answer,
        tuple(token for token in next_tokens if token != answer),
        answer_request.prompt,
    )


def shift_spans(example: Example, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Convert character spans of an example's prompt, which ends its context, to the context's."""
    shift = len(example.context()) - len(example.prompt)
    return [(start + shift, end + shift) for start, end in spans]


def mark_positions(
    attended: Int[Tensor, "row pos"], positions: Iterable[Iterable[int]]
) -> Bool[Tensor, "row pos"]:
    """Return a mask of padded rows, true at `positions`, which count from the first real token."""
    mask, begins = torch.zeros_like(attended, dtype=torch.bool), attended.argmax(-1).tolist()
    for row, (begin, row_positions) in enumerate(zip(begins, positions, strict=True)):
        mask[row, [begin + position for position in row_positions]] = True
    return mask


@contextmanager
def call_at_hooks(model: TransformerBridge, hooks: dict[str, Any]) -> Iterator[None]:
    """Call functions `(value) -> None` with the values at hook points, inside the `with` block."""
    bound = [(name, partial(_call_with_value, function)) for name, function in hooks.items()]
    with model.hooks(fwd_hooks=bound):
        yield


def _call_with_value(function: Any, value: Tensor, *, hook: object) -> None:
    function(value)

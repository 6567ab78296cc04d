"""Find the position at which a model answers, and batch examples that are cut there.

The *answering position* is the position whose next token is the first in which the answer differs
from the other choices. The text before it is the context of the protocol `continuation`, with
worked examples that show bare answers. If all choices begin with the same tokens, such as an
opening quote, these tokens are read too, and the answering position is the last of them. Otherwise
it is the last token of the context.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Prompt, pad_left
from layerroles.engine import encode_scored
from layerroles.models import can_batch, forward
from layerroles.probes.streams import call_at_hooks
from layerroles.tasks import Example

_BATCH = 8


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

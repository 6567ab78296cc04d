"""Requests cut into stages, so that what they have in common is read once.

A batch of requests is read in up to three stages: the tokens that all of its contexts begin with
(a few-shot prefix, one row), the rest of each different context (one row each), and the
continuations of each context (one row each). A row of a stage goes on from a row of the stage
before, its parent, with whose keys and values it begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

# A shared prefix shorter than this is not worth a stage of its own.
_SHORTEST_PREFIX = 16


@dataclass(frozen=True)
class Stage:
    """One step of reading.

    Attributes:
        tokens: the new tokens, padded.
        attended: 1 at real new tokens, 0 at pads.
        parents: for each row, the row of the stage before that it goes on from; None for the
            first stage.
    """

    tokens: Int[Tensor, "row pos"]
    attended: Int[Tensor, "row pos"]
    parents: Int[Tensor, " row"] | None


def batches(
    contexts: Sequence[tuple[int, ...]], *, max_tokens: int
) -> Iterator[list[tuple[int, ...]]]:
    """The different contexts in batches of at most `max_tokens` padded tokens, longest first."""
    batch: list[tuple[int, ...]] = []
    for context in sorted(dict.fromkeys(contexts), key=lambda ids: (-len(ids), ids)):
        if batch and (len(batch) + 1) * len(batch[0]) > max_tokens:
            yield batch
            batch = []
        batch.append(context)
    if batch:
        yield batch


def context_stages(contexts: Sequence[tuple[int, ...]], model: TransformerBridge) -> list[Stage]:
    """The stages that read a batch of contexts; the last has a row for each, padded on the left."""
    shared = _common_prefix(contexts)
    if shared < _SHORTEST_PREFIX or len(contexts) < 2:
        return [stage(contexts, None, model, left=True)]
    rests = [context[shared:] for context in contexts]
    prefix = stage([contexts[0][:shared]], None, model, left=True)
    return [prefix, stage(rests, [0] * len(rests), model, left=True)]


def stage(
    rows: Sequence[Sequence[int]],
    parents: Sequence[int] | None,
    model: TransformerBridge,
    *,
    left: bool,
) -> Stage:
    """A stage from rows of mixed lengths, padded on the left or on the right."""
    longest = max(map(len, rows))
    pad = model.tokenizer.pad_token_id or 0
    tokens = torch.full((len(rows), longest), pad)
    attended = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        start = longest - len(row) if left else 0
        tokens[index, start : start + len(row)] = torch.tensor(row)
        attended[index, start : start + len(row)] = 1
    device = model.cfg.device
    return Stage(
        tokens.to(device),
        attended.to(device),
        None if parents is None else torch.tensor(parents, device=device),
    )


def _common_prefix(contexts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all contexts begin with, each keeping one of its own."""
    first, last = min(contexts), max(contexts)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return min(n, min(map(len, contexts)) - 1)

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

from layerroles.ablations import Prompt

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
        prompts: of the rows, whole (those of which they are a part).
    """

    tokens: Int[Tensor, "row pos"]
    attended: Int[Tensor, "row pos"]
    parents: Int[Tensor, " row"] | None
    prompts: tuple[Prompt, ...]


def batches(prompts: Sequence[Prompt], *, max_tokens: int) -> Iterator[list[Prompt]]:
    """The different prompts in batches of at most `max_tokens` padded tokens, longest first."""
    batch: list[Prompt] = []
    for prompt in sorted(dict.fromkeys(prompts), key=_order):
        if batch and (len(batch) + 1) * len(batch[0].ids) > max_tokens:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def context_stages(
    prompts: Sequence[Prompt], model: TransformerBridge, *, apart: bool = False
) -> list[Stage]:
    """The stages that read a batch of prompts; the last has a row for each, padded on the left.

    Args:
        prompts: the batch.
        model: whose padding is used.
        apart: read each prompt separately, even if they share a prefix.
    """
    shared = 0 if apart else _common_prefix(prompts)
    if shared < _SHORTEST_PREFIX or len(prompts) < 2:
        return [stage([prompt.ids for prompt in prompts], prompts, None, model, left=True)]
    rests = [prompt.ids[shared:] for prompt in prompts]
    prefix = stage([prompts[0].ids[:shared]], prompts[:1], None, model, left=True)
    return [prefix, stage(rests, prompts, [0] * len(rests), model, left=True)]


def stage(
    rows: Sequence[Sequence[int]],
    prompts: Sequence[Prompt],
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
        tuple(prompts),
    )


def _common_prefix(prompts: Sequence[Prompt]) -> int:
    """How many tokens all prompts begin with, marked alike, each keeping one of its own."""
    marked = [list(zip(prompt.ids, prompt.marks, strict=True))[:-1] for prompt in prompts]
    first, last = min(marked), max(marked)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return n


def _order(prompt: Prompt) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return -len(prompt.ids), prompt.ids, prompt.evidence or ()

"""The reference: one condition, one batch, one pass, nothing shared.

Every request is run whole, from its first token, through TransformerLens hooks. It is slow, and
simple enough to verify by reading. The faster executors are tested against it.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Condition, References, applied, pad_left
from layerroles.engine.decode import Decoding, Stops, greedy
from layerroles.engine.readout import read_out
from layerroles.engine.requests import Score, Scored, Writing, Written
from layerroles.models import forward, prepared

Request = TypeVar("Request", Scored, Written)


class Plain:
    """Answers requests one condition and one batch at a time.

    Args:
        model: a prepared bridge.
        references: what the conditions' ablations need to know.
        batch_size: rows run together.
        use_cache: keep keys and values while generating; by default if the model does.
    """

    name = "plain"

    def __init__(
        self,
        model: TransformerBridge,
        references: References,
        *,
        batch_size: int = 16,
        use_cache: bool | None = None,
    ) -> None:
        self.model = model
        self.references = references
        self.batch_size = batch_size
        self.use_cache = prepared(model).checks.caches if use_cache is None else use_cache

    def score(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Score]]]:
        """Score every request under every condition; each condition's place, with its scores."""
        for place, condition in enumerate(conditions):
            yield place, self._score(requests, condition)

    def write(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Writing]]]:
        """Generate greedily for every request under every condition; as `score`."""
        for place, condition in enumerate(conditions):
            yield place, self._write(requests, condition)

    def _score(self, requests: Sequence[Scored], condition: Condition) -> list[Score]:
        answers: dict[int, Score] = {}
        with applied(self.model, condition, self.references) as run:
            for batch in self._batches(requests):
                run.begin(prompts=[request.prompt for _, request in batch])
                rows = [(*request.context, *request.continuation[:-1]) for _, request in batch]
                targets = [request.continuation for _, request in batch]
                keep = max(map(len, targets))
                logits, _ = forward(self.model, *pad_left(rows, self.model), keep=keep)
                found = read_out(logits, targets, run.changed)
                answers |= dict(zip((index for index, _ in batch), found, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _write(self, requests: Sequence[Written], condition: Condition) -> list[Writing]:
        answers: dict[int, Writing] = {}
        with applied(self.model, condition, self.references) as run:
            for batch in self._batches(requests):
                asked = [request for _, request in batch]
                run.begin(prompts=[request.prompt for request in asked])
                tokens, attended = pad_left([request.context for request in asked], self.model)
                decoding = Decoding(Stops(self.model), asked)
                logits, cache = forward(
                    self.model, tokens, attended, keep=1, use_cache=self.use_cache
                )
                changed = _or(None, run.changed, decoding.writing())
                # Rows that ended run along until all have: the batch keeps its shape.
                while not decoding.add(greedy(logits[:, -1])):
                    writing = decoding.writing()
                    new = decoding.last[:, None]
                    tokens = torch.cat([tokens, new], dim=1)
                    attended = torch.cat([attended, torch.ones_like(new)], dim=1)
                    read = new if self.use_cache else tokens
                    logits, cache = forward(
                        self.model, read, attended, cache=cache, keep=1, use_cache=self.use_cache
                    )
                    changed = _or(changed, run.changed, writing)
                found = decoding.writings(changed)
                answers |= dict(zip((index for index, _ in batch), found, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Request]]]:
        """Requests of like length together, longest first, with their places."""
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].context))
        batch: list[tuple[int, Request]] = []
        for index in order:
            full = len(batch) == self.batch_size
            if batch and (full or not self._fits([*(one for _, one in batch), requests[index]])):
                yield batch
                batch = []
            batch.append((index, requests[index]))
        if batch:
            yield batch

    def _fits(self, requests: Sequence[Scored | Written]) -> bool:
        """Whether what is padded, and written on until all have ended, is within the context."""
        new = max(one.max_gen_toks if isinstance(one, Written) else 0 for one in requests)
        return max(len(one.context) for one in requests) + new <= self.model.cfg.n_ctx


def _or(
    before: Bool[Tensor, " row"] | None, now: Bool[Tensor, " row"] | None, writing: list[bool]
) -> Bool[Tensor, " row"] | None:
    """Whether an edit changed a row, in a pass in which it was still written."""
    if now is None:
        return before
    found = now & torch.tensor(writing, device=now.device)
    return found if before is None else before | found

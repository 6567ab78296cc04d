"""The reference executor: it runs one condition and one batch at a time, and reuses nothing.

An executor is a way to run the model. This one runs every request from its first token through the
whole model, with TransformerLens hooks. It is slow, but simple enough to verify by reading. The
faster executors are tested against it.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Applied, Condition, References, applied, pad_left
from layerroles.engine.greedy_decoding import Decoding, Stops, choose_greedy
from layerroles.engine.logprobs import read_out
from layerroles.engine.requests import (
    AnyRequest,
    Requests,
    Score,
    Scored,
    Writing,
    Written,
    max_new_tokens,
    split_requests,
)
from layerroles.models import can_batch, forward, prepared


class Plain:
    """The reference executor: it answers requests one condition and one batch at a time.

    Args:
        model: a prepared bridge.
        references: from `resolve_references`, for the conditions that will be run.
        batch_size: number of requests that are run together; always 1 if padding would change the
            model's outputs (see `can_batch`).
        use_cache: keep keys and values while generating; None does so if the model can.
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
        self.batch_size = batch_size if can_batch(model) else 1
        self.use_cache = prepared(model).checks.caches if use_cache is None else use_cache

    def refusal(self, condition: Condition) -> str | None:
        """Return None: this executor supports every condition."""
        return None

    def answer(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Score | Writing]]]:
        """Answer lists of requests under every condition; yields as `Executor.answer` does."""
        for list_index, requests in enumerate(asked):
            scored, written = split_requests(enumerate(requests))
            for condition_index, condition in enumerate(conditions):
                answers: dict[int, Score | Writing] = {}
                with applied(self.model, condition, self.references) as run:
                    answers.update(self._score(scored, run))
                    answers.update(self._write(written, run))
                yield list_index, condition_index, [answers[n] for n in range(len(requests))]

    def _score(self, requests: Mapping[int, Scored], run: Applied) -> dict[int, Score]:
        answers: dict[int, Score] = {}
        for batch in self._batches(requests):
            run.begin(prompts=[request.prompt for request in batch.values()])
            rows = [(*one.context, *one.continuation[:-1]) for one in batch.values()]
            targets = [request.continuation for request in batch.values()]
            keep = max(map(len, targets))
            logits, _ = forward(self.model, *pad_left(rows, self.model), keep=keep)
            answers.update(zip(batch, read_out(logits, targets, run.changed), strict=True))
        return answers

    def _write(self, requests: Mapping[int, Written], run: Applied) -> dict[int, Writing]:
        answers: dict[int, Writing] = {}
        for batch in self._batches(requests):
            run.begin(prompts=[request.prompt for request in batch.values()])
            contexts = [request.context for request in batch.values()]
            tokens, attended = pad_left(contexts, self.model)
            decoding = Decoding(Stops(self.model), list(batch.values()))
            changed = torch.zeros(len(batch), dtype=torch.bool)
            read, cache = tokens, None
            # Finished rows are run on until all have ended, so that the batch keeps its shape.
            while True:
                logits, cache = forward(
                    self.model, read, attended, cache=cache, keep=1, use_cache=self.use_cache
                )
                if run.changed is not None:
                    changed |= run.changed.cpu() & torch.tensor(decoding.unfinished_mask())
                if decoding.add(choose_greedy(logits[:, -1])):
                    break
                new = decoding.last[:, None]
                tokens = torch.cat([tokens, new], dim=1)
                attended = torch.cat([attended, torch.ones_like(new)], dim=1)
                read = new if self.use_cache else tokens
            answers.update(zip(batch, decoding.results(changed), strict=True))
        return answers

    def _batches(self, requests: Mapping[int, AnyRequest]) -> Iterator[dict[int, AnyRequest]]:
        """Yield batches of requests as maps from index to request, longest contexts first."""
        batch: dict[int, AnyRequest] = {}
        for index in sorted(requests, key=lambda index: -len(requests[index].context)):
            full = len(batch) == self.batch_size
            if batch and (full or not self._fits([*batch.values(), requests[index]])):
                yield batch
                batch = {}
            batch[index] = requests[index]
        if batch:
            yield batch

    def _fits(self, requests: Requests) -> bool:
        """Return whether requests fit the context window as one batch.

        The batch takes the longest context plus the most new tokens, even if these belong to
        different requests.
        """
        longest = max(len(request.context) for request in requests)
        return longest + max(map(max_new_tokens, requests)) <= self.model.cfg.n_ctx

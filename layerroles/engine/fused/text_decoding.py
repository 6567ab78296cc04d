"""Decode the texts of a packed row's requests, under many conditions together.

A packed row holds the tokens of many requests (see `prefix_packing`). When it has been read under
each condition (see `prefill`), each text's first token is chosen. From then on, each decoding step
runs the model on the newest token of every row (a condition and a request each), with the edits of
each condition. The keys and values of the rows are in a `RowCache` (see `kv_cache`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.ablations import Condition
from layerroles.engine.fused.context_kv_extraction import ContextCache, Contexts
from layerroles.engine.fused.edits import Edits, Stretch, TokenPass
from layerroles.engine.fused.kv_cache import RowCache
from layerroles.engine.fused.prefill import RowResult
from layerroles.engine.fused.readout import choose_next
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.greedy_decoding import Decoding, NextTokens, Stops
from layerroles.engine.planning.memory import trim_heap
from layerroles.engine.requests import Writing, Written
from layerroles.engine.unchanged_layers import first_changed_cache

# Finished rows are removed from a decoding batch when less than this share is unfinished.
_COMPACT_BELOW = 0.9


class Writer:
    """Generates the texts of a packed row's requests, under many conditions at once.

    Args:
        twin: the model.
        requests: the requests to generate for, by index.
        contexts: where the requests' contexts lie in the row.
        paths: for each context, the indices of its tokens in the row.
        below: the intact model's keys and values of the contexts, layer by layer.
        n_new: the most tokens of a text.
        max_logit_rows: the number of rows whose logits are held at once.
    """

    def __init__(
        self,
        twin: Twin,
        requests: Mapping[int, Written],
        contexts: Contexts,
        paths: Sequence[Int[np.ndarray, " _"]],
        below: Sequence[ContextCache],
        n_new: int,
        max_logit_rows: int,
    ) -> None:
        self.requests = requests
        self._twin = twin
        self._contexts, self._paths, self._below = contexts, paths, below
        self._n_new, self._max_logit_rows = n_new, max_logit_rows
        self._prompts = [request.prompt for request in requests.values()]
        self._device = contexts.ends.device
        self._lengths = torch.tensor([len(path) for path in paths], device=self._device)

    def make_rows(self, conditions: Sequence[Condition]) -> RowCache:
        """Return a cache with memory for the keys and values of each condition's rows."""
        trim_heap()  # freed rows of other sizes leave gaps in memory that may be too small
        n_layers = len(self._twin.blocks)
        firsts = [first_changed_cache(condition, n_layers) for condition in conditions]
        return RowCache(self._contexts, self._below, firsts, self._n_new)

    def begin(self, result: RowResult) -> tuple[NextTokens, list[bool]]:
        """Return the first token of each text, and whether edits changed a write in its context.

        `result` is the result of reading the row under the condition of these texts.
        """
        first = self._choose(result.stream[self._contexts.ends])
        return first, [result.changed_on(path) for path in self._paths]

    def write(
        self,
        rows: RowCache,
        begun: Sequence[tuple[NextTokens, list[bool]]],
        conditions: Sequence[Condition],
        edits: Edits,
        count: Callable[..., None],
    ) -> list[list[Writing]]:
        """Generate the texts: `[condition][request]`.

        Args:
            rows: from `make_rows`, filled with the contexts' keys and values.
            begun: the result of `begin` for each condition.
            conditions: the conditions of the rows.
            edits: the edits of the conditions.
            count: called after each step with the keyword `written`, the number of tokens that the
                step generated.
        """
        asked = [request for _ in conditions for request in self.requests.values()]
        decoding = Decoding(Stops(self._twin.bridge), asked)
        changed = torch.tensor([flag for _, flags in begun for flag in flags], device=self._device)
        chosen = _concatenate([first for first, _ in begun])
        lengths = self._lengths.repeat(len(conditions))
        n_unfinished = -1
        while not decoding.add(chosen):
            places = decoding.unfinished()
            if len(places) < _COMPACT_BELOW * len(decoding.live):
                decoding.keep(places)
                rows.keep(places)
                lengths = lengths[places]
                places = decoding.unfinished()
            # A finished row is run on until the batch is compacted; its tokens are ignored.
            # The program waits for the device only in `decoding.add`, and here when rows end.
            if len(places) != n_unfinished:
                n_unfinished = len(places)
                unfinished = torch.tensor(places, device=self._device)
                texts = torch.tensor([decoding.live[n] for n in places], device=self._device)
            chosen, differs = self._step(rows, decoding, lengths, conditions, edits)
            changed[texts] |= differs[unfinished]
            count(written=n_unfinished)
        writings, n = decoding.results(changed.cpu()), len(self.requests)
        return [writings[start : start + n] for start in range(0, len(writings), n)]

    def _step(
        self,
        rows: RowCache,
        decoding: Decoding,
        lengths: Int[Tensor, " row"],
        conditions: Sequence[Condition],
        edits: Edits,
    ) -> tuple[NextTokens, Bool[Tensor, " row"]]:
        """Run the model on each live row's newest token.

        Returns the next tokens, and the mask of the rows that an edit changed. `lengths` holds the
        lengths of the live rows' contexts.
        """
        n_before = rows.step()
        # Finished rows may run past the model's context window; their tokens are ignored.
        positions = (lengths + n_before).clamp(max=self._twin.bridge.cfg.n_ctx - 1)
        stretches = []
        for n, condition in enumerate(conditions):
            start, end = np.searchsorted(rows.condition, [n, n + 1]).tolist()
            if start < end and condition.acts_in_answer and not condition.is_intact:
                live = decoding.live[start:end]
                own_positions = positions[start:end]
                prompts = [self._prompts[row % len(self._prompts)] for row in live]
                ids = partial(self._ids, decoding, live)
                marks = torch.zeros_like(own_positions)
                tokens = TokenPass(own_positions, marks, ids, prompts)
                stretches.append(Stretch(condition, start, end, tokens))
        with edits.apply(stretches):
            stream = self._twin.run(decoding.last, positions, rows.attend)
        differs = torch.zeros_like(positions, dtype=torch.bool)
        for stretch in stretches:
            if stretch.changed is not None:
                differs[stretch.start : stretch.end] = stretch.changed
        return self._choose(stream), differs

    def _ids(self, decoding: Decoding, live: Sequence[int]) -> list[Sequence[int]]:
        """Return the token ids of these rows: their contexts and all generated tokens."""
        prompts = self._prompts
        return [(*prompts[row % len(prompts)].ids, *decoding.ids[row]) for row in live]

    def _choose(self, stream: Float[Tensor, "row d_model"]) -> NextTokens:
        return _concatenate(
            [choose_next(self._twin, chunk) for chunk in stream.split(self._max_logit_rows)]
        )


def _concatenate(parts: Sequence[NextTokens]) -> NextTokens:
    return NextTokens(
        torch.cat([part.tokens for part in parts]), torch.cat([part.finite for part in parts])
    )

"""Answer requests under many conditions as one computation, on transformers' own modules.

The modules are those of the *twin*, a copy of the model that shares its weights (see
`twin_model`). Requests are packed into rows of tokens, in which each shared prefix is stored
once (see `prefix_packing`). The requests of one row are a *group*; conditions whose texts are
decoded together are a *wave* (see `planning.plan`).

First the intact model reads a row, and the streams that enter ablated blocks are stored (see
`prefill`). Then the row is read under each condition, from the first ablated layer on. The scores
of continuations come from the same pass (see `readout`). Texts are decoded for many conditions and
requests together, with the edits of each condition (see `kv_cache`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.ablations import Condition, References
from layerroles.engine.decode import Decoding, NextTokens, Stops
from layerroles.engine.fused.context_cache import (
    ContextCache,
    Contexts,
    locate_contexts,
    take_contexts,
)
from layerroles.engine.fused.edits import Edits, Stretch, TokenPass, refusal
from layerroles.engine.fused.kv_cache import RowCache
from layerroles.engine.fused.packed_attention import AttentionLayout
from layerroles.engine.fused.prefill import (
    IntactPass,
    LoadedRow,
    RowResult,
    cut_pieces,
    record_intact,
)
from layerroles.engine.fused.prefix_packing import prompt_numbers, token_ids, token_marks
from layerroles.engine.fused.readout import Scorer, choose_next
from layerroles.engine.fused.twin_model import Twin
from layerroles.engine.planning.memory import Budget, trim_heap
from layerroles.engine.planning.plan import Computed, Group, Plan, make_plan
from layerroles.engine.requests import (
    Requests,
    Score,
    Scored,
    Writing,
    Written,
    split_requests,
)
from layerroles.engine.reuse import first_changed_cache

# Finished rows are removed from a decoding batch when less than this share is unfinished.
_COMPACT_BELOW = 0.9


class Fused:
    """The executor that answers requests under many conditions in one computation.

    Args:
        twin: the twin of a prepared bridge.
        references: from `resolve_references`, for the conditions that will be run.
        budget: the memory budget.

    Attributes:
        on_step: called with the progress of `answer`, a `Computed`, before the first pass and after
            every pass; or None.
    """

    name = "fused"

    def __init__(self, twin: Twin, references: References, budget: Budget) -> None:
        self.twin = twin
        self.references = references
        self.budget = budget
        self.on_step: Callable[[Computed], None] | None = None
        self._computed = Computed(0.0, 0.0)
        weight = next(twin.base.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    def refusal(self, condition: Condition) -> str | None:
        """Return why a condition cannot be applied to transformers' modules; None if it can."""
        return refusal(self.twin, condition)

    @torch.inference_mode()
    def answer(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Score | Writing]]]:
        """Answer lists of requests under every condition; shared prefixes are read once.

        Yields the same triples as `Executor.answer`.
        """
        requests = [request for listed in asked for request in listed]
        plan = make_plan(requests, conditions, self.twin.shape, self.budget)
        to_write = sum(
            len(group.conditions) * group.n_written * group.n_new for group in plan.groups
        )
        self._computed = Computed(float(plan.tokens_read), float(to_write))
        self._count()
        yield from self._follow(plan, asked, conditions)

    def _follow(
        self, plan: Plan, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Score | Writing]]]:
        """Answer the requests as planned; yields the same triples as `answer`."""
        edits = Edits(self.twin, conditions, self.references)
        requests = [request for listed in asked for request in listed]
        list_of = [list_index for list_index, listed in enumerate(asked) for _ in listed]
        answers: list[list[dict[int, Score | Writing]]] = [[{} for _ in asked] for _ in conditions]
        for group in plan.groups:
            for condition_index, new in self._answer_group(group, requests, conditions, edits):
                for index, answer in new.items():
                    answers[condition_index][list_of[index]][index] = answer
                for list_index in sorted({list_of[index] for index in new}):
                    so_far = answers[condition_index][list_index]
                    if len(so_far) == len(asked[list_index]):
                        yield list_index, condition_index, [so_far[n] for n in sorted(so_far)]

    def _answer_group(
        self,
        group: Group,
        requests: Requests,
        conditions: Sequence[Condition],
        edits: Edits,
    ) -> Iterator[tuple[int, Mapping[int, Score | Writing]]]:
        """Yield pairs of a condition's index and answers to a group's requests, by request index.

        Each condition has one pair for the scores and one for the texts, each yielded as soon as it
        is ready.
        """
        read = self._read_group(group, requests, [conditions[n] for n in group.conditions])
        self._count(read=float(group.n_tokens))
        depths = dict(zip(group.conditions, group.depths, strict=True))
        for wave in group.waves:
            tokens = [depths[n] * group.n_tokens for n in wave]
            for n, answers in self._answer_wave(read, [conditions[n] for n in wave], edits, tokens):
                yield wave[n], answers

    def _count(self, *, read: float = 0.0, written: int = 0) -> None:
        """Add tokens read (`read`) and generated (`written`) to the progress; call `on_step`."""
        self._computed.read += read
        self._computed.written += written
        if self.on_step is not None:
            self.on_step(self._computed)

    def _read_group(
        self, group: Group, requests: Requests, conditions: Sequence[Condition]
    ) -> "_ReadGroup":
        """Run the intact model over a group's row, and record the streams that conditions need."""
        row = self.load_row(group)
        sequences = dict(zip(group.asked, group.sequences, strict=True))
        scored, written = split_requests((index, requests[index]) for index in group.asked)
        scorer = None
        if scored:
            scorer = Scorer(self.twin, row.packed, scored, sequences, self.n_logits)
        if not written:
            return _ReadGroup(record_intact(self.twin, row, conditions, None), scorer, None)
        ids = [sequences[index] for index in written]
        contexts = locate_contexts(row.packed, ids, self.dtype, self.device)
        caches: list[ContextCache] = []
        intact = record_intact(
            self.twin, row, conditions, lambda _, k, v: caches.append(take_contexts(k, v, contexts))
        )
        paths = [row.packed.paths[sequence] for sequence in ids]
        writer = Writer(self.twin, written, contexts, paths, caches, group.n_new, self.n_logits)
        return _ReadGroup(intact, scorer, writer)

    def _answer_wave(
        self,
        read: "_ReadGroup",
        conditions: Sequence[Condition],
        edits: Edits,
        tokens: Sequence[float],
    ) -> Iterator[tuple[int, Mapping[int, Score | Writing]]]:
        """Yield pairs of an index into `conditions` and answers by request index.

        The texts of all these conditions are decoded together. Their keys and values are freed at
        the end. `tokens` holds the number of tokens read under each condition, to report progress.
        """
        scorer, writer = read.scorer, read.writer
        rows = None if writer is None else writer.make_rows(conditions)
        begun = []
        for n, condition in enumerate(conditions):
            result = read.intact.result
            if scorer is not None or condition.acts_in_prompt:
                store_keys = None if rows is None else partial(rows.fill, n)
                result = read.intact.replay(condition, edits, store_keys)
            self._count(read=tokens[n])
            if scorer is not None:
                scores = scorer.score(result)
                yield n, self._rerun_non_finite(read, scorer.requests, condition, scores)
            if writer is not None:
                begun.append(writer.begin(result))
        if writer is not None and rows is not None:
            texts = writer.write(rows, begun, conditions, edits, self._count)
            for n, (condition, writings) in enumerate(zip(conditions, texts, strict=True)):
                yield n, self._rerun_non_finite(read, writer.requests, condition, writings)

    def _rerun_non_finite(
        self,
        read: "_ReadGroup",
        asked: Mapping[int, Scored] | Mapping[int, Written],
        condition: Condition,
        answers: Sequence[Score] | Sequence[Writing],
    ) -> dict[int, Score | Writing]:
        """Return answers by request index; requests with non-finite answers are run again, alone.

        In the packed row, a NaN may have spread to them from another request.
        """
        by_index: dict[int, Score | Writing] = dict(zip(asked, answers, strict=True))
        if read.n_sequences > 1:
            for index, answer in by_index.items():
                if not answer.finite:
                    plan = make_plan([asked[index]], [condition], self.twin.shape, self.budget)
                    ((_, _, (alone,)),) = self._follow(plan, [[asked[index]]], [condition])
                    by_index[index] = alone
        return by_index

    @property
    def n_logits(self) -> int:
        """The number of tokens whose logits are held at once."""
        return self.budget.n_logits(self.twin.shape)

    def load_row(self, group: Group) -> LoadedRow:
        """Return a group's packed row on the model's device, cut into pieces that are read in turn.

        Each piece has an attention layout.
        """
        packed, prompts = group.packed, group.prompts
        if prompts is not None:
            prompts = tuple(prompts[number] for number in prompt_numbers(packed.tokens))
        return LoadedRow(
            packed,
            torch.tensor(token_ids(packed.tokens), device=self.device),
            torch.tensor(packed.positions, device=self.device),
            torch.tensor(token_marks(packed.tokens), device=self.device),
            prompts,
            [
                (piece, AttentionLayout(packed, self.dtype, self.device, piece))
                for piece in cut_pieces(packed, group.piece)
            ],
        )


class Writer:
    """Generates the texts of a packed row's requests, under many conditions at once.

    Args:
        twin: the model.
        requests: the requests to generate for, by index.
        contexts: where the requests' contexts lie in the row.
        paths: for each context, the indices of its tokens in the row.
        below: the intact model's keys and values of the contexts, layer by layer.
        n_new: the most tokens of a text.
        n_logits: the number of rows whose logits are held at once.
    """

    def __init__(
        self,
        twin: Twin,
        requests: Mapping[int, Written],
        contexts: Contexts,
        paths: Sequence[Int[np.ndarray, " _"]],
        below: Sequence[ContextCache],
        n_new: int,
        n_logits: int,
    ) -> None:
        self.requests = requests
        self._twin = twin
        self._contexts, self._paths, self._below = contexts, paths, below
        self._n_new, self._n_logits = n_new, n_logits
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
            [choose_next(self._twin, chunk) for chunk in stream.split(self._n_logits)]
        )


@dataclass(frozen=True)
class _ReadGroup:
    """A group whose row the intact model has read.

    Attributes:
        intact: the recorded pass of the intact model.
        scorer: computes scores; None if no request asks for a score.
        writer: generates texts; None if no request asks for a text.
    """

    intact: IntactPass
    scorer: Scorer | None
    writer: Writer | None

    @property
    def n_sequences(self) -> int:
        """Number of sequences in the row."""
        return len(self.intact.row.packed.paths)


def _concatenate(parts: Sequence[NextTokens]) -> NextTokens:
    return NextTokens(
        torch.cat([part.tokens for part in parts]), torch.cat([part.finite for part in parts])
    )

"""One sweep as one computation, on transformers' own modules.

Requests are packed into one row of tokens, in which everything that they share stands once (see
`trie`). The intact model reads it, and the stream that enters each block is kept. Under a condition
the row is read from its first ablated layer on. Continuations are scored where they stand; texts
are decoded for all conditions and requests together (see `rows`), each row with its own edits.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.ablations import Condition, References
from layerroles.engine.decode import Chosen, Decoding, Stops, greedy
from layerroles.engine.fused.attention import Layout
from layerroles.engine.fused.edits import Edits, Reading, Stretch
from layerroles.engine.fused.kv_cache import Kept, Rows, contexts_of, kept
from layerroles.engine.fused.model import Twin
from layerroles.engine.fused.packing import prompt_numbers, token_ids, token_marks
from layerroles.engine.fused.prefill import Intact, Keep, Read, Row, pieces
from layerroles.engine.fused.readout import Places
from layerroles.engine.planning.memory import Budget, give_back
from layerroles.engine.planning.plan import Group, Requests, make_plan
from layerroles.engine.requests import Score, Scored, Writing, Written
from layerroles.engine.reuse import first_own

Request = Scored | Written
# Answers by the indices of their requests.
Answers = dict[int, Any]

# Rows are dropped from a decoding batch when fewer than this share of them still write.
_COMPACT_BELOW = 0.9


class Fused:
    """Answers requests under many conditions in one computation.

    Args:
        twin: of a prepared bridge.
        references: what the conditions' ablations need to know.
        budget: memory that may be taken.
    """

    name = "fused"

    def __init__(self, twin: Twin, references: References, budget: Budget) -> None:
        self.twin = twin
        self.references = references
        self.budget = budget
        weight = next(twin.base.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    @torch.inference_mode()
    def answer(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """Answer several lists of requests under every condition, reading once what they share.

        Yields the index of a list, the index of a condition and the answers, as they are ready.
        """
        edits = Edits(self.twin, conditions, self.references)
        requests = [request for each in asked for request in each]
        lists = [which for which, each in enumerate(asked) for _ in each]
        found: list[list[Answers]] = [[{} for _ in asked] for _ in conditions]
        plan = make_plan(requests, conditions, self.twin.shape, self.budget)
        for group in plan.groups:
            batch = Batch(self, group, requests, conditions)
            for place, answers in batch.answers(edits):
                for index, answer in answers.items():
                    found[place][lists[index]][index] = answer
                for which in sorted({lists[index] for index in answers}):
                    so_far = found[place][which]
                    if len(so_far) == len(asked[which]):
                        yield which, place, [so_far[index] for index in sorted(so_far)]
            del batch  # else its memory would be held while the next one reads

    def score(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Score]]]:
        """Score every request under every condition; yields a condition's index with its scores."""
        for _, place, scores in self.answer([requests], conditions):
            yield place, scores

    def write(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Writing]]]:
        """Generate greedily for every request under every condition; yields as `score` does."""
        for _, place, writings in self.answer([requests], conditions):
            yield place, writings

    @property
    def n_logits(self) -> int:
        """The number of positions whose logits are held at once."""
        return self.budget.logits(self.twin.shape)

    def row(self, group: Group) -> Row:
        """A group's packed row, with its attention layout."""
        packed, prompts = group.packed, group.prompts
        if prompts is not None:
            prompts = tuple(prompts[number] for number in prompt_numbers(packed.tokens))
        return Row(
            packed,
            torch.tensor(token_ids(packed.tokens), device=self.device),
            torch.tensor(packed.positions, device=self.device),
            torch.tensor(token_marks(packed.tokens), device=self.device),
            prompts,
            [
                (piece, Layout(packed, self.dtype, self.device, piece))
                for piece in pieces(packed, group.piece)
            ],
        )


class Batch:
    """Requests that are packed in a row, to be answered under many conditions.

    Args:
        fused: the executor, with its model and its limits.
        group: as planned.
        requests: all that are asked.
        conditions: under which they are asked.
    """

    def __init__(
        self,
        fused: Fused,
        group: Group,
        requests: Sequence[Request],
        conditions: Sequence[Condition],
    ) -> None:
        self._fused = fused
        self._twin = fused.twin
        self._group = group
        self._n_logits = fused.n_logits
        self._row = row = fused.row(group)
        self._conditions = conditions
        sequences = dict(zip(group.asked, group.sequences, strict=True))
        self._scored = {i: one for i in group.asked if isinstance(one := requests[i], Scored)}
        self._written = {i: one for i in group.asked if isinstance(one := requests[i], Written)}
        self._below: list[Kept] = []
        keep: Keep | None = None
        if self._scored:
            read = [sequences[i] for i in self._scored]
            self._places = Places(row.packed, list(self._scored.values()), read, fused.device)
        if self._written:
            contexts = [sequences[i] for i in self._written]
            self._prompts = [one.prompt for one in self._written.values()]
            self._paths = [row.packed.paths[ids] for ids in contexts]
            self._contexts = contexts_of(row.packed, contexts, fused.dtype, fused.device)
            self._lengths = torch.tensor([len(ids) for ids in contexts], device=fused.device)
            keep = self._keep_below
        some = [conditions[place] for place in group.conditions]
        self._intact = Intact(self._twin, row, some, keep)

    def answers(self, edits: Edits) -> Iterator[tuple[int, Answers]]:
        """Yield a condition's index with some of its answers, as they are ready."""
        for wave in self._group.waves:
            yield from self._wave(wave, edits)

    def _wave(self, wave: Sequence[int], edits: Edits) -> Iterator[tuple[int, Answers]]:
        """`answers` under conditions whose rows decode together; frees their memory at the end."""
        conditions = [self._conditions[place] for place in wave]
        rows = self._rows(conditions) if self._written else None
        begun = []
        for n, (place, condition) in enumerate(zip(wave, conditions, strict=True)):
            keep = None if rows is None else partial(rows.fill, n)
            read = self._intact.read
            if self._scored or condition.acts_in_prompt:
                read = self._intact.again(condition, edits, keep)
            if self._scored:
                yield place, self._scores(condition, read)
            if rows is not None:
                chosen = self._choose(read.stream[self._contexts.ends])
                begun.append((chosen, [read.changed_on(path) for path in self._paths]))
        if rows is not None:
            found = self._write(rows, begun, conditions, edits)
            for place, condition, writings in zip(wave, conditions, found, strict=True):
                yield place, self._rerun_non_finite(self._written, condition, writings)

    def _scores(self, condition: Condition, read: Read) -> Answers:
        scores = self._places.scores(self._twin, read.stream, read.changed_on, self._n_logits)
        return self._rerun_non_finite(self._scored, condition, scores)

    def _rerun_non_finite(
        self,
        asked: Mapping[int, Request],
        condition: Condition,
        answers: Sequence[Score] | Sequence[Writing],
    ) -> Answers:
        """Map request index to answer; rerun non-finite ones alone.

        A NaN of another request in the packed row may have spread to them.
        """
        by_index: Answers = dict(zip(asked, answers, strict=True))
        if len(self._row.packed.paths) > 1:
            for index, answer in by_index.items():
                if not answer.finite:
                    ((_, _, (alone,)),) = self._fused.answer([[asked[index]]], [condition])
                    by_index[index] = alone
        return by_index

    def _write(
        self,
        rows: Rows,
        begun: Sequence[tuple[Chosen, list[bool]]],
        conditions: Sequence[Condition],
        edits: Edits,
    ) -> list[list[Writing]]:
        """Generate the texts of each condition, after the contexts were read."""
        n = len(self._written)
        asked = [request for _ in conditions for request in self._written.values()]
        decoding = Decoding(Stops(self._twin.bridge), asked)
        device = self._fused.device
        changed = torch.tensor([one for _, each in begun for one in each], device=device)
        chosen = Chosen(
            torch.cat([one.tokens for one, _ in begun]), torch.cat([one.finite for one, _ in begun])
        )
        lengths = self._lengths.repeat(len(conditions))
        n_writing = -1
        while not decoding.add(chosen):
            places = decoding.unfinished()
            if len(places) < _COMPACT_BELOW * len(decoding.live):
                decoding.keep(places)
                rows.keep(places)
                lengths = lengths[places]
                places = decoding.unfinished()
            # A finished row is run on until the batch is compacted, and its tokens are ignored.
            # Apart from `decoding.add`, the device is waited for only when rows end.
            if len(places) != n_writing:
                n_writing = len(places)
                writing = torch.tensor(places, device=device)
                counted = torch.tensor([decoding.live[place] for place in places], device=device)
            chosen, differs = self._step(rows, decoding, lengths, conditions, edits)
            changed[counted] |= differs[writing]
        writings = decoding.writings(changed.cpu())
        return [writings[start : start + n] for start in range(0, len(writings), n)]

    def _rows(self, conditions: Sequence[Condition]) -> Rows:
        give_back()  # freed rows of other sizes leave gaps that may not fit
        firsts = [first_own(condition, len(self._twin.blocks)) for condition in conditions]
        return Rows(self._contexts, self._below, firsts, self._group.n_new)

    def _step(
        self,
        rows: Rows,
        decoding: Decoding,
        lengths: Int[Tensor, " row"],
        conditions: Sequence[Condition],
        edits: Edits,
    ) -> tuple[Chosen, Bool[Tensor, " row"]]:
        """Run the newest token of each live row; returns the next ones and where edits took effect.

        `lengths` holds the lengths of the live rows' contexts.
        """
        n_before = rows.step()
        # Finished rows may run past the model's context; their tokens are ignored.
        positions = (lengths + n_before).clamp(max=self._twin.bridge.cfg.n_ctx - 1)
        stretches = []
        for place, condition in enumerate(conditions):
            start, end = np.searchsorted(rows.condition, [place, place + 1]).tolist()
            if start < end and condition.acts_in_answer and not condition.is_intact:
                live = decoding.live[start:end]
                here = positions[start:end]
                prompts = [self._prompts[row % len(self._prompts)] for row in live]
                ids = partial(self._ids, decoding, live)
                reading = Reading(here, torch.zeros_like(here), ids, prompts)
                stretches.append(Stretch(condition, start, end, reading))
        with edits.on(stretches):
            stream = self._twin.run(decoding.last, positions, rows.attend)
        differs = torch.zeros_like(positions, dtype=torch.bool)
        for stretch in stretches:
            if stretch.changed is not None:
                differs[stretch.start : stretch.end] = stretch.changed
        return self._choose(stream), differs

    def _ids(self, decoding: Decoding, live: Sequence[int]) -> list[Sequence[int]]:
        """The token ids that some rows have read, with the newest one."""
        prompts = self._prompts
        return [(*prompts[row % len(prompts)].ids, *decoding.ids[row]) for row in live]

    def _choose(self, stream: Float[Tensor, "row d_model"]) -> Chosen:
        found = [greedy(self._twin.logits(chunk)) for chunk in stream.split(self._n_logits)]
        return Chosen(
            torch.cat([one.tokens for one in found]), torch.cat([one.finite for one in found])
        )

    def _keep_below(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._below.append(kept(k, v, self._contexts))

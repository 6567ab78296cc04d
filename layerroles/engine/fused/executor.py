"""Answer requests under many conditions as one computation, on transformers' own modules.

The modules are those of the *twin*, a copy of the model that shares its weights (see
`transformers_twin`). Requests are packed into rows of tokens, in which each shared prefix is stored
once (see `prefix_packing`). The requests of one row are a *group*; conditions whose texts are
decoded together are a *wave* (see `planning.plan`).

First the intact model reads a row, and the streams that enter ablated blocks are stored (see
`prefill`). Then the row is read under each condition, from the first ablated layer on. The scores
of continuations come from the same pass (see `readout`). Texts are decoded for many conditions and
requests together, with the edits of each condition (see `text_decoding`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from layerroles.ablations import Condition, References
from layerroles.engine.fused.context_kv_extraction import (
    ContextCache,
    locate_contexts,
    take_contexts,
)
from layerroles.engine.fused.edits import Edits, refusal
from layerroles.engine.fused.packed_attention import AttentionLayout
from layerroles.engine.fused.prefill import IntactPass, LoadedRow, cut_pieces, record_intact
from layerroles.engine.fused.prefix_packing import prompt_numbers, token_ids, token_marks
from layerroles.engine.fused.readout import Scorer
from layerroles.engine.fused.text_decoding import Writer
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.planning.memory import Budget
from layerroles.engine.planning.plan import Computed, Group, Plan, make_plan
from layerroles.engine.requests import Requests, Score, Scored, Writing, Written, split_requests


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
            scorer = Scorer(self.twin, row.packed, scored, sequences, self.max_logit_rows)
        if not written:
            return _ReadGroup(record_intact(self.twin, row, conditions, None), scorer, None)
        ids = [sequences[index] for index in written]
        contexts = locate_contexts(row.packed, ids, self.dtype, self.device)
        caches: list[ContextCache] = []
        intact = record_intact(
            self.twin, row, conditions, lambda _, k, v: caches.append(take_contexts(k, v, contexts))
        )
        paths = [row.packed.paths[sequence] for sequence in ids]
        writer = Writer(
            self.twin, written, contexts, paths, caches, group.n_new, self.max_logit_rows
        )
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
    def max_logit_rows(self) -> int:
        """The number of tokens whose logits are held at once."""
        return self.budget.max_logit_rows(self.twin.shape)

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

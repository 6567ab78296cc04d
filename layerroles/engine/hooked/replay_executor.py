"""Compute the answers of the reference executor (`plain`) with less work, by reusing passes.

An ablation at layer l does not affect the blocks before l. So the intact model reads a batch once,
and the stream that enters each block is recorded. Under a condition, the pass starts at the first
ablated layer, from the recorded stream. What requests have in common (a few-shot prefix, a question
with several continuations) is read once under each condition (see `replay`). The bridge's own
blocks are run, so every TransformerLens hook fires from the first ablated layer on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Condition, Prompt, References, applied
from layerroles.engine.greedy_decoding import Decoding, Stops, choose_greedy
from layerroles.engine.hooked.replay import (
    Recording,
    State,
    batch_prompts,
    cut_stages,
    make_stage,
    record,
    replay,
    select_cache_rows,
    select_rows,
)
from layerroles.engine.logprobs import read_out
from layerroles.engine.requests import (
    Requests,
    Score,
    Scored,
    Writing,
    Written,
    split_requests,
)
from layerroles.models import forward

# Finished rows are removed from a decoding batch when less than this share is unfinished.
_COMPACT_BELOW = 0.75
# How many conditions share one recording of the intact model.
_CONDITIONS_AT_ONCE = 8
# The most tokens of contexts, pads included, that are read together.
MAX_TOKENS = 4096
# The most tokens of continuations, pads included, that are read together, since all of their logits
# are held at once.
_MAX_TAIL_TOKENS = 512


class Hooked:
    """The executor that starts each condition's pass at its first ablated layer.

    Args:
        model: a prepared bridge for which `replay.can_replay` is true.
        references: from `resolve_references`, for the conditions that will be run.
        max_tokens: the most tokens of contexts, pads included, that are read together.
    """

    name = "hooked"

    def __init__(
        self, model: TransformerBridge, references: References, *, max_tokens: int = MAX_TOKENS
    ) -> None:
        self.model = model
        self.references = references
        self.max_tokens = max_tokens

    def refusal(self, condition: Condition) -> str | None:
        """Return None: this executor supports every condition."""
        return None

    def answer(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Score | Writing]]]:
        """Answer lists of requests under every condition; yields as `Executor.answer` does."""
        for list_index, requests in enumerate(asked):
            scored, written = split_requests(enumerate(requests))
            for indices in _group_conditions(conditions):
                group = [conditions[index] for index in indices]
                scores, writings = self._score(scored, group), self._write(written, group)
                for n, index in enumerate(indices):
                    answers: dict[int, Score | Writing] = {**scores[n], **writings[n]}
                    yield list_index, index, [answers[place] for place in range(len(requests))]

    def _score(
        self, requests: Mapping[int, Scored], conditions: Sequence[Condition]
    ) -> list[dict[int, Score]]:
        """Return scores under conditions that share a recording: `[condition][request index]`."""
        answers: list[dict[int, Score]] = [{} for _ in conditions]
        for batch in self._batches(requests):
            targets = [requests[index].continuation for index in batch.indices]
            recordings = self._record_contexts(batch.prompts, apart=conditions[0].whole_prompt)
            tails = self._record_tails(recordings[-1].after, batch, targets)
            for condition, by_request in zip(conditions, answers, strict=True):
                scores = self._score_batch(batch, targets, recordings, tails, condition)
                by_request.update(zip(batch.indices, scores, strict=True))
        return answers

    def _write(
        self, requests: Mapping[int, Written], conditions: Sequence[Condition]
    ) -> list[dict[int, Writing]]:
        """Generate each request's text under each condition: `[condition][request index]`.

        All conditions start from one recording of the intact model's activations.
        """
        answers: list[dict[int, Writing]] = [{} for _ in conditions]
        for batch in self._batches(requests):
            asked = [requests[index] for index in batch.indices]
            recordings = self._record_contexts(batch.prompts, apart=conditions[0].whole_prompt)
            for condition, by_request in zip(conditions, answers, strict=True):
                state = replay(self.model, recordings, condition, self.references)
                rows = torch.tensor(batch.prompt_rows, device=state.tokens.device)
                writings = self._decode(select_rows(state, rows), asked, condition)
                by_request.update(zip(batch.indices, writings, strict=True))
        return answers

    def _batches(self, requests: Mapping[int, Scored] | Mapping[int, Written]) -> "list[_Batch]":
        by_prompt: dict[Prompt, list[int]] = {}
        for index, request in requests.items():
            by_prompt.setdefault(request.prompt, []).append(index)
        return [
            _Batch(
                prompts,
                indices=[index for prompt in prompts for index in by_prompt[prompt]],
                prompt_rows=[row for row, prompt in enumerate(prompts) for _ in by_prompt[prompt]],
            )
            for prompts in batch_prompts(list(by_prompt), max_tokens=self.max_tokens)
        ]

    def _record_contexts(self, prompts: Sequence[Prompt], *, apart: bool) -> list[Recording]:
        recordings: list[Recording] = []
        for stage in cut_stages(prompts, self.model, apart=apart):
            before = recordings[-1].after if recordings else None
            recordings.append(record(self.model, stage, before, keep=1))
        return recordings

    def _record_tails(
        self, before: State, batch: "_Batch", targets: Sequence[Sequence[int]]
    ) -> "list[_Tail]":
        """Record the intact model's passes over the continuations that have more than one token.

        Returns one `_Tail` for each pass. `before` is the state after the batch's contexts. The
        continuations' last tokens are not read, since nothing after them is scored.
        """
        longer = [place for place, target in enumerate(targets) if len(target) > 1]
        longer.sort(key=lambda place: -len(targets[place]))
        tails = []
        while longer:
            n = max(1, _MAX_TAIL_TOKENS // (len(targets[longer[0]]) - 1))
            places, longer = longer[:n], longer[n:]
            rows = [targets[place][:-1] for place in places]
            parents = [batch.prompt_rows[place] for place in places]
            prompts = [batch.prompts[row] for row in parents]
            stage = make_stage(rows, prompts, parents, self.model, left=False)
            recording = record(self.model, stage, before, keep=0)
            rest = [targets[place][1:] for place in places]
            scores = read_out(recording.after.logits, rest, None, left=False)
            tails.append(_Tail(places, rest, recording.without_result(), scores))
        return tails

    def _score_batch(
        self,
        batch: "_Batch",
        targets: Sequence[Sequence[int]],
        recordings: list[Recording],
        tails: "list[_Tail]",
        condition: Condition,
    ) -> list[Score]:
        state = replay(self.model, recordings, condition, self.references)
        rows = torch.tensor(batch.prompt_rows, device=state.tokens.device)
        heads = [target[:1] for target in targets]
        scores = read_out(state.logits[rows], heads, state.changed[rows])
        for tail in tails:
            rest = tail.scores
            if not condition.is_intact:
                end = replay(self.model, [tail.recording], condition, self.references, state)
                rest = read_out(end.logits, tail.targets, end.changed, left=False)
            for place, tail_score in zip(tail.places, rest, strict=True):
                scores[place] = scores[place].then(tail_score)
        return scores

    def _decode(
        self, state: State, asked: Sequence[Written], condition: Condition
    ) -> list[Writing]:
        decoding = Decoding(Stops(self.model), asked)
        changed, attended, cache = state.changed.clone(), state.attended, state.cache
        logits = state.logits
        with applied(self.model, condition, self.references) as run:
            run.begin(state.tokens, [request.prompt for request in asked])
            while not decoding.add(choose_greedy(logits[:, -1])):
                places = decoding.unfinished()
                if len(places) < _COMPACT_BELOW * len(decoding.live):
                    decoding.keep(places)
                    rows = torch.tensor(places, device=attended.device)
                    attended = attended[rows]
                    select_cache_rows(cache, rows)
                    run.keep(rows)
                unfinished = decoding.unfinished_mask()
                new = decoding.last[:, None]
                attended = torch.cat([attended, torch.ones_like(new)], dim=1)
                logits, cache = forward(self.model, new, attended, cache=cache, keep=1)
                if run.changed is not None:
                    now = run.changed.to(changed.device)  # sites may lie on different devices
                    changed[decoding.live] |= now & torch.tensor(unfinished).to(changed)
        return decoding.results(changed)


@dataclass(frozen=True)
class _Batch:
    """Distinct prompts that are read together, and the requests that have these prompts.

    Attributes:
        prompts: the prompts, each once.
        indices: indices of the requests.
        prompt_rows: for each request, the index of its prompt in `prompts`.
    """

    prompts: list[Prompt]
    indices: list[int]
    prompt_rows: list[int]


@dataclass(frozen=True)
class _Tail:
    """The continuations of some requests of a batch, without their first tokens.

    Attributes:
        places: indices of these requests in the batch.
        targets: the tokens to score: each continuation without its first token.
        recording: the intact model's pass over the continuations without their last tokens.
        scores: the intact model's scores of `targets`.
    """

    places: list[int]
    targets: list[Sequence[int]]
    recording: Recording
    scores: list[Score]


def _group_conditions(conditions: Sequence[Condition]) -> Iterator[list[int]]:
    """Yield lists of indices of conditions that share one recording of the intact model."""
    for apart in (False, True):
        indices = [n for n, condition in enumerate(conditions) if condition.whole_prompt == apart]
        for start in range(0, len(indices), _CONDITIONS_AT_ONCE):
            yield indices[start : start + _CONDITIONS_AT_ONCE]

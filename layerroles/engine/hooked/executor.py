"""The same answers as the reference, from less work: share what conditions have in common.

An ablation at layer l leaves the blocks before l alone. So the intact model reads a batch once,
with the stream that enters each block recorded; under a condition, reading starts at its first
layer from the recorded stream. What requests have in common (a few-shot prefix, a question with
several continuations) is read once under each condition, see `stages`. All of it goes through the
bridge's own blocks, so that every TransformerLens hook fires from the first ablated layer on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Condition, Prompt, References, applied
from layerroles.engine.decode import Decoding, Stops, greedy
from layerroles.engine.hooked.replay import (
    Recording,
    State,
    batches,
    context_stages,
    record,
    replay,
    select,
    stage,
)
from layerroles.engine.readout import read_out
from layerroles.engine.requests import Score, Scored, Writing, Written
from layerroles.models import forward

Request = TypeVar("Request", Scored, Written)

# Rows are dropped from a decoding batch when fewer than this share of them still write.
_COMPACT_BELOW = 0.75
# Conditions that share the intact model's reading of the requests.
_CONDITIONS_AT_ONCE = 8
# Padded tokens of contexts that are read together.
MAX_TOKENS = 4096
# Padded continuation tokens that are read together: their logits are held at once.
_MAX_TAIL_TOKENS = 512


@dataclass(frozen=True)
class Tail:
    """What follows a continuation's first token, for some requests of a batch.

    Attributes:
        places: of these requests in the batch.
        targets: the tokens to score.
        recording: the intact model reading them.
        scores: what the intact model gives them.
    """

    places: list[int]
    targets: list[Sequence[int]]
    recording: Recording
    scores: list[Score]


@dataclass(frozen=True)
class Batch:
    """Different prompts that are read together, with the requests that ask about them.

    Attributes:
        prompts: each once.
        asked: places of the requests among all.
        owners: for each of these, which of the prompts it is about.
    """

    prompts: list[Prompt]
    asked: list[int]
    owners: list[int]


class Hooked:
    """Answers requests under many conditions at once.

    Args:
        model: a prepared bridge that `replay.can_replay`.
        references: what the conditions' ablations need to know.
        max_tokens: padded tokens of contexts that are read together.
    """

    name = "hooked"

    def __init__(
        self, model: TransformerBridge, references: References, *, max_tokens: int = MAX_TOKENS
    ) -> None:
        self.model = model
        self.references = references
        self.max_tokens = max_tokens

    def score(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Score]]]:
        """Score every request under every condition; each condition's place, with its scores."""
        for places in _together(conditions):
            some = [conditions[place] for place in places]
            yield from zip(places, self._score_some(requests, some), strict=True)

    def write(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Writing]]]:
        """Generate greedily for every request under every condition; as `score`."""
        for places in _together(conditions):
            some = [conditions[place] for place in places]
            yield from zip(places, self._write_some(requests, some), strict=True)

    def _score_some(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> list[list[Score]]:
        answers: list[dict[int, Score]] = [{} for _ in conditions]
        for batch in self._batches(requests):
            targets = [requests[index].continuation for index in batch.asked]
            recordings = self._read(batch.prompts, apart=conditions[0].whole_prompt)
            tails = self._read_on(recordings[-1].after, batch, targets)
            for condition, into in zip(conditions, answers, strict=True):
                scores = self._score(batch.owners, targets, recordings, tails, condition)
                into |= dict(zip(batch.asked, scores, strict=True))
        return [[into[index] for index in range(len(requests))] for into in answers]

    def _write_some(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> list[list[Writing]]:
        answers: list[dict[int, Writing]] = [{} for _ in conditions]
        for batch in self._batches(requests):
            asked = [requests[index] for index in batch.asked]
            recordings = self._read(batch.prompts, apart=conditions[0].whole_prompt)
            for condition, into in zip(conditions, answers, strict=True):
                state = replay(self.model, recordings, condition, self.references)
                start = select(state, torch.tensor(batch.owners, device=state.tokens.device))
                into |= dict(zip(batch.asked, self._decode(start, asked, condition), strict=True))
        return [[into[index] for index in range(len(requests))] for into in answers]

    def _batches(self, requests: Sequence[Request]) -> list[Batch]:
        by_prompt: dict[Prompt, list[int]] = {}
        for index, request in enumerate(requests):
            by_prompt.setdefault(request.prompt, []).append(index)
        return [
            Batch(
                prompts,
                asked=[index for prompt in prompts for index in by_prompt[prompt]],
                owners=[row for row, prompt in enumerate(prompts) for _ in by_prompt[prompt]],
            )
            for prompts in batches(list(by_prompt), max_tokens=self.max_tokens)
        ]

    def _read(self, prompts: Sequence[Prompt], *, apart: bool) -> list[Recording]:
        recordings: list[Recording] = []
        for step in context_stages(prompts, self.model, apart=apart):
            before = recordings[-1].after if recordings else None
            recordings.append(record(self.model, step, before, keep=1))
        return recordings

    def _read_on(self, before: State, batch: Batch, targets: Sequence[Sequence[int]]) -> list[Tail]:
        """The continuations without their last token, which predicts nothing that is scored."""
        longer = [place for place, target in enumerate(targets) if len(target) > 1]
        longer.sort(key=lambda place: -len(targets[place]))
        tails = []
        while longer:
            n = max(1, _MAX_TAIL_TOKENS // (len(targets[longer[0]]) - 1))
            places, longer = longer[:n], longer[n:]
            rows = [targets[place][:-1] for place in places]
            parents = [batch.owners[place] for place in places]
            prompts = [batch.prompts[row] for row in parents]
            step = stage(rows, prompts, parents, self.model, left=False)
            recording = record(self.model, step, before, keep=0)
            rest = [targets[place][1:] for place in places]
            scores = read_out(recording.after.logits, rest, None, left=False)
            tails.append(Tail(places, rest, recording.without_result(), scores))
        return tails

    def _score(
        self,
        owners: list[int],
        targets: Sequence[Sequence[int]],
        recordings: list[Recording],
        tails: list[Tail],
        condition: Condition,
    ) -> list[Score]:
        state = replay(self.model, recordings, condition, self.references)
        rows = torch.tensor(owners, device=state.tokens.device)
        heads = [target[:1] for target in targets]
        scores = read_out(state.logits[rows], heads, state.changed[rows])
        for tail in tails:
            rest = tail.scores
            if not condition.is_intact:
                end = replay(self.model, [tail.recording], condition, self.references, state)
                rest = read_out(end.logits, tail.targets, end.changed, left=False)
            for place, one in zip(tail.places, rest, strict=True):
                scores[place] = scores[place].then(one)
        return scores

    def _decode(
        self, state: State, asked: Sequence[Written], condition: Condition
    ) -> list[Writing]:
        decoding = Decoding(Stops(self.model), asked)
        changed, attended, cache = state.changed.clone(), state.attended, state.cache
        logits = state.logits
        with applied(self.model, condition, self.references) as run:
            run.begin(state.tokens, [request.prompt for request in asked])
            while not decoding.add(greedy(logits[:, -1])):
                places = decoding.unfinished()
                if len(places) < _COMPACT_BELOW * len(decoding.live):
                    decoding.keep(places)
                    rows = torch.tensor(places, device=attended.device)
                    attended = attended[rows]
                    cache.batch_select_indices(rows)
                    run.keep(rows)
                writing = decoding.writing()
                new = decoding.last[:, None]
                attended = torch.cat([attended, torch.ones_like(new)], dim=1)
                logits, cache = forward(self.model, new, attended, cache=cache, keep=1)
                if run.changed is not None:
                    changed[decoding.live] |= run.changed & torch.tensor(writing).to(changed)
        return decoding.writings(changed)


def _together(conditions: Sequence[Condition]) -> Iterator[list[int]]:
    """Places of conditions that share what the intact model reads."""
    for apart in (False, True):
        places = [place for place, one in enumerate(conditions) if one.whole_prompt == apart]
        for start in range(0, len(places), _CONDITIONS_AT_ONCE):
            yield places[start : start + _CONDITIONS_AT_ONCE]

"""Requests that are packed into one row, and what answering them under conditions costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from layerroles.ablations import Condition, Prompt
from layerroles.engine.attend import n_pairs
from layerroles.engine.cost import Pass, Work, reading, writing
from layerroles.engine.depths import first_own
from layerroles.engine.memory import Shape
from layerroles.engine.requests import Scored, Written
from layerroles.engine.sequences import Ids
from layerroles.engine.trie import Packed

Requests = Sequence[Scored | Written]


@dataclass(frozen=True)
class Group:
    """Requests that are packed into one row, which each condition reads once.

    Attributes:
        asked: their places among all requests.
        sequences: what is read for each of them.
        prompts: by the numbers in `sequences`, where they are kept apart; else None.
        packed: the row.
        n_alone: tokens if each request is read alone.
        n_written: how many of them write.
        n_new: tokens that each of these may write; 0 if there are none.
        waves: the conditions that read it, as they are answered together.
        depths: for each of these, wave by wave, the share of the blocks that are recomputed for it.
        piece: tokens of it that are read at a time.
        n_bytes: taken at the most.
    """

    asked: tuple[int, ...]
    sequences: tuple[Ids, ...]
    prompts: tuple[Prompt, ...] | None
    packed: Packed
    n_alone: int
    n_written: int
    n_new: int
    waves: tuple[tuple[int, ...], ...]
    depths: tuple[float, ...]
    piece: int
    n_bytes: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the row."""
        return len(self.packed.tokens)

    @property
    def conditions(self) -> tuple[int, ...]:
        """The places of the conditions that read it."""
        return tuple(place for wave in self.waves for place in wave)

    @property
    def rows(self) -> int:
        """The most (condition, request) rows that are decoded together; 0 for likelihoods."""
        return max(map(len, self.waves), default=0) * self.n_written


def row_bytes(
    first_own: int, packed: Packed, contexts: Sequence[Ids], n_new: int, shape: Shape
) -> int:
    """Keys and values that a condition has for itself while it decodes."""
    trunks = {trunk for ids in contexts for trunk in packed.trunks(ids)}
    in_trunks = sum(packed.segments[trunk].n for trunk in trunks)
    own = max(len(packed.own(ids)) for ids in contexts)
    above = sum(shape.kv[first_own:])
    return len(contexts) * (sum(shape.kv) * n_new + above * own) + above * in_trunks


def work_of(
    group: Group,
    requests: Requests,
    conditions: Sequence[Condition],
    shape: Shape,
    generated: float,
) -> Work:
    """The passes over a group's row, and the steps in which its texts are written."""
    pairs, places = n_pairs(group.packed), _n_places(group, requests)
    asked = group.n_written + places
    pieces = math.ceil(group.n_tokens / group.piece)
    passes = [reading(shape, tokens=group.n_tokens, pairs=pairs, pieces=pieces)]
    for depth in group.depths:
        passes.append(
            reading(
                shape,
                tokens=group.n_tokens if depth else 0,
                pairs=pairs,
                depth=depth,
                places=asked,
                edits=1,
                pieces=pieces,
            )
        )
    if group.n_written:
        passes += (
            _steps(wave, group, requests, conditions, shape, generated) for wave in group.waves
        )
    return Work(tuple(passes))


def _steps(
    wave: Sequence[int],
    group: Group,
    requests: Requests,
    conditions: Sequence[Condition],
    shape: Shape,
    generated: float,
) -> Pass:
    """The decoding steps of a wave's rows; the first token comes from the contexts' pass."""
    packed = group.packed
    contexts = [
        ids
        for index, ids in zip(group.asked, group.sequences, strict=True)
        if n_new(requests[index])
    ]
    times = generated * (group.n_new - 1)
    n_wrote = round(1 + times / 2)
    own = sum(len(packed.own(ids)) for ids in contexts)
    rows = len(wave) * len(contexts)
    firsts = [first_own(conditions[place], shape.n_layers) for place in wave]
    kv = sum(row_bytes(first, packed, contexts, n_wrote, shape) for first in firsts)
    return writing(
        shape,
        times=times,
        rows=rows,
        shared=float(len(wave) * (sum(map(len, contexts)) - own)),
        own=float(len(wave) * own + rows * n_wrote),
        kv=float(kv + row_bytes(0, packed, contexts, 0, shape)),
        edits=sum(conditions[place].acts_in_answer for place in wave),
    )


def _n_places(group: Group, requests: Requests) -> int:
    """Places of the row at which continuations are scored."""
    places: set[int] = set()
    for index, ids in zip(group.asked, group.sequences, strict=True):
        request = requests[index]
        if isinstance(request, Scored):
            places.update(group.packed.paths[ids][len(request.context) - 1 :].tolist())
    return len(places)


def n_new(request: Scored | Written) -> int:
    """Tokens that a request may write."""
    return request.max_gen_toks if isinstance(request, Written) else 0

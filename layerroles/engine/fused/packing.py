"""Token sequences cut so that what they have in common is read once.

Sequences that begin alike share those tokens. A long shared beginning with much below it becomes a
*trunk*, whose keys and values all that follow look at; what is left falls into *blocks* of at most
`BLOCK` tokens, each a small tree, in which a token sees its own path only. All segments, trunks and
blocks, lie one behind the other in one packed row: a trunk, then everything below it.

The tokens of requests as sequences of numbers, for a trie.

Two requests may share a token only if the edits on it are the same for both. So a number
holds the token's id and its marks (see `ablations.prompts`: whether it is part of the prompt, its
last token, evidence), and for ablations that read whole prompts also which prompt it belongs to.
"""

from bisect import bisect_right
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from layerroles.ablations import Prompt
from layerroles.engine.requests import Scored, Written

_MARKS, _PROMPT = 32, 40  # the bits at which these begin

Ids = tuple[int, ...]
Numbers = Int[np.ndarray, " token"]


class Sequences:
    """The sequences of some requests.

    Args:
        requests: what is asked.
        apart: whether different prompts share nothing.
    """

    def __init__(self, requests: Iterable[Scored | Written], *, apart: bool) -> None:
        self._numbers: dict[Prompt, int] | None = None
        self._known: dict[int, int] = {}  # each number is held once
        if apart:
            prompts = dict.fromkeys(request.prompt for request in requests)
            self._numbers = {prompt: number for number, prompt in enumerate(prompts)}

    def of(self, request: Scored | Written) -> Ids:
        """What is read for a request: its context, and the continuation without its last token."""
        own = 0 if self._numbers is None else self._numbers[request.prompt] << _PROMPT
        marks = request.prompt.marks
        read = [
            token | mark << _MARKS | own for token, mark in zip(request.context, marks, strict=True)
        ]
        if isinstance(request, Scored):
            read += [token | own for token in request.continuation[:-1]]
        return tuple(self._known.setdefault(number, number) for number in read)

    @property
    def prompts(self) -> tuple[Prompt, ...] | None:
        """The prompts by their numbers; None if what they have in common is shared."""
        return None if self._numbers is None else tuple(self._numbers)


def token_ids(numbers: Sequence[int]) -> Numbers:
    """The tokens' ids."""
    return np.array(numbers, dtype=np.int64) & ((1 << _MARKS) - 1)


def token_marks(numbers: Sequence[int]) -> Numbers:
    """The tokens' marks."""
    return (np.array(numbers, dtype=np.int64) >> _MARKS) & ((1 << (_PROMPT - _MARKS)) - 1)


def prompt_numbers(numbers: Sequence[int]) -> Numbers:
    """Which prompts the tokens belong to, if those are kept apart."""
    return np.array(numbers, dtype=np.int64) >> _PROMPT


# Tokens of a block at the most: within it, attention is computed between all tokens.
BLOCK = 256
# A shared prefix of fewer tokens is read separately by each sequence.
_SHORTEST_TRUNK = 16
# A row with a sequence that exceeds the limit by itself may grow by this factor.
_ADDED = 1.25
# The other sequences of such a row share at least this fraction of their tokens with the previous.
_ALIKE = 0.75


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of the packed row.

    Attributes:
        start: of its first token in the packed row.
        n: how many tokens.
        trunks: the segments that all of its tokens see whole, outermost first.
        sees: which of its own tokens each of its tokens sees; None if each sees those before it.
        below: where the last segment below it ends; its own end if it is not a trunk.
    """

    start: int
    n: int
    trunks: tuple[int, ...]
    sees: Bool[np.ndarray, "n n"] | None
    below: int


@dataclass
class Packed:
    """Sequences as one packed row.

    Attributes:
        tokens: of the row, as they stand in the sequences (see `sequences`).
        positions: of each token in the sequences that it belongs to.
        segments: in the order in which they lie.
        paths: for each sequence, the places of its tokens in the row.
        segment_of: for each sequence, the segment that holds its last token.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    paths: dict[Ids, Int[np.ndarray, " pos"]] = field(default_factory=dict)
    segment_of: dict[Ids, int] = field(default_factory=dict)

    @property
    def all_trunks(self) -> set[int]:
        """Which of the segments are trunks."""
        return {trunk for segment in self.segments for trunk in segment.trunks}

    def trunks(self, ids: Ids) -> tuple[int, ...]:
        """The trunks that a sequence goes through, outermost first."""
        return self.segments[self.segment_of[ids]].trunks

    def own(self, ids: Ids) -> Int[np.ndarray, " place"]:
        """The places of a sequence's tokens below its trunks."""
        return self.paths[ids][sum(self.segments[trunk].n for trunk in self.trunks(ids)) :]


def shared_lengths(ordered: Sequence[Ids]) -> list[int]:
    """How many tokens each of the sorted sequences shares with the one before it."""
    return [0, *(_common(one, two) for one, two in pairwise(ordered))]


def packs(
    sequences: Sequence[Ids],
    max_tokens: int,
    max_sequences: int | None = None,
    *,
    counted: Container[Ids] | None = None,
) -> list[Packed]:
    """The different sequences in packed rows of at most `max_tokens` tokens.

    Sequences that begin alike stay together. One that is longer by itself makes a row of its own,
    with those that go on from its beginning and add little. Of those in `counted` (by default, of
    all), a row holds at most `max_sequences`.
    """
    ordered = sorted(set(sequences))
    groups: list[list[Ids]] = []
    n, left, most = max_tokens, 0, max_tokens
    for sequence, shared in zip(ordered, shared_lengths(ordered), strict=True):
        counts = max_sequences is not None and (counted is None or sequence in counted)
        grown = n + len(sequence) - shared
        # Beyond the bound, only sequences that continue the same long prefix are added.
        stranger = grown > max_tokens and shared < _ALIKE * len(sequence)
        if not groups or (counts and not left) or grown > most or stranger:
            groups.append([])
            n, left, shared = 0, max_sequences or 0, 0
            most = _allowed(sequence, max_tokens)
        groups[-1].append(sequence)
        n += len(sequence) - shared
        left -= counts
    return [packed for group in groups for packed in _halved(group, max_tokens)]


def _halved(group: list[Ids], max_tokens: int) -> list[Packed]:
    """Split a group until its rows fit: short shared prefixes are read again and take more room."""
    packed = pack(group)
    if len(group) == 1 or len(packed.tokens) <= _allowed(group[0], max_tokens):
        return [packed]
    half = len(group) // 2
    return [*_halved(group[:half], max_tokens), *_halved(group[half:], max_tokens)]


def _allowed(first: Ids, max_tokens: int) -> int:
    """Tokens of a row that begins with this sequence."""
    return max_tokens if len(first) <= max_tokens else int(_ADDED * len(first))


def pack(sequences: Sequence[Ids]) -> Packed:
    """One packed row of all the sequences, none of them empty."""
    ordered = sorted(set(sequences))
    return _Packing(ordered, shared_lengths(ordered)).packed


class _Packing:
    """Lay out sorted sequences in a packed row.

    A part of the trie is a range of the sequences that begin alike, with the depth from which on
    it is still to be laid down.
    """

    def __init__(self, ordered: list[Ids], shared: list[int]) -> None:
        self.ordered = ordered
        self.shared = shared
        self.packed = Packed()
        self.laid: list[list[Sequence[int]]] = [[] for _ in ordered]  # each sequence's path so far
        # Ranges still to do, last first; a trunk's index alone closes it.
        todo: list[tuple[int, int, int, tuple[int, ...]] | int] = [(0, len(ordered), 0, ())]
        while todo:
            step = todo.pop()
            if isinstance(step, int):
                self._close(step)
            else:
                todo += reversed(self._lay(*step))
        starts = [segment.start for segment in self.packed.segments]
        for sequence, parts in zip(ordered, self.laid, strict=True):
            path = np.concatenate([np.asarray(part) for part in parts])
            self.packed.paths[sequence] = path
            self.packed.segment_of[sequence] = bisect_right(starts, int(path[-1])) - 1

    def _lay(
        self, a: int, b: int, depth: int, trunks: tuple[int, ...]
    ) -> list[tuple[int, int, int, tuple[int, ...]] | int]:
        """Lay down a range, or its trunk; returns what is left of it, in order."""
        while a < b and len(self.ordered[a]) == depth:  # it ends with the trunk
            a += 1
        if a == b:
            return []
        n = (
            len(self.ordered[a])
            - depth
            + sum(len(self.ordered[i]) - max(self.shared[i], depth) for i in range(a + 1, b))
        )
        if n <= BLOCK or b - a == 1:
            self._block(a, b, depth, trunks)
            return []
        common = min(self.shared[a + 1 : b])
        left: list[tuple[int, int, int, tuple[int, ...]] | int] = []
        if common - depth >= _SHORTEST_TRUNK:
            index = self._extend(self.ordered[a][depth:common], range(depth, common), trunks, None)
            for i in range(a, b):
                start = self.packed.segments[index].start
                self.laid[i].append(range(start, start + common - depth))
            left.append(index)
            trunks, depth = (*trunks, index), common
        cuts = [a, *(i for i in range(a + 1, b) if self.shared[i] == common), b]
        parts = [(x, y, depth, trunks) for x, y in pairwise(cuts)]
        return [*parts, *left]

    def _block(self, a: int, b: int, depth: int, trunks: tuple[int, ...]) -> None:
        start = len(self.packed.tokens)
        tokens: list[int] = []
        positions: list[int] = []
        rows: list[list[int]] = []
        path: list[int] = []
        for i in range(a, b):
            kept = max(self.shared[i] - depth, 0) if i > a else 0
            path = path[:kept]
            for position in range(depth + kept, len(self.ordered[i])):
                path.append(len(tokens))
                if b - a > 1:  # else each token sees all before it
                    rows.append(list(path))
                tokens.append(self.ordered[i][position])
                positions.append(position)
            self.laid[i].append([start + place for place in path])
        sees = None
        if b - a > 1:
            sees = np.zeros((len(tokens), len(tokens)), dtype=bool)
            for place, seen in enumerate(rows):
                sees[place, seen] = True
        self._extend(tokens, positions, trunks, sees)

    def _extend(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        trunks: tuple[int, ...],
        sees: Bool[np.ndarray, "n n"] | None,
    ) -> int:
        packed = self.packed
        start = len(packed.tokens)
        packed.tokens.extend(tokens)
        packed.positions.extend(positions)
        end = start + len(tokens)
        packed.segments.append(Segment(start, len(tokens), trunks, sees, end))
        return len(packed.segments) - 1

    def _close(self, index: int) -> None:
        old = self.packed.segments[index]
        end = len(self.packed.tokens)
        self.packed.segments[index] = Segment(old.start, old.n, old.trunks, old.sees, end)


def _common(one: Ids, two: Ids) -> int:
    n = 0
    for x, y in zip(one, two, strict=False):
        if x != y:
            break
        n += 1
    return n

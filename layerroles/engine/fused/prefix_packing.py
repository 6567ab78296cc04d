"""Pack token sequences into rows in which each shared prefix is stored only once.

The sequences form a tree of prefixes. A long prefix followed by many tokens becomes a *trunk*: all
tokens below it in the tree *see* it (attend to it). The rest is cut into *blocks* (not those of the
model): a block is a small tree of at most `BLOCK` tokens, or the rest of one sequence, of any
length. In a block, a token sees only its own sequence, up to itself. The *segments* (trunks and
blocks) are concatenated in one *packed row*: a trunk, then everything below it.

Each token of a request is packed as a number. Two requests may share a token only if the edits at
the token are the same for both, so the number holds the token's id and its marks (flags, such as
"in the prompt"; see `ablations.token_marks`). If an ablation reads whole prompts, the number also
holds the prompt's index.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int

from layerroles.ablations import Prompt
from layerroles.engine.requests import Scored, Written

Ids = tuple[int, ...]
Numbers = Int[np.ndarray, " token"]

# The most tokens of a block of several sequences: attention is computed between all of its tokens.
BLOCK = 256
# A shared prefix of fewer tokens does not become a trunk, and may be stored repeatedly.
SHORTEST_TRUNK = 16
# If the first sequence of a row exceeds the limit by itself, the row may be longer by this factor.
_ADDED = 1.25
# Each later sequence of such a row shares at least this fraction of its tokens with the previous.
_ALIKE = 0.75
# The bits of a number at which the token's marks, and its prompt's index, begin.
_MARKS, _PROMPT = 32, 40


class SequenceEncoder:
    """Encodes requests as sequences of numbers, each of which holds a token's id and its marks.

    Args:
        requests: all requests that will be packed together.
        apart: if true, different prompts share no tokens, and numbers also hold the index of the
            token's prompt (its prompt number).
    """

    def __init__(self, requests: Iterable[Scored | Written], *, apart: bool) -> None:
        self._prompt_numbers: dict[Prompt, int] | None = None
        self._known: dict[int, int] = {}  # equal numbers become one object, to save memory
        if apart:
            prompts = dict.fromkeys(request.prompt for request in requests)
            self._prompt_numbers = {prompt: number for number, prompt in enumerate(prompts)}

    def encode(self, request: Scored | Written) -> Ids:
        """Return the numbers of the tokens that the model reads for a request.

        These are the context and, if there is a continuation, the continuation without its last
        token.
        """
        prompt = 0
        if self._prompt_numbers is not None:
            prompt = self._prompt_numbers[request.prompt] << _PROMPT
        numbers = [
            token | mark << _MARKS | prompt
            for token, mark in zip(request.context, request.prompt.marks, strict=True)
        ]
        if isinstance(request, Scored):
            numbers += [token | prompt for token in request.continuation[:-1]]
        return tuple(self._known.setdefault(number, number) for number in numbers)

    @property
    def prompts(self) -> tuple[Prompt, ...] | None:
        """The distinct prompts, indexed by `prompt_numbers`; None unless `apart`."""
        return None if self._prompt_numbers is None else tuple(self._prompt_numbers)


def token_ids(numbers: Sequence[int]) -> Numbers:
    """Return the token ids held by numbers of a `SequenceEncoder`."""
    return np.array(numbers, dtype=np.int64) & ((1 << _MARKS) - 1)


def token_marks(numbers: Sequence[int]) -> Numbers:
    """Return the token marks held by numbers of a `SequenceEncoder`."""
    return (np.array(numbers, dtype=np.int64) >> _MARKS) & ((1 << (_PROMPT - _MARKS)) - 1)


def prompt_numbers(numbers: Sequence[int]) -> Numbers:
    """Return the prompt numbers held by numbers of a `SequenceEncoder`; 0 unless `apart`."""
    return np.array(numbers, dtype=np.int64) >> _PROMPT


@dataclass(frozen=True)
class Segment:
    """A trunk or a block: consecutive tokens of the packed row.

    Attributes:
        start: index of the first token in the packed row.
        n: number of tokens.
        trunks: indices (in `PackedRow.segments`) of the trunks above, outermost first; all tokens
            of the segment see all tokens of these trunks.
        sees: which of the segment's tokens (columns) each of them (rows) sees; None if each token
            sees itself and all earlier ones of the segment.
        below: for a trunk, the index in the packed row at which the last segment below it ends; for
            a block, the index at which the block ends.
    """

    start: int
    n: int
    trunks: tuple[int, ...]
    sees: Bool[np.ndarray, "n n"] | None
    below: int


@dataclass
class PackedRow:
    """Token sequences packed into one row, in which each long shared prefix is stored once.

    Attributes:
        tokens: the row's tokens, as the numbers of a `SequenceEncoder`.
        positions: each token's position in the sequences that it belongs to.
        segments: the segments, in the order of the row.
        paths: for each sequence, the indices of its tokens in the row.
        segment_of: for each sequence, the index of the segment that holds its last token.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    paths: dict[Ids, Int[np.ndarray, " pos"]] = field(default_factory=dict)
    segment_of: dict[Ids, int] = field(default_factory=dict)

    @property
    def all_trunks(self) -> set[int]:
        """The indices of the segments that are trunks."""
        return {trunk for segment in self.segments for trunk in segment.trunks}

    def trunks(self, ids: Ids) -> tuple[int, ...]:
        """Return the indices of the trunks that a sequence begins with, outermost first."""
        return self.segments[self.segment_of[ids]].trunks

    def split_contexts(self, contexts: Sequence[Ids]) -> "ContextParts":
        """Split these sequences into the trunks that several of them share, and their other tokens.

        A trunk that only one of them begins with saves nothing, so its tokens are counted among the
        other tokens of that sequence.
        """
        n_sharing = Counter(trunk for ids in contexts for trunk in self.trunks(ids))
        shared_trunks = [
            {trunk for trunk in self.trunks(ids) if n_sharing[trunk] > 1} for ids in contexts
        ]
        trunks: dict[tuple[bool, ...], list[int]] = {}
        for trunk in sorted(set().union(*shared_trunks)):
            segment = self.segments[trunk]
            sharing = tuple(trunk in shared for shared in shared_trunks)
            trunks.setdefault(sharing, []).extend(range(segment.start, segment.start + segment.n))
        own = [
            self.paths[ids][sum(self.segments[trunk].n for trunk in shared) :]
            for ids, shared in zip(contexts, shared_trunks, strict=True)
        ]
        return ContextParts(trunks, own)


@dataclass(frozen=True)
class ContextParts:
    """Contexts of a packed row, split into shared trunks and the other tokens of each.

    Attributes:
        trunks: indices in the row of the tokens of each shared trunk. The key says for each context
            whether it continues beyond the trunk. Trunks with equal keys are joined into one.
        own: for each context, the indices of its other tokens in the row.
    """

    trunks: Mapping[tuple[bool, ...], Sequence[int]]
    own: Sequence[Int[np.ndarray, " _"]]

    @property
    def n_in_trunks(self) -> int:
        """Number of tokens of all trunks."""
        return sum(map(len, self.trunks.values()))


def shared_lengths(ordered: Sequence[Ids]) -> list[int]:
    """Return the length of the prefix that each sequence shares with the one before it, or 0."""
    return [0, *(_common_length(one, two) for one, two in pairwise(ordered))]


def pack_rows(
    sequences: Sequence[Ids],
    max_tokens: int,
    max_sequences: int | None = None,
    *,
    counted: Container[Ids] | None = None,
) -> list[PackedRow]:
    """Pack different sequences into rows of at most `max_tokens` tokens.

    Sequences are sorted first, so that those with common prefixes are packed together. A row whose
    first sequence is longer than `max_tokens` may have up to 1.25 times as many tokens as that
    sequence; each later sequence then shares at least 75% of its tokens with the one before it.

    Args:
        sequences: the sequences; repeated ones are packed once.
        max_tokens: the most tokens of a row, unless its first sequence alone is longer.
        max_sequences: the most sequences of a row, where only those in `counted` count; None for
            any number.
        counted: the sequences that count; by default all.
    """
    ordered = sorted(set(sequences))
    groups: list[list[Ids]] = []
    n, n_left, most = max_tokens, 0, max_tokens
    for sequence, shared in zip(ordered, shared_lengths(ordered), strict=True):
        counts = max_sequences is not None and (counted is None or sequence in counted)
        grown = n + len(sequence) - shared
        # A row beyond the limit only gets sequences that share most of their tokens with the last.
        is_other = grown > max_tokens and shared < _ALIKE * len(sequence)
        if not groups or (counts and not n_left) or grown > most or is_other:
            groups.append([])
            n, n_left, shared = 0, max_sequences or 0, 0
            most = _max_row_tokens(sequence, max_tokens)
        groups[-1].append(sequence)
        n += len(sequence) - shared
        n_left -= counts
    return [packed for group in groups for packed in _split_until_fit(group, max_tokens)]


def _split_until_fit(group: list[Ids], max_tokens: int) -> list[PackedRow]:
    """Pack sequences into one row, or split them in halves until the rows fit.

    A row may be longer than expected, since short shared prefixes are stored repeatedly.
    """
    packed = pack_row(group)
    if len(group) == 1 or len(packed.tokens) <= _max_row_tokens(group[0], max_tokens):
        return [packed]
    half = len(group) // 2
    return [
        *_split_until_fit(group[:half], max_tokens),
        *_split_until_fit(group[half:], max_tokens),
    ]


def _max_row_tokens(first: Ids, max_tokens: int) -> int:
    """Return the most tokens that a row may have, given its `first` sequence.

    It is `max_tokens` or, if `first` is longer than that, 1.25 times the length of `first`.
    """
    return max_tokens if len(first) <= max_tokens else int(_ADDED * len(first))


def pack_row(sequences: Sequence[Ids]) -> PackedRow:
    """Pack sequences, none of them empty, into one row."""
    ordered = sorted(set(sequences))
    return _RowBuilder(ordered, shared_lengths(ordered)).packed


# A part of the prefix tree that is still to be laid out: a half-open range of the sorted sequences,
# the number of first tokens of each that are laid out already, and the trunks above.
_Range = tuple[int, int, int, tuple[int, ...]]


class _RowBuilder:
    """Lays out sorted sequences, with their `shared_lengths`, in a packed row (`packed`)."""

    def __init__(self, ordered: list[Ids], shared: list[int]) -> None:
        self.ordered = ordered
        self.shared = shared
        self.packed = PackedRow()
        self.paths: list[list[Sequence[int]]] = [[] for _ in ordered]  # the parts laid out so far
        # What is still to do, last step first: ranges to lay out, and indices of trunks to close.
        todo: list[_Range | int] = [(0, len(ordered), 0, ())]
        while todo:
            step = todo.pop()
            if isinstance(step, int):
                self._close(step)
            else:
                todo += reversed(self._lay_out(*step))
        starts = [segment.start for segment in self.packed.segments]
        for sequence, parts in zip(ordered, self.paths, strict=True):
            path = np.concatenate([np.asarray(part) for part in parts])
            self.packed.paths[sequence] = path
            self.packed.segment_of[sequence] = bisect_right(starts, int(path[-1])) - 1

    def _lay_out(self, a: int, b: int, depth: int, trunks: tuple[int, ...]) -> "list[_Range | int]":
        """Lay out sequences `a` to `b` as a block, or only their trunk; returns what is left to do.

        The range is half-open. Its sequences share their first `depth` tokens, which are laid out
        already, in `trunks`. Left to do, in order, are ranges of sequences to lay out, and after
        them the index of their trunk, which is then closed (its `below` is set).
        """
        while a < b and len(self.ordered[a]) == depth:  # this sequence ends with the trunk
            a += 1
        if a == b:
            return []
        n = (
            len(self.ordered[a])
            - depth
            + sum(len(self.ordered[i]) - max(self.shared[i], depth) for i in range(a + 1, b))
        )
        if n <= BLOCK or b - a == 1:
            self._lay_out_block(a, b, depth, trunks)
            return []
        common = min(self.shared[a + 1 : b])
        left: list[_Range | int] = []
        if common - depth >= SHORTEST_TRUNK:
            index = self._extend(self.ordered[a][depth:common], range(depth, common), trunks, None)
            for i in range(a, b):
                start = self.packed.segments[index].start
                self.paths[i].append(range(start, start + common - depth))
            left.append(index)
            trunks, depth = (*trunks, index), common
        cuts = [a, *(i for i in range(a + 1, b) if self.shared[i] == common), b]
        ranges: list[_Range] = [(x, y, depth, trunks) for x, y in pairwise(cuts)]
        return [*ranges, *left]

    def _lay_out_block(self, a: int, b: int, depth: int, trunks: tuple[int, ...]) -> None:
        start = len(self.packed.tokens)
        tokens: list[int] = []
        positions: list[int] = []
        rows: list[list[int]] = []
        path: list[int] = []
        for i in range(a, b):
            n_shared = max(self.shared[i] - depth, 0) if i > a else 0
            path = path[:n_shared]
            for position in range(depth + n_shared, len(self.ordered[i])):
                path.append(len(tokens))
                if b - a > 1:  # in a block of one sequence, each token sees all earlier ones
                    rows.append(list(path))
                tokens.append(self.ordered[i][position])
                positions.append(position)
            self.paths[i].append([start + place for place in path])
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


def _common_length(one: Ids, two: Ids) -> int:
    n = 0
    for x, y in zip(one, two, strict=False):
        if x != y:
            break
        n += 1
    return n

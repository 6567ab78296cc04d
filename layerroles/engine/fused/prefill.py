"""A packed row, and how it is read: by the intact model once, then under each condition.

Of the first reading the streams that enter the ablated blocks are kept; the others start there.

Read a packed row in pieces, where all of it at once would take more memory than there is.

A piece is read through all blocks before the next one is. Its tokens meet the keys and values of
the pieces before it, which are kept for that; what blocks compute on the way is held for one piece
only. Cuts lie between segments, or within those in which each token sees all before it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.ablations import Condition, Prompt
from layerroles.engine.fused.attention import Layout, Scoring
from layerroles.engine.fused.edits import Edits, Reading, Stretch
from layerroles.engine.fused.model import Twin
from layerroles.engine.fused.packing import BLOCK, Packed, token_ids
from layerroles.engine.reuse import edited_block, first_run, recorded_at

# Called with a layer, its keys and its values, `[head pos d_head]`, when all of them are known.
Keep = Callable[[int, Tensor, Tensor], None]
# A context entered around a piece; called with the piece's slice of the row.
Around = Callable[[slice], AbstractContextManager[None]]


def pieces(packed: Packed, most: int) -> list[slice]:
    """Cut a row into pieces of at most `most` tokens, or of a block, which is not cut."""
    cuts, most = [0], max(most, BLOCK)
    for segment in packed.segments:
        end = segment.start + segment.n
        if end - cuts[-1] <= most:
            continue
        if segment.start > cuts[-1]:
            cuts.append(segment.start)
        if segment.sees is None:
            cuts += range(cuts[-1] + most, end, most)
    return [slice(start, end) for start, end in pairwise([*cuts, len(packed.tokens)])]


def read(
    twin: Twin,
    tokens: Int[Tensor, " pos"],
    positions: Int[Tensor, " pos"],
    layouts: list[tuple[slice, Layout]],
    around: Around,
    keep: Keep | None,
) -> Float[Tensor, "pos d_model"]:
    """One pass over a row; the stream after the last norm.

    Args:
        twin: that reads.
        tokens: of the row.
        positions: of them in their sequences.
        layouts: the pieces, with who sees whom in each.
        around: entered for each piece.
        keep: called with the keys and values of each layer.
    """
    held: dict[int, tuple[Tensor, Tensor]] = {}
    whole: Tensor | None = None
    for where, layout in layouts:
        attend = _attends(where, layout, len(tokens), held, keep)
        with around(where):
            stream = twin.run(tokens[where], positions[where], attend)
        if len(layouts) == 1:
            return stream
        if whole is None:
            whole = stream.new_empty(len(tokens), stream.shape[1])
        whole[where] = stream
    assert whole is not None  # a row is not empty
    return whole


class Streams(dict[int, Tensor]):
    """Streams `[1 pos d_model]` of a row by their layers, filled piece by piece.

    Args:
        n: tokens of the row.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self._n = n
        self.where = slice(0, n)

    def __setitem__(self, layer: int, piece: Tensor) -> None:
        if self.where == slice(0, self._n):
            super().__setitem__(layer, piece)
            return
        if layer not in self:
            super().__setitem__(layer, piece.new_empty(1, self._n, piece.shape[2]))
        self[layer][:, self.where] = piece


def _attends(
    where: slice, layout: Layout, n: int, held: dict[int, tuple[Tensor, Tensor]], keep: Keep | None
) -> Callable[[int, Tensor, Tensor, Tensor, Scoring], Tensor]:
    """Attention of a piece to itself and to what came before."""
    whole, last = where == slice(0, n), where.stop == n

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, score: Scoring) -> Tensor:
        if not whole:
            if layer not in held:
                held[layer] = k.new_empty(len(k), n, k.shape[2]), v.new_empty(len(v), n, v.shape[2])
            known = held.pop(layer) if last else held[layer]
            known[0][:, where], known[1][:, where] = k, v
            k, v = known
        if last and keep is not None:
            keep(layer, k, v)
        return layout.attend(layer, q, k, v, score)

    return attend


@dataclass(frozen=True)
class Row:
    """A packed row, ready to be read.

    Attributes:
        packed: what it is made of.
        tokens: ids.
        positions: in the sequences.
        marks: see `ablations.prompts`.
        prompts: of each token; None where prompts share tokens.
        layouts: the pieces in which it is read, with who sees whom in each.
    """

    packed: Packed
    tokens: Int[Tensor, " pos"]
    positions: Int[Tensor, " pos"]
    marks: Int[Tensor, " pos"]
    prompts: Sequence[Prompt] | None
    layouts: list[tuple[slice, Layout]]

    def reading(self, where: slice) -> Reading:
        """A piece of the row, as edits see it."""
        prompts = None if self.prompts is None else self.prompts[where]
        ids = partial(self._ids, where)
        return Reading(self.positions[where], self.marks[where], ids, prompts)

    def _ids(self, where: slice) -> "_Begun":
        """The sequence of each token of a piece up to itself."""
        begun: list[tuple[list[int], int]] = [([], 0)] * (where.stop - where.start)
        for sequence, path in self.packed.paths.items():
            ids = token_ids(sequence).tolist()
            for n, place in enumerate(path.tolist(), 1):
                if where.start <= place < where.stop:
                    begun[place - where.start] = ids, n
        return _Begun(begun)


class _Begun(Sequence[Sequence[int]]):
    """Beginnings of sequences, cut off when they are asked for: all of them would fill the memory.

    Args:
        begun: for each, the sequence and how much of it.
    """

    def __init__(self, begun: Sequence[tuple[list[int], int]]) -> None:
        self._begun = begun

    def __len__(self) -> int:
        return len(self._begun)

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override]  # no slices
        ids, n = self._begun[index]
        return ids[:n]


@dataclass(frozen=True)
class Read:
    """A row as it was read under a condition.

    Attributes:
        stream: after the last norm.
        changed: where an edit changed something; None if nowhere.
    """

    stream: Float[Tensor, "pos d_model"]
    changed: Bool[np.ndarray, " pos"] | None

    def changed_on(self, path: Int[np.ndarray, " place"]) -> bool:
        """Whether an edit changed the write at one of these positions."""
        return self.changed is not None and bool(self.changed[path].any())


class Intact:
    """The intact model's pass over a row, recorded so that it can be resumed from any layer.

    Args:
        twin: the model.
        row: what is read.
        conditions: under which it will be read again.
        keep: called with the keys and values of each layer.
    """

    def __init__(
        self, twin: Twin, row: Row, conditions: Sequence[Condition], keep: Keep | None
    ) -> None:
        self._twin = twin
        self._row = row
        self._streams = Streams(len(row.tokens))
        self._layers = sorted({layer for one in conditions for layer in recorded_at(one)})
        stream = read(twin, row.tokens, row.positions, row.layouts, self._noting, keep)
        self.read = Read(stream, None)

    @contextmanager
    def _noting(self, where: slice) -> Iterator[None]:
        """Within the context, the streams of a piece are kept."""
        self._streams.where = where
        with self._twin.noting(self._layers, self._streams):
            yield

    def again(self, condition: Condition, edits: Edits, keep: Keep | None) -> Read:
        """Read the row under a condition, from its first ablated layer on."""
        if condition.is_intact:
            return self.read
        row, n_blocks = self._row, len(self._twin.blocks)
        first = first_run(condition, n_blocks)
        block = edited_block(condition)
        changed: list[Tensor] = []

        @contextmanager
        def edited(where: slice) -> Iterator[None]:
            stretch = Stretch(condition, 0, where.stop - where.start, row.reading(where))
            stream = self._streams[first][:, where]
            if block is not None:
                stream = edits.block(block, stretch, self._streams[block.layer][:, where], stream)
            with self._twin.starting_at(first, stream), edits.on([stretch], since=first):
                yield
            assert stretch.changed is not None  # every edit records where it changed something
            changed.append(stretch.changed)

        stream = read(self._twin, row.tokens, row.positions, row.layouts, edited, keep)
        return Read(stream, torch.cat(changed).cpu().numpy())

"""A packed row, and how it is read: by the intact model once, then under each condition.

Of the first reading the streams that enter the ablated blocks are kept; the others start there.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.ablations import Condition, Prompt
from layerroles.engine.attend import Layout
from layerroles.engine.depths import edited_block, first_run, recorded_at
from layerroles.engine.edits import Edits, Reading, Stretch
from layerroles.engine.pieces import Keep, Streams, read
from layerroles.engine.sequences import token_ids
from layerroles.engine.trie import Packed
from layerroles.engine.twin import Twin


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

"""Read a packed row: once with the intact model, then under each condition.

A packed row holds the tokens of many requests, in parts called segments (see `prefix_packing`). The
intact model's pass is recorded: the streams that enter the ablated blocks are stored. Under a
condition, the row is read from the condition's first ablated layer on.

A row that would take too much memory at once is read in pieces. Each piece passes through all
blocks before the next piece starts. Its tokens attend to the stored keys and values of earlier
pieces; intermediate values of the blocks are held for one piece only. Rows are cut between
segments, or within segments in which each token attends to all earlier ones.
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
from layerroles.engine.fused.edits import Edits, Stretch, TokenPass
from layerroles.engine.fused.packed_attention import AttentionLayout
from layerroles.engine.fused.partial_attention import AttentionRule
from layerroles.engine.fused.prefix_packing import BLOCK, PackedRow, token_ids
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.unchanged_layers import edited_block, first_recomputed, recorded_layers

# Called with a layer, its keys and its values, `[head pos d_head]`, when those of all of the row's
# tokens are computed.
StoreKeys = Callable[[int, Tensor, Tensor], None]
# Called with a piece's slice of the row; returns the context manager in which the piece is run.
Around = Callable[[slice], AbstractContextManager[None]]


@dataclass(frozen=True)
class LoadedRow:
    """A packed row on the model's device, ready to be read.

    Attributes:
        packed: the row.
        tokens: the token ids.
        positions: each token's position in its sequences.
        marks: each token's marks: flags, such as "in the prompt" (see `ablations.token_marks`).
        prompts: each token's prompt; None if different prompts may share tokens.
        layouts: the pieces in which the row is read, each with its attention layout.
    """

    packed: PackedRow
    tokens: Int[Tensor, " pos"]
    positions: Int[Tensor, " pos"]
    marks: Int[Tensor, " pos"]
    prompts: Sequence[Prompt] | None
    layouts: list[tuple[slice, AttentionLayout]]

    def token_pass(self, piece: slice) -> TokenPass:
        """Return the `Pass` (the inputs that edits can read) for a piece of the row."""
        prompts = None if self.prompts is None else self.prompts[piece]
        ids = partial(self._prefixes, piece)
        return TokenPass(self.positions[piece], self.marks[piece], ids, prompts)

    def _prefixes(self, piece: slice) -> "_Prefixes":
        """Return, for each token of a piece, the token ids of its sequence up to that token."""
        prefixes: list[tuple[list[int], int]] = [([], 0)] * (piece.stop - piece.start)
        for sequence, path in self.packed.paths.items():
            ids = token_ids(sequence).tolist()
            for n, place in enumerate(path.tolist(), 1):
                if piece.start <= place < piece.stop:
                    prefixes[place - piece.start] = ids, n
        return _Prefixes(prefixes)


class _Prefixes(Sequence[Sequence[int]]):
    """Prefixes of sequences, sliced on access, since all of them would take too much memory.

    Args:
        prefixes: for each prefix, the whole sequence and the prefix's length.
    """

    def __init__(self, prefixes: Sequence[tuple[list[int], int]]) -> None:
        self._prefixes = prefixes

    def __len__(self) -> int:
        return len(self._prefixes)

    def __getitem__(self, index: int) -> list[int]:  # type: ignore[override]  # no slices
        ids, n = self._prefixes[index]
        return ids[:n]


@dataclass(frozen=True)
class RowResult:
    """The result of reading a row under a condition.

    Attributes:
        stream: the residual stream after the last norm.
        changed: for each token, whether an edit changed a write there; None for the intact model.
    """

    stream: Float[Tensor, "pos d_model"]
    changed: Bool[np.ndarray, " pos"] | None

    def changed_on(self, path: Int[np.ndarray, " place"]) -> bool:
        """Return whether an edit changed a write at any of the tokens with these indices."""
        return self.changed is not None and bool(self.changed[path].any())


class Streams:
    """The recorded residual streams `[1 pos d_model]` of a row by layer, stored piece by piece.

    Args:
        n: number of tokens of the row.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._by_layer: dict[int, Tensor] = {}

    def __getitem__(self, layer: int) -> Tensor:
        return self._by_layer[layer]

    def store(self, piece: slice, layer: int, stream: Tensor) -> None:
        """Store a layer's stream for a piece; it is not copied if the piece is the whole row."""
        if piece == slice(0, self._n):
            self._by_layer[layer] = stream
            return
        if layer not in self._by_layer:
            self._by_layer[layer] = stream.new_empty(1, self._n, stream.shape[2])
        self._by_layer[layer][:, piece] = stream


def record_intact(
    twin: Twin, row: LoadedRow, conditions: Sequence[Condition], store_keys: StoreKeys | None
) -> "IntactPass":
    """Run the intact model over a row, and record the streams that `IntactPass.replay` needs.

    Args:
        twin: the model.
        row: the row.
        conditions: the conditions under which the row will be read afterwards.
        store_keys: called with the keys and values of each layer; None if they are not needed.
    """
    streams = Streams(len(row.tokens))
    last_start = twin.shape.last_start
    layers = sorted({layer for each in conditions for layer in recorded_layers(each, last_start)})

    def recorded(piece: slice) -> AbstractContextManager[None]:
        return twin.record_streams(layers, partial(streams.store, piece))

    stream = read_row(twin, row, recorded, store_keys)
    return IntactPass(twin, row, streams, RowResult(stream, None))


class IntactPass:
    """The intact model's pass over a row, recorded so that passes under conditions can resume it.

    Args:
        twin: the model.
        row: the row.
        streams: the recorded streams that entered blocks, or left the last one.
        result: the result of the pass.
    """

    def __init__(self, twin: Twin, row: LoadedRow, streams: Streams, result: RowResult) -> None:
        self.row, self.result = row, result
        self._twin, self._streams = twin, streams

    def replay(self, condition: Condition, edits: Edits, store_keys: StoreKeys | None) -> RowResult:
        """Read the row under a condition, from the first layer that has to run; return the result.

        `store_keys`, unless None, is called with the keys and values of each layer that is run. For
        the intact condition, no layer is run again.
        """
        if condition.is_intact:
            return self.result
        shape = self._twin.shape
        first = first_recomputed(condition, shape.n_layers, shape.last_start)
        block = edited_block(condition, shape.last_start)
        changed: list[Tensor] = []

        @contextmanager
        def edited(piece: slice) -> Iterator[None]:
            tokens = self.row.token_pass(piece)
            stretch = Stretch(condition, 0, piece.stop - piece.start, tokens)
            stream = self._streams[first][:, piece]
            if block is not None:
                entered = self._streams[block.layer][:, piece]
                stream = edits.edit_block(block, stretch, entered, stream)
            with self._twin.starting_at(first, stream), edits.apply([stretch], since=first):
                yield
            assert stretch.changed is not None  # set by every edit
            changed.append(stretch.changed)

        stream = read_row(self._twin, self.row, edited, store_keys)
        return RowResult(stream, torch.cat(changed).cpu().numpy())


def read_row(
    twin: Twin, row: LoadedRow, around: Around, store_keys: StoreKeys | None
) -> Float[Tensor, "pos d_model"]:
    """Run the model over a row; returns the residual stream after the last norm.

    Args:
        twin: the model.
        row: the row.
        around: called with each piece's slice; returns the context manager in which the piece is
            run.
        store_keys: called with the keys and values of each layer; None if they are not needed.
    """
    n = len(row.tokens)
    held: dict[int, tuple[Tensor, Tensor]] = {}
    whole: Tensor | None = None
    for piece, layout in row.layouts:
        attend = _make_attend(piece, layout, n, held, store_keys)
        with around(piece):
            stream = twin.run(row.tokens[piece], row.positions[piece], attend)
        if len(row.layouts) == 1:
            return stream
        if whole is None:
            whole = stream.new_empty(n, stream.shape[1])
        whole[piece] = stream
    assert whole is not None  # a row is not empty
    return whole


def _make_attend(
    piece: slice,
    layout: AttentionLayout,
    n: int,
    held: dict[int, tuple[Tensor, Tensor]],
    store_keys: StoreKeys | None,
) -> Callable[[int, Tensor, Tensor, Tensor, AttentionRule], Tensor]:
    """Return a function that computes the attention of a piece to itself and the pieces before it.

    `held` maps layers to keys and values for all `n` tokens of the row, filled piece by piece.
    """
    is_whole, is_last = piece == slice(0, n), piece.stop == n

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        if not is_whole:
            if layer not in held:
                held[layer] = k.new_empty(len(k), n, k.shape[2]), v.new_empty(len(v), n, v.shape[2])
            all_k, all_v = held.pop(layer) if is_last else held[layer]
            all_k[:, piece], all_v[:, piece] = k, v
            k, v = all_k, all_v
        if is_last and store_keys is not None:
            store_keys(layer, k, v)
        return layout.attend(layer, q, k, v, rule)

    return attend


def cut_pieces(packed: PackedRow, most: int) -> list[slice]:
    """Cut a row into pieces of at most `max(most, BLOCK)` tokens.

    Blocks of several sequences (see `prefix_packing`) are not cut.
    """
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

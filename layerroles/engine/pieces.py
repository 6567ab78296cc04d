"""Read a packed row in pieces, where all of it at once would take more memory than there is.

A piece is read through all blocks before the next one is. Its tokens meet the keys and values of
the pieces before it, which are kept for that; what blocks compute on the way is held for one piece
only. Cuts lie between segments, or within those in which each token sees all before it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor

from layerroles.engine.attend import Layout, Scoring
from layerroles.engine.trie import BLOCK, Packed
from layerroles.engine.twin import Twin

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

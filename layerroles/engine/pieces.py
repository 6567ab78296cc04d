"""Read a packed row in pieces, where all of it at once would take more memory than there is.

A piece is read through all blocks before the next one is. Its tokens meet the keys and values of
the pieces before it, which are kept for that; what blocks compute on the way is held for one piece
only. Cuts lie between segments, or within those in which each token sees all before it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from layerroles.engine.attend import Layout, Scoring
from layerroles.engine.trie import Packed
from layerroles.engine.twin import Twin

# What is told of a layer's keys and values, `[head pos d_head]`, when all of them are known.
Keep = Callable[[int, Tensor, Tensor], None]
# What is put around a piece: given where it lies.
Around = Callable[[slice], AbstractContextManager[None]]


def pieces(packed: Packed, most: int) -> list[slice]:
    """Cut a row into pieces of at most `most` tokens, or of one segment that cannot be cut."""
    cuts = [0]
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
        keep: is told the keys and values of each layer.
    """
    found = []
    held: dict[int, tuple[Tensor, Tensor]] = {}
    for where, layout in layouts:
        attend = _attends(where, layout, len(tokens), held, keep)
        with around(where):
            found.append(twin.run(tokens[where], positions[where], attend))
    return found[0] if len(found) == 1 else torch.cat(found)


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

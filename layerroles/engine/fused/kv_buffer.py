"""A tensor whose rows get longer and fewer, in memory that is allocated once (see `kv_cache`)."""

from collections.abc import Iterator

from jaxtyping import Float, Int
from torch import Tensor

# How many numbers are moved at a time, through a temporary copy.
AT_ONCE = 2**22


class KVBuffer:
    """A tensor whose rows can be widened or removed, within memory that is allocated once.

    Args:
        like: a tensor with the dtype and device to use.
        n_rows, n_heads, n, width: the initial shape; the tensor is filled with zeros.
        most: the most positions that a row can be widened to.

    Attributes:
        rows: the tensor; replaced by `widen` and `keep`.
    """

    rows: Float[Tensor, "row head pos d_head"]

    def __init__(
        self, like: Tensor, n_rows: int, n_heads: int, n: int, width: int, *, most: int
    ) -> None:
        self._n_heads, self._width = n_heads, width
        self._memory = like.new_empty(n_rows * n_heads * most * width)
        self.rows = self._view(n_rows, n).zero_()

    def widen(self, more: int) -> None:
        """Append `more` positions of zeros to each row."""
        old, n = self.rows, self.rows.shape[2]
        self.rows = self._view(len(old), n + more)
        # Last rows first, so that no row is written over another that has still to move.
        for chunk in reversed(list(self._chunks(len(old)))):
            moved = old[chunk].clone()
            self.rows[chunk, :, :n] = moved
            self.rows[chunk, :, n:] = 0

    def keep(self, index: Int[Tensor, " kept"]) -> None:
        """Keep only the rows at these ascending indices."""
        old = self.rows
        self.rows = self._view(len(index), old.shape[2])
        # First rows first, so that no row is written over another that has still to move.
        for chunk in self._chunks(len(index)):
            self.rows[chunk] = old[index[chunk]]

    def _view(self, n_rows: int, n: int) -> Tensor:
        size = n_rows * self._n_heads * n * self._width
        return self._memory[:size].view(n_rows, self._n_heads, n, self._width)

    def _chunks(self, n_rows: int) -> Iterator[slice]:
        """Yield ranges of rows, each small enough to be moved through a temporary copy."""
        row_size = max(1, self._n_heads * self.rows.shape[2] * self._width)
        step = max(1, AT_ONCE // row_size)
        return (slice(start, start + step) for start in range(0, n_rows, step))

"""Keys or values of rows that decode together: longer with every token, fewer as texts end.

They lie in memory that is taken once. New tensors for every change would leave holes behind, each
too small for the next one: half of the memory again.
"""

from collections.abc import Iterator

from jaxtyping import Float, Int
from torch import Tensor

# Numbers that are moved at a time, by way of a copy.
_AT_ONCE = 2**22


class Held:
    """A tensor of rows that grow along their positions, and become fewer.

    Args:
        like: whose kind and device it has.
        n_rows, n_heads, n, width: its shape; it is filled with zeros.
        most: positions that it may come to have.

    Attributes:
        now: the tensor as it is; replaced by `widen` and `keep`.
    """

    now: Float[Tensor, "row head pos d_head"]

    def __init__(
        self, like: Tensor, n_rows: int, n_heads: int, n: int, width: int, *, most: int
    ) -> None:
        self._n_heads, self._width = n_heads, width
        self._memory = like.new_empty(n_rows * n_heads * most * width)
        self.now = self._seen(n_rows, n).zero_()

    def widen(self, more: int) -> None:
        """Have so many positions more, which are zero."""
        old, n = self.now, self.now.shape[2]
        self.now = self._seen(len(old), n + more)
        # From the last row on: where a row goes, only rows after it were.
        for rows in reversed(list(self._some(len(old)))):
            moved = old[rows].clone()
            self.now[rows, :, :n] = moved
            self.now[rows, :, n:] = 0

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Have these of the rows only, which ascend."""
        old = self.now
        self.now = self._seen(len(rows), old.shape[2])
        # From the first row on: where a row goes, none was that is still to move.
        for some in self._some(len(rows)):
            self.now[some] = old[rows[some]]

    def _seen(self, n_rows: int, n: int) -> Tensor:
        size = n_rows * self._n_heads * n * self._width
        return self._memory[:size].view(n_rows, self._n_heads, n, self._width)

    def _some(self, n_rows: int) -> Iterator[slice]:
        """Rows as they are moved together."""
        each = max(1, self._n_heads * self.now.shape[2] * self._width)
        step = max(1, _AT_ONCE // each)
        return (slice(start, start + step) for start in range(0, n_rows, step))

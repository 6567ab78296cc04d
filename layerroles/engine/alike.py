"""Rows that have written the same so far: below their ablated layers they are one row.

Under a condition a row is the intact model's up to the first layer that is run anew, as long as it
has read what the intact model's has. So of the rows of one request with one text, only those that
differ at a layer are computed there, and one that stands for all others. Texts part as they grow,
and never meet again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

# Less than this share of the blocks' work is not worth putting rows together.
_LEAST = 0.05


@dataclass(frozen=True)
class Few:
    """The rows that are computed at a layer.

    Attributes:
        rows: places of them among all, ascending; the same as a tensor is `index`.
        back: for every row, which of them it is like.
        known: what has been found out about them, by whoever looks at them.
    """

    rows: Int[np.ndarray, " few"]
    index: Int[Tensor, " few"]
    back: Int[Tensor, " row"]
    known: dict[Any, Any] = field(default_factory=dict)


class Alike:
    """Which rows of a decoding batch are alike.

    Args:
        requests: of each row.
        firsts: for each row, the first layer that is run anew under its condition, ascending; so
            the last of rows that are alike is like all others at the most layers.
        n_layers: of the model.
        device: where the rows lie.

    Attributes:
        layers: for each layer, the rows that are computed at it; None if all are.
    """

    layers: Sequence[Few | None]

    def __init__(
        self,
        requests: Int[np.ndarray, " row"],
        firsts: Int[np.ndarray, " row"],
        n_layers: int,
        device: torch.device,
    ) -> None:
        self._groups, self._firsts = requests, firsts
        self._device = device
        self._n_groups = -1  # so that the first look is taken
        self._none: Sequence[Few | None] = [None] * n_layers
        self._parted = False
        self.layers = self._none

    def add(self, tokens: Sequence[int]) -> None:
        """A token that each row reads next."""
        if self._parted:
            return
        both = self._groups.astype(np.int64) << 32 | np.array(tokens, dtype=np.int64)
        found, self._groups = np.unique(both, return_inverse=True)
        if len(found) != self._n_groups:
            self._n_groups = len(found)
            self._look()

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these of the rows only."""
        index = list(places)
        self._groups, self._firsts = self._groups[index], self._firsts[index]
        self._n_groups = -1

    def _look(self) -> None:
        places = np.arange(len(self._groups))
        leaders = np.zeros(self._n_groups, dtype=np.int64)
        np.maximum.at(leaders, self._groups, places)
        leader = leaders[self._groups]
        # Rows before this place are by themselves at the layer; of the others, those that lead.
        starts = np.searchsorted(self._firsts, np.arange(len(self._none)), "right").tolist()
        stands = {start: np.where(places < start, places, leader) for start in starts}
        few = {start: np.unique(rows, return_inverse=True) for start, rows in stands.items()}
        n = sum(len(few[start][0]) for start in starts)
        self._parted = n > (1 - _LEAST) * len(places) * len(starts)
        if self._parted:
            self.layers = self._none
            return
        made = {start: self._few(*found) for start, found in few.items()}
        self.layers = [made[start] for start in starts]

    def _few(self, rows: Int[np.ndarray, " few"], back: Int[np.ndarray, " row"]) -> Few | None:
        if len(rows) == len(back):
            return None
        index, places = (torch.tensor(x, device=self._device) for x in (rows, back))
        return Few(rows, index, places)

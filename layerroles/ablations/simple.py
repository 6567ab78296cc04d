"""Ablations that remove a write: `Skip` deletes the layer, `Zero` sets the write to 0.

On a block both leave the stream as it came in, `x + 0`. They differ in what they may be applied
to: a head cannot be skipped, since its share of the attention output is not a module of its own.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from layerroles.ablations.base import Ablation, EditContext, ablation
from layerroles.errors import InputError
from layerroles.sites import NUMBERED, Site


@ablation("skip")
@dataclass(frozen=True)
class Skip(Ablation):
    """Delete the block or sublayer: nothing is added to the stream.

    Example:
        >>> import layerroles as lr
        >>> lr.Condition({lr.Site(3): lr.Skip(), lr.Site(4, "mlp"): lr.Skip()}).name
        'skip L3,L4.mlp'
    """

    mechanism: ClassVar[str] = "deletion"

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Nothing is written."""
        return torch.zeros_like(write)

    def check(self, site: Site) -> None:
        """Refuse what is not a module that could be left out.

        Raises:
            InputError: a head, a key/value group or the stream.
        """
        if site.part in NUMBERED:
            raise InputError(f"{site}: heads cannot be skipped, use Zero (their z set to 0)")
        if site.part == "stream":
            raise InputError(f"{site}: the stream cannot be skipped, use the layer or Zero")


@ablation("zero")
@dataclass(frozen=True)
class Zero(Ablation):
    """Set the write to 0 (for a head, its `z`, the values it gathered).

    Example:
        >>> import layerroles as lr
        >>> lr.Condition({lr.Site(3, "head", head=7): lr.Zero()}).name
        'zero L3.H7'
    """

    mechanism: ClassVar[str] = "deletion"

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Zeros."""
        return torch.zeros_like(write)

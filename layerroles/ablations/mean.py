"""Replace a write by its mean over a reference, so that only what varies is lost.

The first real token is kept apart: in many models one layer writes a vector there that is
hundreds of times the size of any other (the attention sink), and a mean that mixes it with the
rest is the mean of nothing.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from layerroles.ablations.base import Ablation, EditContext, ablation
from layerroles.ablations.reference import Kind, Reference


@ablation("mean")
@dataclass(frozen=True)
class Mean(Ablation):
    """Replace the write by its mean over `reference`: first tokens by theirs, others by theirs.

    With `per_position`, by its mean at the same position from the start; positions that no prompt
    of the reference reaches take the mean of all but the first.

    Example:
        >>> import layerroles as lr
        >>> reference = lr.Reference(["The sky is blue.", "Snow is white."])
        >>> lr.Condition({lr.Site(3, "mlp"): lr.Mean(reference)}).name
        'mean L3.mlp'
    """

    mechanism: ClassVar[str] = "mean"

    reference: Reference
    per_position: bool = False

    @property
    def needs(self) -> frozenset[Kind]:
        """The means at each position, if they are asked for."""
        return frozenset({"positions"}) if self.per_position else frozenset()

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """The mean write; pooled, the same at every position but the first."""
        assert ctx.reference is not None  # declared, so the engine resolved it
        first = ctx.reference.first.to(write)
        rest = ctx.reference.rest.to(write)
        if self.per_position:
            assert ctx.reference.positions is not None  # it is needed, so it was collected
            table = torch.cat([ctx.reference.positions, ctx.reference.rest[None]]).to(write)
            return table[ctx.positions.clamp(0, len(table) - 1)]
        at_first = (ctx.positions == 0).reshape(*write.shape[:2], *[1] * (write.ndim - 2))
        return torch.where(at_first, first, rest)

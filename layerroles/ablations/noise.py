"""Add noise to a write, so that its precision is lost and not its place.

With `w` the write and `s` its standard deviation over a reference, taken for each coordinate,
`w + scale * s * n` is written, where `n` is standard normal. Causal tracing corrupts
embeddings in this way (Meng et al. 2022, arXiv 2202.05262).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from layerroles.ablations.base import Ablation, EditContext, ablation
from layerroles.ablations.reference import Reference
from layerroles.errors import InputError


@ablation("noise")
@dataclass(frozen=True)
class Noise(Ablation):
    """Add `scale` standard deviations of noise; without a reference, `scale` itself is one.

    The noise at a position is drawn from the tokens that lead up to it (and the site), so that it
    depends neither on batching nor on order, nor on a cache.

    Raises:
        InputError: a scale that is negative or not finite.

    Example:
        >>> import layerroles as lr
        >>> lr.Condition({lr.Site(3): lr.Noise(0.5)}).name
        'noise[scale=0.5] L3'
    """

    mechanism: ClassVar[str] = "noise"

    scale: float = 1.0
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.scale < float("inf"):
            raise InputError(f"noise: scale={self.scale} is not a finite number from 0 on")

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """The write, and noise."""
        noise = self.scale * ctx.normal(write)
        if ctx.reference is not None:
            first, rest = ctx.reference.first_std.to(noise), ctx.reference.rest_std.to(noise)
            at_first = rearrange(ctx.positions == 0, f"row pos -> row pos {'1 ' * first.ndim}")
            noise = noise * torch.where(at_first, first, rest)
        return (write.float() + noise).to(write.dtype)

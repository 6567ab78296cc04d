"""The built-in ablations. Each replaces a site's write (what the site adds to the residual stream).

- `Skip` and `Zero` replace the write by zeros. On a block, both leave the stream `x` unchanged
  (`x + 0`). They differ in where they apply: a head cannot be skipped, since its share of the
  attention output is not a separate module.
- `Mean` replaces the write by its mean over a reference (a set of prompts), which removes only what
  varies from token to token. The first token that is not a pad has a mean of its own: in many
  models one layer writes a vector there that is hundreds of times as large as any other (the
  attention sink), so a mean over all tokens would represent neither the first token nor the others.
- `Noise` adds noise to the write. With `w` the write and `s` its standard deviation over a
  reference, taken for each coordinate, the new write is `w + scale * s * n`, where `n` is standard
  normal. Causal tracing corrupts embeddings in this way (Meng et al. 2022, arXiv 2202.05262).
- `Resample` replaces the write by the intact model's write on another prompt, which has a typical
  size and direction, but no information about this prompt (resample ablation, or interchange with a
  random donor).
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from layerroles.ablations.base import Ablation, EditContext, ablation, declared_reference
from layerroles.ablations.reference_prompts import Reference
from layerroles.ablations.write_statistics import Donors, Kind, SiteReference
from layerroles.errors import InputError
from layerroles.sites import NUMBERED, Site

__all__ = ["Mean", "Noise", "Resample", "Skip", "Zero"]

_TOO_FEW = (
    "resample: a donor is another prompt, so the reference needs two different ones, each of two "
    "tokens or more"
)


@ablation("skip")
@dataclass(frozen=True)
class Skip(Ablation):
    """Delete the block or sublayer: nothing is added to the residual stream.

    Example:
        >>> import layerroles as lr
        >>> lr.Condition({lr.Site(3): lr.Skip(), lr.Site(4, "mlp"): lr.Skip()}).name
        'skip L3,L4.mlp'
    """

    mechanism: ClassVar[str] = "deletion"

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Return zeros."""
        return torch.zeros_like(write)

    def check(self, site: Site) -> None:
        """Check that the site is a module that can be left out.

        Raises:
            InputError: the site is a head, a key/value group or the stream.
        """
        if site.part in NUMBERED:
            raise InputError(f"{site}: heads cannot be skipped, use Zero (their z set to 0)")
        if site.part == "stream":
            raise InputError(f"{site}: the stream cannot be skipped, use the layer or Zero")


@ablation("zero")
@dataclass(frozen=True)
class Zero(Ablation):
    """Set the write to 0, so that the site adds nothing to the residual stream.

    For a head, the write is `z`, the attention-weighted sum of values; for part `stream`, it is the
    stream itself.

    Example:
        >>> import layerroles as lr
        >>> lr.Condition({lr.Site(3, "head", head=7): lr.Zero()}).name
        'zero L3.H7'
    """

    mechanism: ClassVar[str] = "deletion"

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Return zeros."""
        return torch.zeros_like(write)


@ablation("mean")
@dataclass(frozen=True)
class Mean(Ablation):
    """Replace the write by its mean over `reference`; first tokens have a mean of their own.

    With `per_position`, each position has a mean of its own: the mean over the tokens at the same
    position, counted from the start, of the reference's prompts. Positions that no prompt reaches
    take the mean over all tokens but each prompt's first.

    Raises:
        InputError: `reference` is not a `Reference`.

    Example:
        >>> import layerroles as lr
        >>> reference = lr.Reference(["The sky is blue.", "Snow is white."])
        >>> lr.Condition({lr.Site(3, "mlp"): lr.Mean(reference)}).name
        'mean L3.mlp'
    """

    mechanism: ClassVar[str] = "mean"

    reference: Reference
    per_position: bool = False

    def __post_init__(self) -> None:
        _check_reference(self)

    @property
    def needs(self) -> frozenset[Kind]:
        """`{"positions"}` (the mean at each position) if `per_position` is set, else empty."""
        return frozenset({"positions"}) if self.per_position else frozenset()

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Return the mean write at each position, in the dtype of `write`."""
        assert ctx.reference is not None  # declared, so it was collected
        first = ctx.reference.first.to(write)
        rest = ctx.reference.rest.to(write)
        if self.per_position:
            assert ctx.reference.positions is not None  # it is needed, so it was collected
            table = torch.cat([ctx.reference.positions, ctx.reference.rest[None]]).to(write)
            return table[ctx.positions.clamp(0, len(table) - 1)]
        at_first = (ctx.positions == 0).reshape(*write.shape[:2], *[1] * (write.ndim - 2))
        return torch.where(at_first, first, rest)


@ablation("noise")
@dataclass(frozen=True)
class Noise(Ablation):
    """Add normal noise; `scale` is in standard deviations of the write over `reference`.

    Without a reference, `scale` is the standard deviation of the noise. The noise at a position is
    seeded by the site and the tokens up to that position, so batching, the order of requests and
    caching do not change it.

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
        if isinstance(self.scale, np.number):
            object.__setattr__(self, "scale", self.scale.item())
        if not isinstance(self.scale, int | float) or not 0 <= self.scale < float("inf"):
            raise InputError(
                f"noise: scale={self.scale!r} is not a finite number from 0 on; write "
                "lr.Noise(1.0, reference)"
            )

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Return the write plus noise, in the dtype of `write`."""
        noise = self.scale * ctx.normal(write)
        if ctx.reference is not None:
            first, rest = ctx.reference.first_std.to(noise), ctx.reference.rest_std.to(noise)
            at_first = rearrange(ctx.positions == 0, f"row pos -> row pos {'1 ' * first.ndim}")
            noise = noise * torch.where(at_first, first, rest)
        return (write.float() + noise).to(write.dtype)


@ablation("resample")
@dataclass(frozen=True)
class Resample(Ablation):
    """Replace the write by the intact model's write on a donor, another prompt of `reference`.

    Prompt and donor are aligned at their ends; generated tokens take the donor's last write. Only
    the first token takes the donor's first write (the attention sink). If the prompt is longer than
    the donor, its other early tokens take the donor's second write. Which donor is drawn depends on
    the prompt and `seed`, not on the site; a prompt is never its own donor.

    Raises:
        InputError: no reference, or one with fewer than two different prompts (each of two tokens
            or more, which is checked once the model is known).

    Example:
        >>> import layerroles as lr
        >>> reference = lr.Reference(["The sky is blue.", "Snow is white."])
        >>> lr.Condition({lr.Site(3): lr.Resample(reference)}).name
        'resample L3'
    """

    mechanism: ClassVar[str] = "resample"

    reference: Reference
    seed: int = 0

    whole_prompt: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_reference(self)
        if not self.reference.is_open and len(set(self.reference.prompts)) < 2:
            raise InputError(_TOO_FEW)

    @property
    def needs(self) -> frozenset[Kind]:
        """`{"donors"}`: every individual write on the reference's prompts."""
        return frozenset({"donors"})

    def fit(self, reference: SiteReference, site: Site) -> "_DonorDraw":
        """Return an object that draws a donor for each prompt; `edit` reads it as `ctx.fitted`."""
        assert reference.donors is not None  # they are needed, so they were collected
        return _DonorDraw(reference.donors, self.seed)

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Return, at each position, the write of the row's donor at the aligned position."""
        draw: _DonorDraw = ctx.fitted
        # The fused executor passes each token as a row of its own; many rows share one prompt.
        prompts = ctx.prompts
        different = {id(prompt): prompt for prompt in prompts}
        drawn = {key: draw.draw(prompt.ids) for key, prompt in different.items()}
        rows = [(*drawn[id(prompt)], len(prompt.ids)) for prompt in prompts]
        start, n_donor, n = torch.tensor(rows).T[..., None]
        positions = ctx.positions.cpu()
        donor_positions = (positions - n + n_donor).clamp(min=1).minimum(n_donor - 1)
        donor_positions = torch.where(positions <= 0, 0, donor_positions)
        return draw.donors.writes[start + donor_positions].to(write)


class _DonorDraw:
    """Draws a donor for each prompt; the same prompt and seed always give the same donor."""

    def __init__(self, donors: Donors, seed: int) -> None:
        self.donors = donors
        self._seed = seed
        # A prompt of one token cannot be a donor: only its first write exists.
        self._candidates = [n for n, ids in enumerate(donors.ids) if len(ids) > 1]
        if len({donors.ids[n] for n in self._candidates}) < 2:
            raise InputError(_TOO_FEW)
        self._known: dict[tuple[int, ...], tuple[int, int]] = {}

    def draw(self, ids: tuple[int, ...]) -> tuple[int, int]:
        """Draw the donor for a prompt with these token ids.

        Returns the index in `donors.writes` of the donor's first token, and its number of tokens.
        """
        if ids not in self._known:
            others = [n for n in self._candidates if self.donors.ids[n] != ids]
            digest = hashlib.sha256(f"{self._seed} {list(ids)}".encode()).digest()
            donor = others[int.from_bytes(digest[:8], "big") % len(others)]
            self._known[ids] = self.donors.starts[donor], len(self.donors.ids[donor])
        return self._known[ids]


def _check_reference(edit: Ablation) -> None:
    if declared_reference(edit) is None:
        raise InputError(f"{edit.name} needs a reference, use Reference(texts_or_task)")

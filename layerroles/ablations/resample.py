"""Replace a write by what the intact model wrote there on another prompt.

What stays is a write of the usual kind, of size and direction that the layers above know; what goes
is all that it said about this prompt (resample ablation, or interchange with a random donor).
"""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from layerroles.ablations.base import Ablation, EditContext, ablation, declared_reference
from layerroles.ablations.reference import Donors, Kind, Reference, SiteReference
from layerroles.errors import InputError
from layerroles.sites import Site

_TOO_FEW = (
    "resample: a donor is another prompt, so the reference needs two different ones, each of two "
    "tokens or more"
)


@ablation("resample")
@dataclass(frozen=True)
class Resample(Ablation):
    """Replace the write by a donor's: what the intact model wrote on another prompt of `reference`.

    Prompt and donor are aligned at their ends; generated tokens take the donor's last write. The
    first token takes the donor's first (the attention sink), and no other does: where the prompt is
    longer than the donor, its early tokens take the donor's second. The donor is drawn from the
    row's prompt and `seed`, the same at all sites, and is never the prompt itself.

    Raises:
        InputError: no reference, or one with fewer than two different prompts (of two tokens or
            more, which only a model's tokenizer can tell).

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
        declared_reference(self)
        if not self.reference.is_open and len(set(self.reference.prompts)) < 2:
            raise InputError(_TOO_FEW)

    @property
    def needs(self) -> frozenset[Kind]:
        """Every write of the reference."""
        return frozenset({"donors"})

    def fit(self, reference: SiteReference, site: Site) -> "_Drawing":
        """The donors to draw from."""
        assert reference.donors is not None  # they are needed, so they were collected
        return _Drawing(reference.donors, self.seed)

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """The donors' writes."""
        drawing: _Drawing = ctx.fitted
        # In a packed row each token is a row of its own, many with the same prompt.
        prompts = ctx.prompts
        different = {id(prompt): prompt for prompt in prompts}
        drawn = {key: drawing.draw(prompt.ids) for key, prompt in different.items()}
        rows = [(*drawn[id(prompt)], len(prompt.ids)) for prompt in prompts]
        start, n_donor, n = torch.tensor(rows).T[..., None]
        positions = ctx.positions.cpu()
        at = (positions - n + n_donor).clamp(min=1).minimum(n_donor - 1)
        at = torch.where(positions <= 0, 0, at)
        return drawing.donors.writes[start + at].to(write)


class _Drawing:
    """Draws a donor for each prompt."""

    def __init__(self, donors: Donors, seed: int) -> None:
        self.donors = donors
        self._seed = seed
        # What has only a first token has nothing to give to others.
        self._able = [n for n, ids in enumerate(donors.ids) if len(ids) > 1]
        if len({donors.ids[n] for n in self._able}) < 2:
            raise InputError(_TOO_FEW)
        self._known: dict[tuple[int, ...], tuple[int, int]] = {}

    def draw(self, ids: tuple[int, ...]) -> tuple[int, int]:
        """Where a prompt's donor begins among all writes, and how many tokens it has."""
        if ids not in self._known:
            others = [n for n in self._able if self.donors.ids[n] != ids]
            digest = hashlib.sha256(f"{self._seed} {list(ids)}".encode()).digest()
            donor = others[int.from_bytes(digest[:8], "big") % len(others)]
            self._known[ids] = self.donors.starts[donor], len(self.donors.ids[donor])
        return self._known[ids]

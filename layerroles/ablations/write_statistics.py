"""Statistics of the intact model's writes on the prompts of a reference.

A site's write is what it adds to the residual stream. Means and standard deviations are taken over
real tokens only (not over pads) and summed in float64, so that they depend neither on batch size
nor on padding. The first tokens of all prompts have statistics of their own and are excluded from
those of the other tokens (the module `builtin` says why).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.reference_prompts import Reference
from layerroles.errors import InputError
from layerroles.models import (
    can_batch,
    check_sites,
    encode,
    forward,
    hook_ids,
    prepared,
    with_float64,
)
from layerroles.sites import ENTRY, NUMBERED, Site, size_of

# What can be collected besides means and standard deviations: the mean at each position, and every
# individual write.
Kind = Literal["positions", "donors"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Donors:
    """Every write of one site on the prompts of a reference.

    Attributes:
        writes: the writes at all tokens but pads, prompt after prompt; on the CPU.
        ids: each prompt's token ids.
    """

    writes: Float[Tensor, "token *site"]
    ids: tuple[tuple[int, ...], ...]

    @cached_property
    def starts(self) -> list[int]:
        """The index in `writes` of each prompt's first token."""
        return [0, *accumulate(map(len, self.ids))][:-1]

    @property
    def rest(self) -> Float[Tensor, "token *site"]:
        """The writes at all tokens but each prompt's first."""
        is_rest = torch.ones(len(self.writes), dtype=torch.bool)
        is_rest[self.starts] = False
        return self.writes[is_rest]


@dataclass(frozen=True)
class SiteReference:
    """Statistics of the intact model's writes at one site, over a reference.

    Attributes:
        first: mean over the first tokens of all prompts.
        rest: mean over all other tokens.
        first_std: standard deviation over the first tokens.
        rest_std: standard deviation over all other tokens.
        n_first, n_rest: numbers of first tokens and of other tokens.
        positions: mean at each position of the longest prompt, over the prompts that reach it;
            None if not collected.
        donors: every individual write; None if not collected.
    """

    first: Float[Tensor, "*site"]
    rest: Float[Tensor, "*site"]
    first_std: Float[Tensor, "*site"]
    rest_std: Float[Tensor, "*site"]
    n_first: int
    n_rest: int
    positions: Float[Tensor, "pos *site"] | None = None
    donors: Donors | None = None

    def has(self, kinds: Iterable[Kind]) -> bool:
        """Return whether all of `kinds` (`"positions"`, `"donors"`) were collected."""
        return all(getattr(self, kind) is not None for kind in kinds)


def collect(
    model: TransformerBridge,
    reference: Reference,
    sites: Iterable[Site],
    kinds: Iterable[Kind] = (),
    *,
    batch_size: int = 8,
) -> dict[Site, SiteReference]:
    """Run the intact model on a reference's prompts; return statistics of its writes, by site.

    Args:
        model: from `load` or `prepare`.
        reference: the prompts.
        sites: the sites whose writes are collected.
        kinds: what is collected in addition to means and standard deviations: `"positions"` (the
            mean at each position), `"donors"` (every individual write).
        batch_size: prompts per batch.

    Raises:
        InputError: a site that the model lacks, a reference of one-token prompts only, or a prompt
            longer than the context window.
    """
    sites = list(sites)
    check_sites(model, sites)
    rows = sorted((tuple(encode(model, text)) for text in reference.prompts), key=len)
    if len(rows[-1]) < 2:
        raise InputError("a reference needs prompts of two tokens or more")
    if len(rows[-1]) > model.cfg.n_ctx:
        raise InputError(
            f"a prompt of a reference has {len(rows[-1])} tokens, and model "
            f"{prepared(model).name!r} reads {model.cfg.n_ctx}: use shorter texts"
        )
    size = batch_size if can_batch(model) else 1
    collector = _Collector(model, sites, rows, frozenset(kinds))
    with without_hooks(model), model.hooks(fwd_hooks=collector.hooks):
        for start in range(0, len(rows), size):
            tokens, attended = pad_left(rows[start : start + size], model)
            collector.begin(attended)
            forward(model, tokens, attended, keep=1)
    return {site: sums.result() for site, sums in collector.sums.items()}


@contextmanager
def without_hooks(model: TransformerBridge) -> Iterator[None]:
    """Disable the hooks of conditions and of users inside the `with` block.

    These are all hooks at hook points, and the torch hooks that modules got after the model was
    prepared, except for those of transformers and TransformerLens.
    """
    points = set(model.hook_dict.values())
    added = hook_ids(model) - prepared(model).initial_hooks
    modules = {*model.original_model.modules(), *points}
    names = ("_forward_hooks", "_forward_pre_hooks")
    saved = [(module, name, module.__dict__[name]) for module in modules for name in names]
    try:
        for module, name, hooks in saved:
            module.__dict__[name] = OrderedDict(
                (key, hook)
                for key, hook in hooks.items()
                if module not in points and key not in added
            )
        yield
    finally:
        for module, name, hooks in saved:
            module.__dict__[name] = hooks


def extract_write(
    site: Site, value: Tensor, entry: Tensor | None, model: TransformerBridge
) -> Float[Tensor, "row pos *site"]:
    """Return a site's write, computed from the value at its hook.

    Its shape is `[row pos d_head]` for a head, `[row pos head d_head]` for a key/value group, and
    `[row pos d_model]` for other sites. The write of a block is computed in float32, since rounding
    to bfloat16 would make `block(x) - x` differ from what the block added.

    Args:
        site: the site.
        value: the value at its hook (for a block, the stream that leaves it).
        entry: the stream that entered the block; may be None for other parts.
        model: the bridge.
    """
    if site.part == "block":
        assert entry is not None
        return value.float() - entry.to(value.device).float()
    if site.part in NUMBERED:
        return split_heads(value, model)[:, :, head_indices(site, model)]
    return value


def head_indices(site: Site, model: TransformerBridge) -> int | slice:
    """Return a head's index, or the slice of query heads of a key/value group."""
    assert site.head is not None
    if site.part == "head":
        return site.head
    size = size_of(model.cfg)
    share = size.n_heads // size.n_kv_heads
    return slice(site.head * share, (site.head + 1) * share)


def split_heads(z: Tensor, model: TransformerBridge) -> Float[Tensor, "row pos head d_head"]:
    """Return the value `z` at the hook of heads with an axis for heads; some hooks join heads."""
    if z.ndim == 4 and z.shape[2] == model.cfg.n_heads:
        return z
    # Some hooks split heads by the width of keys, which is wrong if values have another width.
    joined = z.flatten(2)
    heads: Tensor = joined.unflatten(-1, (model.cfg.n_heads, -1))
    return heads


def pad_left(rows: Sequence[Sequence[int]], model: TransformerBridge) -> tuple[Tensor, Tensor]:
    """Pad rows of token ids on the left; returns ids and mask (1 real, 0 pad), both `[row pos]`."""
    longest = max(map(len, rows))
    # Pad with id 0: a model may have no embedding for the tokenizer's pad token, and pads are never
    # attended to.
    tokens = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
    attended = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return tokens.to(model.cfg.device), attended.to(model.cfg.device)


class _Collector:
    """Hooks that accumulate the writes at some sites, batch by batch."""

    def __init__(
        self,
        model: TransformerBridge,
        sites: list[Site],
        rows: Sequence[tuple[int, ...]],
        kinds: frozenset[Kind],
    ) -> None:
        self.model = model
        self.sums = {site: _Sums(rows, kinds) for site in sites}
        self.entries: dict[int, Tensor] = {}
        blocks = sorted({site.layer for site in sites if site.part == "block"})
        self.hooks = [
            *((ENTRY.format(layer=layer), partial(self._enter, layer=layer)) for layer in blocks),
            *((site.hook_name, partial(self._collect_site, site=site)) for site in sites),
        ]

    def begin(self, attended: Tensor) -> None:
        self.positions = (attended.cumsum(-1) - 1).masked_fill(attended == 0, -1)

    def _enter(self, value: Tensor, *, hook: object, layer: int) -> None:
        self.entries[layer] = value

    def _collect_site(self, value: Tensor, *, hook: object, site: Site) -> None:
        write = extract_write(site, value, self.entries.get(site.layer), self.model)
        self.sums[site].add(write, self.positions.to(write.device))


class _Sums:
    """Accumulates a site's statistics: moments in float64, and the data that `kinds` names.

    `first` holds the moments over each prompt's first token, `rest` those over all other tokens.
    """

    def __init__(self, rows: Sequence[tuple[int, ...]], kinds: frozenset[Kind]) -> None:
        self._rows, self._kinds = rows, kinds
        self.first, self.rest = _Moments(), _Moments()
        self._at: list[_Moments] = [_Moments() for _ in range(len(rows[-1]))]
        self._writes: list[Tensor] = []

    def add(self, write: Tensor, positions: Tensor) -> None:
        moments, at = with_float64(write), with_float64(positions)
        self.first.add(moments[at == 0].double())
        self.rest.add(moments[at > 0].double())
        if "positions" in self._kinds:
            for position in range(int(at.max()) + 1):
                self._at[position].add(moments[at == position].double())
        if "donors" in self._kinds:
            self._writes.append(write[positions >= 0].cpu())  # row by row: the mask is row-major

    def result(self) -> SiteReference:
        positions = donors = None
        if "positions" in self._kinds:
            positions = torch.stack([moments.mean for moments in self._at])
        if "donors" in self._kinds:
            donors = Donors(torch.cat(self._writes), tuple(self._rows))
        return SiteReference(
            first=self.first.mean,
            rest=self.rest.mean,
            first_std=self.first.std,
            rest_std=self.rest.std,
            n_first=self.first.n,
            n_rest=self.rest.n,
            positions=positions,
            donors=donors,
        )


class _Moments:
    """A mean and a sum of squared deviations, updated batch by batch (Chan et al. 1983)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())

    def add(self, writes: Float[Tensor, "token *site"]) -> None:
        n = len(writes)
        if not n:
            return
        mean = writes.mean(0)
        squares = (writes - mean).square().sum(0)
        if self.n:
            off = mean - self.mean
            squares += self._squares + off.square() * (self.n * n / (self.n + n))
            mean = self.mean + off * (n / (self.n + n))
        self.n, self.mean, self._squares = self.n + n, mean, squares

    @property
    def std(self) -> Tensor:
        return (self._squares / self.n).sqrt()

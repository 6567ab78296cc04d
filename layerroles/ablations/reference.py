"""References: prompts, and statistics of the intact model's writes on them.

A site's write is what it adds to the residual stream. Means and standard deviations are taken over
real tokens only (not over pads) and summed in float64, so that they depend neither on batch size
nor on padding. The first tokens of all prompts have statistics of their own and are excluded from
those of the other tokens (the module `builtin` says why).
"""

import hashlib
import reprlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

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

ONLY_IN_SWEEP = (
    "a reference without texts is made of the asked task's questions: use it in a Sweep, or give "
    "texts or a task, as in lr.Reference(texts)"
)


@runtime_checkable
class HeldOut(Protocol):
    """A source of prompts that are held out from evaluation, such as a task."""

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Return up to `limit` prompts of examples that `seed` never draws for evaluation."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Reference:
    """Prompts on which the intact model's writes are collected.

    Without a source, the reference is *open*: for each task, a sweep replaces it by one made of the
    task's own held-out prompts (those that are never asked in the evaluation).

    Args:
        source: texts (a list, or a column of a `datasets` data set), a text file with a prompt on
            each line, or a task, whose held-out examples are taken; None makes the reference open.
        limit: the maximum number of prompts.
        seed: seed by which a task draws its examples; None means 0, or the sweep's seed if the
            reference is open.

    Raises:
        InputError: no prompt, one string, a limit below 1, or a file that cannot be read.

    Example:
        >>> import layerroles as lr
        >>> len(lr.Reference(lr.task("facts"), limit=8).prompts)
        8
        >>> lr.Condition({lr.Site(3): lr.Mean(lr.Reference())})  # open: for use in a sweep
        Condition('mean L3')
    """

    source: Sequence[str] | Path | HeldOut | None = None
    limit: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"a reference needs limit >= 1, not {self.limit}")
        if isinstance(self.source, str):
            raise InputError(
                "a reference takes a list of texts, not one string: use [text], or Path(file)"
            )
        if not self.is_open and not self.prompts:
            raise InputError("a reference needs at least one prompt that is not empty")

    @property
    def is_open(self) -> bool:
        """Whether no prompts are given: a sweep then takes the held-out prompts of each task."""
        return self.source is None

    def of_task(self, task: HeldOut, seed: int) -> "Reference":
        """Return `self`, or, if the reference is open, one made of the task's held-out prompts.

        Args:
            task: the task that is evaluated.
            seed: the sweep's seed, used if the reference has none.

        Raises:
            InputError: the reference is open, and the task has no held-out prompt.
        """
        if not self.is_open:
            return self
        seed = seed if self.seed is None else self.seed
        prompts = [prompt for prompt in task.held_out(self.limit, seed) if prompt]
        if not prompts:
            raise InputError(
                "no question is kept apart to make a reference of: give texts or another task, "
                "as in lr.Reference(texts)"
            )
        return Reference(prompts, self.limit, seed)

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts, at most `limit`; empty texts of a list or file are left out.

        Raises:
            InputError: the file cannot be read, an item is not a string, or the reference is open.
        """
        if self.source is None:
            raise InputError(ONLY_IN_SWEEP)
        if isinstance(self.source, HeldOut):
            return self.source.held_out(self.limit, self.seed or 0)
        if isinstance(self.source, Path):
            return _read_lines(self.source, self.limit)
        texts = list(islice((text for text in self.source if text), self.limit))
        for text in texts:
            if not isinstance(text, str):
                raise InputError(
                    f"a reference takes texts, and {text!r} is a {type(text).__name__}"
                )
        return texts

    @cached_property
    def digest(self) -> str:
        """A hash of the prompts; for an open reference, a description of how they are chosen."""
        if self.is_open:
            seed = "the sweep's seed" if self.seed is None else f"seed {self.seed}"
            return f"the asked task's own, limit {self.limit}, {seed}"
        joined = "\0".join(self.prompts)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        if self.is_open:
            return f"Reference({self.digest})"
        n, source = len(self.prompts), self.source
        has_name = isinstance(source, Path | HeldOut)
        shown = repr(source) if has_name else f"{reprlib.repr(self.prompts[0])} ..."
        return f"Reference({n} {'prompt' if n == 1 else 'prompts'}: {shown}, {self.digest})"

    def __reduce__(self) -> tuple[object, ...]:
        if self.is_open:
            return Reference, (None, self.limit, self.seed)
        # The source may be a file or an object that the other process lacks.
        return Reference, (tuple(self.prompts), len(self.prompts), self.seed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _read_lines(file: Path, limit: int) -> list[str]:
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            texts = (line.rstrip("\r\n") for line in lines)
            return list(islice((text for text in texts if text.strip()), limit))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"reference file {str(file)!r} cannot be read: {reason}") from error


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

"""Where a model can be ablated: a layer and a part of it.

A site has a *write*: what it adds to the residual stream. Other modules refer to sites; this one
maps them to the names of TransformerLens's hooks.

Example:
    >>> str(Site(3)), str(Site(3, "attn")), str(Site(3, "head", head=7))
    ('L3', 'L3.attn', 'L3.H7')
    >>> parse_sites("L3,L5:7,L3.H7", Size(n_layers=12, n_heads=8, n_kv_heads=2))
    [Site('L3'), Site('L5'), Site('L6'), Site('L3.H7')]
"""

import re
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from layerroles.errors import InputError

Part = Literal["block", "attn", "mlp", "head", "kv_group", "stream", "mixer"]
PARTS: tuple[Part, ...] = get_args(Part)
# The named sets of positions at which a condition acts; see `ablations.positions`.
NamedAt = Literal["all", "after_first", "prompt", "generated", "evidence", "last"]
ATS: tuple[NamedAt, ...] = get_args(NamedAt)
# Parts of which a layer has several, and the letters before their number, as in `L3.H7`.
NUMBERED: dict[str, str] = {"head": "H", "kv_group": "KV"}

# The hook points of TransformerLens that the project uses.
ENTRY = "blocks.{layer}.hook_in"  # the stream entering a block [row pos d_model]
EXIT = "blocks.{layer}.hook_out"  # the stream leaving it
MIDDLE = "blocks.{layer}.hook_resid_mid"  # between attention and MLP; parallel blocks have none
MODULE_OUT = "{module}.hook_out"  # what a module of a block puts out
READ_OUT = "unembed.hook_in"  # fires once in every pass that reaches the end
FINAL_SCALE = "ln_final.hook_scale"  # what the final norm divides the stream by [row pos 1]
PATTERN = "blocks.{layer}.attn.hook_pattern"  # attention weights [row head query key]
_WRITES = {
    "block": EXIT,
    "attn": "blocks.{layer}.hook_attn_out",
    "mlp": "blocks.{layer}.hook_mlp_out",
    "head": "blocks.{layer}.attn.hook_z",
    "kv_group": "blocks.{layer}.attn.hook_z",
    "stream": EXIT,
    "mixer": "blocks.{layer}.hook_token_mixer_out",  # an alias that is added at load
}


@dataclass(frozen=True, repr=False)
class Site:
    """A layer and a part of it; layers and heads are counted from 0.

    Attributes:
        layer: the layer.
        part: `"block"` (all that the layer writes), `"attn"`, `"mlp"`, `"head"` (one query head's
            `z`), `"kv_group"` (the `z` of all query heads that share a key/value head), `"stream"`
            (not a write but the residual stream itself, as it leaves the layer) or `"mixer"` (the
            module that mixes tokens: attention, linear attention, a convolution or a state space).
        head: the query head of part `"head"`, or the key/value head of part `"kv_group"`.

    Raises:
        InputError: unknown part, negative layer or head, part `"head"` or `"kv_group"` without a
            head number, or another part with one.

    Example:
        >>> import layerroles as lr
        >>> lr.Site(3), lr.Site(3, "attn"), lr.Site(3, "head", head=7)
        (Site('L3'), Site('L3.attn'), Site('L3.H7'))
    """

    layer: int
    part: Part = "block"
    head: int | None = None

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise InputError(f"unknown part {self.part!r}: known are {', '.join(PARTS)}")
        for name in ("layer", "head"):  # NumPy's integers, as in frames of results
            if isinstance(number := getattr(self, name), Integral) and not isinstance(number, bool):
                object.__setattr__(self, name, int(number))
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise InputError(f"layer {self.layer!r} is not a layer number: layers count from 0")
        if self.part not in NUMBERED and self.head is not None:
            raise InputError(
                f"head={self.head} goes with part='head' or 'kv_group', not with {self.part!r}"
            )
        if self.part in NUMBERED and (not isinstance(self.head, int) or self.head < 0):
            raise InputError(
                f"part {self.part!r} of layer {self.layer} needs head=, counted from 0"
            )

    def __str__(self) -> str:
        if self.part == "block":
            return f"L{self.layer}"
        if self.part in NUMBERED:
            return f"L{self.layer}.{NUMBERED[self.part]}{self.head}"
        return f"L{self.layer}.{self.part}"

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key: layer, part, head."""
        return self.layer, PARTS.index(self.part), -1 if self.head is None else self.head

    @property
    def hook_name(self) -> str:
        """The hook point whose value holds the write (for a block, the stream that leaves it)."""
        return _WRITES[self.part].format(layer=self.layer)

    def check(self, size: "Size") -> None:
        """Check that a model of this size has the site.

        Raises:
            InputError: the layer or the head is out of range.
        """
        if self.layer >= size.n_layers:
            raise InputError(
                f"site {self}: layer {self.layer} is out of range, "
                f"the model has layers 0 to {size.n_layers - 1}"
            )
        n = size.n_of(self.part)
        if self.head is not None and self.head >= n:
            kind = "head" if self.part == "head" else "key/value head"
            raise InputError(
                f"site {self}: {kind} {self.head} is out of range, "
                f"the model has {kind}s 0 to {n - 1}"
            )


@dataclass(frozen=True)
class Size:
    """Number of layers of a model, and of heads per layer.

    Attributes:
        n_layers: layers.
        n_heads: query heads of a layer.
        n_kv_heads: key/value heads of a layer, each shared by equally many query heads.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int

    def n_of(self, part: str) -> int:
        """Return how many sites of a part each layer has: its heads, its key/value heads, or 1."""
        return {"head": self.n_heads, "kv_group": self.n_kv_heads}.get(part, 1)


def size_of(config: Any) -> Size:
    """Return the size of the model that a TransformerLens configuration describes."""
    n_kv_heads = getattr(config, "n_key_value_heads", None)
    return Size(config.n_layers, config.n_heads, n_kv_heads or config.n_heads)


_PATTERN = re.compile(
    r"L(?P<start>\d{1,9})(?::(?P<stop>\d{1,9}))?"
    r"(?:\.(?:H(?P<head>\d{1,9})|KV(?P<kv_group>\d{1,9})|(?P<part>\w+)))?"
)


def parse_sites(text: str, size: Size) -> list[Site]:
    """Read a list of sites: `"all"`, or `"L3,L5:9,L3.attn,L3.H7,L3.KV1"` (ranges are half-open).

    `"all.attn"`, `"all.mlp"`, `"all.mixer"`, `"all.head"`, `"all.kv_group"` and `"all.stream"` name
    that part of every layer.

    Raises:
        InputError: not a site, out of the model's range, an empty range, or a site named twice.
    """
    sites = [site for word in text.split(",") for site in _parse_word(word.strip(), text, size)]
    for site in sites:
        site.check(size)
    repeated = sorted({str(site) for site in sites if sites.count(site) > 1})
    if repeated:
        raise InputError(f"sites {text!r} name {', '.join(repeated)} more than once")
    return sites


def check_words(text: str) -> None:
    """Check that a list of sites is well formed, without checking that a model has them.

    Raises:
        InputError: not a site, or an empty range.
    """
    for word in text.split(","):
        _parse_word(word.strip(), text, Size(0, 0, 0))


def _parse_word(word: str, text: str, size: Size) -> list[Site]:
    scope, dot, part = word.partition(".")
    if scope == "all":
        if dot and part not in PARTS:
            raise InputError(f"unknown part {part!r} in {word!r}: known are {', '.join(PARTS)}")
        chosen_part: Part = part if dot else "block"  # type: ignore[assignment]  # checked above
        return each_site(size, chosen_part)
    match = _PATTERN.fullmatch(word)
    if match is None:
        raise InputError(
            f"{word!r} in {text!r} is not a site: write L3, L5:9 (half-open), L3.attn, L3.mlp, "
            f"L3.mixer, L3.H7, L3.KV1, L3.stream or all"
        )
    start = int(match["start"])
    stop = int(match["stop"]) if match["stop"] else start + 1
    if stop <= start:
        raise InputError(f"range {word!r} is empty: ranges are half-open, L5:9 is layers 5 to 8")
    unnumbered = [part for part in PARTS if part not in NUMBERED]
    if match["part"] and match["part"] not in unnumbered:
        raise InputError(
            f"unknown part {match['part']!r} in {word!r}: known are {', '.join(unnumbered)}, "
            f"H<n>, KV<n>"
        )
    part_named: str = next((part for part in NUMBERED if match[part]), match["part"] or "block")
    head = int(match[part_named]) if part_named in NUMBERED else None
    return [Site(layer, part_named, head) for layer in range(start, stop)]  # type: ignore[arg-type]


def each_site(size: Size, part: Part) -> list[Site]:
    """Return the sites of a part in every layer, one per head for `head` and `kv_group`."""
    heads = range(size.n_of(part)) if part in NUMBERED else [None]
    return [Site(layer, part, head) for layer in range(size.n_layers) for head in heads]

"""Where a model can be ablated: a layer and a part of it.

A site has a *write*: what it adds to the residual stream. This module is the only one that knows
the names under which TransformerLens exposes those places; everything else speaks of sites.

Example:
    >>> str(Site(3)), str(Site(3, "attn")), str(Site(3, "head", head=7))
    ('L3', 'L3.attn', 'L3.H7')
    >>> parse_sites("L3,L5:7,L3.H7", n_layers=12, n_heads=8)
    [Site('L3'), Site('L5'), Site('L6'), Site('L3.H7')]
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from layerroles.errors import InputError

Part = Literal["block", "attn", "mlp", "head"]
PARTS: tuple[Part, ...] = get_args(Part)

# The hook points of TransformerLens that the project uses.
ENTRY = "blocks.{layer}.hook_in"  # the stream entering a block [row pos d_model]
EXIT = "blocks.{layer}.hook_out"  # the stream leaving it
READ_OUT = "unembed.hook_in"  # fires once in every pass that reaches the end
PATTERN = "blocks.{layer}.attn.hook_pattern"  # attention weights [row head query key]
_WRITES = {
    "block": EXIT,
    "attn": "blocks.{layer}.hook_attn_out",
    "mlp": "blocks.{layer}.hook_mlp_out",
    "head": "blocks.{layer}.attn.hook_z",
}


@dataclass(frozen=True, repr=False)
class Site:
    """A layer and a part of it; layers and heads are counted from 0.

    Attributes:
        layer: the layer.
        part: `"block"` (all that the layer writes), `"attn"`, `"mlp"`, or `"head"`.
        head: the query head, for part `"head"` only.

    Raises:
        InputError: unknown part, negative layer or head, a head without its number or a number
            without part `"head"`.
    """

    layer: int
    part: Part = "block"
    head: int | None = None

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise InputError(f"unknown part {self.part!r}: known are {', '.join(PARTS)}")
        if isinstance(self.layer, bool) or not isinstance(self.layer, int) or self.layer < 0:
            raise InputError(f"layer {self.layer!r} is not a layer number: layers count from 0")
        if self.part != "head" and self.head is not None:
            raise InputError(f"head={self.head} goes with part='head', not with {self.part!r}")
        if self.part == "head" and (not isinstance(self.head, int) or self.head < 0):
            raise InputError(f"part 'head' of layer {self.layer} needs head=, counted from 0")

    def __str__(self) -> str:
        if self.part == "block":
            return f"L{self.layer}"
        if self.part == "head":
            return f"L{self.layer}.H{self.head}"
        return f"L{self.layer}.{self.part}"

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts sites by layer, part and head."""
        return self.layer, PARTS.index(self.part), -1 if self.head is None else self.head

    @property
    def hook_name(self) -> str:
        """The hook point that holds the site's write (for a block, the stream that leaves it)."""
        return _WRITES[self.part].format(layer=self.layer)

    def check(self, n_layers: int, n_heads: int) -> None:
        """Check that a model of this size has the site.

        Raises:
            InputError: layer or head out of range.
        """
        if self.layer >= n_layers:
            raise InputError(
                f"site {self}: layer {self.layer} is out of range, "
                f"the model has layers 0 to {n_layers - 1}"
            )
        if self.head is not None and self.head >= n_heads:
            raise InputError(
                f"site {self}: head {self.head} is out of range, "
                f"the model has heads 0 to {n_heads - 1}"
            )


_PATTERN = re.compile(r"L(?P<start>\d+)(?::(?P<stop>\d+))?(?:\.(?:H(?P<head>\d+)|(?P<part>\w+)))?")


def parse_sites(text: str, n_layers: int, n_heads: int) -> list[Site]:
    """Read a list of sites: `"all"`, or `"L3,L5:9,L3.attn,L3.H7"` (ranges are half-open).

    `"all.attn"`, `"all.mlp"` and `"all.head"` name that part of every layer.

    Raises:
        InputError: not a site, out of the model's range, an empty range, or a site named twice.
    """
    sites = [
        site
        for word in text.split(",")
        for site in _parse_word(word.strip(), text, n_layers, n_heads)
    ]
    for site in sites:
        site.check(n_layers, n_heads)
    twice = sorted({str(site) for site in sites if sites.count(site) > 1})
    if twice:
        raise InputError(f"sites {text!r} name {', '.join(twice)} more than once")
    return sites


def _parse_word(word: str, text: str, n_layers: int, n_heads: int) -> list[Site]:
    whole, dot, part = word.partition(".")
    if whole == "all":
        if dot and part not in PARTS:
            raise InputError(f"unknown part {part!r} in {word!r}: known are {', '.join(PARTS)}")
        heads = range(n_heads) if part == "head" else [None]
        chosen: Part = part if dot else "block"  # type: ignore[assignment]  # checked above
        return [Site(layer, chosen, head) for layer in range(n_layers) for head in heads]
    match = _PATTERN.fullmatch(word)
    if match is None:
        raise InputError(
            f"{word!r} in {text!r} is not a site: write L3, L5:9 (half-open), L3.attn, L3.mlp, "
            f"L3.H7 or all"
        )
    start = int(match["start"])
    stop = int(match["stop"]) if match["stop"] else start + 1
    if stop <= start:
        raise InputError(f"range {word!r} is empty: ranges are half-open, L5:9 is layers 5 to 8")
    if match["part"] and match["part"] not in ("attn", "mlp", "block"):
        raise InputError(f"unknown part {match['part']!r} in {word!r}: known are attn, mlp, H<n>")
    part = "head" if match["head"] else match["part"] or "block"
    head = int(match["head"]) if match["head"] else None
    return [Site(layer, part, head) for layer in range(start, stop)]  # type: ignore[arg-type]

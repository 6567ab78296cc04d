"""Sizes of the blocks in which the fused engine shares what requests have in common."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor

from layerroles.engine.fused import packed_attention, prefill, prefix_packing
from layerroles.engine.fused.kv_cache import RowCache
from layerroles.engine.fused.packed_attention import AttentionLayout
from layerroles.engine.fused.partial_attention import PartialAttention


@contextmanager
def small_blocks() -> Iterator[dict[str, int]]:
    """Within the context, little is read twice; counts how often a trunk is looked at."""
    looked = {"read": 0, "decoded": 0}
    read, decoded = AttentionLayout._add_attention, RowCache._trunk_parts

    def reading(self: AttentionLayout, *args: object) -> None:
        looked["read"] += 1
        read(self, *args)  # type: ignore[arg-type]

    def decoding(self: RowCache, *args: object) -> Iterator[tuple[Tensor, PartialAttention]]:
        looked["decoded"] += 1
        return decoded(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_packing, "BLOCK", 24)
        patch.setattr(prefill, "BLOCK", 24)
        patch.setattr(prefix_packing, "SHORTEST_TRUNK", 4)
        patch.setattr(packed_attention, "LONG", 20)
        patch.setattr(AttentionLayout, "_add_attention", reading)
        patch.setattr(RowCache, "_trunk_parts", decoding)
        yield looked


@contextmanager
def blocks_as_they_are() -> Iterator[None]:
    yield

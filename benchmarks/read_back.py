"""lm-eval's loop over layers in half of its time: what lies below the skipped layer is read back.

A loop computes the layers below the skipped one again under each condition. Here they are kept of
the intact model's pass (their streams, keys and values), and read back in the same call, batch and
shape, so that what is computed above meets the same numbers: the loop's own answers, bit for bit.
For answers only: its time is not the loop's. It holds what it keeps in memory: of SmolLM2-135M 35
KB for each token, 23 KB more where texts are written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import layerroles as lr


class ReadBack:
    """A Hugging Face model whose layers can be skipped, after one pass of the intact model.

    Args:
        model: a causal language model with `layers` in its base model.
        writes: whether texts are asked for, which go on from a prompt's keys and values.
    """

    def __init__(self, model: Any, *, writes: bool) -> None:
        self._writes = writes
        self._layers = list(model.base_model.layers)
        self._streams: list[list[torch.Tensor]] = []  # by calls that read prompts, and layers
        self._keys: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        self._skipped: int | None = None
        self._call, self._reads = -1, False
        model.base_model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for place, layer in enumerate(self._layers):
            layer.__dict__["forward"] = self._forward(place, layer.forward)

    @contextmanager
    def under(self, skipped: lr.Site | None) -> Iterator[None]:
        """Within the context, a layer is skipped; with None, which comes first, nothing is."""
        self._call = -1
        if skipped is None:
            self._streams.clear()
            self._keys.clear()
        elif skipped.head is not None or not self._streams:
            raise ValueError(f"{skipped}: whole layers are skipped, and the intact model is first")
        self._skipped = None if skipped is None else skipped.layer
        yield
        self._skipped = None

    def _begin(self, _module: object, _args: object, kwargs: dict[str, Any]) -> None:
        # A call with something read before goes on with a text.
        self._reads = not self._writes or not _cache_of(kwargs).get_seq_length()
        self._call += self._reads
        if self._reads and self._skipped is None:
            self._streams.append([])
            self._keys.append([])

    def _forward(self, place: int, computed: Any) -> Any:
        def forward(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            cache = _cache_of(kwargs) if self._writes else None
            skipped = self._skipped
            if skipped is None and self._reads:
                self._streams[-1].append(hidden_states.clone())
                left: torch.Tensor = computed(hidden_states, **kwargs)
                if cache is not None:
                    held = cache.layers[place]
                    self._keys[-1].append((held.keys, held.values))
                return left
            if skipped is None or place > skipped or (place < skipped and not self._reads):
                return computed(hidden_states, **kwargs)  # type: ignore[no-any-return]
            if self._reads:
                hidden_states = self._streams[self._call][place]
            if cache is not None and (self._reads or place == 0):
                # transformers tells how much was read by the first layer's keys: with none, texts
                # go wrong. A skipped layer's are nobody's, and only counted.
                if self._reads:
                    cache.update(*self._keys[self._call][place], place)
                else:
                    last = cache.layers[place].keys[:, :, -1:]
                    cache.update(last, last, place)
            return hidden_states

        return forward


def _cache_of(kwargs: dict[str, Any]) -> Any:
    """The cache that a model or a layer is given: `cache` since transformers 5.24."""
    return kwargs.get("cache", kwargs.get("past_key_values"))

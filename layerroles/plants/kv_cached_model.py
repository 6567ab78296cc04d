"""TransformerLens's native transformer with a cache of keys and values.

`TransformerBridge.boot_native` wraps a `NativeModel`, which reads the whole text in every pass. The
modules here are the same, except that they can continue from a given cache, as transformers' models
do, and lack features that planted models do not use (rotary positions, grouped queries, soft caps).
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.native.model import (
    NativeAttention,
    NativeBlock,
    NativeModel,
)
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast


def boot_model(config: TransformerBridgeConfig) -> TransformerBridge:
    """Return a bridge around a `CachedModel` in float32 on the CPU; all weights are zero."""
    with torch.random.fork_rng(devices=[]):  # modules draw random weights when they are made
        model = CachedModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return build_bridge_from_module(
        model,
        architecture="TransformerLensNative",
        tl_config=config,
        dtype=torch.float32,
        device="cpu",
        model_name=config.model_name,
    )


class CachedModel(NativeModel):
    """A `NativeModel` that continues from a cache of keys and values."""

    def __init__(self, config: TransformerBridgeConfig) -> None:
        super().__init__(config)
        blocks = [CachedBlock(config, layer) for layer in range(config.n_layers)]
        self.layers = nn.ModuleList(blocks)  # type: ignore[assignment]  # typed by the base class

    def forward(  # type: ignore[override]  # logits and cache, as transformers' models
        self,
        input_ids: Int[Tensor, "row pos"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "row pos"] | None = None,
        past_key_values: DynamicCache | None = None,
        use_cache: bool = False,
        **_others: Any,
    ) -> CausalLMOutputWithPast:
        """Read tokens that follow those in the cache; return logits and the extended cache.

        A given cache is extended in place; without one, `use_cache` makes a new one.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if position_ids is None:
            n_past = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = n_past + torch.arange(input_ids.shape[1]).expand_as(input_ids)
        assert self.pos is not None
        stream = self.tok_embed(input_ids) + self.pos(position_ids)
        for block in self.layers:
            stream = block(stream, attention_mask=attention_mask, past_key_values=past_key_values)
            # A bridge may wrap what a block returns.
            stream = stream[0] if isinstance(stream, tuple) else stream
        # Positional arguments: transformers 5.24 calls the cache by another name.
        return CausalLMOutputWithPast(None, self.head(self.ln_out(stream)), past_key_values)


class CachedBlock(NativeBlock):
    """A block that passes the cache to its attention."""

    def __init__(self, config: TransformerBridgeConfig, layer: int) -> None:
        super().__init__(config)
        self.attn = CachedAttention(config, layer)

    def forward(
        self,
        hidden_states: Float[Tensor, "row pos d_model"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        **_others: Any,
    ) -> tuple[Tensor]:
        """Return a tuple of one tensor: the stream plus the writes of attention and MLP."""
        written, _ = self.attn(
            self.ln1(hidden_states), attention_mask=attention_mask, past_key_values=past_key_values
        )
        hidden_states = hidden_states + written
        return (hidden_states + self.mlp(self.ln2(hidden_states)),)


class CachedAttention(NativeAttention):
    """Attention over cached and new tokens."""

    def __init__(self, config: TransformerBridgeConfig, layer: int) -> None:
        super().__init__(config)
        self.layer = layer

    def forward(
        self,
        hidden_states: Float[Tensor, "row pos d_model"],
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pattern_fn: Any = None,
        past_key_values: DynamicCache | None = None,
        **_others: Any,
    ) -> tuple[Float[Tensor, "row pos d_model"], Float[Tensor, "row head query key"]]:
        """Return the write, and the attention pattern over cached and new tokens.

        Nothing attends to padding. At padding on the left, where no token is visible, the pattern
        is 0 and the write is the output bias alone.
        """
        q, k, v = (
            rearrange(part(hidden_states), "row pos (head d) -> row head pos d", head=self.n_heads)
            for part in (self.q, self.k, self.v)
        )
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer)
        n_new, n_all = q.shape[2], k.shape[2]
        hidden = torch.ones(n_new, n_all, dtype=torch.bool, device=q.device).triu(n_all - n_new + 1)
        if attention_mask is not None:
            hidden = self._combine_attention_mask(hidden, attention_mask, batch=len(q))
        scores = (q @ k.transpose(-2, -1) / self.scale).masked_fill(hidden, float("-inf"))
        pattern = scores.softmax(-1).masked_fill(hidden, 0.0)
        if pattern_fn is not None:
            pattern = pattern_fn(pattern)
        return self.o(rearrange(pattern @ v, "row head pos d -> row pos (head d)")), pattern

"""What a forward pass is being run on, seen from the inside.

An edit is told the absolute positions and the token ids of its rows. Plain TransformerLens calls
(`model(...)`, `run_with_cache`, `generate`, with and without a cache) don't say either, so they are
read off the arguments with which the Hugging Face model is called.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class Call:
    """A call of the model (a `Pass`).

    Attributes:
        tokens: token ids of everything read so far, new ones last; None for embeddings.
        attended: false at pads, over the same columns.
        positions: positions of the new tokens among their row's real tokens; negative at pads.
        real: false at pads, over the new tokens.
    """

    tokens: Int[Tensor, "row all_pos"] | None
    attended: Bool[Tensor, "row all_pos"]
    positions: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row pos"]


class Watch:
    """Keeps the pass that is under way in `.current`, and the tokens read so far in `.tokens`."""

    def __init__(self) -> None:
        self.current: Call | None = None
        self.tokens: Int[Tensor, "row all_pos"] | None = None

    def read(
        self, _module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Note the arguments of a forward pass (a torch forward pre-hook)."""
        tokens = args[0] if args else kwargs.get("input_ids")
        new = tokens if tokens is not None else kwargs["inputs_embeds"]
        rows, n_new = new.shape[:2]
        cache = kwargs.get("past_key_values")
        n_past = 0 if cache is None else int(cache.get_seq_length())
        mask = kwargs.get("attention_mask")
        if mask is None or mask.ndim != 2:
            mask = torch.ones(rows, n_past + n_new, dtype=torch.bool, device=new.device)
        attended = mask.to(device=new.device, dtype=torch.bool)
        positions = (attended.long().cumsum(-1) - 1).masked_fill(~attended, -1)
        self.tokens = self._joined(tokens, n_past)
        self.current = Call(
            tokens=self.tokens,
            attended=attended,
            positions=positions[:, -n_new:],
            real=attended[:, -n_new:],
        )

    def _joined(self, tokens: Tensor | None, n_past: int) -> Tensor | None:
        if tokens is None or n_past == 0:
            return tokens
        # A cache from elsewhere: what was read into it is not known.
        if self.tokens is None or self.tokens.shape != (tokens.shape[0], n_past):
            return None
        return torch.cat([self.tokens, tokens], dim=1)


@contextmanager
def watched(model: TransformerBridge) -> Iterator[Watch]:
    """Within the context, know what each forward pass of the model is run on."""
    watch = Watch()
    handle = model.original_model.register_forward_pre_hook(watch.read, with_kwargs=True)
    try:
        yield watch
    finally:
        handle.remove()

"""The logit lens: what the model would say if it stopped after each block.

The stream at the answering position is read through the model's own final norm and unembedding
(nostalgebraist 2020), by TransformerLens's `logit_readout`. The last entry is checked to be the
model's own output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.logit_lens import logit_readout

from layerroles.probes.base import Batch, Probe, register
from layerroles.sites import ENTRY, EXIT

# Largest difference of the last entry from the model's own log-probability, in nats.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.5}


@register("logit_lens")
@dataclass(frozen=True)
class LogitLens(Probe):
    """Rank, log-probability and entropy over depth, of the token that tells the right answer.

    Columns: layer (-1 is the embedding, l is after block l, the last is the model's output), rank
    (0 is the likeliest token), logprob and entropy (nats).
    """

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """One row for each example and depth."""
        n_layers = model.cfg.n_layers
        streams: dict[int, Tensor] = {}

        def note(value: Tensor, layer: int) -> None:
            streams[layer] = value[:, -1]

        hooks = {EXIT.format(layer=n): partial(note, layer=n) for n in range(n_layers)}
        hooks[ENTRY.format(layer=0)] = partial(note, layer=-1)
        logits = batch.run(model, hooks)
        stacked = torch.stack([streams[layer] for layer in range(-1, n_layers)])
        targets = torch.tensor(batch.answers, device=stacked.device).expand(stacked.shape[:-1])
        found = logit_readout(model, stacked, targets=targets, return_type="log_probs")
        own = logits.float().log_softmax(-1).gather(1, targets[-1][:, None])[:, 0]
        error = float((found.values[-1, :, 0].float() - own).abs().max())
        if not error <= _TOLERANCE[model.cfg.dtype]:
            raise RuntimeError(
                f"the last entry of the logit lens differs from the model's own output by "
                f"{error:.2g} nats: the lens does not read this architecture"
            )
        assert found.target_ranks is not None
        for row, example in enumerate(batch.examples):
            for place in range(len(stacked)):
                yield (
                    example.id,
                    {
                        "layer": place - 1,
                        "rank": int(found.target_ranks[place, row, 0]),
                        "logprob": float(found.values[place, row, 0]),
                        "entropy": float(found.entropy[place, row]),
                    },
                )

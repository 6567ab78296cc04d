"""Which heads look at the evidence from where the answer is given.

For each head, the share of its attention that goes from the answering position to the tokens of
the evidence. Patterns are reduced as they come: nothing grows with layers x heads x length^2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.models import prepared
from layerroles.probes.base import Batch, Probe, register
from layerroles.sites import PATTERN
from layerroles.tasks import Example


@register("attention")
@dataclass(frozen=True)
class Attention(Probe):
    """Attention from the answering position to the evidence, by layer and head.

    Columns: layer, head, evidence (share, 0 to 1), first (share that goes to the first token, the
    usual sink), uniform (the share that even attention would give to the evidence). Examples
    without evidence are left out.
    """

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """One row for each example, layer and head."""
        evidence = torch.zeros_like(batch.attended, dtype=torch.bool)
        for row, example in enumerate(batch.examples):
            spans = evidence_tokens(model, example)
            begin = int(batch.attended[row].argmax())
            evidence[row, begin : begin + len(spans)] = spans
        first = (batch.attended.cumsum(-1) == 1) & batch.attended.bool()
        shares: dict[int, tuple[Tensor, Tensor]] = {}

        def note(pattern: Tensor, layer: int) -> None:
            answering = pattern[:, :, -1].float()  # [row head key]
            shares[layer] = tuple(  # type: ignore[assignment]  # two of them
                (answering * where[:, None]).sum(-1) for where in (evidence, first)
            )

        layers = range(model.cfg.n_layers)
        batch.run(model, {PATTERN.format(layer=n): partial(note, layer=n) for n in layers})
        uniform = evidence.sum(-1) / batch.attended.sum(-1)
        for row, example in enumerate(batch.examples):
            if not evidence[row].any():
                continue
            for layer in layers:
                for head in range(model.cfg.n_heads):
                    yield (
                        example.id,
                        {
                            "layer": layer,
                            "head": head,
                            "evidence": float(shares[layer][0][row, head]),
                            "first": float(shares[layer][1][row, head]),
                            "uniform": float(uniform[row]),
                        },
                    )


def evidence_tokens(model: TransformerBridge, example: Example) -> Bool[Tensor, " pos"]:
    """Which tokens of an example's context overlap its evidence."""
    context = example.context()
    shift = len(context) - len(example.prompt)
    encoded = prepared(model).tokenizer(context, return_offsets_mapping=True)
    return torch.tensor(
        [
            any(start < stop + shift and begin + shift < end for begin, stop in example.evidence)
            for start, end in encoded["offset_mapping"]
        ],
        dtype=torch.bool,
    )

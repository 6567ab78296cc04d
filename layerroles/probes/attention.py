"""Where each head looks from where the answer is given.

For each head, its attention weights `a` from the answering position: the share that goes to the
evidence, to the question and to the first token (sums of `a` over them), and how spread out it is,
the entropy `-sum a ln a`. Prompts are read a piece at a time and only the last position's patterns
are kept, reduced: nothing grows with layers x heads x length^2.

    >>> frame = Attention().measure(model, tasks)  # doctest: +SKIP
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import scored
from layerroles.probes.base import Batch, Probe, register
from layerroles.probes.chunks import read_patterns
from layerroles.tasks import Example


@register("attention")
@dataclass(frozen=True)
class Attention(Probe):
    """Attention from the answering position, by layer and head.

    Columns: layer, head, evidence (share, 0 to 1), first (share that goes to the first token, the
    usual sink), question (share that goes to the prompt's last paragraph, without what is evidence
    or the first token), entropy (nats; 0 where one token gets all), uniform (the share that even
    attention would give to the evidence). Where an example has no evidence, `evidence` and
    `uniform` are NaN.

    Example:
        attention = lr.probes.Attention().measure(model, tasks, limit=8)
        attention.groupby(["task", "layer", "head"])["evidence"].mean()
    """

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """One row for each example, layer and head."""
        real = batch.attended.bool()
        first = (real.cumsum(-1) == 1) & real
        spans = [(example.evidence, question(example)) for example in batch.examples]
        evidence, asked = (
            _mask(batch, [tokens_of(model, *one) for one in zip(batch.examples, some, strict=True)])
            for some in zip(*spans, strict=True)
        )
        places = {"evidence": evidence, "first": first, "question": asked & ~evidence & ~first}
        n = batch.tokens.shape[1]
        found: dict[int, dict[str, Float[Tensor, "row head"]]] = {}

        def note(layer: int, pattern: Tensor, start: int) -> None:
            if start + pattern.shape[2] == n:
                answering = pattern[:, :, -1].float()
                found[layer] = {
                    name: (answering * where[:, None]).sum(-1) for name, where in places.items()
                } | {"entropy": torch.special.entr(answering).sum(-1)}

        read_patterns(model, batch.tokens, batch.attended, note)
        uniform = evidence.sum(-1) / real.sum(-1)
        known = evidence.any(-1).tolist()
        for row, example in enumerate(batch.examples):
            for layer, values in found.items():
                table = {name: value[row].tolist() for name, value in values.items()}
                for head in range(len(table["first"])):
                    share = table["evidence"][head] if known[row] else float("nan")
                    yield (
                        example.id,
                        {
                            "layer": layer,
                            "head": head,
                            "evidence": share,
                            "first": table["first"][head],
                            "question": table["question"][head],
                            "entropy": table["entropy"][head],
                            "uniform": float(uniform[row]) if known[row] else float("nan"),
                        },
                    )


def question(example: Example) -> tuple[tuple[int, int], ...]:
    """The span of the prompt's last paragraph: what follows its last blank line, or all of it."""
    prompt = example.prompt.rstrip()
    breaks = [match.end() for match in re.finditer(r"\n\s*\n", prompt)]
    start = breaks[-1] if breaks else 0
    return ((start, len(prompt)),) if start < len(prompt) else ()


def tokens_of(
    model: TransformerBridge, example: Example, spans: Iterable[tuple[int, int]]
) -> tuple[int, ...]:
    """Positions in an example's context of the tokens that overlap spans of its prompt."""
    context = example.context()
    shift = len(context) - len(example.prompt)
    moved = [(start + shift, stop + shift) for start, stop in spans]
    (asked,) = scored(model, [(context, f" {example.answer}")], [moved])
    return asked.evidence or ()


def _mask(batch: Batch, positions: list[tuple[int, ...]]) -> Bool[Tensor, "row pos"]:
    """Where the tokens at these positions of the rows stand in the padded batch."""
    mask = torch.zeros_like(batch.attended, dtype=torch.bool)
    for row, (begin, some) in enumerate(zip(batch.attended.argmax(-1), positions, strict=True)):
        mask[row, [int(begin) + position for position in some]] = True
    return mask

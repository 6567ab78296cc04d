"""Attention: which tokens each head attends to, from the answering position or from every token.

For each head, the probe takes its attention weights `a` from the answering position, which predicts
the answer (see `answering_position`). It reports the shares of attention on the evidence (the part
of the prompt that the answer needs), on the question and on the first token (sums of `a` over the
tokens of each), and the entropy `-sum a ln a`. Prompts are read a piece at a time, and only sums
over the last position's weights are kept, so memory does not grow with layers x heads x length^2.

`head_patterns` returns the whole pattern of chosen heads on one text.

    >>> frame = Attention().measure(model, tasks)  # doctest: +SKIP
    >>> heads = [lr.Site(3, "head", 7)]  # doctest: +SKIP
    >>> frame = head_patterns(model, "The cat sat. The cat", heads)  # doctest: +SKIP
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import encode_scored
from layerroles.errors import InputError
from layerroles.models import check_sites, check_weights, encode, prepared
from layerroles.probes.answering_position import Batch, mark_positions, shift_spans
from layerroles.probes.base import Probe, register
from layerroles.probes.chunked_prefill import read_patterns
from layerroles.sites import Site
from layerroles.tasks import Example


@register("attention")
@dataclass(frozen=True)
class Attention(Probe):
    """Measure attention from the position that predicts the answer, by layer and head.

    Columns: layer; head; three shares of attention (0 to 1): evidence, first (the first token, the
    usual attention sink) and question (the prompt's last paragraph without the evidence and the
    first token); entropy (nats; 0 if one token gets all attention); and uniform (the share that the
    evidence would get if attention were spread evenly). If an example has no evidence, `evidence`
    and `uniform` are NaN.

    Example:
        attention = lr.probes.Attention().measure(model, tasks, limit=8)
        attention.groupby(["task", "layer", "head"])["evidence"].mean()
    """

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a row for each example, layer and head."""
        real = batch.attended.bool()
        first_mask = (real.cumsum(-1) == 1) & real
        spans = [(example.evidence, find_question_spans(example)) for example in batch.examples]
        evidence_mask, question_mask = (
            mark_positions(
                batch.attended,
                [
                    find_tokens(model, example, example_spans)
                    for example, example_spans in zip(batch.examples, kind_spans, strict=True)
                ],
            )
            for kind_spans in zip(*spans, strict=True)
        )
        masks = {
            "evidence": evidence_mask,
            "first": first_mask,
            "question": question_mask & ~evidence_mask & ~first_mask,
        }
        n = batch.tokens.shape[1]
        by_layer: dict[int, dict[str, Float[Tensor, "row head"]]] = {}

        def note_answering(layer: int, pattern: Tensor, start: int) -> None:
            if start + pattern.shape[2] == n:
                answering = pattern[:, :, -1].float()
                by_layer[layer] = {
                    name: (answering * mask[:, None].to(answering.device)).sum(-1)
                    for name, mask in masks.items()
                } | {"entropy": torch.special.entr(answering).sum(-1)}

        read_patterns(model, batch.tokens, batch.attended, note_answering)
        uniform = evidence_mask.sum(-1) / real.sum(-1)
        has_evidence = evidence_mask.any(-1).tolist()
        for row, example in enumerate(batch.examples):
            for layer, values in by_layer.items():
                table = {name: value[row].tolist() for name, value in values.items()}
                for head in range(len(table["first"])):
                    share = table["evidence"][head] if has_evidence[row] else float("nan")
                    yield (
                        example.id,
                        {
                            "layer": layer,
                            "head": head,
                            "evidence": share,
                            "first": table["first"][head],
                            "question": table["question"][head],
                            "entropy": table["entropy"][head],
                            "uniform": float(uniform[row]) if has_evidence[row] else float("nan"),
                        },
                    )


def head_patterns(
    model: TransformerBridge, text: str, heads: Sequence[Site], *, queries: int | None = None
) -> pd.DataFrame:
    """Measure how much attention each token pays to itself and to earlier tokens, in some heads.

    Args:
        model: from `load` or `prepare`.
        text: the text to read, such as an example's `context()`.
        heads: sites of part `"head"`.
        queries: the number of query tokens, counted from the end of the text; None for all.

    Returns:
        A row per head, query and key, with the columns model, layer, head, query, key (0-based
        positions), query_token, key_token (their texts) and weight (0 to 1). Keys later than the
        query are left out.

    Raises:
        InputError: no head, a site that is not a head or that the model lacks, `queries` below 1,
            an empty text, or one longer than the model's context.

    Example:
        heads = [lr.Site(1, "head", head=0)]
        patterns = lr.probes.head_patterns(model, "silver fence silver", heads)
        patterns.pivot(index="query", columns="key", values="weight")
    """
    if not heads or any(site.part != "head" for site in heads):
        sites = ", ".join(map(str, heads)) or "none"
        raise InputError(f"patterns are of heads, such as Site(3, 'head', 7), not of {sites}")
    check_sites(model, list(heads))
    check_weights(model)
    ids = encode(model, text)
    if not 0 < len(ids) <= model.cfg.n_ctx:
        raise InputError(f"a text of {len(ids)} tokens: patterns need 1 to {model.cfg.n_ctx}")
    if queries is not None and queries < 1:
        raise InputError(f"queries={queries} is not a number above 0")
    begin = max(0, len(ids) - (queries or len(ids)))
    by_layer: dict[int, list[int]] = {}
    for site in heads:
        assert site.head is not None
        by_layer.setdefault(site.layer, []).append(site.head)
    rows_by_head: dict[tuple[int, int], list[Float[Tensor, " key"]]] = {}

    def note_rows(layer: int, pattern: Tensor, start: int) -> None:
        for head in by_layer.get(layer, ()):
            rows = pattern[0, head].float().cpu()
            rows_by_head.setdefault((layer, head), []).extend(
                row[: start + place + 1] for place, row in enumerate(rows) if start + place >= begin
            )

    tokens = torch.tensor([ids], device=model.cfg.device)
    read_patterns(model, tokens, torch.ones_like(tokens), note_rows)
    token_texts = [prepared(model).tokenizer.decode([token]) for token in ids]
    return pd.DataFrame(
        {
            "model": prepared(model).name,
            "layer": layer,
            "head": head,
            "query": query,
            "key": key,
            "query_token": token_texts[query],
            "key_token": token_texts[key],
            "weight": weight,
        }
        for (layer, head), rows in rows_by_head.items()
        for query, row in enumerate(rows, start=begin)
        for key, weight in enumerate(row.tolist())
    )


def find_question_spans(example: Example) -> tuple[tuple[int, int], ...]:
    """Return ((start, stop),), the character range of the prompt's last paragraph; () if empty."""
    prompt = example.prompt.rstrip()
    breaks = [match.end() for match in re.finditer(r"\n\s*\n", prompt)]
    start = breaks[-1] if breaks else 0
    return ((start, len(prompt)),) if start < len(prompt) else ()


def find_tokens(
    model: TransformerBridge, example: Example, spans: Iterable[tuple[int, int]]
) -> tuple[int, ...]:
    """Return the positions, in an example's context, of the tokens that overlap `spans`.

    Spans are character offsets (start, stop) in the example's prompt, with which the context ends.
    """
    pair = example.context(), f" {example.answer}"
    (request,) = encode_scored(model, [pair], [shift_spans(example, spans)])
    return request.evidence or ()

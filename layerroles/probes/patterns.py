"""The attention pattern of chosen heads on one text, token by token, for looking at.

>>> frame = head_patterns(model, "The cat sat. The cat", [lr.Site(3, "head", 7)])  # doctest: +SKIP
"""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import check_sites, encode, prepared
from layerroles.probes.chunks import read_patterns
from layerroles.sites import Site


def head_patterns(
    model: TransformerBridge, text: str, heads: Sequence[Site], *, queries: int | None = None
) -> pd.DataFrame:
    """Measure how much attention each token gives to each token before it, in some heads.

    Args:
        model: a prepared bridge.
        text: what is read, such as an example's `context()`.
        heads: sites of part `"head"`.
        queries: only the text's last so many tokens as queries; by default all.

    Returns:
        Columns: model, layer, head, query, key (positions, 0-based), query_token, key_token (their
        text), weight (0 to 1). Keys go up to the query.

    Raises:
        InputError: no head, a site that is no head or that the model lacks, an empty text, or one
            longer than the model's context.

    Example:
        heads = [lr.Site(1, "head", head=0)]
        patterns = lr.probes.head_patterns(model, "silver fence silver", heads)
        patterns.pivot(index="query", columns="key", values="weight")
    """
    if not heads or any(site.part != "head" for site in heads):
        given = ", ".join(map(str, heads)) or "none"
        raise InputError(f"patterns are of heads, such as Site(3, 'head', 7), not of {given}")
    check_sites(model, list(heads))
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
    found: dict[tuple[int, int], list[Float[Tensor, " key"]]] = {}

    def note(layer: int, pattern: Tensor, start: int) -> None:
        for head in by_layer.get(layer, ()):
            rows = pattern[0, head].float().cpu()
            found.setdefault((layer, head), []).extend(
                row[: start + place + 1] for place, row in enumerate(rows) if start + place >= begin
            )

    tokens = torch.tensor([ids], device=model.cfg.device)
    read_patterns(model, tokens, torch.ones_like(tokens), note)
    spelt = [prepared(model).tokenizer.decode([token]) for token in ids]
    return pd.DataFrame(
        {
            "model": prepared(model).name,
            "layer": layer,
            "head": head,
            "query": query,
            "key": key,
            "query_token": spelt[query],
            "key_token": spelt[key],
            "weight": weight,
        }
        for (layer, head), rows in found.items()
        for query, row in enumerate(rows, start=begin)
        for key, weight in enumerate(row.tolist())
    )

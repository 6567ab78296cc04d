"""Retrieval heads: which heads copy the evidence into what the model writes.

The retrieval score of Wu et al. ("Retrieval Head Mechanistically Explains Long-Context Factuality",
arXiv 2404.15574). While the model writes greedily, a head copies a token of the evidence (their
needle) at a step if, of all positions, it attends most to that token, and that token is what the
model writes at this step. With `k` the tokens of the evidence and `g` those that head `h` copies,

    score(h) = |g & k| / |k|

Tokens count by their position, each once. Patterns are looked at as the tokens are written, one
position at a time, and only which key gets most is kept.

    >>> frame = RetrievalScore().measure(model, [lr.task("kv_retrieval")])  # doctest: +SKIP
    >>> frame[frame.recall >= 0.5].groupby(["layer", "head"]).score.mean()  # doctest: +SKIP
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.reference import pad_left
from layerroles.engine import Written, written
from layerroles.engine.decode import Decoding, Stops, greedy
from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.probes.base import Batch, Probe, register
from layerroles.probes.chunks import read_patterns
from layerroles.tasks import Example


@register("retrieval_score")
@dataclass(frozen=True)
class RetrievalScore(Probe):
    """Share of the evidence that each head copies while the model writes its answer.

    Columns: layer, head, score (0 to 1), copied (tokens of the evidence that the head copied),
    n_evidence (its tokens), recall (the share of them that the model wrote at all, by token; no
    head's score is above it where all of them differ), n_written (tokens that it wrote). Examples
    without evidence are left out. Wu et al. count an example only if the model found its needle:
    take the rows with `recall >= 0.5`.

    Attributes:
        max_gen_toks: tokens after which the answer is cut; it also ends with its line.

    Raises:
        InputError: `max_gen_toks` is not above 0.

    Example:
        scores = lr.probes.RetrievalScore(max_gen_toks=4).measure(model, tasks, limit=8)
        scores[scores["recall"] >= 0.5].groupby(["layer", "head"])["score"].mean()
    """

    needs: ClassVar[str] = "evidence"

    max_gen_toks: int = 32

    def __post_init__(self) -> None:
        if self.max_gen_toks < 1:
            raise InputError(f"max_gen_toks={self.max_gen_toks} is not a number above 0")

    def check(self, model: TransformerBridge) -> None:
        """Refuse a model that keeps no cache: it cannot be watched while it writes.

        Raises:
            InputError: the model keeps no cache.
        """
        known = prepared(model)
        if not known.checks.caches:
            raise InputError(
                f"model {known.name!r} keeps no cache of keys and values, and probe {self.name!r} "
                f"reads on from one: choose head_scores or attention"
            )

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """One row for each example with evidence, layer and head."""
        asked = [_request(model, example, self.max_gen_toks) for example in batch.examples]
        kept = [place for place, request in enumerate(asked) if request.evidence]
        if not kept:
            return
        requests = [asked[place] for place in kept]
        copied, ids = _write(model, requests)
        for row, place in enumerate(kept):
            evidence = requests[row].evidence or ()
            needle = [requests[row].context[position] for position in evidence]
            recall = sum(token in ids[row] for token in needle) / len(needle)
            for layer, found in copied.items():
                for head, count in enumerate(found[row].sum(-1).tolist()):
                    yield (
                        batch.examples[place].id,
                        {
                            "layer": layer,
                            "head": head,
                            "score": count / len(needle),
                            "copied": count,
                            "n_evidence": len(needle),
                            "recall": recall,
                            "n_written": len(ids[row]),
                        },
                    )


def _request(model: TransformerBridge, example: Example, max_gen_toks: int) -> Written:
    context = example.context()
    shift = len(context) - len(example.prompt)
    spans = [(start + shift, stop + shift) for start, stop in example.evidence]
    options = {"until": ["\n"], "max_gen_toks": max_gen_toks}
    (request,) = written(model, [(context, options)], [spans])
    return request


def _write(
    model: TransformerBridge, requests: list[Written]
) -> tuple[dict[int, Bool[Tensor, "row head pos"]], list[tuple[int, ...]]]:
    """Write greedily; by layer, which positions of the padded prompts each head copied.

    Also the tokens written, row by row.
    """
    tokens, attended = pad_left([request.context for request in requests], model)
    begins = attended.argmax(-1).tolist()
    evidence = torch.zeros_like(tokens, dtype=torch.bool)
    for row, request in enumerate(requests):
        evidence[row, [begins[row] + position for position in request.evidence or ()]] = True
    n = tokens.shape[1]
    copied: dict[int, Tensor] = {}
    looked: dict[int, Int[Tensor, "row head"]] = {}  # by layer, the column that gets most

    def note(layer: int, pattern: Tensor, start: int) -> None:
        looked[layer] = pattern[:, :, -1].argmax(-1)

    decoding = Decoding(Stops(model), requests)
    logits, cache = read_patterns(model, tokens, attended, note, keep_cache=True)
    read = tokens
    while True:
        writing = torch.tensor(decoding.writing(), device=tokens.device)
        done = decoding.add(greedy(logits))
        hits = evidence & (tokens == decoding.last[:, None]) & writing[:, None]  # [row pos]
        for layer, column in looked.items():
            here = torch.nn.functional.one_hot(column, read.shape[1])[..., :n].bool()
            copied[layer] = copied.get(layer, False) | (here & hits[:, None])
        if done:
            break
        new = decoding.last[:, None]
        read = torch.cat([read, new], dim=1)
        attended = torch.cat([attended, torch.ones_like(new)], dim=1)
        logits, cache = read_patterns(model, new, attended, note, cache=cache)
    return copied, [writing.ids for writing in decoding.writings(None)]

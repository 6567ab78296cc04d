"""Score how much each head acts as a previous-token, duplicate-token, induction or retrieval head.

With `x` the tokens, each kind of head has its matching keys `k` for a query `q`, as in
TransformerLens's `head_detector`:

- previous token: `k = q - 1`;
- duplicate token: `k < q` with `x[k] = x[q]`;
- induction: `k <= q` with `x[k - 1] = x[q]`, the tokens that followed earlier occurrences of `x[q]`
  (Olsson et al. 2022, arXiv 2209.11895).

A score is the total attention on matching keys, averaged over the queries that have one: 1 if all
attention is on them. (`detect_head` of TransformerLens averages over all queries: its score is this
one times the share of queries that have a matching key.)

Retrieval heads copy the evidence, the part of the prompt that the answer needs, into what the model
writes (Wu et al., "Retrieval Head Mechanistically Explains Long-Context Factuality", arXiv
2404.15574, where the evidence is called the needle). While the model writes greedily, a head copies
a token of the evidence at a step if, of all positions, it attends most to that token, and the model
writes the same token at this step. With `k` the tokens of the evidence and `g` those that head `h`
copies,

    score(h) = |g & k| / |k|

Each position of the evidence counts once. Patterns are read while the model writes, one position at
a time, and only the key with the largest weight is kept.

    >>> frame = HeadScores().measure_repeated(model)  # doctest: +SKIP
    >>> frame = RetrievalScore().measure(model, [lr.task("kv_retrieval")])  # doctest: +SKIP
    >>> frame[frame.recall >= 0.5].groupby(["layer", "head"]).score.mean()  # doctest: +SKIP
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Prompt, pad_left
from layerroles.engine import Decoding, Stops, Written, choose_greedy, encode_written
from layerroles.errors import InputError
from layerroles.models import check_weights, prepared, with_float64
from layerroles.probes.answering_position import Batch, mark_positions, shift_spans
from layerroles.probes.base import Probe, register
from layerroles.probes.chunked_prefill import read_patterns
from layerroles.tasks import Example

KINDS = ("previous", "duplicate", "induction")


@register("head_scores")
@dataclass(frozen=True)
class HeadScores(Probe):
    """Measure previous-token, duplicate-token and induction scores by layer and head.

    Columns: layer, head; the scores previous, duplicate and induction (0 to 1; NaN if no token of
    the text has a matching key); with_previous, with_duplicate and with_induction (for each kind,
    the share of tokens that have a matching key).

    Example:
        scores = lr.probes.HeadScores().measure_repeated(model, length=6)
        scores.groupby(["layer", "head"])["induction"].mean()
    """

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a row per example, layer and head, over the tokens up to the answering position."""
        real = batch.attended.bool()
        sums: dict[int, Tensor] = {}  # [kind row head], float64

        def note(layer: int, pattern: Tensor, start: int) -> None:
            stop = start + pattern.shape[2]
            matching = match_keys(batch.tokens[:, :stop], real[:, :stop], start)
            weights = pattern.float()
            found = [
                with_float64(weights * keys[:, None].to(weights.device)).sum(
                    (-2, -1), dtype=torch.float64
                )
                for keys in matching
            ]
            sums[layer] = sums.get(layer, 0) + torch.stack(found)

        read_patterns(model, batch.tokens, batch.attended, note)
        queries = with_float64(_count_queries(batch.tokens, real))
        share = (queries.double() / with_float64(real).sum(-1)).tolist()
        for layer, total in sums.items():
            sums[layer] = total / queries[..., None].to(total.device)  # NaN where there are none
        for row, example in enumerate(batch.examples):
            having = {f"with_{kind}": share[place][row] for place, kind in enumerate(KINDS)}
            for layer, scores in sums.items():
                for head, values in enumerate(scores[:, row].T.tolist()):
                    found = dict(zip(KINDS, values, strict=True))
                    yield example.id, {"layer": layer, "head": head, **found, **having}

    def measure_repeated(
        self, model: TransformerBridge, *, length: int = 64, limit: int = 8, seed: int = 0
    ) -> pd.DataFrame:
        """Measure on `limit` sequences of random tokens that are each repeated once.

        This is the usual test of induction: no token occurs twice within a sequence, and only the
        first occurrence of the sequence predicts the second, so skill at language does not help.

        Args:
            model: from `load` or `prepare`.
            length: the number of tokens of a sequence, before it is repeated.
            limit: the number of sequences.
            seed: the seed from which sequences are drawn.

        Returns:
            A frame as from `measure`, with task `repeated_tokens` and family `language`.

        Raises:
            InputError: the model has no weights, `limit` is below 1, or `length` is below 2, above
                half the model's context length, or above the number of tokens in its vocabulary
                that are not special.
        """
        check_weights(model)
        special = set(prepared(model).tokenizer.all_special_ids)
        plain = torch.tensor([n for n in range(model.cfg.d_vocab) if n not in special])
        most = min(model.cfg.n_ctx // 2, len(plain))
        if limit < 1 or not 2 <= length <= most:
            raise InputError(
                f"repeated tokens need a limit of 1 or more and a length of 2 to {most} here, "
                f"not limit={limit} and length={length}"
            )
        draws = torch.Generator().manual_seed(seed)
        columns = {"probe": self.name, "model": prepared(model).name, "condition": "intact"}
        columns |= {"task": "repeated_tokens", "family": "language"}
        rows = []
        for place in range(limit):
            once = plain[torch.randperm(len(plain), generator=draws)[:length]]
            tokens = torch.cat([once, once])[None].to(model.cfg.device)
            example = Example(id=f"{seed}-{place}", prompt="", answer="")
            prompt = Prompt(tuple(tokens[0].tolist()))
            batch = Batch([example], tokens, torch.ones_like(tokens), [0], [()], [prompt])
            rows += [{**columns, "example": name, **row} for name, row in self.rows(model, batch)]
        return pd.DataFrame(rows)


def match_keys(
    tokens: Int[Tensor, "row key"], real: Bool[Tensor, "row key"], start: int
) -> Iterator[Bool[Tensor, "row query key"]]:
    """Yield, for each of `KINDS`, a mask of the keys that match each query from column `start` on.

    The module docstring defines the matching keys of each kind (previous, duplicate, induction).
    """
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    distance = columns[start:, None] - columns  # how far back a key lies
    is_real = real[:, start:, None] & real[:, None]
    yield is_real & (distance == 1)
    yield is_real & (distance > 0) & (tokens[:, start:, None] == tokens[:, None])
    tokens_before = torch.nn.functional.pad(tokens, (1, 0))[:, :-1]  # the token before each key
    has_token_before = torch.nn.functional.pad(real, (1, 0))[:, :-1]
    follows = (tokens[:, start:, None] == tokens_before[:, None]) & has_token_before[:, None]
    yield is_real & (distance >= 0) & follows


def _count_queries(
    tokens: Int[Tensor, "row pos"], real: Bool[Tensor, "row pos"]
) -> Int[Tensor, "kind row"]:
    """Count, for each of `KINDS`, the tokens of each row that have a matching key."""
    total = torch.zeros(len(KINDS), len(tokens), dtype=torch.long, device=tokens.device)
    step = 256  # queries at a time, so that memory does not grow with the square of the length
    for start in range(0, tokens.shape[1], step):
        stop = min(start + step, tokens.shape[1])
        masks = match_keys(tokens[:, :stop], real[:, :stop], start)
        total += torch.stack([keys.any(-1).sum(-1) for keys in masks])
    return total


@register("retrieval_score")
@dataclass(frozen=True)
class RetrievalScore(Probe):
    """Measure the share of the evidence that each head copies while the model writes its answer.

    Columns: layer, head, score (`copied / n_evidence`, 0 to 1), copied (the number of evidence
    tokens that the head copied), n_evidence (the number of evidence tokens), recall (the share of
    evidence tokens that occur in what the model wrote), n_written (the number of tokens that it
    wrote). Examples without evidence are left out. Wu et al. count an example only if the model
    found its needle: take the rows with `recall >= 0.5`.

    Attributes:
        max_gen_toks: the maximum number of tokens of an answer; an answer also ends at a line
            break.

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
        """Check that the model keeps a KV cache, from which this probe reads on as it generates.

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
        """Yield a row for each layer and head, for each example that has evidence."""
        requests = [_make_request(model, example, self.max_gen_toks) for example in batch.examples]
        if not any(request.evidence for request in requests):
            return
        # Rows without evidence are run too: a condition expects all rows of the batch.
        copied, ids = _write_and_watch(model, requests)
        for row, (example, request) in enumerate(zip(batch.examples, requests, strict=True)):
            if not request.evidence:
                continue
            needle = [request.context[position] for position in request.evidence]
            recall = sum(token in ids[row] for token in needle) / len(needle)
            for layer, layer_copied in copied.items():
                for head, count in enumerate(layer_copied[row].sum(-1).tolist()):
                    yield (
                        example.id,
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


def _make_request(model: TransformerBridge, example: Example, max_gen_toks: int) -> Written:
    options = {"until": ["\n"], "max_gen_toks": max_gen_toks}
    spans = shift_spans(example, example.evidence)
    (request,) = encode_written(model, [(example.context(), options)], [spans])
    return request


def _write_and_watch(
    model: TransformerBridge, requests: list[Written]
) -> tuple[dict[int, Bool[Tensor, "row head pos"]], list[tuple[int, ...]]]:
    """Generate greedily; return what each head copied, and the tokens generated for each row.

    The first result maps each layer to a mask: true where a head copied the token at a position of
    the padded prompts.
    """
    tokens, attended = pad_left([request.context for request in requests], model)
    evidence = mark_positions(attended, [request.evidence or () for request in requests])
    n = tokens.shape[1]
    copied: dict[int, Tensor] = {}
    most_attended: dict[int, Int[Tensor, "row head"]] = {}  # by layer, the column of most weight

    def note_most_attended(layer: int, pattern: Tensor, start: int) -> None:
        most_attended[layer] = pattern[:, :, -1].argmax(-1)

    decoding = Decoding(Stops(model), requests)
    logits, cache = read_patterns(model, tokens, attended, note_most_attended, keep_cache=True)
    columns = tokens
    while True:
        writing = torch.tensor(decoding.unfinished_mask(), device=tokens.device)
        is_done = decoding.add(choose_greedy(logits))
        hits = evidence & (tokens == decoding.last[:, None]) & writing[:, None]  # [row pos]
        for layer, column in most_attended.items():
            is_attended = torch.nn.functional.one_hot(column, columns.shape[1])[..., :n].bool()
            is_copied = is_attended.to(hits.device) & hits[:, None]
            copied[layer] = copied.get(layer, False) | is_copied
        if is_done:
            break
        new = decoding.last[:, None]
        columns = torch.cat([columns, new], dim=1)
        attended = torch.cat([attended, torch.ones_like(new)], dim=1)
        logits, cache = read_patterns(model, new, attended, note_most_attended, cache=cache)
    return copied, [writing.ids for writing in decoding.results(None)]

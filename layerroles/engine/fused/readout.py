"""Score the continuations of a packed row, and choose the next token of rows that are decoded.

A model in 16 bits computes its logits in 16 bits, in which the two best of four letters tie in 6%
of MMLU's questions (docs/results/rounding.md); next tokens may tie, too. The logits of scored
tokens and of the few most likely next tokens are therefore computed again in float32, from the same
stream. All other logits are used only in a log-sum-exp, which is computed in float32 from the
model's own logits.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.engine.fused.prefill import RowResult
from layerroles.engine.fused.prefix_packing import Ids, PackedRow
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.greedy_decoding import (
    NextTokens,
    all_finite,
    choose_greedy,
    highest_tokens,
    split_rows,
)
from layerroles.engine.requests import Score, Scored

# Rows whose float32 logits are held at once: few, so that they stay in the processor's cache.
_CHUNK = 8
# Larger than any token id: index in the row and token id are combined into one number.
_MANY = 2**32
# Number of a row's likeliest tokens whose logits are computed again in float32 and compared.
_N_LIKELY = 8


class Scorer:
    """Scores the continuations of a packed row.

    Args:
        twin: the model.
        packed: the row.
        requests: the requests to score, by index.
        sequences: for each request index, the packed sequence: the context and the continuation
            without its last token.
        max_logit_rows: the number of tokens whose logits are held at once.
    """

    def __init__(
        self,
        twin: Twin,
        packed: PackedRow,
        requests: Mapping[int, Scored],
        sequences: Mapping[int, Ids],
        max_logit_rows: int,
    ) -> None:
        self.requests = requests
        self._twin, self._max_logit_rows = twin, max_logit_rows
        self._paths = [packed.paths[sequences[index]] for index in requests]
        scored_at = [
            path[len(request.context) - 1 :]
            for path, request in zip(self._paths, requests.values(), strict=True)
        ]
        self._ends = np.cumsum([len(places) for places in scored_at])
        # For each place (index in the row), logits are computed once for all requests, and each
        # token is scored once.
        ids = np.concatenate([np.array(request.continuation) for request in requests.values()])
        pairs, self._pair_of = np.unique(
            np.concatenate(scored_at) * _MANY + ids, return_inverse=True
        )
        places, self._place_of = np.unique(pairs // _MANY, return_inverse=True)
        device = next(twin.base.parameters()).device
        self._rows = torch.tensor(self._place_of, device=device)
        self._targets = torch.tensor(pairs % _MANY, device=device)
        self._places = torch.tensor(places, device=device)

    def score(self, result: RowResult) -> list[Score]:
        """Return every request's score, from the result of reading the row under a condition."""
        logprobs, hits, finite = [], [], []
        start = 0
        for stream in result.stream[self._places].split(self._max_logit_rows):
            a, b = np.searchsorted(self._place_of, [start, start + len(stream)])
            rows, targets = self._rows[a:b] - start, self._targets[a:b]
            logits = self._twin.logits(stream)
            n_likely = _N_LIKELY if self._twin.rounds_logits else 1
            summed = [_summarize_logits(part, n_likely) for part in logits.split(_CHUNK)]
            sums, likely, are_finite = map(torch.cat, zip(*summed, strict=True))
            scored = logits[rows, targets].float()
            if self._twin.rounds_logits:
                exact = self._twin.token_logits(stream[rows], targets)
                sums, scored = _replace_in_sums(sums, rows, scored, exact), exact
            logprobs.append(scored - sums[rows])
            hits.append(_choose(self._twin, stream, likely)[rows] == targets)
            finite.append(are_finite[rows])
            start += len(stream)
        logprob, hit, is_finite = (
            np.split(torch.cat(chunks).cpu().numpy()[self._pair_of], self._ends[:-1])
            for chunks in (logprobs, hits, finite)
        )
        return [
            Score(
                logprob=float(one.sum(dtype=np.float64)) if fine.all() else float("nan"),
                is_greedy=bool(greedy.all() and fine.all()),
                n_tokens=len(one),
                finite=bool(fine.all()),
                changed=result.changed_on(path),
            )
            for one, greedy, fine, path in zip(logprob, hit, is_finite, self._paths, strict=True)
        ]


def _summarize_logits(
    logits: Float[Tensor, "pos d_vocab"], n_likely: int
) -> tuple[Float[Tensor, " pos"], Int[Tensor, "pos n_likely"], Bool[Tensor, " pos"]]:
    """Return each position's log-sum-exp, its likeliest tokens, and if all logits are finite."""
    logits = logits.float()
    is_one = n_likely == 1
    likely = logits.argmax(-1, keepdim=True) if is_one else highest_tokens(logits, n_likely)
    # A log-softmax is a single kernel; what it subtracts from each logit is the log-sum-exp.
    before, after = (x.gather(-1, likely).amax(-1) for x in (logits, logits.log_softmax(-1)))
    return before - after, likely, all_finite(logits)


def _replace_in_sums(
    sums: Float[Tensor, " place"],
    rows: Int[Tensor, " pair"],
    rounded: Float[Tensor, " pair"],
    exact: Float[Tensor, " pair"],
) -> Float[Tensor, " place"]:
    """Return the log-sum-exps after the `rounded` logits of some tokens are replaced by `exact`.

    `rows` holds each token's index into `sums`; no token occurs twice with the same index.
    """
    shares = (rounded - sums[rows]).exp() * torch.expm1(exact - rounded)
    return sums + torch.log1p(torch.zeros_like(sums).index_add_(0, rows, shares))


def choose_next(twin: Twin, stream: Float[Tensor, "row d_model"]) -> NextTokens:
    """Return each row's most likely next token, from the stream after the last norm.

    For a model in 16 bits, the logits of the `_N_LIKELY` likeliest tokens are computed again in
    float32, and the highest one decides.
    """
    logits = twin.logits(stream)
    if not twin.rounds_logits:
        return choose_greedy(logits)
    found = [(highest_tokens(rows, _N_LIKELY), all_finite(rows)) for rows in split_rows(logits)]
    likely, finite = map(torch.cat, zip(*found, strict=True))
    return NextTokens(_choose(twin, stream, likely), finite)


def _choose(
    twin: Twin, stream: Float[Tensor, "pos d_model"], likely: Int[Tensor, "pos n_likely"]
) -> Int[Tensor, " pos"]:
    """Return, of each position's `likely` tokens, the one with the highest logit in float32."""
    n = likely.shape[1]
    if n == 1:
        return likely[:, 0]
    logits = twin.token_logits(stream.repeat_interleave(n, 0), likely.flatten())
    return likely.gather(1, logits.view(likely.shape).argmax(-1, keepdim=True))[:, 0]

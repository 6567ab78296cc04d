"""Score the continuations of a packed row: log-softmax in float32, only where a token is scored."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.engine.decode import all_finite
from layerroles.engine.fused.packing import Ids, PackedRow
from layerroles.engine.fused.prefill import RowResult
from layerroles.engine.fused.shared_weights import Twin
from layerroles.engine.requests import Score, Scored

# Rows whose float32 logits are held at once: few, so that they stay in the processor's cache.
_CHUNK = 8


class Scorer:
    """Scores the continuations of a packed row.

    Args:
        twin: the model.
        packed: the row.
        requests: the requests to score, by index.
        sequences: by request index, the packed sequence: the context, and the continuation without
            its last token.
        n_logits: the number of positions whose logits are held at once.
    """

    def __init__(
        self,
        twin: Twin,
        packed: PackedRow,
        requests: Mapping[int, Scored],
        sequences: Mapping[int, Ids],
        n_logits: int,
    ) -> None:
        self.requests = requests
        self._twin, self._n_logits = twin, n_logits
        self._paths = [packed.paths[sequences[index]] for index in requests]
        scored_at = [
            path[len(request.context) - 1 :]
            for path, request in zip(self._paths, requests.values(), strict=True)
        ]
        self._ends = np.cumsum([len(places) for places in scored_at])
        # Each place is read out once, also if several requests score a token there.
        places, asked = np.unique(np.concatenate(scored_at), return_inverse=True)
        self._order = np.argsort(asked, kind="stable")
        self._asked = asked[self._order]
        device = next(twin.base.parameters()).device
        self._rows = torch.tensor(self._asked, device=device)
        ids = np.concatenate([np.array(request.continuation) for request in requests.values()])
        self._targets = torch.tensor(ids[self._order], device=device)
        self._places = torch.tensor(places, device=device)

    def score(self, result: RowResult) -> list[Score]:
        """Return every request's score, given the row as it was read under a condition."""
        logprobs, hits, finite = [], [], []
        start = 0
        for chunk in result.stream[self._places].split(self._n_logits):
            logits = self._twin.logits(chunk)
            a, b = np.searchsorted(self._asked, [start, start + len(chunk)])
            rows, targets = self._rows[a:b] - start, self._targets[a:b]
            sums, best, are_finite = map(
                torch.cat, zip(*map(_sum_logits, logits.split(_CHUNK)), strict=True)
            )
            logprobs.append(logits[rows, targets].float() - sums[rows])
            hits.append(best[rows] == targets)
            finite.append(are_finite[rows])
            start += len(chunk)
        back = np.argsort(self._order, kind="stable")
        logprob, hit, is_finite = (
            np.split(torch.cat(chunks).cpu().numpy()[back], self._ends[:-1])
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


def _sum_logits(
    logits: Float[Tensor, "pos d_vocab"],
) -> tuple[Float[Tensor, " pos"], Int[Tensor, " pos"], Bool[Tensor, " pos"]]:
    """Return each place's log-sum-exp (float32) and argmax, and whether its logits are finite."""
    logits = logits.float()
    best = logits.argmax(-1)
    # A softmax is one kernel: the sum is what it takes from a logit.
    before, after = (x.gather(-1, best[:, None])[:, 0] for x in (logits, logits.log_softmax(-1)))
    return before - after, best, all_finite(logits)

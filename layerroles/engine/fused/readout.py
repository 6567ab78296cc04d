"""Score the continuations of a packed row: log-softmax in float32, only where a token is scored."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from layerroles.engine.decode import finite
from layerroles.engine.fused.model import Twin
from layerroles.engine.fused.packing import Ids, Packed
from layerroles.engine.requests import Score, Scored

# Rows whose float32 logits are held at once: few, so that they stay in the processor's cache.
_CHUNK = 8


class Places:
    """Where in a packed row which tokens are scored.

    Args:
        packed: the row.
        requests: whose continuations are scored.
        sequences: what is read for each: its context, and the continuation without its last token.
        device: where the row is read.
    """

    def __init__(
        self,
        packed: Packed,
        requests: Sequence[Scored],
        sequences: Sequence[Ids],
        device: torch.device,
    ) -> None:
        self._paths = [packed.paths[ids] for ids in sequences]
        spots = [
            path[len(one.context) - 1 :] for path, one in zip(self._paths, requests, strict=True)
        ]
        self._ends = np.cumsum([len(each) for each in spots])
        # Each place is read out once, also if several requests score a token there.
        self._places, asked = np.unique(np.concatenate(spots), return_inverse=True)
        self._order = np.argsort(asked, kind="stable")
        self._asked = asked[self._order]
        self._rows = torch.tensor(self._asked, device=device)
        ids = np.concatenate([np.array(one.continuation) for one in requests])
        self._targets = torch.tensor(ids[self._order], device=device)
        self._stream_places = torch.tensor(self._places, device=device)

    def scores(
        self,
        twin: Twin,
        stream: Float[Tensor, "pos d_model"],
        changed_on: Callable[[Int[np.ndarray, " place"]], bool],
        n_logits: int,
    ) -> list[Score]:
        """Score every request.

        Args:
            twin: whose read-out it is.
            stream: after the last norm.
            changed_on: whether an edit changed something at some places.
            n_logits: places whose logits are held at once.
        """
        logprobs, hits, fine = [], [], []
        start = 0
        for chunk in stream[self._stream_places].split(n_logits):
            logits = twin.logits(chunk)
            a, b = np.searchsorted(self._asked, [start, start + len(chunk)])
            rows, targets = self._rows[a:b] - start, self._targets[a:b]
            sums, best, all_finite = map(
                torch.cat, zip(*map(_summed, logits.split(_CHUNK)), strict=True)
            )
            logprobs.append(logits[rows, targets].float() - sums[rows])
            hits.append(best[rows] == targets)
            fine.append(all_finite[rows])
            start += len(chunk)
        back = np.argsort(self._order, kind="stable")
        logprob, hit, finite_at = (
            torch.cat(found).cpu().numpy()[back] for found in (logprobs, hits, fine)
        )
        cuts = self._ends[:-1]
        return [
            Score(
                logprob=float(one.sum(dtype=np.float64)) if fine.all() else float("nan"),
                is_greedy=bool(hit.all() and fine.all()),
                n_tokens=len(one),
                finite=bool(fine.all()),
                changed=changed_on(path),
            )
            for one, hit, fine, path in zip(
                np.split(logprob, cuts),
                np.split(hit, cuts),
                np.split(finite_at, cuts),
                self._paths,
                strict=True,
            )
        ]


def _summed(
    logits: Float[Tensor, "pos d_vocab"],
) -> tuple[Float[Tensor, " pos"], Int[Tensor, " pos"], Bool[Tensor, " pos"]]:
    """The log-sum-exp of each place's logits in float32, the best, and whether all are finite."""
    logits = logits.float()
    best = logits.argmax(-1)
    # A softmax is one kernel: the sum is what it takes from a logit.
    before, after = (x.gather(-1, best[:, None])[:, 0] for x in (logits, logits.log_softmax(-1)))
    return before - after, best, finite(logits)

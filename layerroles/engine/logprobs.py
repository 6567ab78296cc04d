"""Turn logits into scores: log-softmax in float32, only where a token is scored."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layerroles.engine.requests import Score

# Rows whose float32 logits are held at once: few, so that they stay in the processor's cache.
_CHUNK = 8


def read_out(
    logits: Float[Tensor, "row kept d_vocab"],
    targets: Sequence[Sequence[int]],
    changed: Bool[Tensor, " row"] | None,
    *,
    left: bool = True,
) -> list[Score]:
    """Return the score of each row's target.

    Args:
        logits: the rows' logits, at as many positions as the longest target has tokens, or more.
        targets: token ids to score, per row.
        changed: whether an edit changed anything in each row; None if nothing was edited.
        left: if true, rows are padded on the left, and their last positions predict the target; if
            false, their first positions do.
    """
    scores = []
    for row, target in enumerate(targets):
        if row % _CHUNK == 0:
            chunk = logits[row : row + _CHUNK].float()
        n = len(target)
        predicted = chunk[row % _CHUNK, -n:] if left else chunk[row % _CHUNK, :n]
        scores.append(score_target(predicted, target, changed is not None and bool(changed[row])))
    return scores


def score_target(
    predicted: Float[Tensor, "pos d_vocab"], target: Sequence[int], changed: bool
) -> Score:
    """Score one target from the float32 logits that predict its tokens."""
    ids = torch.as_tensor(target, device=predicted.device)
    logprobs = predicted.gather(1, ids[:, None])[:, 0] - predicted.logsumexp(-1)
    finite = bool(torch.isfinite(predicted).all())
    return Score(
        logprob=float(logprobs.cpu().double().sum()) if finite else float("nan"),
        is_greedy=finite and bool((predicted.argmax(-1) == ids).all()),
        n_tokens=len(target),
        finite=finite,
        changed=changed,
    )

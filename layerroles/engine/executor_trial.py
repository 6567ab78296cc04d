"""The trial that decides for which conditions an executor may be used.

An executor is a way to run the model. The reference (`plain`) answers a few of the requests,
shortened, under one condition of each kind (see `condition_kind`). Another executor is used only
for the kinds for which its answers agree with the reference's. The trial finds architectures,
library versions and user-defined ablations that an executor does not support, before they affect
results.
"""

import math
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from layerroles.ablations import INTACT, Condition
from layerroles.engine.executor_interface import Executor
from layerroles.engine.planning.memory import out_of_memory
from layerroles.engine.reference_executor import Plain
from layerroles.engine.requests import (
    Requests,
    Score,
    Scored,
    Writing,
    Written,
    collect_answers,
)
from layerroles.engine.unchanged_layers import first_recomputed
from layerroles.errors import InputError
from layerroles.sites import ENTRY

ConditionKind = tuple[object, ...]

# Number of trial requests, and the most tokens of their contexts, continuations and texts.
N_TRIAL_REQUESTS = 2
TRIAL_CONTEXT, TRIAL_CONTINUATION, _TRIAL_TEXT = 48, 4, 4
# Largest accepted difference of log-likelihoods, in nats per token. In half precision, `_NOISE`
# times the rounding noise (the largest of `N_NOISE_DRAWS` random draws) is added.
_TOLERANCE = {torch.float32: 2.5e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
_NOISE, N_NOISE_DRAWS = 2.0, 3
# Lower-case parts of torch's messages for an operation that a dtype or a device lacks.
_UNSUPPORTED = ("not implemented", "not supported", "unsupported", "no kernel image")
# A part of the message of the TypeError that float64 raises on Apple's GPUs.
_NO_FLOAT64 = "support float64"
# Libraries whose errors are attributed to the code that called them.
_TOOLS = {"torch", "numpy", "einops", "jaxtyping", "beartype", *sys.stdlib_module_names}


def condition_kind(condition: Condition) -> ConditionKind:
    """Return a hashable key that is equal for conditions that executors treat in the same way.

    The key holds the positions at which the condition acts, its ablations with the part of the
    layer that each acts on, and whether more than one site is ablated.
    """
    edits = {
        (type(edit), condition.fingerprints[site], site.part)
        for site, edit in condition.edits.items()
    }
    return condition.where, tuple(sorted(edits, key=repr)), len(condition.edits) > 1


def choose_condition(conditions: Sequence[Condition], dtype: torch.dtype) -> Condition:
    """Return the condition to try among those of one kind.

    Conditions are ordered by their first ablated layer. In float32, the first one is chosen whose
    pass starts from a recorded stream of the intact model (the first of all if there is none), so
    that as many blocks as possible are run. In half precision, the middle one is chosen: if the
    first layers are ablated, rounding alone changes outputs enough to hide errors.
    """
    ordered = sorted(conditions, key=lambda condition: condition.first_layer or 0)
    if dtype != torch.float32:
        return ordered[len(ordered) // 2]
    resumed = (condition for condition in ordered if first_recomputed(condition, 0) > 0)
    return next(resumed, ordered[0])


def find_disagreement(
    executor: Executor,
    plain: Plain,
    requests: Requests,
    condition: Condition,
    dtype: torch.dtype,
) -> str | None:
    """Try an executor on some requests; return how its answers differ from the reference's.

    Returns None if they agree. An exception that means that the executor does not support the model
    or an ablation (see `does_not_fit`) is returned as text. Other exceptions, and all of the
    reference's, are raised.

    Args:
        executor: the executor to try.
        plain: the reference.
        requests: the requests, a few of which are tried, shortened.
        condition: the condition to try, in addition to the intact model.
        dtype: dtype of the model; it determines the tolerance.
    """
    trials = _trial_requests(requests)
    # The intact model is tried too, since an edit may hide other errors.
    both = [INTACT] if condition.is_intact else [INTACT, condition]
    expected = collect_answers(plain.answer([trials], both))
    writes = any(isinstance(request, Written) for request in requests)
    texts = [Written(one.context, (), _TRIAL_TEXT, one.evidence) for one in trials if writes]
    expected_texts = _answer_last(plain, texts, [condition])
    try:
        found = collect_answers(executor.answer([trials], both))
        found_texts = _answer_last(executor, texts, both)
    except Exception as error:
        if not does_not_fit(error):
            raise
        return describe_failure(error)
    if not any(score.finite for score in expected[-1]):
        return "the reference's own answers are not finite, so nothing can be compared"
    rounding_explains = partial(_rounding_explains, plain, trials, dtype)
    for n, tried in reversed(list(enumerate(both))):
        apart = max(map(_difference, found[n], expected[n]))
        if not rounding_explains(tried, expected[n], apart):
            whose = "" if tried == condition else " of the intact model"
            return f"log-likelihoods{whose} differ by {apart:.2g} nats a token"
    if any(x.changed != y.changed for x, y in zip(found[-1], expected[-1], strict=True)):
        return "its edits change something where the reference's do not, or the other way round"
    for request, ours, theirs in zip(texts, found_texts, expected_texts, strict=True):
        apart = math.inf
        if dtype != torch.float32:
            apart = _margin(plain, request, condition, ours, theirs)
        # Each of the two tokens' log-probabilities may be off by the accepted difference.
        if ours != theirs and not rounding_explains(condition, expected[-1], apart / 2):
            return f"{ours.text!r} is written instead of {theirs.text!r}"
    return None


def _answer_last(
    executor: Executor, requests: Requests, conditions: Sequence[Condition]
) -> list[Any]:
    """Run requests under all conditions together; return only the answers under the last one.

    Returns an empty list if there are no requests.
    """
    return collect_answers(executor.answer([requests], conditions))[-1] if requests else []


def _rounding_explains(
    plain: Plain,
    requests: Sequence[Scored],
    dtype: torch.dtype,
    condition: Condition,
    scores: Sequence[Score],
    apart: float,
) -> bool:
    """Return whether rounding can explain that scores differ by `apart` nats per token.

    `scores` are those of `plain`, the reference, for these requests under the condition.
    """
    bound = _TOLERANCE[dtype]
    if apart > bound and dtype != torch.float32:  # measured only where it decides
        bound += _NOISE * rounding_noise(plain, requests, condition, scores)
    return apart <= bound


def _margin(
    plain: Plain, request: Written, condition: Condition, ours: Writing, theirs: Writing
) -> float:
    """Return by how many nats the reference prefers its own token where two texts first differ.

    `ours` is the text of the executor that is tried, `theirs` the reference's. Returns infinity if
    no token differs at a position that both texts have.
    """
    pairs = enumerate(zip(ours.ids, theirs.ids, strict=False), 1)
    n = next((n for n, (one, two) in pairs if one != two), None)
    if n is None:  # the same tokens; something else differs
        return math.inf
    both = [Scored(request.context, text.ids[:n], request.evidence) for text in (ours, theirs)]
    ((our_score, their_score),) = collect_answers(plain.answer([both], [condition]))
    return float(their_score.logprob - our_score.logprob)


def rounding_noise(
    plain: Plain, requests: Sequence[Scored], condition: Condition, scores: Sequence[Score]
) -> float:
    """Return how much rounding errors in the blocks' inputs change the reference's scores.

    This is the largest difference from `scores` (the reference's, without added errors) over random
    draws of the errors and over requests, in nats per token; 0 if no difference is finite. Batches
    of other sizes would not show this noise, since many processors compute a row identically in
    every batch. An executor that runs the operations in another order rounds differently.
    """
    generator = torch.Generator().manual_seed(0)

    def nudge(value: Tensor, *, hook: object) -> Tensor:
        draws = torch.rand(value.shape, generator=generator).to(value.device) - 0.5
        return (value.float() * (1 + torch.finfo(value.dtype).eps * draws)).to(value.dtype)

    model = plain.model
    hooks = [(ENTRY.format(layer=layer), nudge) for layer in range(model.cfg.n_layers)]
    differences: list[float] = []
    for _ in range(N_NOISE_DRAWS):
        with model.hooks(fwd_hooks=hooks):
            (nudged,) = collect_answers(plain.answer([requests], [condition]))
        differences += map(_difference, scores, nudged)
    # If the errors make a score infinite or NaN, the draw says nothing about the noise.
    return max(filter(math.isfinite, differences), default=0.0)


def does_not_fit(error: Exception) -> bool:
    """Return whether an error means that an executor does not support a model or an ablation.

    True for a refusal (`InputError`), an operation that torch does not implement, and any error
    raised by the code of the model or of a user's ablation, which may expect other inputs. False if
    memory ran out, and for other errors in this package's own code, which are bugs.
    """
    if out_of_memory(error):
        return False
    message = str(error).lower()
    lacks = isinstance(error, RuntimeError) and any(words in message for words in _UNSUPPORTED)
    lacks |= isinstance(error, TypeError) and _NO_FLOAT64 in message
    return isinstance(error, InputError | NotImplementedError) or lacks or not _is_ours(error)


def _is_ours(error: Exception) -> bool:
    """Return whether this package raised an error, itself or in a call to a library of `_TOOLS`."""
    names = [
        str(frame.f_globals.get("__name__")).partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    callers = [name for name in names if name not in _TOOLS]
    return bool(callers) and callers[-1] == __name__.partition(".")[0]


def describe_failure(error: Exception) -> str:
    """Return one line that says why an executor failed in the trial."""
    first = str(error).split("\n")[0]
    return first if isinstance(error, InputError) else f"it fails ({type(error).__name__}: {first})"


def _trial_requests(requests: Requests) -> list[Scored]:
    """Return the `N_TRIAL_REQUESTS` requests with the shortest contexts, shortened."""
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].context))
    return [_shorten(requests[index]) for index in order[:N_TRIAL_REQUESTS]]


def _shorten(request: Scored | Written) -> Scored:
    """Return a shorter request to score: a context's end, and a continuation's first tokens.

    If the continuation has fewer than two tokens (a `Written` request has none), the context's last
    tokens are scored too.
    """
    context = request.context
    continuation = request.continuation if isinstance(request, Scored) else ()
    missing = min(TRIAL_CONTINUATION - len(continuation), len(context) - 1)
    if len(continuation) < 2 and missing > 0:
        context, continuation = context[:-missing], context[-missing:] + continuation
    # A context of one token is scored as its own continuation.
    continuation = continuation[:TRIAL_CONTINUATION] or context
    start = max(0, len(context) - TRIAL_CONTEXT)
    evidence = request.evidence
    if evidence:
        inside = tuple(place - start for place in evidence if start <= place < len(context))
        # If no evidence is left, the middle token stands for it, so that something is edited.
        evidence = inside or ((len(context) - start) // 2,)
    return Scored(context[start:], continuation, evidence)


def _difference(one: Score, two: Score) -> float:
    if one.finite != two.finite:
        return float("inf")
    return abs(one.logprob - two.logprob) / one.n_tokens if one.finite else 0.0

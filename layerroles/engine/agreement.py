"""Decide which executors may answer which conditions, by trying them on some of the requests.

The reference (`plain`) answers a few of the requests, cut short, under one condition of each kind;
an executor is used for those kinds for which it gives the same. So what an architecture, a library
version or a user's own ablation does that an executor does not foresee shows here, not in results.
"""

import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from layerroles.ablations import INTACT, Condition
from layerroles.engine.plain import Plain
from layerroles.engine.planning.memory import out_of_memory
from layerroles.engine.planning.plan import Requests
from layerroles.engine.requests import Score, Scored, Writing, Written
from layerroles.engine.reuse import first_run
from layerroles.errors import InputError
from layerroles.sites import ENTRY

Kind = tuple[object, ...]

# Requests that are tried, and how long they may be.
N_TRIED = 2
LONGEST_CONTEXT, LONGEST_CONTINUATION, _N_WRITTEN = 48, 4, 4
# Largest difference of a log-likelihood, in nats a token; the half precisions also get `_NOISE`
# times the rounding noise, the largest of `N_NUDGED` draws of it.
_TOLERANCE = {torch.float32: 2.5e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
_NOISE, N_NUDGED = 2.0, 3
# Lower-case parts of torch's messages for an operation that a dtype or a device lacks.
_UNSUPPORTED = ("not implemented", "not supported", "unsupported", "no kernel image")
# Libraries that compute for others: errors that they raise are attributed to their caller.
_TOOLS = {"torch", "numpy", "einops", "jaxtyping", "beartype", *sys.stdlib_module_names}


@runtime_checkable
class Executor(Protocol):
    """Answers encoded requests under conditions; yields each condition's index with its answers."""

    def score(  # noqa: D102
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Score]]]: ...

    def write(  # noqa: D102
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Writing]]]: ...


def kind(condition: Condition) -> Kind:
    """A key that is equal for conditions that an executor treats in the same way."""
    edits = {
        (type(edit), condition.fingerprints[site], site.part)
        for site, edit in condition.edits.items()
    }
    return condition.where, tuple(sorted(edits, key=repr)), len(condition.edits) > 1


def choose_condition(conditions: Sequence[Condition], dtype: torch.dtype) -> Condition:
    """Choose the condition to try among those of one kind.

    In float32 it is the first that continues from a recorded stream, since most is computed for it.
    In half precision little can be seen there (without its first layers, a model's output depends
    on the last bit of its activations), so a condition in the middle is tried.
    """
    ordered = sorted(conditions, key=lambda condition: condition.first_layer or 0)
    if dtype != torch.float32:
        return ordered[len(ordered) // 2]
    return next((one for one in ordered if first_run(one, 0) > 0), ordered[0])


def disagreement(
    executor: Executor,
    plain: Plain,
    requests: Requests,
    condition: Condition,
    dtype: torch.dtype,
) -> str | None:
    """Try an executor on some requests; describe how it differs from the reference, None if not.

    Exceptions of the reference, such as one of a user's mistake, are raised.
    """
    tried = _tried(requests)
    # With the intact model: an edit may hide other errors.
    both = [INTACT] if condition.is_intact else [INTACT, condition]
    last = len(both) - 1
    theirs = dict(plain.score(tried, both))
    writes = any(isinstance(one, Written) for one in requests)
    asked = [Written(one.context, (), _N_WRITTEN, one.evidence) for one in tried if writes]
    expected = next(plain.write(asked, [condition]))[1] if writes else []
    try:
        ours = dict(executor.score(tried, both))
        found = dict(executor.write(asked, both))[last] if writes else []
    except Exception as error:
        if not does_not_fit(error):
            raise
        return describe_failure(error)
    if not any(score.finite for score in theirs[last]):
        return "the reference's own answers are not finite, so nothing can be compared"
    allowed = partial(_allowed, plain, tried, dtype)
    for place in reversed(range(len(both))):
        apart = max(map(_difference, ours[place], theirs[place]))
        if not allowed(both[place], theirs[place], apart):
            whose = "" if place == last else " of the intact model"
            return f"log-likelihoods{whose} differ by {apart:.2g} nats a token"
    if any(x.changed != y.changed for x, y in zip(ours[last], theirs[last], strict=True)):
        return "its edits change something where the reference's do not, or the other way round"
    for request, one, two in zip(asked, found, expected, strict=True):
        apart = math.inf if dtype == torch.float32 else _margin(plain, request, condition, one, two)
        # Either token's log-probability may be as far off as is allowed.
        if one != two and not allowed(condition, theirs[last], apart / 2):
            return f"{one.text!r} is written instead of {two.text!r}"
    return None


def _allowed(
    plain: Plain,
    requests: Sequence[Scored],
    dtype: torch.dtype,
    condition: Condition,
    scores: Sequence[Score],
    apart: float,
) -> bool:
    """Whether rounding can explain a difference, in nats per token."""
    bound = _TOLERANCE[dtype]
    if apart > bound and dtype != torch.float32:  # measured only where it decides
        bound += _NOISE * rounding_noise(plain, requests, condition, scores)
    return apart <= bound


def _margin(
    plain: Plain, request: Written, condition: Condition, ours: Writing, theirs: Writing
) -> float:
    """The reference's margin, in nats, at the first token where two texts differ."""
    pairs = enumerate(zip(ours.ids, theirs.ids, strict=False), 1)
    n = next((n for n, (one, two) in pairs if one != two), None)
    if n is None:  # the same tokens; something else differs
        return math.inf
    both = [Scored(request.context, text.ids[:n], request.evidence) for text in (ours, theirs)]
    ((_, (one, two)),) = plain.score(both, [condition])
    return two.logprob - one.logprob


def rounding_noise(
    plain: Plain, requests: Sequence[Scored], condition: Condition, scores: Sequence[Score]
) -> float:
    """Measure how far rounding the blocks' inputs moves the reference, in nats per token.

    Running another batch would not show it: on many processors a row is computed in the same way in
    every batch, while another order of the same operations rounds differently.
    """
    generator = torch.Generator().manual_seed(0)

    def nudge(value: Tensor, *, hook: object) -> Tensor:
        draws = torch.rand(value.shape, generator=generator).to(value.device) - 0.5
        return (value.float() * (1 + torch.finfo(value.dtype).eps * draws)).to(value.dtype)

    model = plain.model
    hooks = [(ENTRY.format(layer=layer), nudge) for layer in range(model.cfg.n_layers)]
    found: list[float] = []
    for _ in range(N_NUDGED):
        with model.hooks(fwd_hooks=hooks):
            ((_, nudged),) = plain.score(requests, [condition])
        found += map(_difference, scores, nudged)
    # Where the last bit makes a score infinite, nothing is known of the noise.
    return max((one for one in found if math.isfinite(one)), default=0.0)


def does_not_fit(error: Exception) -> bool:
    """Whether an error says that an executor does not fit a model or an ablation.

    These do: a refusal, an operation that torch lacks, and any error raised by the code of the
    model or of a user's ablation, which may expect inputs of another form. An error in this
    package's own code is a bug, and running out of memory says nothing about what fits.
    """
    if out_of_memory(error):
        return False
    message = str(error).lower()
    lacks = isinstance(error, RuntimeError) and any(words in message for words in _UNSUPPORTED)
    return isinstance(error, InputError | NotImplementedError) or lacks or not _is_ours(error)


def _is_ours(error: Exception) -> bool:
    """Whether this package's code raised an error, or called the tool that did."""
    names = [
        str(frame.f_globals.get("__name__")).partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    callers = [name for name in names if name not in _TOOLS]
    return bool(callers) and callers[-1] == __name__.partition(".")[0]


def describe_failure(error: Exception) -> str:
    """Describe in one line why an executor failed when it was tried."""
    first = str(error).split("\n")[0]
    return first if isinstance(error, InputError) else f"it fails ({type(error).__name__}: {first})"


def _tried(requests: Requests) -> list[Scored]:
    """The requests with the shortest contexts, truncated."""
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].context))
    return [_cut(requests[index]) for index in order[:N_TRIED]]


def _cut(request: Scored | Written) -> Scored:
    """A request cut short, which scores some tokens, so that some are generated."""
    context = request.context
    continuation = request.continuation if isinstance(request, Scored) else ()
    missing = min(LONGEST_CONTINUATION - len(continuation), len(context) - 1)
    if len(continuation) < 2 and missing > 0:
        context, continuation = context[:-missing], context[-missing:] + continuation
    # A context of one token is scored against itself.
    continuation = continuation[:LONGEST_CONTINUATION] or context
    begun = max(0, len(context) - LONGEST_CONTEXT)
    evidence = request.evidence
    if evidence:
        inside = tuple(place - begun for place in evidence if begun <= place < len(context))
        # Some must be left to be edited.
        evidence = inside or ((len(context) - begun) // 2,)
    return Scored(context[begun:], continuation, evidence)


def _difference(one: Score, two: Score) -> float:
    if one.finite != two.finite:
        return float("inf")
    return abs(one.logprob - two.logprob) / one.n_tokens if one.finite else 0.0

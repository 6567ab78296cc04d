"""What a sweep will take on a device, before anything is run: tokens, operations, memory, time.

The engine's own plan is made for every call that a run makes; its passes are counted (see
`engine.cost`), and a device's speed turns the counts into seconds. No weights are needed:

    model = load("meta-llama/Llama-3.1-8B", dtype="bfloat16", device="meta")
    sweep = Sweep(model, [task("facts")], each_layer(model, Skip()), protocols=["letter"])
    print(estimate(sweep, device="h100"))
"""

from dataclasses import replace
from numbers import Real

import torch

from layerroles.devices import BANDWIDTH, MEASURED, PRODUCTS, published
from layerroles.engine import Engine
from layerroles.engine.cost import Speed, Work, reading
from layerroles.engine.memory import SHARE_OF_FREE, Budget, Shape, budget, n_bytes
from layerroles.engine.plan import Plan
from layerroles.engine.requests import Written
from layerroles.engine.speed import measured, text_seconds
from layerroles.engine.trust import (
    LONGEST_CONTEXT,
    LONGEST_CONTINUATION,
    N_NUDGED,
    N_TRIED,
    Kind,
    kind,
)
from layerroles.errors import InputError
from layerroles.estimated import Estimate, Part
from layerroles.models import encode, prepared
from layerroles.sweep import Sweep
from layerroles.units import Call

# Passes in which an executor is tried on a kind of condition, and while it writes; their tokens.
_TRIED, _TRIED_WRITING = 3, 9
_TRIED_TOKENS = N_TRIED * (LONGEST_CONTEXT + LONGEST_CONTINUATION)


def estimate(
    sweep: Sweep,
    *,
    device: str = "measured",
    memory: str | int | None = None,
    generated: float = 1.0,
) -> Estimate:
    """What a sweep into a new run folder takes; nothing of it is run.

    Args:
        sweep: what would be run; its model may be one that was loaded on `device="meta"`.
        device: a published device such as `"h100"` (see `devices.DEVICES`); `"cpu"`, this
            machine's processor, or `"measured"`, the device on which the model lies or would be
            loaded, both of which are measured in about a second.
        memory: as for `Engine`; by default half of what the weights leave free on the device.
        generated: share of the tokens that may be written that is expected to be. Nobody knows it
            beforehand: 1 gives the bound.

    Raises:
        InputError: unknown device, what is no size or no share, a model or conditions that cannot
            be run fused, or a prompt that is longer than the model's context, or than its sliding
            window.

    What `Sweep(coherence=True)` reads again is what was written, and is not counted.

    Example:
        spared = lr.load("smollm2-135m", device="meta")  # no weights are read
        sweep = lr.Sweep(spared, [lr.task("facts")], lr.each_layer(spared, lr.Skip()), limit=4)
        print(lr.estimate(sweep, device="h100"))
    """
    if not isinstance(generated, Real) or not 0 <= generated <= 1:
        raise InputError(f"generated={generated!r} is not a share from 0 to 1")
    model, known = sweep.model, prepared(sweep.model)
    engine, dtype = Engine(model), str(model.cfg.dtype).removeprefix("torch.")
    shape = engine.shape(sweep.conditions)
    weights = sum(p.numel() * p.element_size() for p in set(model.original_model.parameters()))
    there = published(device)
    if there is None:
        at = _here(sweep, device)
        name = f"{device} ({at}; {MEASURED:.0%} of its speed as measured)"
        speed = _reached(measured(at, model.cfg.dtype, shape, known.tokenizer))
        free = int(budget(None, at).total / SHARE_OF_FREE) - (0 if known.has_weights else weights)
        total = None
    else:
        reached = f"{PRODUCTS:.0%} of its peak and {BANDWIDTH:.0%} of its bandwidth"
        name = f"{device} ({reached} assumed)"
        speed = there.speed(dtype, text_seconds(known.tokenizer))
        free, total = int(there.memory) - weights, int(there.memory)
    # Where the weights alone are too much, the time is still that of a device with room for them.
    allowed = Budget(n_bytes(memory or max(2**30, int(SHARE_OF_FREE * free))))
    parts = _parts(sweep, engine, shape, allowed, speed, generated)
    return Estimate(
        model=known.name,
        dtype=dtype,
        device=name,
        n_conditions=len(sweep.conditions),
        generated=generated,
        weight_bytes=weights,
        working_bytes=max(part.n_bytes for part in parts),
        memory=total,
        parts=tuple(parts),
    )


def _reached(speed: Speed) -> Speed:
    """What is left of the speed of large matrices that stand alone."""
    return replace(speed, products=MEASURED * speed.products, attention=MEASURED * speed.attention)


def _here(sweep: Sweep, device: str) -> torch.device:
    if device == "cpu":
        return torch.device("cpu")
    if prepared(sweep.model).has_weights:
        return next(sweep.model.parameters()).device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _parts(
    sweep: Sweep, engine: Engine, shape: Shape, allowed: Budget, speed: Speed, generated: float
) -> list[Part]:
    """What is done for each task, and around all of them."""
    found: dict[str, list[tuple[Call, Plan]]] = {}
    for call in sweep.calls():
        requests = [request for each in call.requests for request in each]
        try:
            plan = engine.planned(requests, call.conditions, budget=allowed, generated=generated)
        except InputError as error:
            raise InputError(f"{call.name}: {error}") from error
        found.setdefault(call.name, []).append((call, plan))
    parts = [_part(name, calls, speed) for name, calls in found.items()]
    work = _tried(sweep, [call for calls in found.values() for call, _ in calls], shape)
    parts.append(_around("checks", work, speed))
    work = _referred(sweep, shape)
    return [*parts, _around("references", work, speed)] if work.passes else parts


def _part(name: str, calls: list[tuple[Call, Plan]], speed: Speed) -> Part:
    work = Work.together(plan.work for _, plan in calls)
    return Part(
        name=name,
        requests=sum(plan.n_requests * plan.n_conditions for _, plan in calls),
        passes=sum(plan.passes for _, plan in calls),
        tokens_alone=sum(plan.tokens_alone for _, plan in calls),
        tokens_read=round(sum(plan.tokens_read for _, plan in calls)),
        tokens_written=round(work.texts),
        flops=work.flops,
        n_bytes=max(plan.n_bytes for _, plan in calls),
        seconds=work.seconds(speed),
    )


def _around(name: str, work: Work, speed: Speed) -> Part:
    return Part(name, 0, len(work.passes), 0, 0, 0, work.flops, 0, work.seconds(speed))


def _tried(sweep: Sweep, calls: list[Call], shape: Shape) -> Work:
    """Trying whether the fast executor does what the reference does, on each kind of condition."""
    tried: set[tuple[Kind, bool]] = set()
    single = sweep.model.cfg.dtype == torch.float32
    n = 0
    for call in calls:
        writes = any(isinstance(request, Written) for each in call.requests for request in each)
        kinds = {(kind(condition), writes) for condition in call.conditions} - tried
        tried |= kinds
        n += len(kinds) * (_TRIED + (_TRIED_WRITING * writes if single else N_NUDGED))
    one = reading(shape, tokens=_TRIED_TOKENS, pairs=_TRIED_TOKENS**2, places=_TRIED_TOKENS)
    return Work((one,) * n)


def _referred(sweep: Sweep, shape: Shape) -> Work:
    """Reading the prompts of the references that conditions declare, each reference once."""
    conditions = sweep.references.distinct_conditions()
    references = {one for condition in conditions for one in condition.references}
    lengths = [
        len(encode(sweep.model, prompt)) for reference in references for prompt in reference.prompts
    ]
    return Work(tuple(reading(shape, tokens=n, pairs=n * n) for n in lengths))

"""What a sweep will take on a device, before anything is run: tokens, operations, memory, time.

The engine's own plan is made for every call that a run makes; its passes are counted (see
`engine.cost`), and a device's speed turns the counts into seconds. No weights are needed:

    model = load("meta-llama/Llama-3.1-8B", dtype="bfloat16", device="meta")
    sweep = Sweep(model, [task("facts")], each_layer(model, Skip()), protocols=["letter"])
    print(estimate(sweep, device="h100"))

What a sweep is expected to take: a value that prints well.
"""

from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any

import torch

from layerroles.display import block, plain
from layerroles.engine import (
    BANDWIDTH,
    LONGEST_CONTEXT,
    LONGEST_CONTINUATION,
    MEASURED,
    N_NUDGED,
    N_TRIED,
    PRODUCTS,
    SHARE_OF_FREE,
    Budget,
    Engine,
    Kind,
    Plan,
    Shape,
    Speed,
    Work,
    Written,
    budget,
    kind,
    measured,
    n_bytes,
    published,
    reading,
    text_seconds,
)
from layerroles.errors import InputError
from layerroles.models import encode, prepared
from layerroles.progress import duration
from layerroles.sweep.sweep import Sweep
from layerroles.sweep.units import Call


@dataclass(frozen=True)
class Part:
    """What one task takes, under all of its protocols and conditions.

    Attributes:
        name: the task; `noise floor`, `checks` and `references` are what is done around them.
        requests: times conditions.
        passes: over packed rows; steps of decoding are not counted.
        tokens_alone: if each request were read alone under each condition.
        tokens_read: instead; one that runs through half of the blocks counts half.
        tokens_written: under all conditions.
        flops: floating-point operations; a multiplication with an addition counts as two.
        n_bytes: the most memory taken, without the weights.
        seconds: on the device.
    """

    name: str
    requests: int
    passes: int
    tokens_alone: int
    tokens_read: int
    tokens_written: int
    flops: float
    n_bytes: int
    seconds: float


@dataclass(frozen=True, repr=False)
class Estimate:
    """What a sweep is expected to take.

    Attributes:
        model: its name.
        dtype: of its weights.
        device: on which, and how its speed is known.
        n_conditions: the intact model among them.
        generated: share of the tokens that may be written that is taken to be.
        weight_bytes: of the model.
        working_bytes: the most taken in addition, without what the libraries keep for themselves.
        memory: bytes of the device; None for the machine at hand.
        parts: what each task takes.

    Example:
        sweep = lr.Sweep(lr.load("smollm2-135m", device="meta"), [lr.task("facts")], [])
        expected = lr.estimate(sweep, device="h100")
        print(expected.seconds, expected.peak_bytes, expected.fits)
    """

    model: str
    dtype: str
    device: str
    n_conditions: int
    generated: float
    weight_bytes: int
    working_bytes: int
    memory: int | None
    parts: tuple[Part, ...]

    @property
    def requests(self) -> int:
        """Requests times conditions."""
        return sum(part.requests for part in self.parts)

    @property
    def tokens_alone(self) -> int:
        """Tokens, if each request were read alone under each condition."""
        return sum(part.tokens_alone for part in self.parts)

    @property
    def tokens_read(self) -> int:
        """Tokens that are read after sharing."""
        return sum(part.tokens_read for part in self.parts)

    @property
    def tokens_written(self) -> int:
        """Tokens that are written."""
        return sum(part.tokens_written for part in self.parts)

    @property
    def flops(self) -> float:
        """Floating-point operations."""
        return sum((part.flops for part in self.parts), 0.0)

    @property
    def seconds(self) -> float:
        """On the device; loading the model is not counted."""
        return sum((part.seconds for part in self.parts), 0.0)

    @property
    def peak_bytes(self) -> int:
        """Weights and working memory."""
        return self.weight_bytes + self.working_bytes

    @property
    def fits(self) -> bool | None:
        """Whether the weights leave room on the device; None for the machine at hand."""
        return None if self.memory is None else self.peak_bytes <= self.memory

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON, totals among them."""
        totals = ("requests", "tokens_alone", "tokens_read", "tokens_written", "flops", "seconds")
        own = asdict(self)
        return {
            **{name: own[name] for name in own if name != "parts"},
            **{name: getattr(self, name) for name in (*totals, "peak_bytes", "fits")},
            "parts": [asdict(part) for part in self.parts],
        }

    def __str__(self) -> str:
        shared = self.tokens_alone / self.tokens_read if self.tokens_read else 1.0
        width = max(len(part.name) for part in self.parts)
        lines = [
            f"{self.model}, {self.dtype}, {self.n_conditions} conditions",
            f"  device      {self.device}",
            f"  requests    {self.requests:,}",
            f"  read        {self.tokens_read:,} tokens ({self.tokens_alone:,} if each request is "
            f"read alone: {shared:.1f} times as many)",
            f"  written     {self._written()}",
            f"  operations  {self.flops:.3g} FLOP",
            f"  memory      {size(self.weight_bytes)} of weights, "
            f"plus up to {size(self.working_bytes)}{self._room()}",
            f"  time        {duration(self.seconds)}",
            *(f"    {part.name:<{width}}  {duration(part.seconds)}" for part in self.parts),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return block(plain(str(self)))

    def _written(self) -> str:
        if not self.tokens_written:
            return "nothing"
        if self.generated < 1:
            return f"{self.tokens_written:,} tokens ({self.generated:.0%} of what may be written)"
        return f"up to {self.tokens_written:,} tokens (every text to its limit)"

    def _room(self) -> str:
        if self.memory is None:
            return ""
        if self.weight_bytes > self.memory:
            return (
                f": the weights do not fit into {size(self.memory)}; the time is that of a device "
                f"as fast with room for them"
            )
        return f", of {size(self.memory)}" if self.fits else f": too much for {size(self.memory)}"


def size(n_bytes: int) -> str:
    """A size for people, as the makers of devices count: 1 GB is 10^9 bytes."""
    if n_bytes < 1e9:
        return f"{n_bytes / 1e6:.0f} MB"
    return f"{n_bytes / 1e9:.1f} GB"


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

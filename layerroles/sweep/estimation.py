"""Estimate the tokens, operations, memory and time that a sweep takes, without running it.

The engine plans every call that a run would make. The forward passes of each plan are counted (see
`engine.planning.pass_cost`), and the speed of a device turns the counts into seconds. No weights
are needed:

    model = load("meta-llama/Llama-3.1-8B", dtype="bfloat16", device="meta")
    sweep = Sweep(model, [task("facts")], each_layer(model, Skip()), protocols=["letter"])
    print(estimate(sweep, device="h100"))
"""

from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any

import torch

from layerroles.engine import (
    BANDWIDTH_SHARE,
    FREE_MEMORY_SHARE,
    MEASURED_SHARE,
    N_NOISE_DRAWS,
    N_TRIAL_REQUESTS,
    PRODUCT_SHARE,
    TRIAL_CONTEXT,
    TRIAL_CONTINUATION,
    Budget,
    ConditionKind,
    Engine,
    Plan,
    Shape,
    Speed,
    Work,
    Written,
    condition_kind,
    measure_speed,
    measure_text_seconds,
    memory_budget,
    parse_memory,
    published_device,
    reading_cost,
)
from layerroles.errors import InputError
from layerroles.models import encode, prepared
from layerroles.notebook_display import html_block, html_preformatted
from layerroles.progress import format_duration
from layerroles.sweep.missing_work import EXPECTED_QUESTIONS
from layerroles.sweep.sweep import Sweep
from layerroles.sweep.work_units import EngineCall

# A trial compares two ways to run the model, on one kind of condition. The forward passes of a
# trial, the further passes in float32 if text is generated, and the tokens of each pass.
_TRIED, _TRIED_WRITING = 3, 9
_TRIED_TOKENS = N_TRIAL_REQUESTS * (TRIAL_CONTEXT + TRIAL_CONTINUATION)


def estimate(
    sweep: Sweep,
    *,
    device: str = "measured",
    memory: str | int | None = None,
    generated: float = 1.0,
) -> "Estimate":
    """Estimate the tokens, memory and time of a sweep into a new run folder, without running it.

    The texts that `Sweep(coherence=True)` scores are not counted.

    Args:
        sweep: the sweep; its model may be loaded on `device="meta"`.
        device: a published device such as `"h100"` (see `DEVICES` in
            `engine.planning.published_speeds`); `"cpu"`, this machine's processor; or `"measured"`,
            the device that holds the model or would hold it. The last two are measured, which takes
            about a second.
        memory: working memory, as for `Engine`; by default half of what the weights leave free on
            the device, but at least 1 GiB.
        generated: the expected number of generated tokens, as a share (0 to 1) of the most that
            the requests allow. It is not known beforehand; 1 gives an upper bound.

    Raises:
        InputError: an unknown device, an invalid size or share, a model or conditions that the
            fused executor (which runs many conditions in one batch) cannot run, or a prompt longer
            than the model's context or sliding window, if the engine cannot read beyond it.

    Example:
        spared = lr.load("smollm2-135m", device="meta")  # no weights are read
        sweep = lr.Sweep(spared, [lr.task("facts")], lr.each_layer(spared, lr.Skip()), limit=4)
        print(lr.estimate(sweep, device="h100"))
    """
    if not isinstance(generated, Real) or not 0 <= generated <= 1:
        raise InputError(f"generated={generated!r} is not a share from 0 to 1")
    model, preparation = sweep.model, prepared(sweep.model)
    engine, dtype = Engine(model), str(model.cfg.dtype).removeprefix("torch.")
    shape = engine.shape(sweep.conditions)
    weight_bytes = sum(p.numel() * p.element_size() for p in set(model.original_model.parameters()))
    device_data = published_device(device)
    if device_data is None:
        local_device = _local_device(sweep, device)
        name = f"{device} ({local_device}; {MEASURED_SHARE:.0%} of its speed as measured)"
        speed = _achieved_speed(
            measure_speed(local_device, model.cfg.dtype, shape, preparation.tokenizer)
        )
        free_bytes = int(memory_budget(None, local_device).total / FREE_MEMORY_SHARE)
        free_bytes -= 0 if preparation.has_weights else weight_bytes
        memory_bytes = None
    else:
        reached = f"{PRODUCT_SHARE:.0%} of its peak and {BANDWIDTH_SHARE:.0%} of its bandwidth"
        name = f"{device} ({reached} assumed)"
        speed = device_data.speed(dtype, measure_text_seconds(preparation.tokenizer))
        free_bytes, memory_bytes = int(device_data.memory) - weight_bytes, int(device_data.memory)
    # If the weights do not fit, the time is that of an equally fast device with room for them.
    allowed_memory = Budget(parse_memory(memory or max(2**30, int(FREE_MEMORY_SHARE * free_bytes))))
    parts = _estimate_tasks(sweep, engine, shape, allowed_memory, speed, generated)
    return Estimate(
        model=preparation.name,
        dtype=dtype,
        device=name,
        n_conditions=len(sweep.conditions),
        generated=generated,
        weight_bytes=weight_bytes,
        working_bytes=max(part.n_bytes for part in parts),
        memory=memory_bytes,
        parts=tuple(parts),
        questions=None if sweep.until is None else min(sweep.limit, EXPECTED_QUESTIONS),
    )


@dataclass(frozen=True, repr=False)
class Estimate:
    """The expected tokens, operations, memory and time of a sweep.

    Attributes:
        model: the model's name.
        dtype: the dtype of the model's weights.
        device: the name of the device, and how its speed was determined.
        n_conditions: the number of conditions, including the intact model.
        generated: the assumed number of generated tokens, as a share of the most allowed.
        weight_bytes: bytes of the model's weights.
        working_bytes: peak bytes in addition to the weights, without what libraries reserve.
        memory: bytes of memory of the published device; None for this machine.
        parts: the estimate of each task, of the noise floor (running the intact model again), and
            of checks and references.
        questions: the number of questions of each task that is assumed to be asked under each
            condition of a sweep with `until`; None for other sweeps, which ask all questions.

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
    parts: tuple["TaskEstimate", ...]
    questions: int | None = None

    @property
    def requests(self) -> int:
        """The number of answers: requests times conditions."""
        return sum(part.requests for part in self.parts)

    @property
    def tokens_alone(self) -> int:
        """Tokens to read if each request is read alone under each condition."""
        return sum(part.tokens_alone for part in self.parts)

    @property
    def tokens_read(self) -> int:
        """Tokens to read with shared work done once; see `TaskEstimate`."""
        return sum(part.tokens_read for part in self.parts)

    @property
    def tokens_written(self) -> int:
        """Tokens to generate: the most that the requests allow, times the share `generated`."""
        return sum(part.tokens_written for part in self.parts)

    @property
    def flops(self) -> float:
        """Floating-point operations; a multiplication with an addition counts as two."""
        return sum((part.flops for part in self.parts), 0.0)

    @property
    def seconds(self) -> float:
        """Seconds on the device, without loading the model."""
        return sum((part.seconds for part in self.parts), 0.0)

    @property
    def peak_bytes(self) -> int:
        """Bytes of weights and working memory together."""
        return self.weight_bytes + self.working_bytes

    @property
    def fits(self) -> bool | None:
        """Whether weights and working memory fit on a published device; None for this machine."""
        return None if self.memory is None else self.peak_bytes <= self.memory

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes and totals as JSON values; `parts` is a list of dicts."""
        totals = ("requests", "tokens_alone", "tokens_read", "tokens_written", "flops", "seconds")
        values = asdict(self)
        return {
            **{name: values[name] for name in values if name != "parts"},
            **{name: getattr(self, name) for name in (*totals, "peak_bytes", "fits")},
            "parts": [asdict(part) for part in self.parts],
        }

    def __str__(self) -> str:
        times_as_many = self.tokens_alone / self.tokens_read if self.tokens_read else 1.0
        width = max(len(part.name) for part in self.parts)
        lines = [
            f"{self.model}, {self.dtype}, {self.n_conditions} conditions",
            f"  device      {self.device}",
            f"  requests    {self.requests:,}{self._words_on_questions()}",
            f"  read        {self.tokens_read:,} tokens ({self.tokens_alone:,} if each request is "
            f"read alone: {times_as_many:.1f} times as many)",
            f"  written     {self._words_on_writing()}",
            f"  operations  {self.flops:.3g} FLOP",
            f"  memory      {format_size(self.weight_bytes)} of weights, "
            f"plus up to {format_size(self.working_bytes)}{self._words_on_memory()}",
            f"  time        {format_duration(self.seconds)}",
            *(f"    {part.name:<{width}}  {format_duration(part.seconds)}" for part in self.parts),
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_block(html_preformatted(str(self)))

    def _words_on_questions(self) -> str:
        if self.questions is None:
            return ""
        return f" (if each condition is decided with {self.questions} questions of each task)"

    def _words_on_writing(self) -> str:
        if not self.tokens_written:
            return "nothing"
        if self.generated < 1:
            return f"{self.tokens_written:,} tokens ({self.generated:.0%} of what may be written)"
        return f"up to {self.tokens_written:,} tokens (every text to its limit)"

    def _words_on_memory(self) -> str:
        if self.memory is None:
            return ""
        if self.weight_bytes > self.memory:
            return (
                f": the weights do not fit into {format_size(self.memory)}; the time is that of a "
                f"device as fast with room for them"
            )
        return (
            f", of {format_size(self.memory)}"
            if self.fits
            else f": too much for {format_size(self.memory)}"
        )


@dataclass(frozen=True)
class TaskEstimate:
    """The expected cost of one task, under all of its protocols and conditions.

    Attributes:
        name: the task's label; or `noise floor` (running the intact model again), `checks` (of the
            engine's executor) or `references` (reading the prompts that ablations refer to).
        requests: requests times conditions.
        passes: forward passes over packed rows (several prompts in one sequence), without the
            steps that generate one token each.
        tokens_alone: tokens to read if each request is read alone under each condition.
        tokens_read: tokens to read with shared work done once; a token that runs through half of
            the layers counts half.
        tokens_written: tokens to generate, under all conditions.
        flops: floating-point operations; a multiplication with an addition counts as two.
        n_bytes: peak bytes of memory without the weights.
        seconds: seconds on the device.

    `checks` and `references` have only `passes`, `flops` and `seconds`; the rest is 0.
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


def format_size(n_bytes: int) -> str:
    """Format a size in decimal units, as device makers do: 1 GB is 10^9 bytes."""
    if n_bytes < 1e9:
        return f"{n_bytes / 1e6:.0f} MB"
    return f"{n_bytes / 1e9:.1f} GB"


def _achieved_speed(speed: Speed) -> Speed:
    """Return the speed expected of a whole model, given that of single large matrix products."""
    return replace(
        speed, products=MEASURED_SHARE * speed.products, attention=MEASURED_SHARE * speed.attention
    )


def _local_device(sweep: Sweep, device: str) -> torch.device:
    if device == "cpu":
        return torch.device("cpu")
    if prepared(sweep.model).has_weights:
        return next(sweep.model.parameters()).device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _estimate_tasks(
    sweep: Sweep, engine: Engine, shape: Shape, budget: Budget, speed: Speed, generated: float
) -> list[TaskEstimate]:
    """Return the estimates of each task, the noise floor, the checks and the references.

    The references are left out if there are none.
    """
    planned: dict[str, list[tuple[EngineCall, Plan]]] = {}
    for call in sweep.calls():
        requests = [request for of_cell in call.requests for request in of_cell]
        try:
            plan = engine.planned(requests, call.conditions, budget=budget, generated=generated)
        except InputError as error:
            raise InputError(f"{call.name}: {error}") from error
        planned.setdefault(call.name, []).append((call, plan))
    parts = [_estimate_task(name, calls, speed) for name, calls in planned.items()]
    work = _work_of_trials(sweep, [call for calls in planned.values() for call, _ in calls], shape)
    parts.append(_estimate_overhead("checks", work, speed))
    work = _work_of_references(sweep, shape)
    return [*parts, _estimate_overhead("references", work, speed)] if work.passes else parts


def _estimate_task(name: str, calls: list[tuple[EngineCall, Plan]], speed: Speed) -> TaskEstimate:
    work = Work.combine(plan.work for _, plan in calls)
    return TaskEstimate(
        name=name,
        requests=sum(plan.n_requests * plan.n_conditions for _, plan in calls),
        passes=sum(plan.passes for _, plan in calls),
        tokens_alone=sum(plan.tokens_alone for _, plan in calls),
        tokens_read=round(sum(plan.tokens_read for _, plan in calls)),
        tokens_written=round(work.n_generated),
        flops=work.flops,
        n_bytes=max(plan.n_bytes for _, plan in calls),
        seconds=work.seconds(speed),
    )


def _estimate_overhead(name: str, work: Work, speed: Speed) -> TaskEstimate:
    return TaskEstimate(name, 0, len(work.passes), 0, 0, 0, work.flops, 0, work.seconds(speed))


def _work_of_trials(sweep: Sweep, calls: list[EngineCall], shape: Shape) -> Work:
    """Return the total work of the trials that compare the fused executor with plain model runs.

    Each kind of condition (`engine.condition_kind`) has one trial for calls that generate text, and
    one for calls that do not.
    """
    tried: set[tuple[ConditionKind, bool]] = set()
    float32 = sweep.model.cfg.dtype == torch.float32
    n_passes = 0
    for call in calls:
        requests = (request for of_cell in call.requests for request in of_cell)
        writes = any(isinstance(request, Written) for request in requests)
        kinds = {(condition_kind(condition), writes) for condition in call.conditions} - tried
        tried |= kinds
        n_passes += len(kinds) * (_TRIED + (_TRIED_WRITING * writes if float32 else N_NOISE_DRAWS))
    trial = reading_cost(shape, tokens=_TRIED_TOKENS, pairs=_TRIED_TOKENS**2, places=_TRIED_TOKENS)
    return Work((trial,) * n_passes)


def _work_of_references(sweep: Sweep, shape: Shape) -> Work:
    """Return the work of reading the references' prompts, each reference once."""
    conditions = sweep.references.distinct_conditions()
    references = {reference for condition in conditions for reference in condition.references}
    lengths = [
        len(encode(sweep.model, prompt)) for reference in references for prompt in reference.prompts
    ]
    return Work(tuple(reading_cost(shape, tokens=n, pairs=n * n) for n in lengths))

"""What a sweep is expected to take: a value that prints well."""

from dataclasses import asdict, dataclass
from typing import Any

from layerroles.notebook import block, plain
from layerroles.progress import duration


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

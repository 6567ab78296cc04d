"""What passes cost: operations counted, and the time that a device takes for them.

A pass over tokens multiplies each of them with the weights of the blocks (2 operations a weight),
lets queries meet keys (4 operations a number of the query), moves what lies between, and reads out
logits. Where weights are read for few tokens, reading them is what takes the time:

    seconds = max(products / speed, weights / bandwidth) + attention / speed + moved / bandwidth

Starting an operation takes time too. A GPU starts the next ones while it computes, so there the
larger of the two counts; elsewhere their sum. (A roofline: Williams, Waterman and Patterson, 2009.)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from layerroles.engine.planning.memory import Shape

# Numbers that a block moves per token, without the weights of its matrix products and without keys:
# multiples of the width of the stream, of all heads, of the MLP. Counted by tracing Llama's block;
# most are float32 for weights of any dtype.
_OF_STREAM, _OF_HEADS, _OF_MLP = 27, 55, 8
_FLOAT32 = 4
# Tensor operations of a block in a pass over a packed row, and in a step of decoding; those of one
# condition's edits. Counted by tracing.
_READING, _WRITING, _EDIT = 80, 105, 17
# How often a logit is moved by attention without a fused kernel, and by the read-out.
_OF_ATTENTION, _OF_READ_OUT = 6, 4


@dataclass(frozen=True)
class Speed:
    """How fast a device computes.

    Attributes:
        products: floating-point operations a second of large matrix products.
        attention: the same of attention.
        bandwidth: bytes of memory a second.
        start: seconds to start a tensor operation.
        text: seconds of book-keeping for each token that is written.
        queues: whether operations are started while others run.
        fuses: whether attention keeps its logits to itself, as flash attention does.
    """

    products: float
    attention: float
    bandwidth: float
    start: float
    text: float
    queues: bool
    fuses: bool


@dataclass(frozen=True)
class PassCost:
    """What a pass costs that is made some times.

    Attributes:
        times: how often it is made.
        products: floating-point operations of matrix products.
        attention: of attention to keys that many queries share, or of one row to itself.
        beside: of attention to keys that are read for one query; reading them takes the time.
        logits: of attention, not of `beside`.
        weights: bytes of weights that are read.
        moved: bytes of all else.
        operations: that are started.
        texts: tokens that are written.
    """

    times: float
    products: float
    attention: float
    beside: float
    logits: float
    weights: float
    moved: float
    operations: float
    texts: float

    @property
    def flops(self) -> float:
        """Floating-point operations, each time counted."""
        return self.times * (self.products + self.attention + self.beside)

    def seconds(self, speed: Speed) -> float:
        """Return the time that it takes on a device, each time counted."""
        moved = self.moved
        if not speed.fuses:
            moved += self.logits * _FLOAT32 * _OF_ATTENTION
        work = max(self.products / speed.products, self.weights / speed.bandwidth)
        work += self.attention / speed.attention + moved / speed.bandwidth
        start = self.operations * speed.start
        once = max(work, start) if speed.queues else work + start
        return self.times * (once + self.texts * speed.text)


@dataclass(frozen=True)
class Work:
    """Passes that belong together."""

    passes: tuple[PassCost, ...] = ()

    @classmethod
    def total(cls, works: Iterable["Work"]) -> "Work":
        """Return all of the passes together."""
        return cls(tuple(cost for work in works for cost in work.passes))

    @property
    def flops(self) -> float:
        """Floating-point operations; a multiplication with an addition counts as two."""
        return sum((cost.flops for cost in self.passes), 0.0)

    @property
    def texts(self) -> float:
        """Tokens that are written."""
        return sum((cost.times * cost.texts for cost in self.passes), 0.0)

    def seconds(self, speed: Speed) -> float:
        """Return the time that it takes on a device."""
        return sum((cost.seconds(speed) for cost in self.passes), 0.0)


def reading_cost(
    shape: Shape,
    *,
    tokens: int,
    pairs: int,
    depth: float = 1.0,
    places: int = 0,
    edits: int = 0,
    pieces: int = 1,
) -> PassCost:
    """Return what a pass over a packed row costs.

    Args:
        shape: of the model.
        tokens: of the row.
        pairs: of query and key that attention computes, at one layer.
        depth: share of the blocks that are run.
        places: whose logits are read out.
        edits: conditions under which it is read.
        pieces: in which it is read.
    """
    layers = depth * shape.n_layers
    read_out = 2.0 * shape.d_model * shape.d_vocab
    return PassCost(
        times=1.0,
        products=depth * tokens * 2.0 * shape.n_active + places * read_out,
        attention=layers * pairs * 4.0 * shape.n_heads * shape.d_head,
        beside=0.0,
        logits=layers * pairs * shape.n_heads,
        weights=pieces * depth * shape.n_weights * shape.n_bytes
        + bool(places) * _head_bytes(shape),
        moved=layers * tokens * _moved_bytes(shape) + places * _logit_bytes(shape),
        operations=pieces * (layers * _READING + edits * _EDIT),
        texts=0.0,
    )


def writing_cost(
    shape: Shape, *, times: float, rows: int, shared: float, own: float, kv: float, edits: int
) -> PassCost:
    """Return what some steps of decoding cost.

    Args:
        shape: of the model.
        times: how many steps.
        rows: that decode together.
        shared: keys that rows see and share, summed over rows.
        own: keys that rows have for themselves, summed over rows; on average over the steps.
        kv: bytes of keys and values that a step reads.
        edits: conditions under which rows are.
    """
    read_out = 2.0 * shape.d_model * shape.d_vocab
    attention = 4.0 * shape.n_layers * shape.n_heads * shape.d_head
    logits = float(shape.n_layers * shape.n_heads)
    return PassCost(
        times=times,
        products=rows * (2.0 * shape.n_active + read_out),
        attention=attention * shared,
        beside=attention * own,
        logits=logits * shared,
        weights=shape.n_weights * shape.n_bytes + _head_bytes(shape),
        moved=rows * (shape.n_layers * _moved_bytes(shape) + _logit_bytes(shape))
        + kv
        + logits * own * _FLOAT32 * _OF_ATTENTION,
        operations=float(shape.n_layers * _WRITING + edits * _EDIT),
        texts=float(rows),
    )


def _head_bytes(shape: Shape) -> float:
    return float(shape.d_model * shape.d_vocab * shape.n_bytes)


def _logit_bytes(shape: Shape) -> float:
    return float(shape.d_vocab * _FLOAT32 * _OF_READ_OUT)


def _moved_bytes(shape: Shape) -> float:
    """Return the bytes that a block moves for one token."""
    heads = shape.n_heads * shape.d_head
    numbers = _OF_STREAM * shape.d_model + _OF_HEADS * heads + _OF_MLP * shape.d_mlp
    return float(numbers * _FLOAT32)

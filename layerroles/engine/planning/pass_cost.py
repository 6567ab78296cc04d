"""Count the operations of forward passes, and estimate the time that a device takes for them.

A pass reads a packed row (the tokens of many requests, with each shared prefix stored once), or
generates one more token of each text (a decoding step). It multiplies each token with the weights
of the blocks (2 operations per weight), lets queries attend to keys (4 operations per pair and
coordinate), moves intermediate values, and computes logits. With few tokens, reading the weights
takes longer than multiplying with them:

    seconds = max(products / speed, weights / bandwidth) + attention / speed + moved / bandwidth

Starting the operations takes time too. A GPU computes while the next operations are started, so the
larger of the two times counts there; on a CPU they are added. (A roofline model: Williams, Waterman
and Patterson, 2009.)
"""

from collections.abc import Iterable
from dataclasses import dataclass

from layerroles.engine.planning.memory import Shape

# How many numbers a block reads or writes in memory per token, apart from keys and the weights of
# matrix products: as multiples of the widths of the stream, of all heads together, and of the MLP.
# Counted by tracing Llama's block; most numbers are float32 for weights of any dtype.
_OF_STREAM, _OF_HEADS, _OF_MLP = 27, 55, 8
_FLOAT32 = 4
# Numbers of tensor operations, counted by tracing: of a block in a pass over a packed row; of a
# block in a decoding step, if only some conditions have their own keys; added to a block in a step
# by each trunk (a prefix that several contexts share); of a step outside of the blocks; of the
# edits of one condition.
_READING, _WRITING, _TRUNK, _BESIDE, _EDIT = 80, 83, 54, 38, 14
# How often a logit is read from or written to memory: in attention without a fused kernel, and in
# the computation of scores and next tokens.
_OF_ATTENTION, _OF_READ_OUT = 6, 4


@dataclass(frozen=True)
class Speed:
    """The speed of a device.

    Attributes:
        products: floating-point operations per second in large matrix products.
        attention: floating-point operations per second in attention.
        bandwidth: memory bandwidth, in bytes per second.
        start: seconds to start a tensor operation.
        text: seconds to decode the text after each generated token.
        is_gpu: whether the device is a GPU. There, operations are started while earlier ones run,
            and attention logits are written to memory; torch's attention on CPUs avoids that.
    """

    products: float
    attention: float
    bandwidth: float
    start: float
    text: float
    is_gpu: bool


@dataclass(frozen=True)
class PassCost:
    """The cost of a pass that is run some number of times.

    Attributes:
        times: how often the pass is run; all other attributes are for one run.
        products: floating-point operations in matrix products.
        attention: floating-point operations in attention within a packed row, or to keys that many
            queries share.
        own_key_attention: floating-point operations in attention to keys that only one query reads;
            they are not counted as time, since reading these keys (in `moved`) takes longer.
        logits: number of attention logits, without those of `own_key_attention`.
        weights: bytes of weights that are read.
        moved: bytes of all other memory traffic.
        operations: number of tensor operations that are started.
        n_generated: number of tokens that are generated.
    """

    times: float
    products: float
    attention: float
    own_key_attention: float
    logits: float
    weights: float
    moved: float
    operations: float
    n_generated: float

    @property
    def flops(self) -> float:
        """Floating-point operations of all runs."""
        return self.times * (self.products + self.attention + self.own_key_attention)

    def seconds(self, speed: Speed) -> float:
        """Return the seconds that all runs take on a device."""
        moved = self.moved
        if speed.is_gpu:
            moved += self.logits * _FLOAT32 * _OF_ATTENTION
        work = max(self.products / speed.products, self.weights / speed.bandwidth)
        work += self.attention / speed.attention + moved / speed.bandwidth
        start = self.operations * speed.start
        once = max(work, start) if speed.is_gpu else work + start
        return self.times * (once + self.n_generated * speed.text)


@dataclass(frozen=True)
class Work:
    """The costs of all passes of a computation; no passes by default."""

    passes: tuple[PassCost, ...] = ()

    @classmethod
    def combine(cls, works: Iterable["Work"]) -> "Work":
        """Combine the passes of several computations into one `Work`."""
        return cls(tuple(cost for work in works for cost in work.passes))

    @property
    def flops(self) -> float:
        """Floating-point operations of all passes; a multiply-add counts as two."""
        return sum((cost.flops for cost in self.passes), 0.0)

    @property
    def n_generated(self) -> float:
        """Number of tokens that are generated."""
        return sum((cost.times * cost.n_generated for cost in self.passes), 0.0)

    def seconds(self, speed: Speed) -> float:
        """Return the seconds that all passes take on a device."""
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
    """Return the cost of a pass over a packed row.

    Args:
        shape: the model's sizes.
        tokens: number of tokens of the row.
        pairs: number of pairs of query and key that attention computes at one layer.
        depth: share of the blocks that are run, from 0 to 1.
        places: number of tokens after which logits are computed.
        edits: number of conditions whose edits are applied.
        pieces: number of pieces in which the row is read, one after the other.
    """
    layers = depth * shape.n_layers
    read_out = 2.0 * shape.d_model * shape.d_vocab
    return PassCost(
        times=1.0,
        products=depth * tokens * 2.0 * shape.n_active + places * read_out,
        attention=layers * pairs * 4.0 * shape.n_heads * shape.d_head,
        own_key_attention=0.0,
        logits=layers * pairs * shape.n_heads,
        weights=pieces * depth * shape.n_weights * shape.n_bytes
        + bool(places) * _head_bytes(shape),
        moved=layers * tokens * _moved_bytes(shape) + places * _logit_bytes(shape),
        operations=pieces * (layers * _READING + edits * _EDIT),
        n_generated=0.0,
    )


def writing_cost(
    shape: Shape,
    *,
    times: float,
    rows: int,
    trunks: int,
    shared: float,
    own: float,
    kv: float,
    edits: int,
) -> PassCost:
    """Return the cost of decoding steps, each of which adds a token to every row.

    Args:
        shape: the model's sizes.
        times: number of steps.
        rows: number of rows (a condition and a request each) that are decoded together.
        trunks: number of trunks (prefixes that several of the rows' contexts share).
        shared: number of keys that a row sees and shares with other rows, summed over rows.
        own: number of keys that only one row sees, summed over rows, averaged over the steps.
        kv: bytes of keys and values that a step reads.
        edits: number of conditions whose edits are applied.
    """
    read_out = 2.0 * shape.d_model * shape.d_vocab
    attention = 4.0 * shape.n_layers * shape.n_heads * shape.d_head
    logits = float(shape.n_layers * shape.n_heads)
    return PassCost(
        times=times,
        products=rows * (2.0 * shape.n_active + read_out),
        attention=attention * shared,
        own_key_attention=attention * own,
        logits=logits * shared,
        weights=shape.n_weights * shape.n_bytes + _head_bytes(shape),
        moved=rows * (shape.n_layers * _moved_bytes(shape) + _logit_bytes(shape))
        + kv
        + logits * own * _FLOAT32 * _OF_ATTENTION,
        operations=float(shape.n_layers * (_WRITING + trunks * _TRUNK) + _BESIDE + edits * _EDIT),
        n_generated=float(rows),
    )


def _head_bytes(shape: Shape) -> float:
    return float(shape.d_model * shape.d_vocab * shape.n_bytes)


def _logit_bytes(shape: Shape) -> float:
    return float(shape.d_vocab * _FLOAT32 * _OF_READ_OUT)


def _moved_bytes(shape: Shape) -> float:
    """Return the bytes of memory traffic of a block for one token, without weights and keys."""
    heads = shape.n_heads * shape.d_head
    numbers = _OF_STREAM * shape.d_model + _OF_HEADS * heads + _OF_MLP * shape.d_mlp
    return float(numbers * _FLOAT32)

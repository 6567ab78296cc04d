"""Plan how the fused executor computes requests under conditions.

Requests are packed into rows of tokens that fit into the memory budget (see
`fused.prefix_packing`). The requests of one row form a group. Each row is read once by the intact
model and once under each condition, in one pass or in pieces. Conditions whose texts are decoded
together form a wave.

Example:
    >>> print(engine.plan(requests, conditions))  # doctest: +SKIP
    fused, loglikelihood: 128 requests x 5 conditions
      passes      5 over 1 packed rows
      tokens      113,120 if each request is read alone, 4,838 here (23.4 times fewer)
      memory      up to 274 MB of tensors in addition to the weights
      time        up to about 7 s
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from layerroles.ablations import Condition, Prompt
from layerroles.engine.fused.prefix_packing import (
    ContextParts,
    Ids,
    PackedRow,
    SequenceEncoder,
    pack_rows,
)
from layerroles.engine.planning.memory import Budget, Shape, bytes_between_pieces
from layerroles.engine.planning.pass_cost import Speed, Work
from layerroles.engine.requests import Requests, Scored, Written, max_new_tokens
from layerroles.engine.unchanged_layers import (
    first_changed_cache,
    first_recomputed,
    recorded_layers,
)
from layerroles.notebook_display import html_block, html_preformatted


@dataclass(frozen=True)
class Group:
    """Requests that are packed into one row, and the conditions under which it is read.

    Attributes:
        asked: indices of these requests among all requests.
        sequences: for each of these requests, the tokens that are read, as the numbers of a
            `SequenceEncoder`.
        prompts: the prompts, indexed by `prefix_packing.prompt_numbers`; None if different prompts
            may share tokens.
        packed: the row.
        n_alone: number of tokens if each request is read alone.
        n_written: number of requests that text is generated for.
        n_new: the most tokens generated for one request; 0 if no text is generated.
        waves: indices of the conditions, grouped into waves (decoded together).
        depths: for each condition, in the order of `waves`, the share of the blocks that are run.
        piece: number of the row's tokens that are read at a time.
        n_bytes: the most bytes that tensors take, without the model's weights.
        row_bytes: the part of `n_bytes` for keys and values of rows that are decoded together.
    """

    asked: tuple[int, ...]
    sequences: tuple[Ids, ...]
    prompts: tuple[Prompt, ...] | None
    packed: PackedRow
    n_alone: int
    n_written: int
    n_new: int
    waves: tuple[tuple[int, ...], ...]
    depths: tuple[float, ...]
    piece: int
    n_bytes: int
    row_bytes: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens of the row."""
        return len(self.packed.tokens)

    @property
    def conditions(self) -> tuple[int, ...]:
        """The indices of the conditions under which the row is read, in the order of the waves."""
        return tuple(index for wave in self.waves for index in wave)

    @property
    def rows(self) -> int:
        """The most (condition, request) pairs whose texts are decoded together; 0 without texts."""
        return max(map(len, self.waves), default=0) * self.n_written


@dataclass
class Computed:
    """How much of a plan has been computed.

    Attributes:
        to_read: number of tokens that the plan reads; a token counts half if only half of the
            blocks are run on it.
        to_write: the most tokens that the plan generates; most texts end earlier.
        read: the part of `to_read` that has been read.
        written: the tokens generated so far, without the first of each text.
    """

    to_read: float
    to_write: float
    read: float = 0.0
    written: float = 0.0


@dataclass(frozen=True, repr=False)
class Plan:
    """The planned computation for some requests under some conditions.

    Attributes:
        verb: `"loglikelihood"`, `"generate_until"`, or both.
        n_requests, n_conditions: number of requests and of conditions.
        groups: the requests, grouped by the row that they are packed into.
        work: the passes and their cost; empty unless added by `plan_cost.add_work`.
        speed: speed of the device, for the expected time; None if it is unknown.
    """

    verb: Literal["loglikelihood", "generate_until", "loglikelihood and generate_until"]
    n_requests: int
    n_conditions: int
    groups: tuple[Group, ...]
    work: Work = field(default_factory=Work)
    speed: Speed | None = None

    @property
    def passes(self) -> int:
        """Number of passes over packed rows: by the intact model, and under each condition.

        A condition under which no block is run is not counted. An example is an ablation of the
        whole last block, which only edits the block's recorded output.
        """
        return sum(1 + sum(depth > 0 for depth in group.depths) for group in self.groups)

    @property
    def tokens_alone(self) -> int:
        """Number of tokens to read if each request is read alone under each condition."""
        return sum(len(group.conditions) * group.n_alone for group in self.groups)

    @property
    def tokens_read(self) -> float:
        """Number of tokens to read, summed over all conditions and the intact model.

        A token counts half if only half of the blocks run on it.
        """
        return sum((1 + sum(group.depths)) * group.n_tokens for group in self.groups)

    @property
    def rows(self) -> int:
        """The most (condition, request) pairs whose texts are decoded together; 0 without texts."""
        return max((group.rows for group in self.groups), default=0)

    @property
    def n_bytes(self) -> int:
        """The most bytes that tensors take, without the model's weights.

        Memory that libraries use is not included (see `Budget.for_tensors`).
        """
        return max((group.n_bytes for group in self.groups), default=0)

    @property
    def row_bytes(self) -> int:
        """The most bytes of keys and values of rows that are decoded together."""
        return max((group.row_bytes for group in self.groups), default=0)

    @property
    def seconds(self) -> float | None:
        """Expected seconds, for the text lengths given to `add_work`; None if speed is unknown."""
        return None if self.speed is None else self.work.seconds(self.speed)

    def __str__(self) -> str:
        shared = self.tokens_alone / self.tokens_read if self.tokens_read else 1.0
        lines = [
            f"fused, {self.verb}: {self.n_requests} requests x {self.n_conditions} conditions",
            f"  passes      {self.passes} over {len(self.groups)} packed rows",
            f"  tokens      {self.tokens_alone:,} if each request is read alone, "
            f"{self.tokens_read:,.0f} here ({shared:.1f} times fewer)",
            f"  decoded     up to {self.rows} rows together" if self.rows else "",
            f"  memory      up to {self.n_bytes / 2**20:,.0f} MB of tensors in addition to "
            "the weights",
            "" if self.seconds is None else f"  time        up to about {self.seconds:.0f} s",
        ]
        return "\n".join(line for line in lines if line)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_block(html_preformatted(str(self)))


def make_plan(
    requests: Requests,
    conditions: Sequence[Condition],
    shape: Shape,
    budget: Budget,
) -> Plan:
    """Return the plan for requests under conditions; `add_work` adds `work` and `speed`.

    Args:
        requests: the encoded requests.
        conditions: the conditions under which they are asked.
        shape: the model's sizes.
        budget: the memory budget.
    """
    contexts = Counter(request.context for request in requests if isinstance(request, Written))
    longest = budget.row_tokens(shape, keys=bool(contexts))
    max_contexts = len(requests)
    if contexts:
        n_longest = max(map(len, contexts)) + max(map(max_new_tokens, requests))
        # Requests with the same context are packed as one sequence, but decoded as separate rows.
        row_bytes = sum(shape.kv) * n_longest * max(contexts.values())
        max_contexts = max(1, budget.for_rows // row_bytes)
    groups = []
    for apart in (False, True):
        indices = [n for n, condition in enumerate(conditions) if condition.whole_prompt == apart]
        if not indices:
            continue
        encoder = SequenceEncoder(requests, apart=apart)
        sequences = [encoder.encode(request) for request in requests]
        written = {
            ids for ids, request in zip(sequences, requests, strict=True) if max_new_tokens(request)
        }
        groups += [
            _plan_group(
                packed, requests, sequences, encoder.prompts, conditions, indices, shape, budget
            )
            for packed in pack_rows(sequences, longest, max_contexts, counted=written)
        ]
    return Plan(
        verb=_verb(n_written=contexts.total(), n=len(requests)),
        n_requests=len(requests),
        n_conditions=len(conditions),
        groups=tuple(groups),
    )


def _verb(
    *, n_written: int, n: int
) -> Literal["loglikelihood", "generate_until", "loglikelihood and generate_until"]:
    if not n_written:
        return "loglikelihood"
    return "generate_until" if n_written == n else "loglikelihood and generate_until"


def _plan_group(
    packed: PackedRow,
    requests: Requests,
    sequences: list[Ids],
    prompts: tuple[Prompt, ...] | None,
    conditions: Sequence[Condition],
    indices: Sequence[int],
    shape: Shape,
    budget: Budget,
) -> Group:
    """Plan how a packed row is read, and its texts decoded, under the conditions at `indices`."""
    asked = [index for index, ids in enumerate(sequences) if ids in packed.paths]
    chosen = [conditions[index] for index in indices]
    n_recorded = len(
        {layer for each in chosen for layer in recorded_layers(each, shape.last_start)}
    )
    firsts = [first_changed_cache(condition, shape.n_layers) for condition in chosen]
    n_new = max(max_new_tokens(requests[index]) for index in asked)
    n = len(packed.tokens)
    waves = [[place] for place in range(len(chosen))]
    contexts = [sequences[index] for index in asked if max_new_tokens(requests[index])]
    # The memory for the intact model's keys and values of contexts: that of a condition which
    # changes them at all layers.
    parts = packed.split_contexts(contexts)
    intact_bytes = condition_bytes(0, parts, 0, shape) if contexts else 0
    piece = budget.piece_tokens(shape, n, intact_bytes)
    n_bytes = n * shape.n_bytes * n_recorded * shape.d_model + piece * shape.n_bytes * shape.inner
    n_bytes += budget.logit_bytes(shape) + intact_bytes
    n_bytes += bytes_between_pieces(shape, n) if piece < n else 0
    row_bytes = 0
    if contexts:
        left = budget.for_tensors - n_bytes if piece < n else budget.for_rows
        sizes = [condition_bytes(first, parts, n_new, shape) for first in firsts]
        waves = _cut_waves(firsts, sizes, min(budget.for_rows, max(0, left)))
        row_bytes = max((sum(sizes[place] for place in wave) for wave in waves), default=0)
    scores = any(isinstance(requests[index], Scored) for index in asked)
    depths = [
        1 - first_recomputed(condition, shape.n_layers, shape.last_start) / shape.n_layers
        if condition.acts_in_prompt or scores
        else 0.0  # the intact model's pass over the contexts serves this condition too
        for condition in chosen
    ]
    return Group(
        asked=tuple(asked),
        sequences=tuple(sequences[index] for index in asked),
        prompts=prompts,
        packed=packed,
        n_alone=sum(len(sequences[index]) for index in asked),
        n_written=len(contexts),
        n_new=n_new,
        waves=tuple(tuple(indices[place] for place in wave) for wave in waves),
        depths=tuple(depths[place] for wave in waves for place in wave),
        piece=piece,
        n_bytes=n_bytes + row_bytes,
        row_bytes=row_bytes,
    )


def _cut_waves(firsts: list[int], sizes: list[int], max_bytes: int) -> list[list[int]]:
    """Cut conditions into waves (decoded together) that take at most `max_bytes` each.

    Args:
        firsts: for each condition, the first layer at which the contexts' keys and values differ
            from the intact model's. Conditions are assigned to waves in ascending order of it.
        sizes: for each condition, the bytes of its keys and values.
        max_bytes: the most bytes of a wave; a condition that takes more is a wave by itself.

    Returns:
        For each wave, the indices of its conditions in `firsts`.
    """
    waves: list[list[int]] = []
    left = -1
    for place in sorted(range(len(firsts)), key=firsts.__getitem__):
        if left < sizes[place]:
            waves.append([])
            left = max_bytes
        waves[-1].append(place)
        left -= sizes[place]
    return waves


def condition_bytes(first_own: int, parts: ContextParts, n_new: int, shape: Shape) -> int:
    """Return the bytes of keys and values that are stored for one condition during decoding.

    Args:
        first_own: the first layer at which the contexts' keys and values differ from the intact
            model's; at earlier layers the intact model's are used.
        parts: the contexts of the requests that are decoded, from `PackedRow.split_contexts`; at
            least one.
        n_new: the most tokens generated for each.
        shape: the model's sizes.
    """
    n_own = max(map(len, parts.own))
    token_bytes, own_token_bytes = sum(shape.kv), sum(shape.kv[first_own:])
    row_bytes = token_bytes * n_new + own_token_bytes * n_own
    return len(parts.own) * row_bytes + own_token_bytes * parts.n_in_trunks

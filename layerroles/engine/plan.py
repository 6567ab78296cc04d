"""What will be computed for which answers, before anything is: the plan that execution follows.

Example:
    >>> print(engine.plan(requests, conditions))  # doctest: +SKIP
    fused, loglikelihood: 128 requests x 5 conditions
      passes      5 over 1 packed rows
      tokens      113,120 if each request is read alone, 4,838 here (23.4 times fewer)
      memory      up to 274 MB besides the weights
      time        up to about 7 s
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from layerroles.ablations import Condition, Prompt
from layerroles.engine.memory import Budget, Shape
from layerroles.engine.requests import Scored, Written
from layerroles.engine.sequences import Ids, Sequences
from layerroles.engine.trie import Packed, packs
from layerroles.sites import Site

Requests = Sequence[Scored | Written]


@dataclass(frozen=True)
class Group:
    """Requests that are packed into one row, which each condition reads once.

    Attributes:
        asked: their places among all requests.
        sequences: what is read for each of them.
        prompts: by the numbers in `sequences`, where they are kept apart; else None.
        packed: the row.
        n_alone: tokens if each request is read alone.
        n_written: how many of them write.
        n_new: tokens that each of these may write; 0 if there are none.
        waves: the conditions that read it, as they are answered together.
        n_bytes: taken at the most.
    """

    asked: tuple[int, ...]
    sequences: tuple[Ids, ...]
    prompts: tuple[Prompt, ...] | None
    packed: Packed
    n_alone: int
    n_written: int
    n_new: int
    waves: tuple[tuple[int, ...], ...]
    n_bytes: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the row."""
        return len(self.packed.tokens)

    @property
    def conditions(self) -> tuple[int, ...]:
        """The places of the conditions that read it."""
        return tuple(place for wave in self.waves for place in wave)

    @property
    def rows(self) -> int:
        """The most (condition, request) rows that are decoded together; 0 for likelihoods."""
        return max(map(len, self.waves), default=0) * self.n_written


@dataclass(frozen=True)
class Plan:
    """What an engine will do for some requests under some conditions.

    Attributes:
        executor: that will do it.
        verb: `"loglikelihood"`, `"generate_until"`, or both.
        n_requests, n_conditions: what is asked.
        groups: the requests, as they are packed.
        depths: for each condition, the share of the blocks that are run anew for it.
        seconds: expected at the most, since texts may end early.
    """

    executor: str
    verb: Literal["loglikelihood", "generate_until", "loglikelihood and generate_until"]
    n_requests: int
    n_conditions: int
    groups: tuple[Group, ...]
    depths: tuple[float, ...]
    seconds: float

    @property
    def passes(self) -> int:
        """Passes over packed rows: the intact model's, and one for each condition that runs blocks.

        (An ablation of the last block is an edit of what the intact model was seen to do.)
        """
        return sum(
            1 + sum(self.depths[place] > 0 for place in group.conditions) for group in self.groups
        )

    @property
    def tokens_alone(self) -> int:
        """Tokens of contexts and continuations if each request is read alone each time."""
        return sum(len(group.conditions) * group.n_alone for group in self.groups)

    @property
    def tokens_read(self) -> float:
        """Tokens that are read instead; one that runs through half of the blocks counts half."""
        return sum(_depth(group, self.depths) * group.n_tokens for group in self.groups)

    @property
    def rows(self) -> int:
        """The most (condition, request) rows that are decoded together; 0 for likelihoods."""
        return max((group.rows for group in self.groups), default=0)

    @property
    def n_bytes(self) -> int:
        """Memory taken at the most, besides the model's weights."""
        return max((group.n_bytes for group in self.groups), default=0)

    def __str__(self) -> str:
        shared = self.tokens_alone / self.tokens_read if self.tokens_read else 1.0
        lines = [
            f"{self.executor}, {self.verb}: {self.n_requests} requests x "
            f"{self.n_conditions} conditions",
            f"  passes      {self.passes} over {len(self.groups)} packed rows",
            f"  tokens      {self.tokens_alone:,} if each request is read alone, "
            f"{self.tokens_read:,.0f} here ({shared:.1f} times fewer)",
            f"  decoded     up to {self.rows} rows together" if self.rows else "",
            f"  memory      up to {self.n_bytes / 2**20:,.0f} MB besides the weights",
            f"  time        up to about {self.seconds:.0f} s",
        ]
        return "\n".join(line for line in lines if line)


def make_plan(
    requests: Requests,
    conditions: Sequence[Condition],
    shape: Shape,
    budget: Budget,
    flops: float,
) -> Plan:
    """Plan the computation of one sweep.

    Args:
        requests: what is asked.
        conditions: under which they are asked.
        shape: of the model.
        budget: what it may take.
        flops: floating-point operations a second, for the time that is expected.
    """
    reads_answers = any(isinstance(request, Scored) for request in requests)
    depths = tuple(
        1 - first_run(condition, shape.n_layers) / shape.n_layers
        if condition.acts_in_prompt or reads_answers
        else 0.0  # contexts are read as the intact model does
        for condition in conditions
    )
    contexts = Counter(request.context for request in requests if isinstance(request, Written))
    # What is packed together does not depend on which conditions are left to do.
    longest = budget.row_tokens(shape, shape.n_layers + 1, keys=bool(contexts))
    most = len(requests)
    if contexts:
        each = sum(shape.kv) * max(map(len, contexts))
        each += sum(shape.kv) * max(map(_n_new, requests))
        # Requests of one context are rows of their own.
        most = max(1, budget.for_rows // (each * max(contexts.values())))
    groups = []
    for apart in (False, True):
        places = [place for place, one in enumerate(conditions) if one.whole_prompt == apart]
        if not places:
            continue
        found = Sequences(requests, apart=apart)
        sequences = [found.of(request) for request in requests]
        begun = [ids for ids, one in zip(sequences, requests, strict=True) if _n_new(one)]
        groups += [
            _group(packed, requests, sequences, found.prompts, conditions, places, shape, budget)
            for packed in packs(sequences, longest, most, counted=set(begun))
        ]
    seconds = sum(_flops(group, depths, shape, requests) for group in groups) / flops
    return Plan(
        executor="fused",
        verb=_verb(n_written=contexts.total(), n=len(requests)),
        n_requests=len(requests),
        n_conditions=len(conditions),
        groups=tuple(groups),
        depths=depths,
        seconds=seconds,
    )


def edited_block(condition: Condition) -> Site | None:
    """The block whose recorded output is edited instead of running it again.

    A condition's first site, if it is a whole block and the only site of its layer: what enters
    the block, and so what leaves it before the edit, is the intact model's.
    """
    first = [site for site in condition if site.layer == condition.first_layer]
    return first[0] if len(first) == 1 and first[0].part in ("block", "stream") else None


def first_run(condition: Condition, n_layers: int) -> int:
    """The first block that is run anew under a condition; `n_layers` if none is."""
    if condition.first_layer is None:
        return n_layers
    return condition.first_layer + (edited_block(condition) is not None)


def first_own(condition: Condition, n_layers: int) -> int:
    """The first layer whose keys and values are not the intact model's; `n_layers` if none.

    Those of a context, that is. An edit leaves its own layer's alone: they are made of what enters
    the block.
    """
    if condition.first_layer is None or not condition.acts_in_prompt:
        return n_layers
    return condition.first_layer + 1


def recorded_at(condition: Condition) -> tuple[int, ...]:
    """The streams that are kept of the intact model: those that enter these blocks."""
    first = condition.first_layer
    if first is None:
        return ()
    return (first, first + 1) if edited_block(condition) is not None else (first,)


def _verb(
    *, n_written: int, n: int
) -> Literal["loglikelihood", "generate_until", "loglikelihood and generate_until"]:
    if not n_written:
        return "loglikelihood"
    return "generate_until" if n_written == n else "loglikelihood and generate_until"


def _group(
    packed: Packed,
    requests: Requests,
    sequences: list[Ids],
    prompts: tuple[Prompt, ...] | None,
    conditions: Sequence[Condition],
    places: Sequence[int],
    shape: Shape,
    budget: Budget,
) -> Group:
    asked = [index for index, ids in enumerate(sequences) if ids in packed.paths]
    some = [conditions[place] for place in places]
    recorded = len({layer for condition in some for layer in recorded_at(condition)})
    firsts = [first_own(condition, shape.n_layers) for condition in some]
    n_new = max(_n_new(requests[index]) for index in asked)
    n = len(packed.tokens)
    n_bytes = n * shape.n_bytes * (recorded * shape.d_model + shape.inner)
    n_bytes += budget.logit_bytes(shape)
    waves = [[place] for place in range(len(places))]
    contexts = [sequences[index] for index in asked if _n_new(requests[index])]
    if contexts:
        # The intact model's keys and values of the contexts weigh as much as a condition's.
        n_bytes += _row_bytes(0, packed, contexts, 0, shape)
        weighed = [_row_bytes(first, packed, contexts, n_new, shape) for first in firsts]
        waves = _waves(firsts, weighed, budget.for_rows)
        n_bytes += max((sum(weighed[place] for place in wave) for wave in waves), default=0)
    return Group(
        asked=tuple(asked),
        sequences=tuple(sequences[index] for index in asked),
        prompts=prompts,
        packed=packed,
        n_alone=sum(len(sequences[index]) for index in asked),
        n_written=len(contexts),
        n_new=n_new,
        waves=tuple(tuple(places[place] for place in wave) for wave in waves),
        n_bytes=n_bytes,
    )


def _depth(group: Group, depths: tuple[float, ...]) -> float:
    """How often a group's row is read: by the intact model, and by parts under its conditions."""
    return 1 + sum(depths[place] for place in group.conditions)


def _row_bytes(
    first_own: int, packed: Packed, contexts: Sequence[Ids], n_new: int, shape: Shape
) -> int:
    """Keys and values that a condition has for itself while it decodes."""
    trunks = {trunk for ids in contexts for trunk in packed.trunks(ids)}
    in_trunks = sum(packed.segments[trunk].n for trunk in trunks)
    own = max(len(packed.own(ids)) for ids in contexts)
    above = sum(shape.kv[first_own:])
    return len(contexts) * (sum(shape.kv) * n_new + above * own) + above * in_trunks


def _waves(firsts: list[int], weighed: list[int], most: int) -> list[list[int]]:
    """Conditions in the order of their first layers, cut where memory ends."""
    waves: list[list[int]] = []
    left = -1
    for place in sorted(range(len(firsts)), key=firsts.__getitem__):
        if left < weighed[place]:
            waves.append([])
            left = most
        waves[-1].append(place)
        left -= weighed[place]
    return waves


def _flops(group: Group, depths: tuple[float, ...], shape: Shape, requests: Requests) -> float:
    weights, head = 2.0 * shape.n_weights, 2.0 * shape.d_model * shape.d_vocab
    read = _depth(group, depths) * group.n_tokens * weights
    asked = (requests[index] for index in group.asked)
    places = sum(len(one.continuation) for one in asked if isinstance(one, Scored))
    wrote = group.n_written * group.n_new * (weights + head)
    return read + len(group.conditions) * (places * head + wrote)


def _n_new(request: Scored | Written) -> int:
    return request.max_gen_toks if isinstance(request, Written) else 0

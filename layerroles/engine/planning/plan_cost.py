"""Count the work of a plan: the cost of each pass over its rows, and of its decoding steps.

Only estimates of time use it; nothing that is computed depends on it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from layerroles.ablations import Condition
from layerroles.engine.fused.packed_attention import count_pairs
from layerroles.engine.planning.memory import Shape
from layerroles.engine.planning.pass_cost import PassCost, Speed, Work, reading_cost, writing_cost
from layerroles.engine.planning.plan import Group, Plan, condition_bytes
from layerroles.engine.requests import Requests, Scored, max_new_tokens
from layerroles.engine.unchanged_layers import first_changed_cache


def add_work(
    plan: Plan,
    requests: Requests,
    conditions: Sequence[Condition],
    shape: Shape,
    *,
    speed: Speed | None = None,
    generated: float = 1.0,
) -> Plan:
    """Return the plan with `work` and `speed` set.

    Args:
        plan: the plan that `make_plan` made from `requests`, `conditions` and `shape`.
        requests: the encoded requests.
        conditions: the conditions under which they are asked.
        shape: the model's sizes.
        speed: speed of the device; None leaves the expected time unknown.
        generated: expected number of generated tokens as a share of `max_gen_toks`.
    """
    passes = tuple(
        cost
        for group in plan.groups
        for cost in _pass_costs(group, requests, conditions, shape, generated)
    )
    return replace(plan, work=Work(passes), speed=speed)


def _pass_costs(
    group: Group,
    requests: Requests,
    conditions: Sequence[Condition],
    shape: Shape,
    generated: float,
) -> Iterator[PassCost]:
    """Yield the costs of the passes over a group's row, and of the steps that decode its texts."""
    pairs = count_pairs(group.packed)
    read_out = group.n_written + _count_scored_places(group, requests)
    pieces = math.ceil(group.n_tokens / group.piece)
    yield reading_cost(shape, tokens=group.n_tokens, pairs=pairs, pieces=pieces)
    for depth in group.depths:
        yield reading_cost(
            shape,
            tokens=group.n_tokens if depth else 0,
            pairs=pairs,
            depth=depth,
            places=read_out,
            edits=1,
            pieces=pieces,
        )
    if group.n_written:
        for wave in group.waves:
            yield _decoding_cost(wave, group, requests, conditions, shape, generated)


def _decoding_cost(
    wave: Sequence[int],
    group: Group,
    requests: Requests,
    conditions: Sequence[Condition],
    shape: Shape,
    generated: float,
) -> PassCost:
    """Return the cost of decoding the texts of a wave of conditions, from their second tokens on.

    The first tokens are computed in the pass over the contexts.
    """
    contexts = [
        ids
        for index, ids in zip(group.asked, group.sequences, strict=True)
        if max_new_tokens(requests[index])
    ]
    n_steps = generated * (group.n_new - 1)
    n_written = round(1 + n_steps / 2)  # on average over the steps
    parts = group.packed.split_contexts(contexts)
    n_own = sum(map(len, parts.own))
    n_rows = len(wave) * len(contexts)
    firsts = [first_changed_cache(conditions[index], shape.n_layers) for index in wave]
    kv = sum(condition_bytes(first, parts, n_written, shape) for first in firsts)
    return writing_cost(
        shape,
        times=n_steps,
        rows=n_rows,
        trunks=len(parts.trunks),
        shared=float(len(wave) * (sum(map(len, contexts)) - n_own)),
        own=float(len(wave) * n_own + n_rows * n_written),
        kv=float(kv + condition_bytes(0, parts, 0, shape)),
        edits=sum(conditions[index].acts_in_answer for index in wave),
    )


def _count_scored_places(group: Group, requests: Requests) -> int:
    """Count the tokens of the row after which a continuation's token is scored."""
    places: set[int] = set()
    for index, ids in zip(group.asked, group.sequences, strict=True):
        request = requests[index]
        if isinstance(request, Scored):
            places.update(group.packed.paths[ids][len(request.context) - 1 :].tolist())
    return len(places)

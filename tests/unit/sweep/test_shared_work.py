"""What a sweep computes, counted in the blocks: equal answers alone would not tell it from a loop.

Where a block is left out its parts are not called, so they are what is counted.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import layerroles as lr
from layerroles.ablations import Condition
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.planning.memory import Budget
from layerroles.engine.planning.plan import make_plan
from layerroles.engine.requests import collect_answers, encode_scored, encode_written
from tests.support.random_models import random_model

N_LAYERS = 3
PREFIX = "Some words that all of the questions begin with. "
PAIRS = [(PREFIX + question, ending) for question in "abcd" for ending in ("x", "y", "a b c")]
ASKED = [
    (PREFIX + question, {"max_gen_toks": most})
    for question, most in zip("abcd", (1, 3, 5, 5), strict=True)
]
SKIPS = [Condition({lr.Site(layer): lr.Skip()}) for layer in range(N_LAYERS)]
ATTN = [Condition({lr.Site(layer, "attn"): lr.Zero()}) for layer in range(N_LAYERS)]
# What several sites have in common begins with the first of them.
SEVERAL = Condition({lr.Site(2): lr.Skip(), lr.Site(1, "mlp"): lr.Zero()})
# Conditions, and how often each block reads the row: the intact model once, then those that begin
# at it or above. A skipped block itself is not read again; one whose part is zeroed is.
CASES = {
    "intact": ([Condition({})], [1, 1, 1]),
    "skips": (SKIPS, [1, 2, 3]),
    "attn": (ATTN, [2, 3, 4]),
    "all": ([Condition({}), *SKIPS, *ATTN], [2, 4, 6]),
    "several": ([SEVERAL], [1, 2, 2]),
    "answer only": ([Condition({lr.Site(0): lr.Skip()}, at="generated")], [1, 1, 1]),
}


@contextmanager
def counted(twin: Twin) -> Iterator[dict[int, list[int]]]:
    """Within the context, the tokens of each call of each block's MLP."""
    calls: dict[int, list[int]] = defaultdict(list)

    def count(layer: int) -> torch.utils.hooks.RemovableHandle:
        def note(_module: object, args: tuple[torch.Tensor, ...], _output: object) -> None:
            calls[layer].append(args[0].shape[1])

        handle: torch.utils.hooks.RemovableHandle = twin.blocks[layer].mlp.register_forward_hook(
            note
        )
        return handle

    handles = [count(layer) for layer in range(N_LAYERS)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", ["skips", "attn", "all", "several", "intact"])
def test_a_row_is_read_from_the_first_ablated_layer_on(kind: str) -> None:
    conditions, times = CASES[kind]
    model = random_model("llama")
    twin, requests = Twin(model), encode_scored(model, PAIRS)
    plan = make_plan(requests, conditions, twin.shape, Budget(2**28))
    (group,) = plan.groups
    longest = max(len(one.context) + len(one.continuation) for one in requests)
    assert group.n_tokens < 2 * longest < group.n_alone / 4  # what is shared stands once
    with counted(twin) as calls:
        collect_answers(Fused(twin, {}, Budget(2**28)).answer([requests], conditions))
    assert [calls[layer] for layer in range(N_LAYERS)] == [[group.n_tokens] * n for n in times]
    assert plan.tokens_read == pytest.approx(sum(map(sum, calls.values())) / N_LAYERS)


@pytest.mark.parametrize("kind", CASES)
def test_texts_are_decoded_together_and_no_longer_than_they_are(kind: str) -> None:
    conditions, times = CASES[kind]
    model = random_model("llama")
    twin, requests = Twin(model), encode_written(model, ASKED)
    (group,) = make_plan(requests, conditions, twin.shape, Budget(2**28)).groups
    with counted(twin) as calls:
        found = collect_answers(Fused(twin, {}, Budget(2**28)).answer([requests], conditions))
    n_tokens = [one.n_tokens for texts in found for one in texts]
    # The reading tells the first token; one step for all rows tells each of the others. Of rows
    # that have ended, a tenth at the most are fed on.
    steps = [sum(n > step for n in n_tokens) for step in range(1, max(n_tokens))]
    assert len(steps) > 1
    for layer, n in enumerate(times):
        assert calls[layer][:n] == [group.n_tokens] * n
        assert all(
            live <= fed <= live / 0.9 for live, fed in zip(steps, calls[layer][n:], strict=True)
        )

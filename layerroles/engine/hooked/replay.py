"""Read requests in stages, record the intact model's passes, and replay them under a condition.

A batch of requests is read in up to three stages: the tokens that all of its contexts begin with
(a few-shot prefix, one row), the rest of each distinct context (one row each), and the
continuations of each context (one row each). Each row of a later stage continues a row of the
previous stage, its parent, and starts with the parent's keys and values. The intact model's pass
over a stage is recorded. Under a condition, the pass is repeated from the first ablated layer on.
"""

import copy
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache, DynamicLayer

from layerroles.ablations import INTACT, Applied, Condition, Prompt, References, Skip, applied
from layerroles.models import constant_forward, forward, replace_forward
from layerroles.sites import ENTRY, Site

# A shared prefix of fewer tokens is not read as a separate stage, which would not save time.
_SHORTEST_PREFIX = 16

_CAN_REPLAY: "weakref.WeakKeyDictionary[TransformerBridge, bool]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Stage:
    """Rows of tokens that are read in one pass.

    Attributes:
        tokens: ids of the new tokens, padded.
        attended: 1 at real new tokens, 0 at pads.
        parents: for each row, the row of the previous stage that it continues; None for the first
            stage.
        prompts: the whole prompt of each row.
    """

    tokens: Int[Tensor, "row pos"]
    attended: Int[Tensor, "row pos"]
    parents: Int[Tensor, " row"] | None
    prompts: tuple[Prompt, ...]


def batch_prompts(prompts: Sequence[Prompt], *, max_tokens: int) -> Iterator[list[Prompt]]:
    """Yield distinct prompts in batches of at most `max_tokens` padded tokens, longest first.

    A single longer prompt is a batch of its own.
    """
    batch: list[Prompt] = []
    for prompt in sorted(dict.fromkeys(prompts), key=_sort_key):
        if batch and (len(batch) + 1) * len(batch[0].ids) > max_tokens:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def cut_stages(
    prompts: Sequence[Prompt], model: TransformerBridge, *, apart: bool = False
) -> list[Stage]:
    """Cut prompts into one or two stages, padded on the left; the last one has a row per prompt.

    Args:
        prompts: the batch.
        model: the bridge; the stages are placed on its device.
        apart: read each prompt whole, in one stage, even if prompts share a prefix.
    """
    n_shared = 0 if apart else _count_shared(prompts)
    if n_shared < _SHORTEST_PREFIX or len(prompts) < 2:
        return [make_stage([prompt.ids for prompt in prompts], prompts, None, model, left=True)]
    rests = [prompt.ids[n_shared:] for prompt in prompts]
    prefix = make_stage([prompts[0].ids[:n_shared]], prompts[:1], None, model, left=True)
    return [prefix, make_stage(rests, prompts, [0] * len(rests), model, left=True)]


def make_stage(
    rows: Sequence[Sequence[int]],
    prompts: Sequence[Prompt],
    parents: Sequence[int] | None,
    model: TransformerBridge,
    *,
    left: bool,
) -> Stage:
    """Return a stage of rows of different lengths, padded on the left or (not `left`) on the right.

    `rows` holds the ids of each row's new tokens; `prompts` and `parents` are as in `Stage`.
    """
    device = model.cfg.device
    ids = [torch.tensor(row) for row in rows]
    side = "left" if left else "right"
    tokens, attended = (
        pad_sequence(parts, batch_first=True, padding_side=side).to(device)
        for parts in (ids, [torch.ones_like(row) for row in ids])
    )
    return Stage(
        tokens,
        attended,
        None if parents is None else torch.tensor(parents, device=device),
        tuple(prompts),
    )


def _count_shared(prompts: Sequence[Prompt]) -> int:
    """Return the length of the prefix that all prompts share; it contains no prompt's last token.

    Shared tokens have equal ids and equal marks (see `ablations.token_marks`).
    """
    marked = [list(zip(prompt.ids, prompt.marks, strict=True))[:-1] for prompt in prompts]
    first, last = min(marked), max(marked)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return n


def _sort_key(prompt: Prompt) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return -len(prompt.ids), prompt.ids, prompt.evidence or ()


@dataclass(frozen=True)
class State:
    """The rows of a stage after the model has read them, intact or under a condition.

    Attributes:
        logits: logits at the last positions, as many as were kept.
        cache: keys and values of all tokens read so far.
        attended: 1 at real tokens, 0 at pads, over all tokens read so far.
        tokens: ids of all tokens read so far.
        changed: whether an edit has changed anything in each row so far.
    """

    logits: Float[Tensor, "row kept d_vocab"]
    cache: DynamicCache
    attended: Int[Tensor, "row all_pos"]
    tokens: Int[Tensor, "row all_pos"]
    changed: Bool[Tensor, " row"]


@dataclass(frozen=True)
class Recording:
    """The intact model's pass over a stage.

    Attributes:
        stage: the stage.
        keep: number of last positions whose logits are kept; 0 keeps all.
        before: the state that the stage continued, with a row for each row of the stage; None for
            the first stage.
        after: the state at the end of the stage.
        entries: the stream entering each block, `[row pos d_model]`.
    """

    stage: Stage
    keep: int
    before: State | None
    after: State
    entries: tuple[Tensor, ...]

    def without_result(self) -> "Recording":
        """Return the recording without logits, to save memory; its intact replay then has none."""
        return replace(self, after=replace(self.after, logits=self.after.logits[:, :0]))


def record(model: TransformerBridge, stage: Stage, before: State | None, *, keep: int) -> Recording:
    """Run the intact model over a stage that continues `before`, and record the pass.

    `before` is None for a first stage. The logits of the last `keep` positions are kept; 0 keeps
    all.
    """
    entries: dict[int, Tensor] = {}

    def note(value: Tensor, *, hook: object, layer: int) -> None:
        entries[layer] = value

    layers = range(model.cfg.n_layers)
    hooks = [(ENTRY.format(layer=layer), partial(note, layer=layer)) for layer in layers]
    start = None
    if before is not None and stage.parents is not None:
        start = select_rows(before, stage.parents)
    with applied(model, INTACT, {}) as run, model.hooks(fwd_hooks=hooks):
        # A pass extends the cache that it is given, so it gets a copy.
        own = None if start is None else replace(start, cache=_copy_cache(start.cache))
        after = _run_stage(model, run, stage, own, keep)
    return Recording(stage, keep, start, after, tuple(entries[layer] for layer in layers))


def replay(
    model: TransformerBridge,
    recordings: Sequence[Recording],
    condition: Condition,
    references: References,
    state: State | None = None,
) -> State:
    """Read recorded stages under a condition; returns the state at the end.

    `state` is the state, under this condition, that the first of these stages continues; None if
    that stage has no previous stage.
    """
    first = condition.first_layer
    if first is None:
        return recordings[-1].after
    with applied(model, condition, references) as run:
        for recording in recordings:
            start = None
            if state is not None and recording.before is not None:
                start = select_rows(state, recording.stage.parents, since=first)
                start.cache.layers[:first] = recording.before.cache.layers[:first]
            with start_at(model, first, recording.entries):
                state = _run_stage(model, run, recording.stage, start, recording.keep)
            # The blocks before the first ablated layer have the intact model's keys and values.
            state.cache.layers[:first] = recording.after.cache.layers[:first]
    assert state is not None
    # Copied, since decoding extends this cache, which shares layers with the recordings.
    return replace(state, cache=_copy_cache(state.cache))


def select_rows(state: State, rows: Tensor | None, *, since: int = 0) -> State:
    """Return some rows of a state, in this order; the state itself if `rows` is None.

    The cache's layers before `since` keep all their rows, for the caller to replace.
    """
    if rows is None:
        return state
    cache = _copy_cache(state.cache)
    select_cache_rows(cache, rows, since=since)
    return State(
        logits=state.logits[rows],
        cache=cache,
        attended=state.attended[rows],
        tokens=state.tokens[rows],
        changed=state.changed[rows],
    )


def select_cache_rows(cache: DynamicCache, rows: Tensor, *, since: int = 0) -> None:
    """Keep some rows of a cache, in this order; its layers before `since` keep all of theirs."""
    for layer in cache.layers[since:]:
        assert isinstance(layer, DynamicLayer)  # checked by `can_replay`
        if layer.keys is not None:
            # Layers may lie on different devices.
            layer.batch_select_indices(rows.to(layer.keys.device))


def start_at(
    model: TransformerBridge, first: int, entries: Sequence[Tensor]
) -> AbstractContextManager[None]:
    """Inside the `with` block, skip all blocks before `first`, which then reads `entries[first]`.

    `entries` holds the recorded input of each block. TransformerLens's own `start_at_layer` would
    run the earlier blocks and discard their output.
    """
    return replace_forward(
        [model.blocks[layer] for layer in range(first)], constant_forward(entries[first])
    )


def can_replay(model: TransformerBridge) -> bool:
    """Return whether a pass from a recorded stream gives the same logits as one from the start.

    The result is measured once on the model itself, since it depends on how the architecture runs
    the blocks and on the kind of cache.
    """
    if model not in _CAN_REPLAY:
        _CAN_REPLAY[model] = _try_replay(model)
    return _CAN_REPLAY[model]


def _try_replay(model: TransformerBridge) -> bool:
    last = model.cfg.n_layers - 1
    contexts, continuations = ((1, 2, 3, 4), (5, 6, 7)), ((3, 2), (1, 2), (4,))
    prompts = [Prompt(ids) for ids in contexts]
    parents = [0, 1, 1]
    first_stage = make_stage(contexts, prompts, None, model, left=True)
    second_stage = make_stage(
        continuations, [prompts[i] for i in parents], parents, model, left=False
    )
    first = record(model, first_stage, None, keep=1)
    if not all(isinstance(layer, DynamicLayer) for layer in first.after.cache.layers):
        return False
    recordings = [first, record(model, second_stage, first.after, keep=0)]
    condition = Condition({Site(last): Skip()})
    staged = replay(model, recordings, condition, {}).logits
    with applied(model, condition, {}):
        rows = [(*contexts[i], *rest) for i, rest in zip(parents, continuations, strict=True)]
        stage = make_stage(rows, second_stage.prompts, None, model, left=False)
        whole, _ = forward(model, stage.tokens, stage.attended)
    pairs = ((staged[0, 1], whole[0, 5]), (staged[1, 1], whole[1, 4]), (staged[2, 0], whole[2, 3]))
    tolerance = 1e-3 if model.cfg.dtype == torch.float32 else 0.35
    return all(
        float((one.float() - two.float()).abs().max()) <= tolerance * float(two.float().std())
        for one, two in pairs
    )


def _run_stage(
    model: TransformerBridge, run: Applied, stage: Stage, start: State | None, keep: int
) -> State:
    attended, tokens, cache = stage.attended, stage.tokens, None
    run.begin(None if start is None else start.tokens, stage.prompts)
    if start is not None:
        attended = torch.cat([start.attended, attended], dim=1)
        tokens = torch.cat([start.tokens, tokens], dim=1)
        cache = start.cache
    logits, cache = forward(model, stage.tokens, attended, cache=cache, use_cache=True, keep=keep)
    changed = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    if start is not None:
        changed |= start.changed
    if run.changed is not None:
        changed |= run.changed.to(changed.device)
    return State(logits, cache, attended, tokens, changed)


def _copy_cache(cache: DynamicCache) -> DynamicCache:
    """Return a copy that can be extended without changing the original; tensors are shared."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied

"""Record how the intact model read a stage; read it again from the first ablated layer on.

Requests cut into stages, so that what they have in common is read once.

A batch of requests is read in up to three stages: the tokens that all of its contexts begin with
(a few-shot prefix, one row), the rest of each different context (one row each), and the
continuations of each context (one row each). A row of a stage goes on from a row of the stage
before, its parent, with whose keys and values it begins.
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
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import DynamicCache, DynamicLayer

from layerroles.ablations import INTACT, Applied, Condition, Prompt, References, Skip, applied
from layerroles.models import forward, instead, passing
from layerroles.sites import ENTRY, Site

# A shared prefix shorter than this is not worth a stage of its own.
_SHORTEST_PREFIX = 16


@dataclass(frozen=True)
class Stage:
    """One step of reading.

    Attributes:
        tokens: the new tokens, padded.
        attended: 1 at real new tokens, 0 at pads.
        parents: for each row, the row of the stage before that it goes on from; None for the
            first stage.
        prompts: of the rows, whole (those of which they are a part).
    """

    tokens: Int[Tensor, "row pos"]
    attended: Int[Tensor, "row pos"]
    parents: Int[Tensor, " row"] | None
    prompts: tuple[Prompt, ...]


def batches(prompts: Sequence[Prompt], *, max_tokens: int) -> Iterator[list[Prompt]]:
    """The different prompts in batches of at most `max_tokens` padded tokens, longest first."""
    batch: list[Prompt] = []
    for prompt in sorted(dict.fromkeys(prompts), key=_order):
        if batch and (len(batch) + 1) * len(batch[0].ids) > max_tokens:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def context_stages(
    prompts: Sequence[Prompt], model: TransformerBridge, *, apart: bool = False
) -> list[Stage]:
    """The stages that read a batch of prompts; the last has a row for each, padded on the left.

    Args:
        prompts: the batch.
        model: whose padding is used.
        apart: read each prompt separately, even if they share a prefix.
    """
    shared = 0 if apart else _common_prefix(prompts)
    if shared < _SHORTEST_PREFIX or len(prompts) < 2:
        return [stage([prompt.ids for prompt in prompts], prompts, None, model, left=True)]
    rests = [prompt.ids[shared:] for prompt in prompts]
    prefix = stage([prompts[0].ids[:shared]], prompts[:1], None, model, left=True)
    return [prefix, stage(rests, prompts, [0] * len(rests), model, left=True)]


def stage(
    rows: Sequence[Sequence[int]],
    prompts: Sequence[Prompt],
    parents: Sequence[int] | None,
    model: TransformerBridge,
    *,
    left: bool,
) -> Stage:
    """A stage from rows of mixed lengths, padded on the left or on the right."""
    longest = max(map(len, rows))
    pad = model.tokenizer.pad_token_id or 0
    tokens = torch.full((len(rows), longest), pad)
    attended = torch.zeros_like(tokens)
    for index, row in enumerate(rows):
        start = longest - len(row) if left else 0
        tokens[index, start : start + len(row)] = torch.tensor(row)
        attended[index, start : start + len(row)] = 1
    device = model.cfg.device
    return Stage(
        tokens.to(device),
        attended.to(device),
        None if parents is None else torch.tensor(parents, device=device),
        tuple(prompts),
    )


def _common_prefix(prompts: Sequence[Prompt]) -> int:
    """How many tokens all prompts begin with, marked alike, each keeping one of its own."""
    marked = [list(zip(prompt.ids, prompt.marks, strict=True))[:-1] for prompt in prompts]
    first, last = min(marked), max(marked)
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return n


def _order(prompt: Prompt) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return -len(prompt.ids), prompt.ids, prompt.evidence or ()


_CAN: "weakref.WeakKeyDictionary[TransformerBridge, bool]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class State:
    """What is known of a stage's rows once they were read under a condition.

    Attributes:
        logits: at the positions that were kept.
        cache: keys and values of all that was read so far.
        attended: 1 at real tokens, over the same columns.
        tokens: their ids.
        changed: whether an edit changed anything in the row so far.
    """

    logits: Float[Tensor, "row kept d_vocab"]
    cache: DynamicCache
    attended: Int[Tensor, "row all_pos"]
    tokens: Int[Tensor, "row all_pos"]
    changed: Bool[Tensor, " row"]


@dataclass(frozen=True)
class Recording:
    """A stage as the intact model read it.

    Attributes:
        stage: what was read.
        keep: at how many last positions logits are kept; 0 means all.
        before: the state it went on from, a row for each row of the stage; None for the first.
        after: the state it led to.
        entries: the stream entering each block, `[row pos d_model]`.
    """

    stage: Stage
    keep: int
    before: State | None
    after: State
    entries: tuple[Tensor, ...]

    def without_result(self) -> "Recording":
        """The same for a last stage, without its large logits: nothing goes on from it."""
        return replace(self, after=replace(self.after, logits=self.after.logits[:, :0]))


def record(model: TransformerBridge, step: Stage, before: State | None, *, keep: int) -> Recording:
    """Let the intact model read a stage that goes on from `before`."""
    entries: dict[int, Tensor] = {}

    def note(value: Tensor, *, hook: object, layer: int) -> None:
        entries[layer] = value

    layers = range(model.cfg.n_layers)
    hooks = [(ENTRY.format(layer=layer), partial(note, layer=layer)) for layer in layers]
    start = None if before is None or step.parents is None else select(before, step.parents)
    with applied(model, INTACT, {}) as run, model.hooks(fwd_hooks=hooks):
        # A pass extends its cache, so it is given one of its own.
        own = None if start is None else replace(start, cache=_copied(start.cache))
        after = _read(model, run, step, own, keep)
    return Recording(step, keep, start, after, tuple(entries[layer] for layer in layers))


def replay(
    model: TransformerBridge,
    recordings: Sequence[Recording],
    condition: Condition,
    references: References,
    state: State | None = None,
) -> State:
    """Read recorded stages under a condition, going on from `state`; the state after the last."""
    first = condition.first_layer
    if first is None:
        return recordings[-1].after
    with applied(model, condition, references) as run:
        for recording in recordings:
            start = None
            if state is not None and recording.before is not None:
                start = select(state, recording.stage.parents, since=first)
                start.cache.layers[:first] = recording.before.cache.layers[:first]
            with starting_at(model, first, recording.entries):
                state = _read(model, run, recording.stage, start, recording.keep)
            # The blocks before the first ablated layer did what they do in the intact model.
            state.cache.layers[:first] = recording.after.cache.layers[:first]
    assert state is not None
    # What the recordings hold stays theirs: decoding extends the cache that it is given.
    return replace(state, cache=_copied(state.cache))


def select(state: State, rows: Tensor | None, *, since: int = 0) -> State:
    """Some rows of a state, with a cache of their own from layer `since` on."""
    if rows is None:
        return state
    cache = _copied(state.cache)
    for layer in cache.layers[since:]:
        assert isinstance(layer, DynamicLayer)  # tried by `can_replay`
        layer.batch_select_indices(rows)
    return State(
        logits=state.logits[rows],
        cache=cache,
        attended=state.attended[rows],
        tokens=state.tokens[rows],
        changed=state.changed[rows],
    )


def starting_at(
    model: TransformerBridge, first: int, entries: Sequence[Tensor]
) -> AbstractContextManager[None]:
    """Within the context, blocks before `first` don't run; `first` gets its recorded stream.

    TransformerLens's own `start_at_layer` runs them and throws their output away.
    """
    return instead([model.blocks[layer] for layer in range(first)], passing(entries[first]))


def can_replay(model: TransformerBridge) -> bool:
    """Whether reading again from a recorded stream gives what reading from the start gives.

    Tried on the model itself, once: it depends on the architecture's loop over blocks and on its
    kind of cache.
    """
    if model not in _CAN:
        _CAN[model] = _try(model)
    return _CAN[model]


def _try(model: TransformerBridge) -> bool:
    last = model.cfg.n_layers - 1
    begun, longer = ((1, 2, 3, 4), (5, 6, 7)), ((3, 2), (1, 2), (4,))
    prompts = [Prompt(ids) for ids in begun]
    step = stage(begun, prompts, None, model, left=True)
    more = stage(longer, [prompts[i] for i in (0, 1, 1)], [0, 1, 1], model, left=False)
    first = record(model, step, None, keep=1)
    if not all(isinstance(layer, DynamicLayer) for layer in first.after.cache.layers):
        return False
    recordings = [first, record(model, more, first.after, keep=0)]
    condition = Condition({Site(last): Skip()})
    shared = replay(model, recordings, condition, {}).logits
    with applied(model, condition, {}):
        rows = [(*begun[i], *rest) for i, rest in zip((0, 1, 1), longer, strict=True)]
        own = stage(rows, more.prompts, None, model, left=False)
        whole, _ = forward(model, own.tokens, own.attended)
    pairs = ((shared[0, 1], whole[0, 5]), (shared[1, 1], whole[1, 4]), (shared[2, 0], whole[2, 3]))
    tolerance = 1e-3 if model.cfg.dtype == torch.float32 else 0.35
    return all(
        float((one.float() - two.float()).abs().max()) <= tolerance * float(two.float().std())
        for one, two in pairs
    )


def _read(
    model: TransformerBridge, run: Applied, step: Stage, start: State | None, keep: int
) -> State:
    attended, tokens, cache = step.attended, step.tokens, None
    run.begin(None if start is None else start.tokens, step.prompts)
    if start is not None:
        attended = torch.cat([start.attended, attended], dim=1)
        tokens = torch.cat([start.tokens, tokens], dim=1)
        cache = start.cache
    logits, cache = forward(model, step.tokens, attended, cache=cache, use_cache=True, keep=keep)
    changed = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    if start is not None:
        changed |= start.changed
    if run.changed is not None:
        changed |= run.changed
    return State(logits, cache, attended, tokens, changed)


def _copied(cache: DynamicCache) -> DynamicCache:
    """A cache that can be extended by itself; the tensors are shared until then."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied

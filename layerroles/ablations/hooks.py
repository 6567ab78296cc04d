"""Run plain TransformerLens under a condition.

`ablated` and `applied` add hooks that apply the edits at the sites. The hooks are removed when the
`with` block is left, also after an exception. If a hook did not fire, an error is raised then.
Where an edit returns its write unchanged, the model's own output is kept bit for bit. Where it
changes the write `w` of a block that the stream `x` enters, the block's new output is
`x + edit(w)`, added in float32.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.base import Ablation, EditContext, Pass, declared_reference
from layerroles.ablations.condition import Condition, as_condition
from layerroles.ablations.model_call_recorder import Watch, watch_passes
from layerroles.ablations.statistics_cache import load_or_collect
from layerroles.ablations.token_marks import Prompt
from layerroles.ablations.write_statistics import (
    KINDS,
    Kind,
    SiteReference,
    extract_write,
    head_indices,
    split_heads,
)
from layerroles.errors import InputError
from layerroles.models import check_weights, weights_cache
from layerroles.sites import ENTRY, NUMBERED, READ_OUT, Site

# For each ablation with a reference and each of its sites: statistics of the intact model's writes
# on the reference's prompts, and the result of `Ablation.fit`.
References = Mapping[tuple[Ablation, Site], tuple[SiteReference, object]]


class Edit:
    """Applies the ablation that a condition has at one site to the value at the site's hook.

    Args:
        model: the bridge.
        condition: the condition.
        site: one of the condition's sites.
        references: from `resolve_references`.
        placed: whether `Ablation.placed` changed the model; ignored unless the ablation is
            `in_place`.
    """

    def __init__(
        self,
        model: TransformerBridge,
        condition: Condition,
        site: Site,
        references: References,
        *,
        placed: bool = False,
    ) -> None:
        self._placed = placed
        self._model = model
        self._site = site
        self._ablation = condition.edits[site]
        self._condition = condition
        self._reference, self._fitted = None, None
        if declared_reference(self._ablation) is not None:
            self._reference, self._fitted = references[self._ablation, site]

    def __call__(
        self,
        value: Float[Tensor, "row pos *hook"],
        stream: Float[Tensor, "row pos d_model"],
        read: Pass,
    ) -> tuple[Tensor | None, Bool[Tensor, "row pos"]]:
        """Return the edited value, and a mask of the tokens at which the write changed.

        The value is None if the hook's value is to be kept, because no write changed or because the
        ablation is `in_place` (it changes the model itself). The mask of an in-place ablation is
        true at every token that is not a pad if the model was changed, else false.

        Args:
            value: the value at the site's hook (for a block, the stream that leaves it).
            stream: the stream that entered the site's block.
            read: the current forward pass.

        Raises:
            InputError: the ablation returned no tensor, or one of another shape than the write.
        """
        site = self._site
        if self._ablation.in_place:
            return None, read.real & self._placed
        stream = stream.to(value.device)  # layers may lie on different devices
        write = extract_write(site, value, stream, self._model)
        # Copies, since an edit may work in place: the comparison below needs the old write, and
        # other conditions may start from the same stream.
        own = stream.clone()
        context = EditContext(
            site, own, read, self._reference, self._fitted, self._condition.whole_prompt
        )
        new = self._ablation.edit(write.clone(), context)
        if not isinstance(new, Tensor):
            raise InputError(
                f"{self._ablation.name} on {site} returned {new!r}: an edit returns the write, "
                "changed or not"
            )
        if new.shape != write.shape:
            raise InputError(
                f"{self._ablation.name} on {site} returned shape {tuple(new.shape)} for a write of "
                f"shape {tuple(write.shape)}: an edit keeps the shape"
            )
        differs = (new != write).flatten(2).any(-1) & self._condition.acts(context)
        # Not tested on a GPU, where the test would wait for it; equal values are kept anyway.
        if differs.device.type == "cpu" and not differs.any():
            return None, differs
        mask = differs.reshape(*differs.shape, *[1] * (write.ndim - 2))
        if site.part == "block":
            new = torch.where(mask, (stream.float() + new.float()).to(value.dtype), value)
            return new, differs
        new = torch.where(mask, new.to(value.dtype), write)
        if site.part not in NUMBERED:
            return new, differs
        z = split_heads(value, self._model).clone()
        z[:, :, head_indices(site, self._model)] = new
        return z.reshape(value.shape), differs


class Applied:
    """A condition while it is applied: its hooks, and a record of what they did.

    Attributes:
        condition: the condition.
        n_passes: number of forward passes that reached the unembedding.
        firings: per site, how often its hook fired.
        changed: per row, whether an edit changed a write at a token that is not a pad, in any pass
            since `begin` or `keep`; None if no edit has run since.
    """

    def __init__(
        self,
        model: TransformerBridge,
        condition: Condition,
        references: References,
        watch: Watch,
        placed: Mapping[Site, bool],
    ) -> None:
        self.condition = condition
        self.n_passes = 0
        self.firings = dict.fromkeys(condition.edits, 0)
        self.changed: Bool[Tensor, " row"] | None = None
        self._edits = {
            site: Edit(model, condition, site, references, placed=placed[site])
            for site in condition
        }
        self._watch = watch
        self._entries: dict[int, Tensor] = {}

    @property
    def hooks(self) -> list[tuple[str, object]]:
        """The hooks that apply the edits: pairs of a hook point's name and a function."""
        layers = sorted({site.layer for site in self.condition})
        return [
            *((ENTRY.format(layer=layer), partial(self._enter, layer=layer)) for layer in layers),
            *((site.hook_name, partial(self._edit, site=site)) for site in self.condition),
            (READ_OUT, self._finish),
        ]

    def begin(
        self,
        tokens: Int[Tensor, "row pos"] | None = None,
        prompts: Sequence[Prompt] | None = None,
        *,
        check: bool = False,
    ) -> None:
        """Start a new batch of rows; resets `changed`.

        Args:
            tokens: token ids in the cache that the rows continue; None if there is no cache.
            prompts: each row's prompt; None takes the tokens read without a cache as prompts.
            check: in passes without a cache, refuse rows that do not begin with their prompts.
        """
        self.changed = None
        self._watch.begin(tokens, prompts, check=check)

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Keep only the rows of the batch with these indices; resets `changed`."""
        self.changed = None
        self._watch.keep(rows)

    def verify(self) -> None:
        """Check that every hook fired in every pass.

        Raises:
            RuntimeError: a hook did not fire in some pass, so the condition was not applied there.
        """
        for site, n in self.firings.items():
            if n < self.n_passes:
                raise RuntimeError(
                    f"condition {self.condition.name!r}: the hook of {site} fired {n} times in "
                    f"{self.n_passes} passes, so the ablation was not applied"
                )

    def _enter(self, value: Tensor, *, hook: object, layer: int) -> None:
        self._entries[layer] = value

    def _finish(self, value: Tensor, *, hook: object) -> None:
        self.n_passes += 1

    def _edit(self, value: Tensor, *, hook: object, site: Site) -> Tensor | None:
        self.firings[site] += 1
        read = self._watch.current
        assert read is not None  # the model was called, so the watch has seen the call
        new, differs = self._edits[site](value, self._entries[site.layer], read)
        self._record(differs)
        return new

    def _record(self, differs: Bool[Tensor, "row pos"]) -> None:
        rows = differs.any(-1)
        if self.changed is not None:
            rows = rows.to(self.changed.device)  # sites may lie on different devices
        same = self.changed is not None and self.changed.shape == rows.shape
        self.changed = self.changed | rows if same else rows  # type: ignore[operator]  # not None


@contextmanager
def ablated(
    model: TransformerBridge, condition: Condition, *, prompts: Sequence[Prompt] | None = None
) -> Iterator[Applied]:
    """Apply a condition to every call of the model inside the `with` block.

    Works for `model(...)`, `run_with_cache`, `run_with_hooks` and `generate`, with and without a
    key-value cache. The `with` blocks may be nested. Yields an `Applied`, which records what the
    hooks did.

    Args:
        model: from `load` or `prepare`.
        condition: what is ablated.
        prompts: the prompt of each row that the model is called on, for conditions that act only on
            some positions. By default, tokens read without a cache count as the prompt, and tokens
            read on top of a cache count as generated. Generation without a cache reads the whole
            text again for each token, so it needs `prompts`.

    Raises:
        InputError: the model has no weights or lacks a site, a sublayer's hook does not give what
            the sublayer adds to the stream, or an item of `prompts` is not a `Prompt`; inside the
            `with` block, a row does not begin with its prompt, or the condition acts on evidence
            whose positions are not known.
        RuntimeError: on leaving the `with` block, if a hook did not fire in a pass.

    Example:
        condition = lr.Condition({lr.Site(2): lr.Skip()}, at="generated")
        text = "silver fence church money silver"
        prompt = lr.Prompt(tuple(model.to_tokens("silver fence", prepend_bos=False)[0].tolist()))
        with lr.ablated(model, condition, prompts=[prompt]):
            logits = model(text, prepend_bos=False)  # [row, pos, d_vocab]
    """
    check_weights(model)
    condition = as_condition(condition)
    condition.check(model)
    for prompt in prompts or ():
        if not isinstance(prompt, Prompt):
            raise InputError(
                f"prompts= takes a Prompt for each row, not {type(prompt).__name__}: "
                f"Prompt(ids), with ids from model.to_tokens(text)[0].tolist()"
            )
    with applied(model, condition, resolve_references(model, [condition])) as run:
        run.begin(prompts=prompts, check=True)
        yield run


@contextmanager
def applied(
    model: TransformerBridge, condition: Condition, references: References
) -> Iterator[Applied]:
    """Apply a condition inside the `with` block, as `ablated` does, without checking arguments.

    The caller has checked the condition, and calls `begin` of the `Applied` for each batch.
    `references` come from `resolve_references`.
    """
    with watch_passes(model) as watch, ExitStack() as stack:
        placed = {
            site: stack.enter_context(edit.placed(model, site))
            for site, edit in condition.edits.items()
        }
        run = Applied(model, condition, references, watch, placed)
        with model.hooks(fwd_hooks=run.hooks):
            yield run
        run.verify()


def resolve_references(model: TransformerBridge, conditions: list[Condition]) -> References:
    """Collect the reference data that the conditions' ablations need, and call their `fit`.

    Returns a map from (ablation, site) to the `SiteReference` and the result of `Ablation.fit`. All
    data that is needed from a reference is collected in one run over its prompts; data in memory or
    in the disk cache is not collected again.

    Raises:
        InputError: an ablation needs a kind of data that references do not provide.
    """
    edits = dict.fromkeys(item for condition in conditions for item in condition.edits.items())
    declared = {edit: declared_reference(edit) for _, edit in edits}
    known: dict[tuple[Ablation, Site], tuple[SiteReference, object]] = {}
    for reference in dict.fromkeys(filter(None, declared.values())):
        needed = [(site, edit) for site, edit in edits if declared[edit] == reference]
        kinds = frozenset[Kind]().union(*(edit.needs for _, edit in needed))
        if unknown := sorted(kinds.difference(KINDS)):
            names = ", ".join(KINDS)
            raise InputError(
                f"an ablation needs {unknown[0]!r} of its reference: known are {names}"
            )
        sites = dict.fromkeys(site for site, _ in needed)
        collected = load_or_collect(model, reference, sites, kinds)
        fitted = weights_cache(model)
        for site, edit in needed:
            if (edit, site) not in fitted:
                fitted[edit, site] = edit.fit(collected[site], site)
            known[edit, site] = collected[site], fitted[edit, site]
    return known

"""The base class of ablations, and what an ablation can read: a site's write and an `EditContext`.

With `w` the write of a site (what it adds to the residual stream), an ablation replaces `w` by
`edit(w)`. In addition to `w`, `edit` receives only an `EditContext`, so an ablation written once
works for blocks, sublayers and heads, in likelihood and in generation.

Example:
    A complete new ablation::

        @lr.ablation("scale")
        @dataclass(frozen=True)
        class Scale(lr.Ablation):
            '''Multiply the site's write by `factor`.'''
            factor: float = 0.5

            def edit(self, write, ctx):
                return self.factor * write
"""

import copy
import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.reference_prompts import Reference
from layerroles.ablations.token_marks import EVIDENCE, IN_PROMPT, LAST, UNKNOWN, Prompt
from layerroles.ablations.write_statistics import Kind, SiteReference
from layerroles.errors import InputError
from layerroles.registry import Registry, describe_unknown
from layerroles.sites import Site

# Kinds of damage, in this order: the write is removed, replaced by its mean, replaced by the write
# on another prompt, or made noisy.
MECHANISMS = ("deletion", "mean", "resample", "noise")


@runtime_checkable
class Pass(Protocol):
    """The inputs of one forward pass: each row's new tokens, and what the row has read so far.

    A row is one sequence of a batch. Its real tokens are those that are not pads.

    Attributes:
        positions: index of each new token among its row's real tokens; negative at pads.
        real: mask of the new tokens; false at pads.
        tokens: ids of all tokens that each row has read, pads included, new ones last; None if not
            known (the model was run on embeddings, or on a cache that was filled elsewhere).
        attended: mask of all tokens that each row has read, new ones last; false at pads.
        marks: the marks of each new token (see the module `token_marks`).
        prompts: each row's prompt; None if not known, or if a token of the pass belongs to several
            prompts.
    """

    @property
    def positions(self) -> Int[Tensor, "row pos"]: ...  # noqa: D102
    @property
    def real(self) -> Bool[Tensor, "row pos"]: ...  # noqa: D102
    @property
    def tokens(self) -> Int[Tensor, "row all_pos"] | None: ...  # noqa: D102
    @property
    def attended(self) -> Bool[Tensor, "row all_pos"]: ...  # noqa: D102
    @property
    def marks(self) -> Int[Tensor, "row pos"]: ...  # noqa: D102
    @property
    def prompts(self) -> Sequence[Prompt] | None: ...  # noqa: D102
    def read_at(self, row: int, pos: int) -> list[int] | None:
        """Return the ids of the real tokens that a row has read, up to and including `pos`.

        `pos` is an index among the new tokens. Returns None if the ids are not known.
        """
        ...


@dataclass(frozen=True, repr=False)
class EditContext:
    """What an edit can read in addition to the write, at the rows and positions of the write.

    Attributes:
        site: the site being edited.
        stream: the residual stream that entered the site's block.
        read: the current forward pass; the properties below are computed from it.
        reference: statistics of the intact model's writes at this site; None if the ablation
            declares no reference.
        fitted: the result of the ablation's `fit`; None if it declares no reference.
        whole_prompt: whether `prompts` may be read.

    Example:
        def early(ctx):  # an `at=` function; `edit` of an ablation receives the same context
            return ctx.in_prompt & (ctx.positions < 4)

        condition = lr.Condition({lr.Site(1): lr.Zero()}, at=early)
    """

    site: Site
    stream: Float[Tensor, "row pos d_model"]
    read: Pass
    reference: SiteReference | None = None
    fitted: Any = None
    whole_prompt: bool = False

    def __repr__(self) -> str:
        n_rows, n_pos, _ = self.stream.shape
        return f"EditContext({self.site}, stream [row={n_rows} pos={n_pos} d_model])"

    @property
    def positions(self) -> Int[Tensor, "row pos"]:
        """Index of each token among its row's real tokens, from 0; negative at pads.

        Tokens in the KV cache are counted too.
        """
        return self.read.positions.to(self.stream.device)

    @property
    def real(self) -> Bool[Tensor, "row pos"]:
        """Mask of the real tokens: false at pads."""
        return self.read.real.to(self.stream.device)

    @property
    def tokens(self) -> Int[Tensor, "row all_pos"] | None:
        """Ids of all tokens that each row has read, pads included; None if they are not known.

        Position `p` of a write with `n_pos` positions belongs to `tokens[:, p - n_pos]`.
        """
        return self.read.tokens

    @property
    def attended(self) -> Bool[Tensor, "row all_pos"]:
        """Mask of the real tokens among `tokens`: false at pads."""
        return self.read.attended

    @property
    def in_prompt(self) -> Bool[Tensor, "row pos"]:
        """True at the tokens of the row's prompt, false at those of its answer and at pads."""
        return self.marked(IN_PROMPT)

    @property
    def is_last(self) -> Bool[Tensor, "row pos"]:
        """True at the prompt's last token, where the model predicts the answer's first token."""
        return self.marked(LAST)

    @property
    def is_evidence(self) -> Bool[Tensor, "row pos"]:
        """True at the prompt's tokens that contain the information needed to answer.

        Raises:
            InputError: the evidence positions of a prompt are not known.
        """
        if self.marked(UNKNOWN).any():
            raise InputError(
                f"{self.site}: it is not known where the evidence is, give evidence= to the "
                f"engine, or prompts=[Prompt(ids, evidence=...)] to ablated"
            )
        return self.marked(EVIDENCE)

    def marked(self, mark: int) -> Bool[Tensor, "row pos"]:
        """Return the mask of the tokens that have a mark, such as `token_marks.IN_PROMPT`."""
        return (self.read.marks.to(self.stream.device) & mark) > 0

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Each row's whole prompt, for ablations and `at=` functions with `whole_prompt = True`.

        Raises:
            InputError: neither the condition's ablations nor its `at=` function set `whole_prompt`,
                or the prompts are not known (the model was run on embeddings).
        """
        if not self.whole_prompt:
            raise InputError(
                f"{self.site}: what looks at ctx.prompts has to say so, by whole_prompt = True in "
                f"the ablation's class, or as an attribute of the function"
            )
        if self.read.prompts is None:
            raise InputError(f"{self.site}: prompts are known of token ids, not of embeddings")
        return self.read.prompts

    def generator(self, row: int, pos: int) -> torch.Generator:
        """Return a CPU generator seeded by the site and the row's real tokens up to position `pos`.

        The same prompt draws the same numbers in any batch, with or without padding or a cache.

        Raises:
            InputError: the token ids are not known (the model was run on embeddings).
        """
        ids = self.read.read_at(row, pos)
        if ids is None:
            raise InputError(f"{self.site}: a seeded edit needs token ids, not embeddings")
        digest = hashlib.sha256(f"{self.site} {ids}".encode()).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def normal(self, write: Float[Tensor, "row pos *site"]) -> Float[Tensor, "row pos *site"]:
        """Return standard normal numbers in the shape of a write, in float32; zeros at pads.

        The numbers at each row and position are drawn from `generator(row, pos)`.
        """
        drawn = torch.zeros(write.shape)
        for row, pos in self.real.nonzero().tolist():
            drawn[row, pos] = torch.randn(write.shape[2:], generator=self.generator(row, pos))
        return drawn.to(write.device)


class Ablation(ABC):
    """The base class of ablations. Subclasses are frozen dataclasses; their fields are parameters.

    A field named `reference` declares that the ablation needs the writes of the intact (unablated)
    model on the prompts of a `Reference`. Statistics of these writes are collected before the first
    edit and passed to `edit` as `ctx.reference`.

    Class attributes:
        mechanism: the kind of damage, one of `MECHANISMS`, or `""` (the default) if none of them
            fits. A claim about a layer needs ablations of two different mechanisms. Ablations of
            one mechanism under other names or at other strengths do not count as different.
        in_place: whether the ablation changes the model itself (by `placed`) while the condition is
            applied. If so, `edit` is not called, and the ablation acts at all positions.
        whole_prompt: whether edits depend on the row's whole prompt (`ctx.prompts`), even at the
            first tokens. If so, a prefix that two prompts share is computed separately for each.

    Example:
        from dataclasses import dataclass

        @lr.ablation("halve")
        @dataclass(frozen=True)
        class Halve(lr.Ablation):
            "Write half as much."

            def edit(self, write, ctx):
                return write / 2

        halved = lr.each_layer(model, Halve(), part="mlp")
    """

    mechanism: ClassVar[str] = ""
    in_place: ClassVar[bool] = False
    whole_prompt: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Check, when a subclass is defined, that its mechanism is known or empty.

        Raises:
            InputError: `mechanism` is neither empty nor one of `MECHANISMS`.
        """
        super().__init_subclass__()
        if cls.mechanism not in ("", *MECHANISMS):
            problem = describe_unknown("mechanism", str(cls.mechanism), list(MECHANISMS))
            raise InputError(f"{cls.__name__}: {problem}; leave it out where none of them fits")

    @abstractmethod
    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """Return what the site writes instead of `write`, in the same shape.

        The write of a block is float32, other writes have the model's dtype. Values returned at
        pads, and at positions that the condition's `at` leaves out, are ignored. Where the returned
        value equals `write`, the model's own output is kept bit for bit.
        """

    @property
    def needs(self) -> frozenset[Kind]:
        """The data that the ablation needs besides means and standard deviations; empty by default.

        `"positions"` stands for the mean at each position, `"donors"` for every individual write.
        """
        return frozenset()

    def fit(self, reference: SiteReference, site: Site) -> object:
        """Return what `edit` needs at a site, computed once from the reference; None by default.

        `edit` receives the result as `ctx.fitted`. Called only for ablations that declare a
        `reference`. `reference` holds means, standard deviations and the data named by `needs`.
        """
        return None

    def check(self, site: Site) -> None:  # noqa: B027  # most ablations refuse nothing
        """Check that this ablation can be applied to a site; by default it always can.

        Raises:
            InputError: the ablation cannot be applied to this kind of site.
        """

    def fits(self, model: TransformerBridge, site: Site) -> None:  # noqa: B027  # as `check`
        """Check that this ablation can be applied to a model at a site; by default it always can.

        Raises:
            InputError: the ablation cannot be applied there; the message says why.
        """

    @contextmanager
    def placed(self, model: TransformerBridge, site: Site) -> Iterator[bool]:
        """Change the model inside the `with` block; yields whether anything was changed.

        By default nothing is changed. Ablations that are `in_place` override this method. If
        `donated` returns weights, this method must change nothing but these weights.
        """
        yield False

    def donated(self, model: TransformerBridge, site: Site) -> Mapping[str, Tensor] | None:
        """Return the weights that `placed` puts into the site's block, by parameter name.

        The names are those of the transformers model; other names are ignored. With these weights,
        the engine can run many conditions in one forward pass (the fused executor), unless saved
        buffers differ as well. Returns None (the default) if `placed` changes anything else.
        """
        return None

    @property
    def name(self) -> str:
        """The name that the ablation is registered under, such as `skip`."""
        return ABLATIONS.name_of(type(self))

    @property
    def label(self) -> str:
        """The name, followed by the parameters that differ from their defaults: `noise[scale=0.5]`.

        Only parameters that are numbers, booleans or strings are shown.
        """
        if not dataclasses.is_dataclass(self):
            return self.name
        changed = [
            f"{field.name}={value}"
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), bool | int | float | str)
            and value != field.default
        ]
        return f"{self.name}[{','.join(changed)}]" if changed else self.name

    def parameters(self) -> dict[str, object]:
        """Return the ablation's parameters by name, for hashes; a reference becomes its digest."""
        values = dict(vars(self))
        if dataclasses.is_dataclass(self):
            values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            key: value.digest if isinstance(value, Reference) else value
            for key, value in values.items()
        }


ABLATIONS: Registry[Ablation] = Registry("ablation", Ablation)
ablation = ABLATIONS.register


def declared_reference(ablation: Ablation) -> Reference | None:
    """Return the ablation's field `reference`; None if it has none.

    Raises:
        InputError: the field holds something that is not a `Reference`.
    """
    declared = getattr(ablation, "reference", None)
    if declared is not None and not isinstance(declared, Reference):
        raise InputError(
            f"{ablation.name}: reference={declared!r} is not a reference, "
            f"use Reference(texts_or_task)"
        )
    return declared


def with_reference(ablation: Ablation, reference: Reference) -> Ablation:
    """Return a copy of the ablation with its field `reference` replaced."""
    if dataclasses.is_dataclass(ablation):
        return dataclasses.replace(ablation, reference=reference)
    other = copy.copy(ablation)
    object.__setattr__(other, "reference", reference)
    return other

"""What an ablation is: a function of a site's write.

With `x` the stream entering a block and `w` the write of a site, an ablation replaces `w` by
`edit(w)`. It sees nothing else of the model, so an ablation written once works for blocks,
sublayers and heads, in likelihood and in generation.

Example:
    A new ablation, whole::

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

from layerroles.ablations.prompts import EVIDENCE, IN_PROMPT, LAST, UNKNOWN, Prompt
from layerroles.ablations.reference import Kind, Reference, SiteReference
from layerroles.errors import InputError
from layerroles.registry import Registry, describe_unknown
from layerroles.sites import Site

# Kinds of damage: nothing is written, the mean, another prompt's write, the write with noise.
MECHANISMS = ("deletion", "mean", "resample", "noise")


@runtime_checkable
class Pass(Protocol):
    """One forward pass: what the model is run on, some new tokens for some rows.

    Attributes:
        positions: of the new tokens among their row's real tokens; negative at pads.
        real: false at pads.
        tokens: ids of everything that the row has read, new ones last; None for embeddings.
        attended: false at the pads of `tokens`.
        marks: of the new tokens (see `prompts`).
        prompts: of the rows; None for embeddings, or where rows of different prompts are read as
            one.
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
        """The real tokens that a row has read up to and including its new token `pos`.

        None for embeddings.
        """
        ...


@dataclass(frozen=True, repr=False)
class EditContext:
    """What an edit may read in addition to the write: its own rows and positions only.

    Attributes:
        site: the site being edited.
        stream: the residual stream that entered the site's block.
        read: the pass under way, which the properties below are taken from.
        reference: what the intact model wrote at this site, if the ablation declares a reference.
        fitted: what the ablation's `fit` made of it.
        whole_prompt: whether the condition may look at `prompts`.

    Example:
        def early(ctx):  # an `at=` function; an ablation's `edit` is given the same
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
        """Positions among the row's real tokens, in prompts and in cached decoding alike.

        Negative at pads.
        """
        return self.read.positions.to(self.stream.device)

    @property
    def real(self) -> Bool[Tensor, "row pos"]:
        """False at pads."""
        return self.read.real.to(self.stream.device)

    @property
    def tokens(self) -> Int[Tensor, "row all_pos"] | None:
        """The row's token ids so far, pads included; None where the model was given embeddings.

        Position `p` of `write` is column `p - n_pos`, counted from the end.
        """
        return self.read.tokens

    @property
    def attended(self) -> Bool[Tensor, "row all_pos"]:
        """False at the pads of `tokens`."""
        return self.read.attended

    @property
    def in_prompt(self) -> Bool[Tensor, "row pos"]:
        """True at the tokens that the row's answer follows on, false at those of the answer."""
        return self.marked(IN_PROMPT)

    @property
    def is_last(self) -> Bool[Tensor, "row pos"]:
        """True at the prompt's last token, from which the answer begins."""
        return self.marked(LAST)

    @property
    def is_evidence(self) -> Bool[Tensor, "row pos"]:
        """True at the prompt's tokens that hold what the answer needs.

        Raises:
            InputError: it is not known where they are.
        """
        if self.marked(UNKNOWN).any():
            raise InputError(
                f"{self.site}: it is not known where the evidence is, give evidence= to the "
                f"engine, or prompts=[Prompt(ids, evidence=...)] to ablated"
            )
        return self.marked(EVIDENCE)

    def marked(self, mark: int) -> Bool[Tensor, "row pos"]:
        """Where the tokens have this mark (see `prompts`)."""
        return (self.read.marks.to(self.stream.device) & mark) > 0

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The rows' whole prompts, for ablations (or `at=` functions) that are `whole_prompt`.

        Raises:
            InputError: these did not say so, or the model was run on embeddings.
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
        """A generator seeded by the row's real tokens up to and including column `pos`.

        The same prompt draws the same numbers in any batch, with or without padding or a cache.

        Raises:
            InputError: the model was run on embeddings, so there are no token ids.
        """
        ids = self.read.read_at(row, pos)
        if ids is None:
            raise InputError(f"{self.site}: a seeded edit needs token ids, not embeddings")
        digest = hashlib.sha256(f"{self.site} {ids}".encode()).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def normal(self, write: Float[Tensor, "row pos *site"]) -> Float[Tensor, "row pos *site"]:
        """Standard normal numbers in the shape of a write, float32, seeded as by `generator`.

        Zeros at pads.
        """
        drawn = torch.zeros(write.shape)
        for row, pos in self.real.nonzero().tolist():
            drawn[row, pos] = torch.randn(write.shape[2:], generator=self.generator(row, pos))
        return drawn.to(write.device)


class Ablation(ABC):
    """What is done to a site's write. Subclasses are frozen dataclasses; fields are parameters.

    A field named `reference` declares that the ablation needs to know what the intact model wrote
    on a `Reference`; it is collected before the first edit and comes in `ctx.reference`.

    Class attributes:
        mechanism: what kind of damage it does, one of `MECHANISMS`. A claim takes two kinds of
            ablation, and ablations of one mechanism are one kind, regardless of their names and
            strengths. An ablation without one (`""`, the default) does not count as a second kind.
        in_place: the model itself is changed while the condition lasts (`placed`), and nothing is
            left to edit. Such an ablation acts at all positions; if `donated` returns weights, it
            changes nothing but weights of the site's block.
        whole_prompt: edits depend on the row's whole prompt (`ctx.prompts`), even those of its
            first tokens; so what two prompts have in common can't be read once for both.

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
        """Refuse a mechanism that is not known.

        Raises:
            InputError: `mechanism` is none of `MECHANISMS`.
        """
        super().__init_subclass__()
        if cls.mechanism not in ("", *MECHANISMS):
            problem = describe_unknown("mechanism", str(cls.mechanism), list(MECHANISMS))
            raise InputError(f"{cls.__name__}: {problem}; leave it out where none of them fits")

    @abstractmethod
    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: EditContext
    ) -> Float[Tensor, "row pos *site"]:
        """What the site writes instead of `write`.

        Blocks are handed float32, sublayers and heads the model's own dtype. What is returned at
        pads, and at positions that the condition's `at` leaves out, is ignored. Where the edit
        equals the write, the model's own output passes through untouched.
        """

    @property
    def needs(self) -> frozenset[Kind]:
        """What its reference must hold, in addition to moments: `positions`, `donors`."""
        return frozenset()

    def fit(self, reference: SiteReference, site: Site) -> object:
        """Fit the ablation to its reference at a site, once; the result is passed as `ctx.fitted`.

        Called only for ablations that declare a `reference`. What they read in addition to means
        and deviations must be named in `needs`.
        """
        return None

    def check(self, site: Site) -> None:  # noqa: B027  # most ablations refuse nothing
        """Refuse a site that this ablation cannot be applied to.

        Raises:
            InputError: the ablation makes no sense there.
        """

    def fits(self, model: TransformerBridge, site: Site) -> None:  # noqa: B027  # as `check`
        """Refuse a model that this ablation cannot be applied to at a site.

        Raises:
            InputError: it does not fit, and why.
        """

    @contextmanager
    def placed(self, model: TransformerBridge, site: Site) -> Iterator[bool]:
        """Within the context, adapt the model to this ablation; yields whether that changes it.

        Only ablations that are `in_place` do anything here.
        """
        yield False

    def donated(self, model: TransformerBridge, site: Site) -> Mapping[str, Tensor] | None:
        """The weights that `placed` puts into the site's block, by transformers' names.

        None if `placed` does anything else. If the weights are given, rows under many conditions
        can be run together. Buffers stay the host's; names that transformers does not have are
        ignored.
        """
        return None

    @property
    def name(self) -> str:
        """The registered name, such as `skip`."""
        return ABLATIONS.name_of(type(self))

    @property
    def label(self) -> str:
        """The name with every simple parameter that is not the default: `noise[scale=0.5]`."""
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
        """The parameters as JSON values; a reference is given by its `digest`."""
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
    """Return the reference that an ablation declares by a field of that name, if any.

    Raises:
        InputError: the field holds something else.
    """
    declared = getattr(ablation, "reference", None)
    if declared is not None and not isinstance(declared, Reference):
        raise InputError(
            f"{ablation.name}: reference={declared!r} is not a reference, "
            f"use Reference(texts_or_task)"
        )
    return declared


def with_reference(ablation: Ablation, reference: Reference) -> Ablation:
    """Return the same ablation with another reference."""
    if dataclasses.is_dataclass(ablation):
        return dataclasses.replace(ablation, reference=reference)
    other = copy.copy(ablation)
    object.__setattr__(other, "reference", reference)
    return other

"""Conditions: named sets of ablations that are applied together; and lists of conditions.

The empty condition is the baseline and is always called `intact`. A condition is identified not by
its name but by a hash of its sites, its ablations, their parameters, and the positions (`at`).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import SupportsIndex, overload

from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.base import (
    Ablation,
    EditContext,
    ablation,
    declared_reference,
    with_reference,
)
from layerroles.ablations.fingerprints import fingerprint
from layerroles.ablations.positions import At, at_name, identify, position_mask
from layerroles.ablations.reference_prompts import ONLY_IN_SWEEP, Reference
from layerroles.errors import InputError
from layerroles.models import check_sites
from layerroles.registry import nearest_name
from layerroles.sites import Site

# How many names a list of conditions shows when it is printed, and in errors.
_SHOWN = 3


class Condition:
    """A named map from sites to ablations, applied together.

    Args:
        edits: the ablation to apply at each site; empty for the intact model.
        name: the condition's name in frames and figures; by default made from the ablations, sites
            and `at`, such as `"skip L3"`.
        at: the positions at which it acts: `"all"`; `"after_first"`, all but the first real token
            (the attention sink); `"prompt"`, the tokens before the answer; `"generated"`, the
            answer's tokens, given or generated; `"last"`, the prompt's last token; `"evidence"`,
            the prompt's tokens that contain the information needed to answer; or a function of an
            `EditContext` that returns a mask `[row pos]`, such as `lambda ctx: ctx.positions >= 4`
            (with an attribute `whole_prompt = True` if it reads `ctx.prompts`).

    Raises:
        InputError: unknown `at`, `edits` that do not map sites to ablations, an ablation that
            cannot be applied to its site or at these positions, `intact` as the name of a condition
            with edits, or a condition without edits that has another name or `at`.

    Example:
        >>> import layerroles as lr
        >>> lr.Condition({lr.Site(3): lr.Skip()}, at="after_first").name
        'skip L3 after_first'
        >>> lr.Condition({}).name
        'intact'
    """

    __slots__ = ("at", "edits", "fingerprints", "hash", "name", "where")

    edits: Mapping[Site, Ablation]
    name: str
    at: At
    hash: str
    # Texts that identify the parameters of the ablation at each site, and the positions (`at`).
    fingerprints: Mapping[Site, str]
    where: str

    def __init__(
        self, edits: Mapping[Site, Ablation], *, name: str | None = None, at: At = "all"
    ) -> None:
        where = identify(at)
        if not isinstance(edits, Mapping):
            raise InputError(f"a condition maps sites to ablations: {edits!r} is no such map")
        if not isinstance(name, str | None):
            raise InputError(f"a condition's name is a text, not {name!r}")
        for site, edit in edits.items():
            if isinstance(edit, type) and issubclass(edit, Ablation):
                raise InputError(f"{edit.__name__} is a class: write {edit.__name__}()")
            if not isinstance(site, Site) or not isinstance(edit, Ablation):
                raise InputError(f"a condition maps sites to ablations, not {site!r}: {edit!r}")
            edit.check(site)
            _check_hash(edit)
            if edit.in_place and at != "all":
                raise InputError(
                    f"{edit.name} {site} acts at all positions, not at={at_name(at)!r}"
                )
        ordered = dict(sorted(edits.items(), key=lambda item: item[0].order))
        if not ordered and (name not in (None, "intact") or at != "all"):
            raise InputError(
                f"the empty condition is called 'intact', not {name!r} with at={at_name(at)!r}"
            )
        if ordered and name == "intact":
            raise InputError("'intact' is the name of the empty condition, choose another name")
        object.__setattr__(self, "edits", MappingProxyType(ordered))
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "name", name or _make_name(ordered, at))
        fingerprints = {site: _dump_parameters(edit) for site, edit in ordered.items()}
        object.__setattr__(self, "where", where)
        object.__setattr__(self, "fingerprints", MappingProxyType(fingerprints))
        object.__setattr__(self, "hash", _compute_hash(ordered, fingerprints, where))

    def __setattr__(self, key: str, value: object) -> None:
        raise AttributeError(f"a condition cannot be changed: make a new one to set {key!r}")

    def __reduce__(self) -> tuple[object, ...]:
        classes = {edit.name: type(edit) for edit in self.edits.values()}
        return _rebuild, (dict(self.edits), self.name, self.at, self.hash, classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"Condition({self.name!r})"

    def __iter__(self) -> Iterator[Site]:
        return iter(self.edits)

    def check(self, model: TransformerBridge) -> None:
        """Check that the condition can be applied to a model.

        Raises:
            InputError: the model lacks a site or its hook there cannot be used, an ablation does
                not fit the model, or a reference is open (it has no prompts of its own; only a
                sweep can supply them).
        """
        check_sites(model, tuple(self.edits))
        for site, edit in self.edits.items():
            edit.fits(model, site)
        for reference in self.references:
            if reference.is_open:
                raise InputError(f"condition {self.name!r}: {ONLY_IN_SWEEP}")

    @property
    def is_intact(self) -> bool:
        """Whether nothing is ablated."""
        return not self.edits

    @property
    def first_layer(self) -> int | None:
        """The lowest ablated layer; None for the intact model."""
        return min((site.layer for site in self.edits), default=None)

    @property
    def ablation(self) -> str:
        """The names of the condition's ablations, joined by `+`; `intact` if there are none."""
        return "+".join(sorted({edit.name for edit in self.edits.values()})) or "intact"

    @property
    def mechanism(self) -> str:
        """The mechanism (such as `deletion`) that all ablations share; `""` if there is none."""
        (mechanism, *others) = {edit.mechanism for edit in self.edits.values()} or {""}
        return "" if others else mechanism

    @property
    def at_name(self) -> str:
        """The name of the positions at which the condition acts: `at`, or the function's name."""
        return at_name(self.at)

    @property
    def acts_in_prompt(self) -> bool:
        """Whether the condition may act on tokens of a prompt; false if `at="generated"`."""
        return self.at != "generated"

    @property
    def acts_in_answer(self) -> bool:
        """Whether the condition may act on answer tokens; false if `at` names prompt positions."""
        return self.at not in ("prompt", "last", "evidence")

    @property
    def whole_prompt(self) -> bool:
        """Whether one of its ablations, or its `at` function, depends on the whole prompt."""
        if getattr(self.at, "whole_prompt", False):
            return True
        return any(edit.whole_prompt for edit in self.edits.values())

    def acts(self, ctx: EditContext) -> Bool[Tensor, "row pos"]:
        """Return a mask of a pass's new tokens: true where the condition acts, false at pads.

        Raises:
            InputError: the `at` function did not return a boolean mask of shape `[row pos]`.
        """
        return position_mask(self.at, ctx)

    @property
    def references(self) -> dict[Reference, list[Site]]:
        """The references that the ablations declare, each with the sites that need it."""
        needed: dict[Reference, list[Site]] = {}
        for site, edit in self.edits.items():
            reference = declared_reference(edit)
            if reference is not None:
                needed.setdefault(reference, []).append(site)
        return needed

    def with_references(self, others: Mapping[Reference, Reference]) -> "Condition":
        """Return a copy of the condition with some references replaced, under the same name.

        The copy has another hash, since a condition's hash covers its references.

        Args:
            others: maps references to their replacements; references not listed do not change.
        """
        edits = {}
        for site, edit in self.edits.items():
            reference = declared_reference(edit)
            other = None if reference is None else others.get(reference)
            edits[site] = edit if other is None else with_reference(edit, other)
        return Condition(edits, name=self.name, at=self.at)


def as_conditions(given: Iterable[Condition]) -> list[Condition]:
    """Check that every item is a condition; returns the items as a list.

    Raises:
        InputError: one condition instead of several, or an item that is not a condition.
    """
    if isinstance(given, Condition):
        raise InputError(f"conditions={given!r} is one, not several: write [{given!r}]")
    conditions = given if isinstance(given, Iterable) else [given]
    return [as_condition(condition) for condition in conditions]


def as_condition(given: Condition) -> Condition:
    """Check that a value is a condition; returns it.

    Raises:
        InputError: a list, or another value that is not a condition.
    """
    if isinstance(given, list | tuple):
        raise InputError(f"condition={given!r} is a list: take one of it, such as conditions[0]")
    if not isinstance(given, Condition):
        raise InputError(
            f"{given!r} is no condition: lr.each_layer(model, ablation) makes some, "
            "lr.Condition({site: ablation}) one"
        )
    return given


def _rebuild(
    edits: Mapping[Site, Ablation],
    name: str,
    at: At,
    known_hash: str,
    classes: Mapping[str, type[Ablation]],
) -> Condition:
    """Rebuild a condition that another process pickled, and register its ablations in this one.

    Raises:
        InputError: the condition's hash here is not `known_hash`, its hash in the other process.
    """
    for ablation_name, cls in classes.items():
        ablation(ablation_name)(cls)
    condition = Condition(edits, name=name, at=at)
    if condition.hash != known_hash:
        raise InputError(
            f"condition {name!r} is another one here than where it was made: what it does depends "
            f"on something that differs between the two processes (let its ablations be frozen "
            f"dataclasses of plain values, tensors and functions)"
        )
    return condition


def _make_name(edits: Mapping[Site, Ablation], at: At) -> str:
    if not edits:
        return "intact"
    sites: dict[str, list[str]] = {}
    for site, edit in edits.items():
        sites.setdefault(edit.label, []).append(str(site))
    name = " + ".join(f"{label} {','.join(names)}" for label, names in sites.items())
    return name if at == "all" else f"{name} {at_name(at)}"


def _check_hash(edit: Ablation) -> None:
    try:
        hash(edit)
    except TypeError as error:
        raise InputError(
            f"{edit.name} cannot be compared with others ({error}): write @dataclass(frozen=True) "
            f"over its class, with fields that can be hashed, such as tuples for lists"
        ) from None


def _dump_parameters(edit: Ablation) -> str:
    """Return an ablation's parameters as JSON text.

    Values that JSON cannot hold are replaced by their `fingerprint`.
    """
    parameters = {name: _to_json_value(value) for name, value in edit.parameters().items()}
    return json.dumps(parameters, sort_keys=True)


def _to_json_value(value: object) -> object:
    try:
        json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return fingerprint(value)
    return value


def _compute_hash(
    edits: Mapping[Site, Ablation], fingerprints: Mapping[Site, str], where: str
) -> str:
    content = {
        str(site): [edit.name, json.loads(fingerprints[site])] for site, edit in edits.items()
    }
    text = json.dumps({"at": where, "edits": content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


INTACT = Condition({})


class Conditions(list[Condition]):
    """A list of conditions that can be indexed by name too, as in `conditions["skip L3"]`.

    Raises:
        InputError: when indexed with a name that no condition has.
    """

    @overload
    def __getitem__(self, at: SupportsIndex) -> Condition: ...
    @overload
    def __getitem__(self, at: slice) -> "Conditions": ...
    @overload
    def __getitem__(self, at: str) -> Condition: ...

    def __getitem__(self, at: SupportsIndex | slice | str) -> "Condition | Conditions":
        if isinstance(at, slice):
            return Conditions(super().__getitem__(at))
        if not isinstance(at, str):
            return super().__getitem__(at)
        condition = next((condition for condition in self if condition.name == at), None)
        if condition is None:
            names = self._ipython_key_completions_()
            near = nearest_name(at, names)
            hint = f"did you mean {near!r}" if near else f"they are called like {names[:_SHOWN]}"
            raise InputError(f"none of {len(self)} conditions is called {at!r}: {hint}")
        return condition

    def __repr__(self) -> str:
        names = self._ipython_key_completions_()
        if len(names) > _SHOWN + 1:
            names = [*names[:_SHOWN], "...", names[-1]]
        n = "1 condition" if len(self) == 1 else f"{len(self)} conditions"
        return f"<{n}: {', '.join(names)}>" if names else "<no conditions>"

    def _ipython_key_completions_(self) -> list[str]:
        return [condition.name for condition in self]

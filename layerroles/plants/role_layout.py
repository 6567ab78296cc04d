"""Assign the steps of each family of tasks to layers of a planted model; derive its true roles.

A step is one of the operations that lead to an answer: attention to the previous word, a look-up,
or the recall of a fact (see `wiring`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import Literal

from layerroles.errors import InputError

StepKind = Literal["previous", "first", "second", "fact"]
# The steps that lead to an answer, by family.
NEEDS: dict[str, tuple[StepKind, ...]] = {
    "retrieval": ("previous", "first"),
    "reasoning": ("previous", "first", "second"),
    "knowledge": ("fact",),
    "language": (),
}
# Limits: a larger model would take longer and show nothing more.
MOST_LAYERS, MOST_HEADS, MOST_NOISE, LEAST_STRENGTH = 64, 16, 0.2, 0.2


@dataclass(frozen=True)
class PlantedStep:
    """One step of an answer, done by one layer, or by two layers that back each other up.

    Attributes:
        kind: `previous`, attention to the previous word; `first` and `second`, the two look-ups;
            `fact`, recall from one part of the table of facts (see `wiring`).
        layers: the layer that does the step; or a layer and its double, of which one is enough.
        part: index of the part of the table of facts; 0 for other kinds.
    """

    kind: StepKind
    layers: tuple[int, ...]
    part: int = 0


@dataclass(frozen=True)
class RoleLayout:
    """The roles that a planted model's layers and heads are to have; checked when constructed.

    Attributes:
        n_layers, heads: numbers of layers, and of heads per layer.
        retrieval: two layers, the first with a head that attends to the previous word, the second
            with the first look-up; or empty.
        reasoning: layer of the second look-up; or empty.
        knowledge: layers that share the table of facts; or empty.
        inert: layers that write nothing.
        backup: pairs of a layer and its double, which does the same step.
        heads_of: by layer, the heads that share its step; other layers use one head.
        steps: the steps with their layers, derived from the above.

    Raises:
        InputError: a layer out of range or named twice, a number of layers that a role does not
            take, a layer that does not come after one whose result it reads, an inert layer with a
            role, too many layers or heads, or heads chosen for a layer that has no step for them.
    """

    n_layers: int
    heads: int
    retrieval: tuple[int, ...]
    reasoning: tuple[int, ...]
    knowledge: tuple[int, ...]
    inert: tuple[int, ...]
    backup: tuple[Sequence[int], ...]
    heads_of: Mapping[int, Sequence[int]]
    steps: tuple[PlantedStep, ...] = field(init=False)

    def __post_init__(self) -> None:
        _check_whole("n_layers", self.n_layers, 1, MOST_LAYERS)
        _check_whole("heads", self.heads, 1, MOST_HEADS)
        for name in ("retrieval", "reasoning", "knowledge", "inert"):
            _check_layers(name, getattr(self, name), self.n_layers)
        self._check_numbers()
        self._check_backup()
        object.__setattr__(self, "steps", self._make_steps())
        self._check_order()
        self._check_heads()
        for layer in self.inert:
            if layer not in self.free:
                raise InputError(
                    f"inert={self.inert}: layer {layer} has a role too, and an inert layer writes "
                    f"nothing: take it out of one of them"
                )

    @property
    def free(self) -> set[int]:
        """The layers without a role."""
        return set(range(self.n_layers)).difference(*(step.layers for step in self.steps))

    @property
    def families(self) -> tuple[str, ...]:
        """The families that have a layer for each of their steps."""
        kinds = {step.kind for step in self.steps}
        return tuple(family for family, needs in NEEDS.items() if kinds.issuperset(needs))

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """For each family, the layers planted for it, doubles included.

        For reasoning, these are the layers of the second look-up; the layers of the first look-up
        count as retrieval's.
        """
        kinds_of: dict[str, tuple[StepKind, ...]] = {**NEEDS, "reasoning": ("second",)}
        return {family: self._layers_of(kinds_of[family]) for family in self.families}

    @property
    def truth(self) -> dict[str, tuple[int, ...]]:
        """The ground truth: by family, the layers that no other backs up.

        The family's score falls if one of them alone is ablated.
        """
        return {family: self._layers_of(NEEDS[family], n=1) for family in self.families}

    @property
    def joint(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """For each family, the pairs of layers that back each other up; lower layer first."""
        return {
            family: tuple(
                (min(step.layers), max(step.layers))
                for step in self.steps
                if step.kind in NEEDS[family] and len(step.layers) == 2
            )
            for family in self.families
        }

    def _layers_of(self, kinds: Sequence[StepKind], n: int | None = None) -> tuple[int, ...]:
        layers = {
            layer
            for step in self.steps
            if step.kind in kinds and n in (None, len(step.layers))
            for layer in step.layers
        }
        return tuple(sorted(layers))

    def _make_steps(self) -> tuple[PlantedStep, ...]:
        double = {layer: other for layer, other in self.backup}

        def step(kind: StepKind, layer: int, part: int = 0) -> PlantedStep:
            return PlantedStep(kind, (layer, double[layer]) if layer in double else (layer,), part)

        kinds: tuple[StepKind, ...] = ("previous", "first")
        return (
            *(step(kind, layer) for kind, layer in zip(kinds, self.retrieval, strict=False)),
            *(step("second", layer) for layer in self.reasoning),
            *(step("fact", layer, part) for part, layer in enumerate(self.knowledge)),
        )

    def _check_numbers(self) -> None:
        if len(self.retrieval) not in (0, 2):
            raise InputError(
                f"retrieval={self.retrieval}: a look-up takes two layers, one that looks at the "
                f"previous word and a later one that looks up: give two, such as (1, 2)"
            )
        if len(self.reasoning) > 1:
            raise InputError(
                f"reasoning={self.reasoning}: one layer does the second look-up: give one, and its "
                f"double as backup=(({self.reasoning[0]}, {self.reasoning[1]}),)"
            )
        if self.reasoning and not self.retrieval:
            raise InputError(
                f"reasoning={self.reasoning} looks up what a first look-up found: give retrieval= "
                f"two layers"
            )

    def _check_backup(self) -> None:
        layers_with_role = {*self.retrieval, *self.reasoning, *self.knowledge}
        for pair in self.backup:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(
                    f"backup={self.backup!r} is not a list of pairs (layer, its double), such as "
                    f"((5, 7),)"
                )
            _check_layers("backup", pair, self.n_layers)
            if pair[0] not in layers_with_role:
                raise InputError(f"backup={self.backup}: layer {pair[0]} has no role to be doubled")
        doubled = [pair[0] for pair in self.backup]
        if len(set(doubled)) < len(doubled):
            raise InputError(f"backup={self.backup}: a layer can have one double only")

    def _check_order(self) -> None:
        ordered = [step for step in self.steps if step.kind != "fact"]
        for earlier, later in pairwise(ordered):
            if max(earlier.layers) >= min(later.layers):
                raise InputError(
                    f"retrieval={self.retrieval}, reasoning={self.reasoning}, "
                    f"backup={self.backup}: layer {min(later.layers)} reads what layer "
                    f"{max(earlier.layers)} writes, so it must come later"
                )

    def _check_heads(self) -> None:
        layers_with_heads = {
            layer for step in self.steps if step.kind != "fact" for layer in step.layers
        }
        for layer, chosen in self.heads_of.items():
            if layer not in layers_with_heads:
                raise InputError(
                    f"heads_of={self.heads_of!r}: layer {layer!r} has no step that heads do; those "
                    f"that have are {', '.join(map(str, sorted(layers_with_heads))) or 'none'}"
                )
            chosen_heads = tuple(chosen) if isinstance(chosen, Iterable) else (chosen,)
            valid_heads = [
                head for head in chosen_heads if type(head) is int and 0 <= head < self.heads
            ]
            if not chosen_heads or len(set(valid_heads)) < len(chosen_heads):
                raise InputError(
                    f"heads_of={self.heads_of!r}: layer {layer} takes different heads from 0 to "
                    f"{self.heads - 1}, such as ({self.heads - 1},), and not {chosen!r}"
                )


def check_share(what: str, value: object, low: float, high: float) -> None:
    """Check that a value is a number from `low` to `high`.

    Raises:
        InputError: the value is not a number, or out of range.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= float(value) <= high:
        raise InputError(f"{what}={value!r} is not a number from {low:g} to {high:g}")


def _check_whole(what: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{what}={value!r} is not a whole number from {low} to {high}")


def _check_layers(name: str, layers: Iterable[object], n_layers: int) -> None:
    chosen = tuple(layers)
    for layer in chosen:
        if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < n_layers:
            raise InputError(
                f"{name}={chosen}: {layer!r} is not a layer of the model, "
                f"which has layers 0 to {n_layers - 1}"
            )
    if len(set(chosen)) < len(chosen):
        raise InputError(f"{name}={chosen} names a layer twice")

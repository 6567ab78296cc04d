"""Which layer does what in a planted model, and what follows from it: the truth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from typing import Literal

from layerroles.errors import InputError

Kind = Literal["previous", "first", "second", "fact"]
# What each family needs, by the steps that its answer takes.
NEEDS: dict[str, tuple[Kind, ...]] = {
    "retrieval": ("previous", "first"),
    "reasoning": ("previous", "first", "second"),
    "knowledge": ("fact",),
    "language": (),
}
# A deeper or wider model would take long and say no more.
MOST_LAYERS, MOST_HEADS, MOST_NOISE, LEAST_STRENGTH = 64, 16, 0.2, 0.2


@dataclass(frozen=True)
class Step:
    """One step of an answer, done by one layer, or by either of two.

    Attributes:
        kind: `previous`, the look at the previous word; `first` and `second`, the look-ups; `fact`,
            a part of the table of facts.
        layers: those that do it, each by itself.
        part: which part of the table of facts; 0 for the others.
    """

    kind: Kind
    layers: tuple[int, ...]
    part: int = 0


@dataclass(frozen=True)
class Layout:
    """What was asked for, checked.

    Attributes:
        n_layers, heads: size.
        retrieval: layers of the head that looks at the previous word, and of the look-up; or none.
        reasoning: layer of the second look-up; or none.
        knowledge: layers that share the table of facts.
        inert: layers that write nothing.
        backup: pairs of a layer and the one that does its work a second time.
        heads_of: the heads that share the step of a layer, where they were chosen.

    Raises:
        InputError: a layer out of range or named twice, an order in which a step would be read
            before it is written, an inert layer with a role, too many layers or heads, or heads
            chosen for a layer that has no step for them.
    """

    n_layers: int
    heads: int
    retrieval: tuple[int, ...]
    reasoning: tuple[int, ...]
    knowledge: tuple[int, ...]
    inert: tuple[int, ...]
    backup: tuple[Sequence[int], ...]
    heads_of: Mapping[int, Sequence[int]]
    steps: tuple[Step, ...] = field(init=False)

    def __post_init__(self) -> None:
        _whole("n_layers", self.n_layers, 1, MOST_LAYERS)
        _whole("heads", self.heads, 1, MOST_HEADS)
        for name in ("retrieval", "reasoning", "knowledge", "inert"):
            _layers(name, getattr(self, name), self.n_layers)
        self._check_numbers()
        self._check_backup()
        object.__setattr__(self, "steps", self._steps())
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
        """The families whose steps are all planted."""
        kinds = {step.kind for step in self.steps}
        return tuple(family for family, needs in NEEDS.items() if kinds.issuperset(needs))

    @property
    def roles(self) -> dict[str, tuple[int, ...]]:
        """The layers planted for each family, those that do the work a second time among them."""
        own: dict[str, tuple[Kind, ...]] = {**NEEDS, "reasoning": ("second",)}
        return {family: self._of(own[family]) for family in self.families}

    @property
    def truth(self) -> dict[str, tuple[int, ...]]:
        """The layers without any one of which a family loses skill."""
        return {family: self._of(NEEDS[family], n=1) for family in self.families}

    @property
    def joint(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """The pairs of layers of which a family needs either one, first come first."""
        return {
            family: tuple(
                (min(step.layers), max(step.layers))
                for step in self.steps
                if step.kind in NEEDS[family] and len(step.layers) == 2
            )
            for family in self.families
        }

    def _of(self, kinds: Sequence[Kind], n: int | None = None) -> tuple[int, ...]:
        found = {
            layer
            for step in self.steps
            if step.kind in kinds and n in (None, len(step.layers))
            for layer in step.layers
        }
        return tuple(sorted(found))

    def _steps(self) -> tuple[Step, ...]:
        double = {layer: other for layer, other in self.backup}

        def step(kind: Kind, layer: int, part: int = 0) -> Step:
            return Step(kind, (layer, double[layer]) if layer in double else (layer,), part)

        kinds: tuple[Kind, ...] = ("previous", "first")
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
        known = {*self.retrieval, *self.reasoning, *self.knowledge}
        for pair in self.backup:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(
                    f"backup={self.backup!r} is not a list of pairs (layer, its double), such as "
                    f"((5, 7),)"
                )
            _layers("backup", pair, self.n_layers)
            if pair[0] not in known:
                raise InputError(f"backup={self.backup}: layer {pair[0]} has no role to be doubled")
        doubled = [pair[0] for pair in self.backup]
        if len(set(doubled)) < len(doubled):
            raise InputError(f"backup={self.backup}: a layer can have one double only")

    def _check_order(self) -> None:
        ordered = [step for step in self.steps if step.kind != "fact"]
        for before, after in pairwise(ordered):
            if max(before.layers) >= min(after.layers):
                raise InputError(
                    f"retrieval={self.retrieval}, reasoning={self.reasoning}, "
                    f"backup={self.backup}: layer {min(after.layers)} reads what layer "
                    f"{max(before.layers)} writes, so it must come later"
                )

    def _check_heads(self) -> None:
        looking = {layer for step in self.steps if step.kind != "fact" for layer in step.layers}
        for layer, chosen in self.heads_of.items():
            if layer not in looking:
                raise InputError(
                    f"heads_of={self.heads_of!r}: layer {layer!r} has no step that heads do; those "
                    f"that have are {', '.join(map(str, sorted(looking))) or 'none'}"
                )
            given = tuple(chosen) if isinstance(chosen, Iterable) else (chosen,)
            known = [head for head in given if type(head) is int and 0 <= head < self.heads]
            if not given or len(set(known)) < len(given):
                raise InputError(
                    f"heads_of={self.heads_of!r}: layer {layer} takes different heads from 0 to "
                    f"{self.heads - 1}, such as ({self.heads - 1},), and not {chosen!r}"
                )


def share(what: str, value: object, low: float, high: float) -> None:
    """Require a number from `low` to `high`.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= float(value) <= high:
        raise InputError(f"{what}={value!r} is not a number from {low:g} to {high:g}")


def _whole(what: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"{what}={value!r} is not a whole number from {low} to {high}")


def _layers(name: str, layers: Iterable[object], n_layers: int) -> None:
    given = tuple(layers)
    for layer in given:
        if not isinstance(layer, int) or isinstance(layer, bool) or not 0 <= layer < n_layers:
            raise InputError(
                f"{name}={given}: {layer!r} is not a layer of the model, "
                f"which has layers 0 to {n_layers - 1}"
            )
    if len(set(given)) < len(given):
        raise InputError(f"{name}={given} names a layer twice")

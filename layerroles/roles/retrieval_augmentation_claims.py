"""The claim that a context changes which layers matter, tested on the same questions.

Questions are compared one by one, between two cells; a cell is one task under one protocol. The
number for each layer is its harm with the context minus its harm without, minus the mean of this
change over layers. The claim holds if the harm of any layer changes, so the intervals are
simultaneous over layers. If conditions that keep the first token (`after_first`) were swept, the
harm of the same layer has to change under these too. Only layers that were ablated `after_first` in
both cells can show that.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results import CellPair, SweepResult, cells_of, pairs_of
from layerroles.roles.claim_findings import SMALLEST, Finding, make_record
from layerroles.roles.claim_status import Claim
from layerroles.roles.harms import Harms, Place
from layerroles.roles.harms_by_ablation import AblationKind
from layerroles.roles.sentence_parts import format_estimate, format_layers

CONTEXT = "Retrieval augmentation changes which layers matter"


def claims_on_contexts(result: SweepResult, kinds: Sequence[AblationKind]) -> Iterator[Claim]:
    """Yield the claim that a context changes which layers matter, for each pair of tasks.

    Both tasks of a pair ask the same questions. One of them shows a text with evidence, the
    context, before each question.
    """
    for pair in pairs_of(cells_of(result)):
        ordered = _order_by_context(result.examples, pair)
        if ordered is None:
            continue
        unskilled = [cell.task for cell in ordered.cells if not cell.has_skill]
        missing = f"not shown to be above chance: {', '.join(unskilled)}" if unskilled else ""
        findings = [] if missing else _find_changes(kinds, ordered)
        note = f"{ordered.two.task} against {ordered.one.task}"
        keys = [(cell.family, cell.protocol) for cell in ordered.cells]
        tasks = [cell.task for cell in ordered.cells]
        yield Claim(CONTEXT, *keys[0], findings, missing, keys, tasks, note=note)


def _order_by_context(examples: pd.DataFrame, pair: CellPair) -> CellPair | None:
    """Return the pair with the cell without context first; None if neither cell adds a context.

    A context is text before the question that holds evidence; instructions alone are not a context.
    """
    same = pair.one.task == pair.two.task or pair.one.protocol != pair.two.protocol
    if same or not {"prompt", "evidence"} <= set(examples.columns):
        return None
    table = examples.assign(example=examples["example"].astype(str))
    table = table.drop_duplicates(["task", "example"]).set_index(["task", "example"])
    first, second = (
        table.reindex([(cell.task, example) for example in ids])
        for cell, ids in zip(pair.cells, pair.examples, strict=True)
    )
    if _adds_context(second, first):
        return pair
    if _adds_context(first, second):
        return CellPair(pair.two, pair.one, (pair.examples[1], pair.examples[0]))
    return None


def _adds_context(with_context: pd.DataFrame, without: pd.DataFrame) -> bool:
    """Return whether `with_context` has a text with evidence before each prompt of `without`."""
    prompts = zip(with_context["prompt"], without["prompt"], with_context["evidence"], strict=True)
    return all(
        isinstance(text, str)
        and isinstance(question, str)
        and len(text) > len(question)
        and text.endswith(question)
        and evidence not in ("", "[]")
        for text, question, evidence in prompts
    )


def _find_changes(kinds: Sequence[AblationKind], pair: CellPair) -> list[Finding]:
    """Return one finding per kind of ablation on the claim that the harm of some layer changes.

    If kinds with other mechanisms show changes too, a kind shows the claim only if at least one of
    them shows that the harm of the same layer changes in the same direction.
    """
    # For each kind, the changes under each of `Harms.ats`.
    changes_by_kind = [[_Changes(kind.harms, pair, at) for at in kind.harms.ats] for kind in kinds]
    shown_by_kind = [_shown_layers(changes_at) for changes_at in changes_by_kind]
    findings = []
    for kind, changes_at, layers in zip(kinds, changes_by_kind, shown_by_kind, strict=True):
        shown_by_others = [
            shown_layers
            for rival, shown_layers in zip(kinds, shown_by_kind, strict=True)
            if rival.mechanism not in ("", kind.mechanism) and shown_layers
        ]
        agrees = not shown_by_others or any(
            layers & shown_layers for shown_layers in shown_by_others
        )
        sign = (
            -1 if all(changes.sign < 0 for changes in changes_at) else int(bool(layers) and agrees)
        )
        undecided = not sign and not layers
        # Changed layers that were not ablated with the first token kept.
        shown_at_all = frozenset(layer for layer, _ in changes_at[0].shown)
        lacking = shown_at_all & changes_at[-1].not_asked
        lacks_kept = undecided and (
            bool(lacking) or (changes_at[0].known and not changes_at[-1].known)
        )
        open_changes = [changes for changes in changes_at if not changes.sign]
        one_side = all(changes.sign > 0 for changes in changes_at)  # but not for the same layer
        is_near = undecided and not lacking and any(changes.is_near for changes in changes_at)
        words = [changes_at[0].words]
        if lacking:
            words.append(f"not asked with the first token kept: {format_layers(sorted(lacking))}")
        elif len({changes.sign for changes in changes_at}) > 1:
            words.append(f"with the first token kept {changes_at[1].words}")
        if layers and not agrees:
            words.append("not of a layer that another kind shows to change so")
        findings.append(
            Finding(
                kind.ablation,
                kind.mechanism,
                sign,
                f"{kind.ablation}: {', '.join(words)}",
                _records(kind, changes_at[0], pair),
                open_changes[0].needed if open_changes and not sign and not lacking else math.nan,
                is_open=undecided and not is_near and (bool(open_changes) or one_side),
                asks_kept=undecided and changes_at[0].sign != 0,
                disagrees=bool(layers) and not agrees,
                lacks_kept=lacks_kept,
                kept_layers=shown_at_all,
                is_near=is_near,
            )
        )
    return findings


def _shown_layers(changes_at: Sequence["_Changes"]) -> frozenset[tuple[int, int]]:
    """Return the pairs (layer, sign) that are in `_Changes.shown` of all items."""
    return frozenset.intersection(*(changes.shown for changes in changes_at))


def _records(kind: AblationKind, changes: "_Changes", pair: CellPair) -> tuple[dict[str, Any], ...]:
    """Return a record for each layer, with the interval that holds for all layers together."""
    tasks = f"from {pair.one.task} to {pair.two.task}"
    return tuple(
        make_record(
            kind.ablation, f"change of L{layer}'s harm {tasks}, beyond the mean change", change
        )
        for layer, change in changes.simultaneous.items()
    )


class _Changes:
    """Change of each layer's harm between the two cells of a pair: the second minus the first.

    The ablation acts at the positions `at`. The mean change over layers is subtracted: if harm
    falls equally everywhere, the same layers matter.
    """

    def __init__(self, harms: Harms, pair: CellPair, at: str) -> None:
        other_conditions = set(pair.two.conditions.index)
        names = {place[0]: _condition_of(harms, pair, place, at) for place in harms.places}
        by_layer = {
            layer: name
            for layer, name in names.items()
            if name is not None and name in other_conditions
        }
        # These layers are not critical and were not ablated `at`; the condition at all positions
        # is used for them.
        self.not_asked = {
            layer for layer, name in by_layer.items() if pair.one.conditions.at[name, "at"] != at
        }
        share = 1 / max(1, len(by_layer))

        def beyond(layer: int, level: float = stats.LEVEL) -> stats.Contrast:
            weights = {name: (layer_of == layer) - share for layer_of, name in by_layer.items()}
            return pair.difference(weights, level=level)

        self.changes = {layer: beyond(layer) for layer in by_layer}
        self.known = len(by_layer) == harms.n_layers and all(c.known for c in self.changes.values())
        self.simultaneous = {
            layer: beyond(layer, 1 - (1 - stats.LEVEL) * share) for layer in by_layer
        }
        self._mean_change = pair.difference(dict.fromkeys(by_layer.values(), share))

    @property
    def shown(self) -> frozenset[tuple[int, int]]:
        """Pairs (layer, sign) of the layers whose harm is shown to change between the cells.

        The sign is 1 if the interval of the change lies above `SMALLEST`, -1 if it lies below
        `-SMALLEST`. Intervals are simultaneous over layers. Layers of `not_asked` are left out.
        Empty unless all layers were measured.
        """
        sides = {
            layer: int(change.interval.low > SMALLEST) - int(change.interval.high < -SMALLEST)
            for layer, change in self.simultaneous.items()
        }
        return frozenset(
            (layer, side)
            for layer, side in sides.items()
            if side and self.known and layer not in self.not_asked
        )

    @property
    def sign(self) -> int:
        """1 if any layer's harm is shown to change by more than the smallest effect.

        -1 if every layer's harm is shown to change by less, else 0.
        """
        if not self.known:
            return 0
        if self.shown:
            return 1
        intervals = [change.interval for change in self.changes.values()]
        return -int(all(max(-i.low, i.high) < SMALLEST for i in intervals))

    @property
    def is_near(self) -> bool:
        """Whether a change is shown not to be 0, and all intervals lie within twice `SMALLEST`.

        More questions may then decide `sign`, but not by enough to matter. False if `sign` is
        decided.
        """
        intervals = [change.interval for change in self.simultaneous.values()]
        some_change = any(i.low > 0 or i.high < 0 for i in intervals)
        reach = max((max(-i.low, i.high) for i in intervals), default=math.inf)
        return self.known and not self.sign and some_change and reach <= 2 * SMALLEST

    @property
    def words(self) -> str:
        """The largest change, with its interval for all layers together, and the mean change."""
        if not self.known:
            return "not known, for not all layers were measured in both"
        layer = self._largest_layer
        return (
            f"largest change of a layer's harm beyond their mean change L{layer} "
            f"{format_estimate(*self.simultaneous[layer].numbers)} (interval for all layers "
            f"together), mean change {format_estimate(*self._mean_change.numbers)}"
        )

    @property
    def _largest_layer(self) -> int:
        return max(self.changes, key=lambda layer: abs(self.changes[layer].value))

    @property
    def needed(self) -> float:
        """Number of questions that would decide `sign` if the estimated changes stayed the same.

        NaN if the changes are not known.
        """
        if not self.known:
            return math.nan
        largest = self._largest_layer
        above = abs(self.changes[largest].value) > SMALLEST
        undecided_changes = [self.simultaneous[largest]] if above else list(self.changes.values())
        counts = [
            part.n * (_half_width(part) / (abs(part.value) - SMALLEST)) ** 2
            for change in undecided_changes
            for part in change.parts or [change]
            if abs(part.value) != SMALLEST
        ]
        return max(counts, default=math.inf)


def _condition_of(harms: Harms, pair: CellPair, place: Place, at: str) -> str | None:
    """Return the name of the condition that ablates one layer `at`; None if there is none.

    For a layer that is not critical, this is the condition at all positions, unless both cells were
    asked as many questions under the condition `at` as under the ablation of every layer at all
    positions.
    """
    first = pair.one.task, pair.one.protocol
    name = harms.asked_condition(*first, place, at)
    at_all = [str(harms.asked_condition(*first, other, harms.at)) for other in harms.places]
    if name is None or any(
        cell.n_rows.get(name, 0) < min(cell.n_rows.get(other, 0) for other in at_all)
        for cell in pair.cells
    ):
        return harms.condition(*first, place, at)
    return name


def _half_width(change: stats.Contrast) -> float:
    return (change.interval.high - change.interval.low) / 2

"""Claims on the same questions asked in two settings: with and without a context, of two models.

Each question is compared with itself. With a context: at each layer, the harm with the context
minus that without it; the claim is about the largest of these, so its intervals hold for all layers
at once. Of two models: the mean harm of all layers in the base minus that in the other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.results import (
    CellPair,
    Match,
    SweepResult,
    cells_of,
    match,
    pairs_of,
)
from layerroles.roles import seen
from layerroles.roles.claims import listed, number
from layerroles.roles.harms import AFTER_FIRST, Harms
from layerroles.roles.literature import (
    SMALLEST,
    Finding,
    Kind,
    Number,
    described,
    found_of,
    row,
)

CONTEXT = "Retrieval augmentation changes which layers matter"
ROBUST = "A distilled model reasons more robustly than its base"
ALIKE = "Neighbouring layers are similar"


def contexts(result: SweepResult, kinds: Sequence[Kind]) -> Iterator[dict[str, Any]]:
    """A row for each two tasks of which one asks the other's questions behind a context."""
    for pair in pairs_of(cells_of(result)):
        ordered = _augmented(result.examples, pair)
        if ordered is None:
            continue
        found = [_changed(kind, ordered) for kind in kinds]
        unskilled = [
            cell.task
            for cell in (ordered.one, ordered.two)
            if not stats.is_above(cell.scores.iloc[0].dropna().to_numpy(float), cell.chance)
        ]
        missing = f"not above chance: {', '.join(unskilled)}" if unskilled else ""
        note = f"{ordered.two.task} against {ordered.one.task}"
        family, protocol = ordered.one.family, ordered.one.protocol
        yield row(CONTEXT, family, protocol, missing, found, note=note)


def _augmented(examples: pd.DataFrame, pair: CellPair) -> CellPair | None:
    """The pair, the bare questions first, if one asks those of the other behind a context."""
    if pair.one.task == pair.two.task or pair.one.protocol != pair.two.protocol:
        return None
    if examples.empty:
        return None
    prompts = examples.set_index(["task", "example"])["prompt"]
    one, two = (
        [str(prompts[cell.task, example]) for example in own]
        for cell, own in zip((pair.one, pair.two), pair.examples, strict=True)
    )
    if one == two:
        return None
    if all(long.endswith(short) for short, long in zip(one, two, strict=True)):
        return pair
    if all(long.endswith(short) for short, long in zip(two, one, strict=True)):
        return CellPair(pair.two, pair.one, (pair.examples[1], pair.examples[0]))
    return None


def _changed(kind: Kind, pair: CellPair) -> Finding:
    """Whether the harm of any layer changes by more than the smallest effect, or of none."""
    harms = kind.harms
    found = _Changes(harms, pair, harms.at)
    if not found.known:
        text = f"{kind.ablation}: not known, for not all layers were measured in both"
        return Finding(kind.ablation, kind.mechanism, 0, text)
    sign, kept = found.sign, ""
    if harms.after_first:
        spared = _Changes(harms, pair, AFTER_FIRST)
        if spared.sign != sign:
            sign, kept = 0, f", with the first token kept {spared.words}"
    text = f"{kind.ablation}: {found.words}{kept}"
    records = tuple(
        {
            "ablation": kind.ablation,
            "quantity": f"change of L{layer}'s harm beyond the mean change",
            **dict(zip(("estimate", "low", "high"), change.numbers, strict=True)),
        }
        for layer, change in found.changes.items()
    )
    needed = math.nan if sign else found.needed
    return Finding(kind.ablation, kind.mechanism, sign, text, records, needed)


class _Changes:
    """How the harm of each layer changes from one cell of a pair to the other.

    The claim is about the change of a layer beyond the mean change of all layers: where harm falls
    by as much everywhere, the same layers matter.
    """

    def __init__(self, harms: Harms, pair: CellPair, at: str) -> None:
        asked = set(pair.two.conditions.index)
        names = {
            place[0]: harms.condition(pair.one.task, pair.one.protocol, place, at)
            for place in harms.places
        }
        own = {layer: name for layer, name in names.items() if name is not None and name in asked}
        share = 1 / max(1, len(own))

        def beyond(layer: int, level: float = stats.LEVEL) -> stats.Contrast:
            weights = {name: (one == layer) - share for one, name in own.items()}
            return _change(pair, weights, level=level)

        self.changes = {layer: beyond(layer) for layer in own}
        self.known = len(own) == harms.n_layers and all(c.known for c in self.changes.values())
        self._wide = {layer: beyond(layer, 1 - (1 - stats.LEVEL) * share) for layer in own}
        self._mean = _change(pair, dict.fromkeys(own.values(), share))
        self.p, each = pair.differ_p(list(own.values())) if own else (math.nan, np.empty(0))
        adjusted = stats.holm(each)
        self._moved = [layer for layer, p in zip(own, adjusted, strict=True) if p < 0.05]

    @property
    def sign(self) -> int:
        """1 if some layer changes by more than the smallest effect, -1 if none does."""
        if not self.known:
            return 0
        wide = [change.interval for change in self._wide.values()]
        if any(i.low > SMALLEST or i.high < -SMALLEST for i in wide):
            return 1
        intervals = [change.interval for change in self.changes.values()]
        return -int(all(max(-i.low, i.high) < SMALLEST for i in intervals))

    @property
    def words(self) -> str:
        """The largest change, and the test of all of them."""
        if not self.known:
            return "not known"
        layer = self._largest
        return (
            f"largest change of a layer's harm beyond their mean change L{layer} "
            f"{number(*self.changes[layer].numbers)}, mean change {number(*self._mean.numbers)}, "
            f"profiles differ p {self.p:.2g}, layers whose harm changes (Holm): "
            f"{listed(self._moved)}"
        )

    @property
    def _largest(self) -> int:
        return max(self.changes, key=lambda layer: abs(self.changes[layer].value))

    @property
    def needed(self) -> float:
        """How many questions would decide it, if the changes stood."""
        largest = self._largest
        above = abs(self.changes[largest].value) > SMALLEST
        used = [self._wide[largest]] if above else list(self.changes.values())
        counts = [
            change.n * (_half(change) / (abs(change.value) - SMALLEST)) ** 2
            for change in used
            if abs(change.value) != SMALLEST
        ]
        return max(counts, default=math.inf)


def _half(change: stats.Contrast) -> float:
    return (change.interval.high - change.interval.low) / 2


def _change(
    pair: CellPair, weights: Mapping[str, float], *, level: float = stats.LEVEL
) -> stats.Contrast:
    one, two = pair.harms(weights, level=level)
    return stats.difference_of(two, one)


def against_base(
    result: SweepResult, base: SweepResult, kinds: Sequence[Kind]
) -> Iterator[dict[str, Any]]:
    """A row for each reasoning task and protocol that both models were asked."""
    matches, _ = match(base, result)
    for both in matches:
        if both.one.family != "reasoning":
            continue
        found = [_robust(kind, both) for kind in kinds]
        unskilled = [
            name
            for name, cell in (("the base", both.one), ("the model", both.two))
            if not stats.is_above(cell.scores.iloc[0].dropna().to_numpy(float), cell.chance)
        ]
        missing = f"{' and '.join(unskilled)} not above chance" if unskilled else ""
        yield row(ROBUST, "reasoning", both.one.protocol, missing, found, note=both.one.task)


def _robust(kind: Kind, both: Match) -> Finding:
    harms = kind.harms

    def measured(at: str) -> stats.Contrast:
        own = [
            harms.condition(both.two.task, both.two.protocol, (layer, -1), at)
            for layer in range(harms.n_layers)
        ]
        pairs = {two: one for one, two in both.conditions}
        names = [(pairs[name], name) for name in own if name is not None and name in pairs]
        if len(names) < harms.n_layers:
            return stats.NO_CONTRAST
        base, twin = both.harms(dict.fromkeys(names, 1 / len(names)))
        return stats.difference_of(base, twin)

    found = measured(harms.at)
    kept = measured(AFTER_FIRST) if harms.after_first else None
    if kept is not None and not kept.known:
        kept = None  # the base was not asked so
    return found_of(kind, [Number("mean harm, base minus this model", found, kept)])


def neighbours(similarity: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A row for each family that a similarity probe measured; there is no verdict on it."""
    single = similarity[similarity["n"] == 1]
    for family, rows in single.groupby("family", sort=False):
        mean = rows.groupby(["task", "example"])["angular"].mean().to_numpy(float)
        interval = stats.mean_interval(mean, np.random.default_rng(0))
        words = (
            f"mean angular distance over one block {number(mean.mean(), *_ends(interval))} of pi "
            f"(unrelated streams 0.50), {seen.positions(rows)}, n={len(mean)}"
        )
        record = {
            "ablation": "",
            "quantity": "angular distance over one block",
            "estimate": float(mean.mean()),
            "low": interval.low,
            "high": interval.high,
        }
        yield described(ALIKE, str(family), words, [record])


def _ends(interval: stats.Interval) -> tuple[float, float]:
    return interval.low, interval.high

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
    mechanisms,
    pairs_of,
)
from layerroles.roles import probe_summary
from layerroles.roles.decision import (
    SMALLEST,
    Finding,
    Kind,
    Number,
    described,
    found_of,
    row,
)
from layerroles.roles.harms import AFTER_FIRST, Harms
from layerroles.roles.wording import listed, number

CONTEXT = "Retrieval augmentation changes which layers matter"
ROBUST = "A distilled model reasons more robustly than its base"
ALIKE = "Neighbouring layers are similar"


def contexts(result: SweepResult, kinds: Sequence[Kind]) -> Iterator[dict[str, Any]]:
    """A row for each two tasks of which one asks the other's questions behind a context."""
    for pair in pairs_of(cells_of(result)):
        ordered = _augmented(result.examples, pair)
        if ordered is None:
            continue
        unskilled = [cell.task for cell in (ordered.one, ordered.two) if not cell.has_skill]
        missing = f"not above chance: {', '.join(unskilled)}" if unskilled else ""
        found = [] if missing else _changed(kinds, ordered)
        note = f"{ordered.two.task} against {ordered.one.task}"
        family, protocol = ordered.one.family, ordered.one.protocol
        yield row(CONTEXT, family, protocol, missing, found, note=note)


def _augmented(examples: pd.DataFrame, pair: CellPair) -> CellPair | None:
    """The pair, the bare questions first, if one asks those of the other behind a context.

    A context is text in front of the question that holds evidence: more instructions are none.
    """
    same = pair.one.task == pair.two.task or pair.one.protocol != pair.two.protocol
    if same or not {"prompt", "evidence"} <= set(examples.columns):
        return None
    known = examples.assign(example=examples["example"].astype(str))
    known = known.drop_duplicates(["task", "example"]).set_index(["task", "example"])
    one, two = (
        known.reindex([(cell.task, example) for example in asked])
        for cell, asked in zip((pair.one, pair.two), pair.examples, strict=True)
    )
    if _behind(two, one):
        return pair
    if _behind(one, two):
        return CellPair(pair.two, pair.one, (pair.examples[1], pair.examples[0]))
    return None


def _behind(long: pd.DataFrame, short: pd.DataFrame) -> bool:
    """Whether every prompt is that of the short one behind text that holds evidence."""
    prompts = zip(long["prompt"], short["prompt"], long["evidence"], strict=True)
    return all(
        isinstance(text, str)
        and isinstance(asked, str)
        and len(text) > len(asked)
        and text.endswith(asked)
        and evidence not in ("", "[]")
        for text, asked, evidence in prompts
    )


def _changed(kinds: Sequence[Kind], pair: CellPair) -> list[Finding]:
    """What each kind says to the claim: the harm of some layer changes, or of none.

    Two kinds show it only at the same layer and in the same direction.
    """
    measured = [_of_kind(kind, pair) for kind in kinds]
    shown = [_shown(positions) for positions in measured]
    findings = []
    for kind, positions, layers in zip(kinds, measured, shown, strict=True):
        others = [
            other
            for rival, other in zip(kinds, shown, strict=True)
            if rival.mechanism not in ("", kind.mechanism)
        ]
        agreed = not others or any(layers & other for other in others)
        sign = -1 if all(one.sign < 0 for one in positions) else int(bool(layers) and agreed)
        words = [positions[0].words]
        if len({one.sign for one in positions}) > 1:
            words.append(f"with the first token kept {positions[1].words}")
        if layers and not agreed:
            words.append("not of a layer that another kind shows to change so")
        findings.append(
            Finding(
                kind.ablation,
                kind.mechanism,
                sign,
                f"{kind.ablation}: {', '.join(words)}",
                _records(kind, positions[0]),
                math.nan if sign else positions[0].needed,
            )
        )
    return findings


def _of_kind(kind: Kind, pair: CellPair) -> list["_Changes"]:
    """The changes where the conditions are judged, and with the first token's write kept."""
    ats = [kind.harms.at, *([AFTER_FIRST] if kind.harms.after_first else [])]
    return [_Changes(kind.harms, pair, at) for at in ats]


def _shown(positions: Sequence["_Changes"]) -> frozenset[tuple[int, int]]:
    """The layers that are shown to change at all positions, with the direction."""
    return frozenset.intersection(*(one.shown for one in positions))


def _records(kind: Kind, changes: "_Changes") -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "ablation": kind.ablation,
            "quantity": f"change of L{layer}'s harm beyond the mean change",
            **dict(zip(("estimate", "low", "high"), change.numbers, strict=True)),
        }
        for layer, change in changes.changes.items()
    )


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
    def shown(self) -> frozenset[tuple[int, int]]:
        """The layers that change by more than the smallest effect, with the direction."""
        sides = {
            layer: int(change.interval.low > SMALLEST) - int(change.interval.high < -SMALLEST)
            for layer, change in self._wide.items()
        }
        return frozenset(item for item in sides.items() if item[1] and self.known)

    @property
    def sign(self) -> int:
        """1 if some layer changes by more than the smallest effect, -1 if none does."""
        if not self.known:
            return 0
        if self.shown:
            return 1
        intervals = [change.interval for change in self.changes.values()]
        return -int(all(max(-i.low, i.high) < SMALLEST for i in intervals))

    @property
    def words(self) -> str:
        """The largest change, and the test of all of them."""
        if not self.known:
            return "not known, for not all layers were measured in both"
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
        """How many questions would decide it, if the changes stood; NaN where not known."""
        if not self.known:
            return math.nan
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
    matches, lines = match(base, result)
    theirs = mechanisms(base)
    for both in matches:
        if both.one.family != "reasoning":
            continue
        found = [_robust(kind, both, lines, theirs.get(kind.ablation, "")) for kind in kinds]
        skills = {"the base": both.one, "the model": both.two}
        unskilled = [name for name, cell in skills.items() if not cell.has_skill]
        missing = f"{' and '.join(unskilled)} not above chance" if unskilled else ""
        settings = [line for line in lines if line.startswith(("dtype ", "chat "))]
        note = "; ".join([both.one.task, *settings])
        yield row(ROBUST, "reasoning", both.one.protocol, missing, found, note=note)


def _robust(kind: Kind, both: Match, lines: Sequence[str], mechanism: str) -> Finding:
    """What a kind says; nothing where the two runs did not do the same under its name.

    Args:
        kind: of ablation, in the run of the model.
        both: what the two runs have in common.
        lines: on what is not the same in them.
        mechanism: of the ablation of that name in the run of the base.
    """
    harms = kind.harms
    apart = [line for line in lines if line.startswith(f"ablation {kind.ablation} is not")]
    if apart or mechanism != kind.mechanism:
        why = apart[0] if apart else "another mechanism in the base's run"
        return Finding(kind.ablation, kind.mechanism, 0, f"{kind.ablation}: not compared, {why}")

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
    if "angular" not in similarity:
        return
    single = similarity[similarity["n"] == 1]
    for family, rows in single.groupby("family", sort=False):
        mean = rows.groupby(["task", "example"])["angular"].mean().to_numpy(float)
        interval = stats.mean_interval(mean, np.random.default_rng(0))
        words = (
            f"mean angular distance over one block {number(mean.mean(), *_ends(interval))} of pi "
            f"(unrelated streams 0.50), {probe_summary.positions(rows)}, n={len(mean)}"
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

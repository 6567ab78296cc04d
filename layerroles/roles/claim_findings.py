"""Findings: what one kind of ablation says about a claim.

A claim is about one or more numbers, and each number has a smallest effect of interest, by default
.05 of the skill above chance. A kind of ablation shows the claim if the interval of every number
lies above that number's smallest effect, and shows the opposite if the interval of one lies below.
The finding of a kind is which of these it shows, if any; it is open if more questions may decide
it. `claim_status` decides a claim from the findings of several kinds.

If the sweep also ablated all positions but the first (`after_first`), a number counts only if it
lies on the same side of its smallest effect there too. The first token is often an attention sink,
and ablating a sink breaks every task, so that says nothing about a skill.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from layerroles import stats
from layerroles.results import AFTER_FIRST
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import AblationKind
from layerroles.roles.sentence_parts import format_estimate, sign_of

# Default smallest effect of interest, as a share of the skill above chance.
SMALLEST = 0.05

Key = tuple[str, str]  # family, protocol


@dataclass(frozen=True, eq=False)
class Number:
    """One number that a claim is about, under one kind of ablation.

    Attributes:
        quantity: name of the number.
        measured: its value under ablation at the positions `Harms.at`.
        kept: its value under ablation at `after_first`, which keeps the first token; None if the
            sweep has no such conditions.
        smallest: its smallest effect of interest.
    """

    quantity: str
    measured: stats.Contrast
    kept: stats.Contrast | None = None
    smallest: float = SMALLEST

    @property
    def sign(self) -> int:
        """1 if the interval of `measured` lies above the smallest effect, -1 if below it, else 0.

        Also 0 if `kept` is given and its interval does not lie on the same side.
        """
        side = self.judged_sign
        return side if self.kept is None or self._side(self.kept) == side else 0

    @property
    def judged_sign(self) -> int:
        """1, -1 or 0 as in `sign`, but by the interval of `measured` alone, without `kept`."""
        return self._side(self.measured)

    def _side(self, contrast: stats.Contrast) -> int:
        return sign_of(contrast.interval, self.smallest)

    @property
    def is_open(self) -> bool:
        """Whether more questions may decide `sign`.

        False if `sign` is decided, if `measured` and `kept` are shown to lie on different sides of
        the smallest effect, if the number `is_near`, or if it `depends_on_chance`.
        """
        return bool(self._between) and not self.is_near and not self.depends_on_chance

    @property
    def depends_on_chance(self) -> bool:
        """Whether it is shown to lie on one side with measured chance, on the other without."""
        sides = [{self._side(part) for part in contrast.parts} for contrast in self._between]
        return {1, -1} in sides

    @property
    def is_near(self) -> bool:
        """Whether an interval that includes the smallest effect lies from 0 to twice that effect.

        More questions may then show that the number is above or below its smallest effect, but not
        by enough to matter.
        """
        intervals = [contrast.interval for contrast in self._between]
        return any(i.low >= 0 and i.high <= 2 * self.smallest for i in intervals)

    @property
    def _between(self) -> list[stats.Contrast]:
        """Those of `measured` and `kept` that are not shown to be above or below `smallest`."""
        values = [self.measured, *([] if self.kept is None else [self.kept])]
        return [contrast for contrast in values if not self._side(contrast)]

    @property
    def words(self) -> str:
        """Text with the estimate and its interval, or a note that the number is not known."""
        if not self.measured.known:
            return f"{self.quantity} not known (it takes skill, and every layer that it is about)"
        text = f"{self.quantity} {format_estimate(*self.measured.numbers)}"
        if self.kept is None or self._side(self.kept) == self._side(self.measured):
            return text
        if not self.kept.known:
            return f"{text}, not known with the first token kept"
        return f"{text}, with the first token kept {format_estimate(*self.kept.numbers)}"

    def records(self, ablation: str) -> Iterator[dict[str, Any]]:
        """Yield the record (see `make_record`) of each of `measured` and `kept` that is known."""
        contrasts = {self.quantity: self.measured}
        if self.kept is not None:
            contrasts[f"{self.quantity}, first token kept"] = self.kept
        for quantity, contrast in contrasts.items():
            if contrast.known:
                yield make_record(ablation, quantity, contrast)

    @property
    def needed(self) -> float:
        """The number of questions that would decide `sign` if the estimate stayed the same.

        Computed for `measured` if it is known and undecided, else for `kept` if that is; NaN if
        neither is. Infinite if the estimate equals the smallest effect.
        """
        contrast = next((contrast for contrast in self._between if contrast.known), None)
        if contrast is None:
            return math.nan
        if self.depends_on_chance:
            return math.nan
        return max(map(self._count_needed, contrast.parts or [contrast]))

    def _count_needed(self, contrast: stats.Contrast) -> float:
        value, low, high = contrast.numbers
        distance = value - self.smallest
        reach = value - low if distance > 0 else high - value
        return contrast.n * (reach / distance) ** 2 if distance else math.inf


@dataclass(frozen=True)
class Finding:
    """What one kind of ablation says about a claim.

    Attributes:
        ablation: name of the kind.
        mechanism: mechanism of the kind; empty if it declares none and so counts for no claim.
        sign: 1 if the kind shows the claim, -1 if it shows the opposite, 0 if neither.
        words: the finding as text, with its numbers.
        numbers: records of ablation, quantity, estimate, low, high, and n, the number of questions.
        needed: number of questions that would decide `sign` if the estimates stayed the same; NaN
            if not known.
        is_open: whether more questions may decide `sign`.
        asks_kept: whether `sign` is 0 only because of the numbers with the first token kept
            (`Number.kept`); those at `Harms.at` alone would decide it.
        lacks_kept: whether `sign` is 0, and numbers with the first token kept that it depends on
            are not known, since not all questions about them were asked.
        kept_layers: layers that have to be ablated with the first token kept to decide `sign`,
            whether or not they are critical.
        disagrees: whether `sign` is 0 because another kind shows the claim for other layers.
        is_near: whether a number is known to lie so near its smallest effect that more questions
            would not decide `sign`.
        depends_on_chance: whether `sign` is 0 because a number lies on one side with measured
            chance, and on the other without (see `results.nearer_of_both_chances`).
    """

    ablation: str
    mechanism: str
    sign: int
    words: str
    numbers: tuple[dict[str, Any], ...] = ()
    needed: float = math.nan
    is_open: bool = False
    asks_kept: bool = False
    lacks_kept: bool = False
    kept_layers: frozenset[int] = frozenset()
    disagrees: bool = False
    is_near: bool = False
    depends_on_chance: bool = False


def make_finding(kind: AblationKind, numbers: Sequence[Number]) -> Finding:
    """Return the finding of one kind of ablation on a claim about one or more numbers.

    The claim holds if each number exceeds its smallest effect.
    """
    sign = min(number.sign for number in numbers)
    undecided = [number for number in numbers if not number.sign]
    # One open number is enough: if it falls below its smallest effect, the opposite is shown.
    is_open = not sign and any(number.is_open for number in undecided)
    asks_kept = not sign and min(number.judged_sign for number in numbers) != 0
    return Finding(
        kind.ablation,
        kind.mechanism,
        sign,
        f"{kind.ablation}: {', '.join(number.words for number in numbers)}",
        tuple(record for number in numbers for record in number.records(kind.ablation)),
        max_known(number.needed for number in numbers),
        is_open=is_open,
        asks_kept=asks_kept,
        lacks_kept=asks_kept
        and any(number.kept is not None and not number.kept.known for number in numbers),
        is_near=not sign and not is_open and any(number.is_near for number in undecided),
        depends_on_chance=not sign and any(number.depends_on_chance for number in undecided),
    )


def make_empty_finding(kind: AblationKind, reason: str, *, is_open: bool = False) -> Finding:
    """Return a finding with sign 0 and no numbers; `reason` says why it has none."""
    words = f"{kind.ablation}: {reason}"
    return Finding(kind.ablation, kind.mechanism, 0, words, is_open=is_open)


def find_by_kind(
    kinds: Sequence[AblationKind],
    keys: Sequence[Key],
    measures: Sequence[Callable[[Harms], Number]],
) -> list[Finding]:
    """Return the finding of each kind on the claim that all numbers exceed their smallest effect.

    Args:
        kinds: the kinds of ablation.
        keys: as in `judge_kinds`.
        measures: for each number, a function that measures it under one kind.
    """
    return judge_kinds(
        kinds, keys, lambda kind: make_finding(kind, [measure(kind.harms) for measure in measures])
    )


def judge_kinds(
    kinds: Sequence[AblationKind], keys: Sequence[Key], judge: Callable[[AblationKind], Finding]
) -> list[Finding]:
    """Return the finding of each kind of ablation.

    Args:
        kinds: the kinds of ablation.
        keys: the families and protocols in which the claim's numbers are measured. A kind that was
            not run on all their tasks with skill that the first kind was run on gets an open
            finding with sign 0.
        judge: a function that returns the finding of a kind that was run on all of them.
    """
    first = kinds[0].harms
    return [
        judge(kind)
        if all(set(first.tasks(*key)) <= set(kind.harms.tasks(*key)) for key in keys)
        else make_empty_finding(kind, "not asked about all of it", is_open=True)
        for kind in kinds
    ]


def mark_undecided(finding: Finding) -> Finding:
    """Return a copy of a finding with sign 0 that is not open: more questions do not decide it."""
    return replace(finding, sign=0, needed=math.nan, is_open=False, is_near=False)


def measure_number(
    harms: Harms, quantity: str, measured: Callable[[str], stats.Contrast]
) -> Number:
    """Return a number of a claim under one kind of ablation.

    Its value is measured with ablation at `harms.at`. If the sweep has conditions with
    `at="after_first"`, which keep the first token, it is also measured with these.

    Args:
        harms: the harms under that kind.
        quantity: the name of the number.
        measured: a function from `at`, the positions of the ablation, to the value.
    """
    first_token_kept = measured(AFTER_FIRST) if harms.after_first else None
    return Number(quantity, measured(harms.at), first_token_kept)


def make_record(ablation: str, quantity: str, contrast: stats.Contrast) -> dict[str, Any]:
    """Return one of the `numbers` of a claim, with the number of questions as `n`."""
    values = dict(zip(("estimate", "low", "high"), contrast.numbers, strict=True))
    return {"ablation": ablation, "quantity": quantity, **values, "n": contrast.n}


def max_known(values: Iterable[float]) -> float:
    """Return the largest value that is not NaN; NaN if there is none."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)

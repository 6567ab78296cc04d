"""Claims that ablating layers harms more under one protocol than under another, and why.

Ablation may harm scores more under generation than under likelihood for two reasons: generation is
scored more strictly, and the model writes the answer itself. The difference is split into these two
parts if the protocol `exact` was run too. `exact` scores a given answer, and counts it as right
only if greedy decoding would write it.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from functools import partial

from layerroles import stats
from layerroles.results import CellPair, cells_of, nearer_of_both_chances, pairs_of
from layerroles.roles.claim_findings import (
    Finding,
    Number,
    find_by_kind,
    mark_undecided,
    measure_number,
)
from layerroles.roles.claim_status import Claim, decide_status, describe_unmeasured_families
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import AblationKind

MORE = "Generation needs more of the depth than likelihood"
# The two parts of MORE, if `exact` was asked too.
STRICTER = "Exact answers need more of the depth than likelihood"
WRITING = "Writing needs more of the depth than exact answers"
EXACT = "exact"
NOT_SPLIT = "stricter scoring and writing are not distinguished: that takes protocol exact too"


def claims_on_protocols(kinds: Sequence[AblationKind]) -> Iterator[Claim]:
    """Yield claims that harm is larger where the model writes than where given answers are scored.

    Harm is the mean over layers. There is a claim for each family and pair of a protocol in which
    the model writes and one, other than `exact`, that scores given answers. If the protocol `exact`
    was run too, also yield claims on the two parts of the difference: stricter scoring, and
    writing. Protocols without a chance level, such as those in nats, get no claims on parts.
    """
    first = kinds[0].harms
    for family in dict.fromkeys(family for family, _ in first.keys):
        protocols = [protocol for same, protocol in first.keys if same == family]
        written = [protocol for protocol in protocols if _is_written(protocol)]
        scored = [other for other in protocols if not _is_written(other) and other != EXACT]
        # Scores in nats have no chance level, so harm is not defined.
        with_chance = [p for p in protocols if first.intact_rows(family, p)["chance"].notna().any()]
        split_protocols = with_chance if EXACT in protocols else []
        stricter = {
            p: _ProtocolDifference(kinds, family, EXACT, p) for p in scored if p in split_protocols
        }
        writing = {
            p: _ProtocolDifference(kinds, family, p, EXACT) for p in written if p in split_protocols
        }
        for protocol, other in itertools.product(written, scored):
            whole_difference = _ProtocolDifference(kinds, family, protocol, other)
            note = NOT_SPLIT
            if protocol in writing and other in stricter:
                note = _describe_parts(whole_difference, stricter[other], writing[protocol])
            yield whole_difference.claim(MORE, note)
        yield from (part.claim(STRICTER, part.confounded) for part in stricter.values())
        yield from (part.claim(WRITING, part.confounded) for part in writing.values())


class _ProtocolDifference:
    """Mean harm under one protocol minus that under another, for each kind of ablation."""

    def __init__(
        self, kinds: Sequence[AblationKind], family: str, protocol: str, other: str
    ) -> None:
        self._family, self._between = family, f"{protocol} - {other}"
        self._keys = [(family, protocol), (family, other)]
        first = kinds[0].harms
        missing = describe_unmeasured_families(first, self._keys)
        self._missing = missing or _explain_unpaired(first, family, protocol, other)
        number = _harm_difference(first, family, protocol, other)
        self.questions = frozenset(number.measured.influence.index)
        difference = partial(_harm_difference, family=family, protocol=protocol, scored=other)
        self._findings = find_by_kind(kinds, self._keys, [difference])
        same = _read_same_contexts(first, family, protocol, other)
        self.confounded = "" if same else "the two read other contexts, which may be why"

    def claim(self, claim: str, note: str) -> Claim:
        """Return a claim about this difference.

        A claim other than `MORE` is left undecided if the two protocols show the model different
        texts before the answer.
        """
        findings = self._findings if claim == MORE else self._findings_as_part
        return Claim(
            claim, self._family, self._between, findings, self._missing, self._keys, note=note
        )

    @property
    def part(self) -> str:
        """The status of the claim on this difference if it is one of the two parts of `MORE`."""
        return "not measurable" if self._missing else decide_status(self._findings_as_part)[0]

    @property
    def _findings_as_part(self) -> list[Finding]:
        if not self.confounded:
            return self._findings
        return [mark_undecided(finding) for finding in self._findings]


def _describe_parts(
    whole_difference: _ProtocolDifference,
    stricter: _ProtocolDifference,
    writing: _ProtocolDifference,
) -> str:
    """Return text on the two parts of a protocol difference: stricter scoring, and writing."""
    text = f"its parts: stricter scoring {stricter.part}, writing {writing.part}"
    same = whole_difference.questions == stricter.questions == writing.questions
    return text if same else f"{text}, not over the same questions"


def _read_same_contexts(harms: Harms, family: str, first: str, second: str) -> bool:
    """Return whether both protocols show the same texts before the answer, or these are unknown."""
    examples = harms.result.examples
    if "contexts" not in examples:
        return True
    column = examples.loc[examples["task"].isin(harms.tasks(family, first)), "contexts"]
    read = [json.loads(contexts) for contexts in column if contexts]
    return all(
        by_protocol[first] == by_protocol[second]
        for by_protocol in read
        if {first, second} <= set(by_protocol)
    )


def _harm_difference(harms: Harms, family: str, protocol: str, scored: str) -> Number:
    return measure_number(
        harms,
        f"mean harm, {protocol} minus {scored}",
        lambda at: mean_harm_apart(harms, family, protocol, scored, at),
    )


def _explain_unpaired(harms: Harms, family: str, protocol: str, scored: str) -> str:
    """Return text on why two protocols cannot be compared though each has a task with skill.

    Empty if they can be compared, or cannot for another reason, such as layers not swept.
    """
    pairs = _pairs(harms, family, protocol, scored)
    if not pairs:
        return f"no question of {family} was asked under both"
    known = mean_harm_apart(harms, family, protocol, scored).known
    if known or len(harms.swept) < harms.n_layers or any(_has_skill(harms, p) for p in pairs):
        return ""
    return "of the questions asked under both, none are of tasks above chance under both"


def mean_harm_apart(
    harms: Harms, family: str, protocol: str, other: str, at: str | None = None
) -> stats.Contrast:
    """Return the mean harm of all layers under `protocol` minus that under `other`.

    The questions are those that were asked under both protocols, in one task or in two tasks of the
    family, with skill under both. The difference is averaged over such tasks. `stats.NO_CONTRAST`
    if there are no such questions, or if not all layers of the model were swept.

    Computed under both chances (see `nearer_of_both_chances`).
    """
    if len(harms.swept) < harms.n_layers:
        return stats.NO_CONTRAST
    weights, where = harms.mean_over(harms.swept), at or harms.at

    def difference(pair: CellPair, *, guessed: bool) -> stats.Contrast:
        harm_under = {
            cell.protocol: harms.cell_harm(cell, weights, where, examples, guessed=guessed)
            for cell, examples in zip(pair.cells, pair.examples, strict=True)
        }
        return stats.difference_of(harm_under[protocol], harm_under[other])

    return stats.mean_of(
        [
            nearer_of_both_chances(partial(difference, pair), pair.cells)
            for pair in _pairs(harms, family, protocol, other)
            if _has_skill(harms, pair)
        ]
    )


def _pairs(harms: Harms, family: str, protocol: str, other: str) -> list[CellPair]:
    """Return the pairs of a family's cells that ask the same questions under both protocols."""
    cells = [
        cell
        for cell in cells_of(harms.result)
        if cell.family == family and cell.protocol in (protocol, other)
    ]
    return [pair for pair in pairs_of(cells) if pair.one.protocol != pair.two.protocol]


def _has_skill(harms: Harms, pair: CellPair) -> bool:
    """Return whether both cells have skill above chance."""
    return all(cell.task in harms.tasks(cell.family, cell.protocol) for cell in pair.cells)


def _is_written(protocol: str) -> bool:
    """Return whether the model writes the answer: protocol `generation` or `generation[...]`."""
    return protocol.partition("[")[0] == "generation"

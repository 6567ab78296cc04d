"""Gather all claims that a sweep can test, and tabulate what is decided about each.

`literature`, `protocol_claims`, `retrieval_augmentation_claims`, `distilled_model_claims`
and `critical_heads` measure the numbers of the claims; `claim_status` has the rule that decides
them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from layerroles import stats
from layerroles.probes import group_by_probe
from layerroles.results import (
    SweepResult,
    cells_of,
    check_result,
    describe_answers,
    describe_decisions,
)
from layerroles.roles import (
    claim_status,
    distilled_model_claims,
    literature,
    probe_summary,
    protocol_claims,
    retrieval_augmentation_claims,
)
from layerroles.roles.claim_status import Claim
from layerroles.roles.critical_heads import carried_by_few
from layerroles.roles.harms import ablations_swept
from layerroles.roles.harms_by_ablation import AblationKind, measure_kinds

CONTROL = "language"


def claims_on_layers(
    result: SweepResult, ablation: str, mechanism_of: Mapping[str, str] | None = None
) -> list[Claim]:
    """Return the claims that ablations of single layers can test, even if the run is not finished.

    Args:
        result: a sweep with conditions that ablate one whole layer each.
        ablation: the kind of ablation on which verdicts rest; others in the sweep serve as second
            kinds.
        mechanism_of: map from the name of each ablation to its mechanism, such as "deletion"; None
            for the map from `results.mechanisms`.
    """
    kinds = measure_kinds(result, ablation)
    if mechanism_of is not None:
        kinds = [replace(kind, mechanism=mechanism_of[kind.ablation]) for kind in kinds]
    return list(_claims_on_layers(result, kinds))


def _claims_on_layers(result: SweepResult, kinds: Sequence[AblationKind]) -> Iterator[Claim]:
    # Claims are made for the families of the first kind, so that has to be the one with the most.
    by_families = sorted(kinds, key=lambda kind: -len(kind.harms.keys))
    yield from literature.literature_claims(by_families, CONTROL)
    yield from protocol_claims.claims_on_protocols(by_families)
    yield from retrieval_augmentation_claims.claims_on_contexts(result, kinds)


def describe_decided(result: SweepResult) -> str:
    """Return text on how many claims or verdicts a sweep has decided, and with how many answers.

    Empty for a sweep without `until`, the goal at which a sweep stops early.
    """
    until = result.manifest.get("until")
    if not until or until.get("goal") != "claims":
        return describe_decisions(cells_of(result), result.manifest)
    kinds = ablations_swept(result)
    if not kinds:
        return ""
    claims = [claim for claim in claims_on_layers(result, kinds[0]) if not claim.missing]
    n_by_status = Counter(claim.status for claim in claims)
    decided = [n_by_status["supported"], n_by_status["contradicted"]]
    text = (
        f"{sum(decided)} of {len(claims)} claims decided ({decided[0]} supported, {decided[1]} "
        f"contradicted), with {describe_answers(cells_of(result), result.manifest)}"
    )
    if not any(decided):
        return text
    expected_wrong = min((1 - stats.LEVEL) * len(claims), sum(decided))
    return f"{text}; at most {expected_wrong:.1f} of them are expected to be wrong"


def decide_claims(
    result: SweepResult,
    kinds: Sequence[AblationKind],
    base: SweepResult | None,
    probes: Sequence[pd.DataFrame],
) -> pd.DataFrame:
    """Return the table `Roles.claims`, which has no rows before the run is finished.

    Args:
        result: a sweep.
        kinds: its kinds of ablation; the first is the one on which verdicts rest.
        base: a sweep of the model that the model of `result` was distilled or trained from; None if
            there is none.
        probes: probe frames; only those of the probe `similarity` are used.
    """
    if base is not None:
        check_result(base)
    if result.interim:
        return claim_status.make_table([])
    claims = [
        *_claims_on_layers(result, kinds),
        *carried_by_few(result, kinds[0].harms.at),
    ]
    if base is not None:
        claims += distilled_model_claims.claims_against_base(result, base, kinds)
    rows = [claim.row() for claim in claims]
    if (similarity := group_by_probe(probes).get("similarity")) is not None:
        rows += probe_summary.claims_on_neighbours(similarity)
    skills = _lesser_skills(result)
    for row in rows:
        if skill := skills.get(row["family"]):
            row["evidence"] += f"; what was asked is {skill}"
    return claim_status.make_table(rows)


def _lesser_skills(result: SweepResult) -> dict[str, str]:
    """Map families to text on the narrower skills that their tasks test (`Task.skill`).

    A family is left out if one of its tasks names no such skill.
    """
    skills_of: dict[str, set[str]] = {}
    for cell in result.manifest.get("cells", []):
        if "family" in cell:
            skills_of.setdefault(cell["family"], set()).add(cell.get("skill", ""))
    return {
        family: " or ".join(sorted(skills))
        for family, skills in skills_of.items()
        if "" not in skills
    }

"""Claims that compare a model with its base, the model that it was distilled or trained from.

The number is the base's mean harm over all layers minus the model's, paired by question.
"""

from collections.abc import Iterator, Sequence

from layerroles import stats
from layerroles.errors import InputError
from layerroles.results import AFTER_FIRST, Match, SweepResult, match, mechanisms
from layerroles.roles.claim_findings import Finding, Number, make_empty_finding, make_finding
from layerroles.roles.claim_status import Claim
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import AblationKind

ROBUST = "A distilled model reasons more robustly than its base"


def claims_against_base(
    result: SweepResult, base: SweepResult, kinds: Sequence[AblationKind]
) -> Iterator[Claim]:
    """Yield claims that a model reasons more robustly than its base.

    There is a claim for each reasoning task and protocol that both models were asked.

    Args:
        result: the sweep of the model.
        base: the sweep of the model that it was distilled or trained from.
        kinds: the kinds of ablation in `result`.
    """
    matches, differences = match(base, result)
    base_mechanisms = mechanisms(base)
    for matched in matches:
        if matched.one.family != "reasoning":
            continue
        findings = [
            _compare_robustness(
                kind, base, matched, differences, base_mechanisms.get(kind.ablation, "")
            )
            for kind in kinds
        ]
        skills = {"the base": matched.one, "the model": matched.two}
        unskilled = [name for name, cell in skills.items() if not cell.has_skill]
        missing = f"{' and '.join(unskilled)} not shown to be above chance" if unskilled else ""
        if base.interim:
            missing = f"the run of the base is not finished ({base.interim})"
        settings = [line for line in differences if line.startswith(("dtype ", "chat "))]
        note = "; ".join([matched.one.task, *settings])
        protocol = matched.one.protocol
        keys = [("reasoning", protocol)]
        yield Claim(ROBUST, "reasoning", protocol, findings, missing, keys, note=note)


def _compare_robustness(
    kind: AblationKind,
    base: SweepResult,
    matched: Match,
    differences: Sequence[str],
    mechanism: str,
) -> Finding:
    """Return the finding of one kind of ablation on whether the model is more robust than its base.

    The finding has sign 0 if the base was not ablated in the same way, at the same positions and
    with one setting, or has another number of layers.

    Args:
        kind: the kind of ablation, in this model's run.
        base: the base's run.
        matched: the rows of both runs for a task and protocol that both have, the base's first.
        differences: the differences between the runs, a line each.
        mechanism: the mechanism of the ablation of the same name in the base's run; empty if none.
    """
    harms = kind.harms
    other_ablation = [
        line for line in differences if line.startswith(f"ablation {kind.ablation} is not")
    ]
    if other_ablation or mechanism != kind.mechanism:
        why = other_ablation[0] if other_ablation else "another mechanism in the base's run"
        return make_empty_finding(kind, f"not compared, {why}")
    try:
        base_harms = Harms(base, kind.ablation, harms.at)
    except InputError as error:  # not on layers, at other positions, or at several settings
        return make_empty_finding(kind, f"not compared, in the base's run {error}")
    if base_harms.n_layers != harms.n_layers:
        why = f"the base has {base_harms.n_layers} layers and this model {harms.n_layers}"
        return make_empty_finding(kind, f"not compared, {why}")

    def harm_difference(at: str) -> stats.Contrast:
        base_cell, cell = matched.one, matched.two
        names = [
            (
                base_harms.condition(base_cell.task, base_cell.protocol, (layer, -1), at),
                harms.condition(cell.task, cell.protocol, (layer, -1), at),
            )
            for layer in range(harms.n_layers)
        ]
        pairs = [(base_name, name) for base_name, name in names if base_name and name]
        if len(pairs) < harms.n_layers:
            return stats.NO_CONTRAST
        return matched.harm_difference(dict.fromkeys(pairs, -1 / len(pairs)))

    # If only one of the runs has such conditions, the number is not known, and blocks the claim.
    first_token_kept = (
        harm_difference(AFTER_FIRST) if harms.after_first or base_harms.after_first else None
    )
    return make_finding(
        kind,
        [Number("mean harm, base minus this model", harm_difference(harms.at), first_token_kept)],
    )

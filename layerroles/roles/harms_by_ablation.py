"""The kinds of ablation in a sweep: the one on which verdicts rest, and those that may confirm it.

Verdicts on layers rest on one kind of ablation, here called the judged kind. A claim is decided
only if a second kind with another mechanism (such as mean instead of deletion) agrees.
"""

from dataclasses import dataclass

from layerroles.errors import InputError
from layerroles.results import SweepResult, mechanisms
from layerroles.roles.harms import Harms, ablations_swept, has_one_setting, positions_swept


@dataclass(frozen=True, eq=False)
class AblationKind:
    """A kind of ablation: its harms, and its mechanism, such as "deletion" ("" if not declared)."""

    harms: Harms
    mechanism: str

    @property
    def ablation(self) -> str:
        """Name of the ablation."""
        return self.harms.ablation


def measure_kinds(
    result: SweepResult, ablation: str | None, at: str | None = None
) -> list[AblationKind]:
    """Return the kind of ablation on which verdicts rest, then others at the same positions.

    Other kinds that were swept at several settings, such as two noise scales, are left out.

    Args:
        result: a sweep.
        ablation: the name of the ablation on which verdicts on layers rest; None if the sweep has
            only one.
        at: the positions at which the ablations act; None for the default of `Harms`.

    Raises:
        InputError: no condition ablates one whole layer, the ablation is unknown or was swept at
            several settings, no condition acts at the positions `at`, or `ablation` is None and the
            sweep has several.
    """
    names = ablations_swept(result)
    if not names:
        raise InputError(
            "roles need conditions that ablate one whole layer each, and this result has none: "
            "sweep each_layer(model, Skip()), or --sites all"
        )
    if ablation is None and len(names) > 1:
        raise InputError(
            f"the sweep has several ablations ({', '.join(names)}): "
            f"name one, as in localize(result, ablation={names[0]!r})"
        )
    judged = Harms(result, names[0] if ablation is None else ablation, at)
    others = [
        Harms(result, name, judged.at)
        for name in names
        if name != judged.ablation
        and judged.at in positions_swept(result, name)
        and has_one_setting(result, name)
    ]
    mechanism_of = mechanisms(result)
    return [AblationKind(harms, mechanism_of[harms.ablation]) for harms in (judged, *others)]

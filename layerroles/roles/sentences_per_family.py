"""The sentence on one family under one protocol: column `claim` of `Roles.frame`.

Early minus late harm is the mean harm of the first third of layers minus that of the last third.
"""

import math
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results import records
from layerroles.roles.sentence_parts import BETTER_WITHOUT, format_estimate, format_layers, sign_of


def explain_unmeasurable(cell: pd.DataFrame) -> str:
    """Return text on why a family's harm is not measurable; empty if it is measurable.

    Args:
        cell: the family's intact scores under the protocol, a row per task.
    """
    if cell["above_chance"].any():
        return ""
    first = cell.iloc[0]
    if cell["chance"].isna().all():
        return f"not measurable: scores in {first['unit']} have no chance level, so no harm"
    if not cell["n"].any():
        return "not measurable: the intact model gave no finite score"
    scores = "; ".join(
        f"{row.task} {row.score:.2f} [{row.score_low:.2f}, {row.score_high:.2f}], "
        f"chance {row.chance:.2f}"
        for row in records(cell)
    )
    return f"not measurable: the intact score is not shown to be above chance ({scores})"


def describe_family(
    line: dict[str, Any], lean: int, reason: str, tasks_left_out: list[str], evidence: str
) -> str:
    """Return the sentence for column `claim` of `Roles.frame`; only `reason` if that is not empty.

    Args:
        line: the family's row of `Roles.frame`.
        lean: as in `describe_lean`.
        reason: why harm is not measurable; empty if it is measurable.
        tasks_left_out: the tasks that are not above chance.
        evidence: text on the kinds of ablation under which this was seen.
    """
    if reason:
        return f"{reason[0].upper()}{reason[1:]}."
    words = [
        f"Critical layers: {format_layers(line['critical'])}",
        f"sink: {format_layers(line['sink'])}",
        f"spare: {format_layers(line['spare'])}",
        f"partial: {format_layers(line['partial'])}",
        *([f"{BETTER_WITHOUT}: {format_layers(line['helps'])}"] if line["helps"] else []),
        f"undecided: {len(line['undecided'])}",
    ]
    text = f"{'; '.join(words)}. {describe_lean(line, lean)} ({evidence})."
    if not tasks_left_out:
        return text
    return f"{text} Without {', '.join(tasks_left_out)}: not shown to be above chance."


def describe_lean(line: dict[str, Any], lean: int) -> str:
    """Return text that says whether early or late layers matter more, or that this is not shown.

    Args:
        line: the family's row of `Roles.frame`.
        lean: 1 if early layers are shown to matter more, -1 if late ones are, else 0, by intervals
            that hold for all families of the protocol together.
    """
    estimate, low, high = (float(line[k]) for k in ("early_minus_late", "ci_low", "ci_high"))
    if math.isnan(estimate):
        return (
            "Early against late is not known: it takes two examples or more at every layer of the "
            "first and the last third"
        )
    shown = format_estimate(estimate, low, high)
    if lean > 0:
        return f"Early layers matter more than late ones: {shown}"
    if lean < 0:
        return f"Late layers matter more than early ones: {shown}"
    excludes_0 = " (by intervals for all families together)" if low > 0 or high < 0 else ""
    return f"No difference of early and late layers is shown{excludes_0}: {shown}"


def describe_agreement(lean: int, other: stats.Contrast, ablation: str, both_hold: bool) -> str:
    """Return text on whether a second kind of ablation agrees on early minus late harm.

    Args:
        lean: as in `describe_lean`, under the first kind.
        other: early minus late harm under the second kind.
        ablation: the name of the second kind.
        both_hold: whether the sign stays the same, under both kinds, if the first token is not
            ablated; see `Harms.holds_with_first_token_kept`.
    """
    second = sign_of(other.interval)
    shown = format_estimate(*other.numbers)
    if both_hold and lean and lean == second:
        return f"{ablation} agrees: {shown}"
    if both_hold and lean and lean == -second:
        return f"{ablation} says the opposite: {shown}"
    return f"not shown by both, {ablation}: {shown}"

"""Sentences of the verdict (`Roles.verdict`) on one protocol, each with its numbers."""

import bisect
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.results import AFTER_FIRST, CRITICAL, SPARE, UNDECIDED, drops_by_half, records
from layerroles.roles.result import Roles, Sentence
from layerroles.roles.sentence_parts import (
    BETTER_WITHOUT,
    Setting,
    describe_needed,
    describe_positions,
    format_bounds,
    format_estimate,
    format_layers,
)

_SHOWN = 5  # at most so many pairs or heads are named, those with the largest numbers
_ENDS = ["difference", "ci_low", "ci_high"]
_MOST_EXAMPLES = 100_000  # the largest number that `fewest_examples` tries


def protocol_sentences(protocol: str, roles: Roles, setting: Setting) -> Iterator[Sentence]:
    """Yield a protocol's sentences on depth, layers, spread, precision, pairs and heads."""
    rows = roles.frame[roles.frame["protocol"] == protocol]
    layers = roles.layers[roles.layers["protocol"] == protocol]
    known_rows = rows[rows["early_minus_late"].notna()]
    topics = {
        "depth": _say_depth(protocol, known_rows, roles.contrasts, setting),
        "layers": _say_layers(protocol, rows, layers, setting),
        "spread": _say_spread(protocol, rows),
        "precision": _say_precision(protocol, layers, setting.tasks),
        "pairs": _say_pairs(protocol, roles.pairs[roles.pairs["protocol"] == protocol]),
        "heads": _say_heads(protocol, roles.heads[roles.heads["protocol"] == protocol]),
    }
    for about, lines in topics.items():
        yield from (Sentence(line, about, protocol) for line in lines)


def _say_depth(
    protocol: str, rows: pd.DataFrame, contrasts: pd.DataFrame, setting: Setting
) -> list[str]:
    if rows.empty:
        return []
    leans = rows["family"].map(lambda family: setting.leans.get((family, protocol), 0))
    kinds = (
        ("early layers matter more for", rows[leans > 0]),
        ("late layers matter more for", rows[leans < 0]),
        ("no difference is shown for", rows[leans == 0]),
    )
    parts = [
        f"{words} "
        + ", ".join(
            f"{r.family} {format_estimate(r.early_minus_late, r.ci_low, r.ci_high)}"
            for r in records(family_rows)
        )
        for words, family_rows in kinds
        if not family_rows.empty
    ]
    at_once = " (sorted by intervals that hold for all families at once)" if len(rows) > 1 else ""
    lines = [
        f"Under {protocol}, by harm of the first third of layers minus the last{at_once}: "
        f"{'; '.join(parts)}."
    ]
    known_contrasts = contrasts[
        (contrasts["protocol"] == protocol) & contrasts["difference"].notna()
    ]
    clear = (
        known_contrasts[["at", "protocol", "family", "against"]]
        .apply(tuple, axis=1)
        .isin(setting.apart)
    )
    lines += _say_first_token_kept(
        protocol, known_contrasts[clear & (known_contrasts["against"] == "")], known_contrasts
    )
    between_families = known_contrasts["against"] != ""
    clear_pairs = known_contrasts[clear & between_families]
    if not clear_pairs.empty:
        pairs = ", ".join(_format_pair(r) for r in records(clear_pairs))
        looked_at = int(between_families.sum())
        for_all_pairs = (
            f" (by intervals that hold for all {looked_at} pairs at once)" if looked_at > 1 else ""
        )
        lines.append(f"Under {protocol}, families differ in this{for_all_pairs}: {pairs}.")
    elif between_families.any():
        lines.append(f"Under {protocol}, no two families are shown to differ in this.")
    return lines


def _say_first_token_kept(
    protocol: str, changed: pd.DataFrame, contrasts: pd.DataFrame
) -> list[str]:
    """Return a list with a sentence on early minus late harm with the first token kept.

    The token is kept if it is not ablated (`after_first`). Empty if `changed` has no rows.

    Args:
        protocol: the protocol.
        changed: the rows of `Roles.contrasts` for families with a change that is shown.
        contrasts: all rows of `Roles.contrasts` under the protocol with a known difference.
    """
    kept_by_family = contrasts[contrasts["at"] == AFTER_FIRST].set_index("family")
    changes = [
        f"{r.family} to {format_estimate(*kept_by_family.loc[r.family, _ENDS])} "
        f"(by {format_estimate(-r.difference, -r.ci_high, -r.ci_low)})"
        for r in records(changed)
    ]
    if not changes:
        return []
    return [f"Under {protocol}, this changes with the first token kept: {', '.join(changes)}."]


def _format_pair(pair: Any) -> str:
    line = pair._asdict()
    larger, smaller, sign = line["family"], line["against"], 1.0
    low, high = line["ci_low"], line["ci_high"]
    if high < 0:
        larger, smaller, sign, low, high = smaller, larger, -1.0, -high, -low
    difference = format_estimate(sign * line["difference"], low, high)
    return f"larger for {larger} than for {smaller} by {difference}"


def _say_layers(
    protocol: str, rows: pd.DataFrame, layers: pd.DataFrame, setting: Setting
) -> list[str]:
    measured = set(layers.loc[layers["harm"].notna(), "family"])
    rows = rows[rows["family"].isin(measured)]
    if rows.empty:
        return []
    lists = []
    for name in ("critical", "specific", "spare", "partial", "helps"):
        families = [
            f"{r['family']} {format_layers(r[name])}" for _, r in rows.iterrows() if r[name]
        ]
        if families or name != "helps":
            label = BETTER_WITHOUT if name == "helps" else name
            lists.append(f"{label}: {'; '.join(families) or 'no layer'}")
    lines = [f"Under {protocol}, {'. '.join(word[0].upper() + word[1:] for word in lists)}."]
    lines[0] = lines[0].replace("Critical", "critical", 1)
    lines.append(_say_general(protocol, rows, measured, setting))
    if not setting.after_first:
        lines.append(
            f"Under {protocol}, sinks cannot be identified: that takes both all and after_first."
        )
        return lines
    sinks = layers[layers["verdict"] == "sink"]
    if not sinks.empty:
        lines.append(
            f"Under {protocol}, sinks, whose harm falls below {CRITICAL} when the first token's "
            f"write is kept: {_format_sinks(sinks)}."
        )
    partly = layers[(layers["verdict"] == "critical") & _drops_by_half(layers)]
    if not partly.empty:
        lines.append(
            f"Under {protocol}, partly sinks, of whose harm more than half goes away when the "
            f"first token's write is kept, and not shown to fall below {CRITICAL}: "
            f"{_format_sinks(partly)}."
        )
    return lines


def _drops_by_half(layers: pd.DataFrame) -> "pd.Series[bool]":
    falls = [drops_by_half(row.harm, row.gone_low) for row in records(layers)]
    return pd.Series(falls, index=layers.index, dtype=bool)


def _format_sinks(sinks: pd.DataFrame) -> str:
    """Return text on each layer's harm, its harm with the first token kept, and the drop."""
    lines = []
    for layer, rows in sinks.groupby("layer"):
        harms = [
            f"{r.family} {r.harm:+.2f} to "
            f"{format_estimate(r.after_first_harm, r.after_first_low, r.after_first_high)} "
            f"(falls by {format_estimate(r.gone, r.gone_low, r.gone_high)})"
            for r in records(rows)
        ]
        lines.append(f"layer {layer} for {', '.join(harms)}")
    return "; ".join(lines)


def _say_general(protocol: str, rows: pd.DataFrame, measured: set[str], setting: Setting) -> str:
    if setting.control not in measured or len(measured) < 2:
        return (
            f"Under {protocol}, no layer can be called general: that takes the copying control "
            f"(family {setting.control}) and another family, both above chance."
        )
    general = rows["general"].iloc[0]
    return (
        f"Under {protocol}, critical for all {len(measured)} measured families, the copying "
        f"control included (general): {format_layers(general)}."
    )


def _say_spread(protocol: str, rows: pd.DataFrame) -> list[str]:
    """Return a list with a sentence on how many layers each family's harm is spread over.

    Empty if this is not known for any family.
    """
    known_rows = rows[rows["effective"].notna()]
    if known_rows.empty:
        return []
    numbers = ", ".join(
        f"{r.family} {r.effective:.1f}{format_bounds(r.effective_low, r.effective_high, 1)}"
        for r in records(known_rows)
    )
    return [
        f"Under {protocol}, harm is spread over this many layers (effective number, sinks left "
        f"out): {numbers}."
    ]


def _say_precision(protocol: str, layers: pd.DataFrame, tasks: pd.DataFrame) -> list[str]:
    """Return a list with a sentence on how wide intervals are, and how many verdicts are undecided.

    It also names the families with too few questions to show that a layer is spare, and the drops
    in accuracy that are detected. Empty if no harm is known.
    """
    known_layers = layers[layers["harm"].notna()]
    if known_layers.empty:
        return []
    half = ((known_layers["harm_high"] - known_layers["harm_low"]) / 2).median()
    width = "not known" if math.isnan(half) else f"about ±{half:.2f} wide"
    n, n_most = int(known_layers["n"].min()), int(known_layers["n"].max())
    tasks = tasks[
        (tasks["protocol"] == protocol) & tasks["family"].isin(set(known_layers["family"]))
    ]
    undecided, total = int((known_layers["verdict"] == UNDECIDED).sum()), len(known_layers)
    needed = describe_needed(known_layers)
    text = (
        f"Under {protocol}, at n={n if n == n_most else f'{n} to {n_most}'} the interval of a "
        f"layer's harm is {width}, so {undecided} of {total} layer verdicts are undecided"
        f"{f' ({needed})' if needed else ''}"
    )
    families = tasks.groupby("family", sort=False)
    too_few = [
        f"{family} {fewest_examples(rows)}{' a task' if len(rows) > 1 else ''}"
        for family, rows in families
        if _reach_unchanged(rows) > SPARE
    ]
    if too_few:
        text += (
            f"; no layer could be spare (within ±{SPARE}) for {len(too_few)} of {len(families)} "
            f"families even if not one answer changed: that takes n={', '.join(too_few)}"
        )
    return [f"{text}.{_say_power(tasks[tasks['unit'] == 'accuracy'])}"]


def fewest_examples(tasks: pd.DataFrame) -> int:
    """Return the fewest examples per task that show a layer to be spare if no answer changes.

    A layer is shown to be spare if the interval of its harm lies within ±0.1. At most 100,000, even
    if these do not suffice.

    Args:
        tasks: a row per task, from `Harms.precision`.
    """
    return bisect.bisect_left(
        range(_MOST_EXAMPLES), True, lo=2, key=lambda n: _reach_unchanged(tasks, n) <= SPARE
    )


def _reach_unchanged(tasks: pd.DataFrame, n: int | None = None) -> float:
    """Return how far from 0 the interval of a layer's harm reaches if no answer changes.

    Infinite if a task would not be above chance with that many examples.

    Args:
        tasks: a row per task, from `Harms.precision`.
        n: the number of examples of each task; None for the number that were asked.
    """
    reach = [
        _task_reach(n or int(task.n), float(task.intact), float(task.chance), int(task.clusters))
        for task in records(tasks)
    ]
    return math.hypot(*reach) / len(reach)


@functools.cache
def _task_reach(n: int, intact: float, chance: float, n_clusters: int) -> float:
    scores = (np.arange(n) < round(intact * n)).astype(float)
    clusters = np.arange(n) % n_clusters if n_clusters else None
    if not stats.is_above(scores, chance, clusters=clusters):
        return math.inf
    _, interval = stats.harm_interval(scores, scores, chance, clusters=clusters)
    return max(-interval.low, interval.high)


def _say_power(tasks: pd.DataFrame) -> str:
    """Return text on the smallest drops in accuracy that are detected; empty if `tasks` is empty.

    Args:
        tasks: the rows of `Harms.precision` for tasks scored by accuracy.
    """
    if tasks.empty:
        return ""
    drops = tasks["detectable"].dropna()
    if drops.empty:
        return " Of accuracy no drop is found with 80% power after correction."
    low, high = f"{drops.min():.2f}", f"{drops.max():.2f}"
    drop = low if low == high else f"{low} to {high} (by task)"
    text = f" Of accuracy a drop of {drop} or more is found with 80% power after correction"
    none = tasks.loc[tasks["detectable"].isna(), "task"]
    return f"{text}, of {', '.join(none)} none." if len(none) else f"{text}."


def _say_pairs(protocol: str, pairs: pd.DataFrame) -> list[str]:
    """Return a list with a sentence on pairs of layers that back each other up.

    Empty if no pair was measured.
    """
    pairs = pairs[pairs["verdict"] != "not measurable"]
    by_family = []
    for family, rows in pairs.groupby("family", sort=False):
        backups = rows[rows["verdict"] == "backup"].sort_values("excess", ascending=False)
        shown = [
            f"{r.layer} with {r.other} {format_estimate(r.excess, r.excess_low, r.excess_high)} "
            f"(pair {r.harm:+.2f}, explained {r.explained:+.2f})"
            for r in records(backups)
        ]
        open_ = int((rows["verdict"] == "undecided").sum())
        by_family.append(f"{family} {_name_first(shown)} ({len(rows)} pairs, {open_} undecided)")
    if not by_family:
        return []
    return [
        f"Under {protocol}, backups, pairs of layers that cost more together than either alone "
        f"explains: {'; '.join(by_family)}."
    ]


def _say_heads(protocol: str, heads: pd.DataFrame) -> list[str]:
    """Return a sentence per kind of ablation and `at` that names each family's critical heads.

    Args:
        protocol: the protocol.
        heads: the rows of `Roles.heads` under the protocol.
    """
    heads = heads[heads["harm"].notna()]
    lines = []
    for (ablation, at), of_ablation in heads.groupby(["ablation", "at"], sort=False):
        by_family = []
        for family, rows in of_ablation.groupby("family", sort=False):
            critical = rows[rows["verdict"] == "critical"].sort_values("harm", ascending=False)
            shown = [
                f"L{r.layer}.H{r.head} {format_estimate(r.harm, r.harm_low, r.harm_high)}"
                for r in records(critical)
            ]
            moved = int((rows["p_adjusted"] < 0.05).sum())
            by_family.append(
                f"{family} {_name_first(shown)} (of {len(rows)}; {moved} with an effect "
                f"at a false discovery rate of 5%)"
            )
        lines.append(
            f"Under {protocol}, critical heads ({ablation} of one head at a time, at "
            f"{describe_positions(str(at))}): {'; '.join(by_family)}."
        )
    return lines


def _name_first(texts: Sequence[str]) -> str:
    """Join the first `_SHOWN` texts, and say how many more there are; "none" if there are none."""
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return f"{', '.join(texts[:_SHOWN]) or 'none'}{more}"

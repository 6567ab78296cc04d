"""Verdict sentences on one protocol, each with its numbers."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from layerroles.results import records
from layerroles.roles.harms import AFTER_FIRST, CRITICAL, SPARE, drops_by_half
from layerroles.roles.roles import Roles, Sentence
from layerroles.roles.wording import Setting, bounds, least, listed, number, unchanged, where

_SHOWN = 5  # the most pairs or heads that are named, worst first
_ENDS = ["difference", "ci_low", "ci_high"]


def under(protocol: str, roles: Roles, setting: Setting) -> Iterator[Sentence]:
    """Yield sentences on depth, layers, spread, precision, pairs and heads, in this order."""
    rows = roles.frame[roles.frame["protocol"] == protocol]
    layers = roles.layers[roles.layers["protocol"] == protocol]
    known = rows[rows["early_minus_late"].notna()]
    topics = {
        "depth": _depth(protocol, known, roles.contrasts, setting),
        "layers": _layers(protocol, rows, layers, setting),
        "spread": _spread(protocol, rows),
        "precision": _precision(protocol, layers, setting.tasks),
        "pairs": _pairs(protocol, roles.pairs[roles.pairs["protocol"] == protocol]),
        "heads": _heads(protocol, roles.heads[roles.heads["protocol"] == protocol]),
    }
    for about, lines in topics.items():
        yield from (Sentence(line, about, protocol) for line in lines)


def _depth(
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
            f"{r.family} {number(r.early_minus_late, r.ci_low, r.ci_high)}" for r in records(some)
        )
        for words, some in kinds
        if not some.empty
    ]
    at_once = " (sorted by intervals that hold for all families at once)" if len(rows) > 1 else ""
    lines = [
        f"Under {protocol}, by harm of the first third of layers minus the last{at_once}: "
        f"{'; '.join(parts)}."
    ]
    known = contrasts[(contrasts["protocol"] == protocol) & contrasts["difference"].notna()]
    shown = known[["at", "protocol", "family", "against"]].apply(tuple, axis=1).isin(setting.apart)
    lines += _kept(protocol, known[shown & (known["against"] == "")], known)
    between = known["against"] != ""
    apart = known[shown & between]
    if not apart.empty:
        pairs = ", ".join(_pair(r) for r in records(apart))
        looked_at = int(between.sum())
        each = (
            f" (by intervals that hold for all {looked_at} pairs at once)" if looked_at > 1 else ""
        )
        lines.append(f"Under {protocol}, families differ in this{each}: {pairs}.")
    elif between.any():
        lines.append(f"Under {protocol}, no two families are shown to differ in this.")
    return lines


def _kept(protocol: str, changed: pd.DataFrame, contrasts: pd.DataFrame) -> list[str]:
    """List families whose early minus late harm changes if the first token's write is kept."""
    kept = contrasts[contrasts["at"] == AFTER_FIRST].set_index("family")
    changes = [
        f"{r.family} to {number(*kept.loc[r.family, _ENDS])} "
        f"(by {number(-r.difference, -r.ci_high, -r.ci_low)})"
        for r in records(changed)
    ]
    if not changes:
        return []
    return [f"Under {protocol}, this changes with the first token kept: {', '.join(changes)}."]


def _pair(pair: Any) -> str:
    line = pair._asdict()
    one, two, turn = line["family"], line["against"], 1.0
    low, high = line["ci_low"], line["ci_high"]
    if high < 0:
        one, two, turn, low, high = two, one, -1.0, -high, -low
    return f"{one} earlier than {two} by {number(turn * line['difference'], low, high)}"


def _layers(protocol: str, rows: pd.DataFrame, layers: pd.DataFrame, setting: Setting) -> list[str]:
    measured = set(layers.loc[layers["harm"].notna(), "family"])
    rows = rows[rows["family"].isin(measured)]
    if rows.empty:
        return []
    lists = []
    for name in ("critical", "specific", "spare"):
        families = [f"{r['family']} {listed(r[name])}" for _, r in rows.iterrows() if r[name]]
        lists.append(f"{name}: {'; '.join(families) or 'no layer'}")
    lines = [f"Under {protocol}, {'. '.join(word[0].upper() + word[1:] for word in lists)}."]
    lines[0] = lines[0].replace("Critical", "critical", 1)
    lines.append(_general(protocol, rows, measured, setting))
    if not setting.after_first:
        lines.append(
            f"Under {protocol}, sinks cannot be identified: that takes both all and after_first."
        )
        return lines
    sinks = layers[layers["verdict"] == "sink"]
    if not sinks.empty:
        lines.append(
            f"Under {protocol}, sinks, whose harm falls below {CRITICAL} when the first token's "
            f"write is kept: {_spared(sinks)}."
        )
    partly = layers[(layers["verdict"] == "critical") & _drops_by_half(layers)]
    if not partly.empty:
        lines.append(
            f"Under {protocol}, partly sinks, of whose harm more than half goes away when the "
            f"first token's write is kept, and not shown to fall below {CRITICAL}: "
            f"{_spared(partly)}."
        )
    return lines


def _drops_by_half(layers: pd.DataFrame) -> "pd.Series[bool]":
    falls = [drops_by_half(row.harm, row.gone_low) for row in records(layers)]
    return pd.Series(falls, index=layers.index, dtype=bool)


def _spared(sinks: pd.DataFrame) -> str:
    """Format the harm of layers, with the first token's write kept, and by how much it falls."""
    lines = []
    for layer, rows in sinks.groupby("layer"):
        harms = [
            f"{r.family} {r.harm:+.2f} to "
            f"{number(r.after_first_harm, r.after_first_low, r.after_first_high)} "
            f"(falls by {number(r.gone, r.gone_low, r.gone_high)})"
            for r in records(rows)
        ]
        lines.append(f"layer {layer} for {', '.join(harms)}")
    return "; ".join(lines)


def _general(protocol: str, rows: pd.DataFrame, measured: set[str], setting: Setting) -> str:
    if setting.control not in measured or len(measured) < 2:
        return (
            f"Under {protocol}, no layer can be called general: that takes the copying control "
            f"(family {setting.control}) and another family, both above chance."
        )
    general = rows["general"].iloc[0]
    return (
        f"Under {protocol}, critical for all {len(measured)} measured families, the copying "
        f"control included (general): {listed(general)}."
    )


def _spread(protocol: str, rows: pd.DataFrame) -> list[str]:
    """State over how many layers each family's harm is spread."""
    known = rows[rows["effective"].notna()]
    if known.empty:
        return []
    numbers = ", ".join(
        f"{r.family} {r.effective:.1f}{bounds(r.effective_low, r.effective_high, 1)}"
        for r in records(known)
    )
    return [
        f"Under {protocol}, harm is spread over this many layers (effective number, sinks left "
        f"out): {numbers}."
    ]


def _precision(protocol: str, layers: pd.DataFrame, tasks: pd.DataFrame) -> list[str]:
    """State the width of intervals, and for which families no layer could be spare at this n."""
    known = layers[layers["harm"].notna()]
    if known.empty:
        return []
    half = ((known["harm_high"] - known["harm_low"]) / 2).median()
    wide = "not known" if math.isnan(half) else f"about ±{half:.2f} wide"
    n, most = int(known["n"].min()), int(known["n"].max())
    tasks = tasks[(tasks["protocol"] == protocol) & tasks["family"].isin(set(known["family"]))]
    undecided, total = int((known["verdict"] == "undecided").sum()), len(known)
    text = (
        f"Under {protocol}, at n={n if n == most else f'{n} to {most}'} the interval of a layer's "
        f"harm is {wide}, so {undecided} of {total} layer verdicts are undecided"
    )
    families = tasks.groupby("family", sort=False)
    short = [
        f"{family} {least(list(rows['intact']), list(rows['chance']))}"
        f"{' a task' if len(rows) > 1 else ''}"
        for family, rows in families
        if unchanged(list(rows["n"]), list(rows["intact"]), list(rows["chance"])) > SPARE
    ]
    if short:
        text += (
            f"; no layer could be spare (within ±{SPARE}) for {len(short)} of {len(families)} "
            f"families even if not one answer changed: that takes n={', '.join(short)}"
        )
    return [f"{text}.{_power(tasks[tasks['unit'] == 'accuracy'])}"]


def _power(tasks: pd.DataFrame) -> str:
    """State the drops in accuracy that are detected, for tasks scored by accuracy."""
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


def _pairs(protocol: str, pairs: pd.DataFrame) -> list[str]:
    """Name the pairs of layers that cost more than either alone explains."""
    pairs = pairs[pairs["verdict"] != "not measurable"]
    by_family = []
    for family, rows in pairs.groupby("family", sort=False):
        backups = rows[rows["verdict"] == "backup"].sort_values("excess", ascending=False)
        shown = [
            f"{r.layer} with {r.other} {number(r.excess, r.excess_low, r.excess_high)} "
            f"(pair {r.harm:+.2f}, explained {r.explained:+.2f})"
            for r in records(backups.head(_SHOWN))
        ]
        more = f" and {len(backups) - _SHOWN} more" if len(backups) > _SHOWN else ""
        open_ = int((rows["verdict"] == "undecided").sum())
        by_family.append(
            f"{family} {', '.join(shown) or 'none'}{more} ({len(rows)} pairs, {open_} undecided)"
        )
    if not by_family:
        return []
    return [
        f"Under {protocol}, backups, pairs of layers that cost more together than either alone "
        f"explains: {'; '.join(by_family)}."
    ]


def _heads(protocol: str, heads: pd.DataFrame) -> list[str]:
    """Name the critical single heads."""
    heads = heads[heads["harm"].notna()]
    lines = []
    for (ablation, at), of_ablation in heads.groupby(["ablation", "at"], sort=False):
        by_family = []
        for family, rows in of_ablation.groupby("family", sort=False):
            critical = rows[rows["verdict"] == "critical"].sort_values("harm", ascending=False)
            shown = [
                f"L{r.layer}.H{r.head} {number(r.harm, r.harm_low, r.harm_high)}"
                for r in records(critical.head(_SHOWN))
            ]
            more = f" and {len(critical) - _SHOWN} more" if len(critical) > _SHOWN else ""
            moved = int((rows["p_adjusted"] < 0.05).sum())
            by_family.append(
                f"{family} {', '.join(shown) or 'none'}{more} (of {len(rows)}; {moved} with an "
                f"effect at a false discovery rate of 5%)"
            )
        lines.append(
            f"Under {protocol}, critical heads ({ablation} of one head at a time, at "
            f"{where(str(at))}): {'; '.join(by_family)}."
        )
    return lines

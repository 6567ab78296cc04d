"""What a search among heads found, in sentences."""

import pandas as pd

import layerroles as lr
from layerroles.roles import FoundHeads

PLACE = ["layer", "head"]


def most_harm(frame: pd.DataFrame, top: int) -> str:
    """The heads that do most harm, among those that were looked at."""
    rows = frame[frame["harm"].notna()].sort_values("harm", ascending=False).head(top)
    named = ", ".join(
        f"L{row['layer']}.H{row['head']} {row['harm']:.2f} [{row['harm_low']:.2f}, "
        f"{row['harm_high']:.2f}]"
        for row in rows.to_dict("records")
    )
    return f"Most harm where zeroed alone (n = {rows['n'].max():.0f}): {named}."


def missed(misses: pd.DataFrame) -> list[str]:
    """How many of the wanted heads the screen missed, as the audit tells."""
    return [
        f"{row['wanted']} heads: {row['found']} among the confirmed; {row['hits']} among "
        f"{row['audited']} audited, so that {row['missed']:.1f} [{row['missed_low']:.0f}, "
        f"{row['missed_high']:.0f}] of {row['screened_out']} were missed."
        if row["audited"]
        else f"{row['wanted']} heads: {row['found']} among the confirmed; none of the others was "
        f"audited, so nothing is known of them."
        for row in misses.to_dict("records")
    ]


def against(search: lr.HeadSearch, whole: lr.SweepResult, top: int, layers: list[int]) -> str:
    """How many of the true top the search finds, and whether two halves of the truth agree."""
    rows = whole.frame[whole.frame["layer"].isin(layers)]
    scores = rows.pivot(index=PLACE, columns="example", values="score").astype(float)
    truth, one, two = (
        {(int(layer), int(head)) for layer, head in part.mean(axis=1).nsmallest(top).index}
        for part in (scores, scores.iloc[:, ::2], scores.iloc[:, 1::2])
    )
    found = {(site.layer, site.head) for site in search.confirmed} & truth
    return (
        f"Without a screen: {whole.manifest['seconds']:.0f} s for {len(scores)} heads of layers "
        f"{layers}. Of their true top {top} the search confirms {len(found)}; halves of the "
        f"examples, each taken as the truth, share {len(one & two)} of theirs."
    )


def verdict(found: FoundHeads, screen: str) -> str:
    """Which heads are needed, and whether the screen is shown to miss any."""
    needed = found.frame[found.frame["verdict"] == "critical"]
    named = ", ".join(f"L{row.layer}.H{row.head}" for row in needed.itertuples()) or "none"
    row = found.misses[found.misses["wanted"] == "critical"].iloc[0]
    if not row["audited"]:
        audit = "what it missed is not known, none was audited"
    elif row["hits"]:
        audit = f"it is shown to miss some, {row['hits']} of {row['audited']} audited"
    else:
        audit = (
            f"it is not shown to miss any, though up to {row['missed_high']:.0f} of "
            f"{row['screened_out']} are not excluded"
        )
    return f"Heads that are critical alone: {named}. The screen by {screen}: {audit}."

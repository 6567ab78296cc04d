"""What until="decided" would have asked of a run that asked more: docs/results/decided.md.

The looks are played again on the stored answers under one kind of ablation. The verdicts are
compared with those of judging the first 32 questions once, and with the estimates from all stored
answers.

    python -m benchmarks.replayed_run runs/decided --limit 512 --figure docs/img
"""

import argparse
import dataclasses
from pathlib import Path

import pandas as pd

import layerroles as lr
from benchmarks.played_sweeps import KEYS, Lacking, ask
from layerroles.results import INTACT, REGIONS, SweepResult
from layerroles.roles import describe_decided, format_layers

VERDICTS = ("critical", "sink", "partial", "helps", "spare", "undecided")
FIRST = 32


def main() -> None:
    """Print the table and what is said above it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--ablation", default="skip")
    parser.add_argument("--fixed", type=int, nargs="*", default=[96, 128, 192, 256])
    parser.add_argument("--figure", type=Path, help="a folder for the figure of answers spent")
    args = parser.parse_args()
    whole = of_kind(lr.read(args.run), args.ablation)
    lacking: set[Lacking] = set()
    played = ask(whole, args.limit, lacking=lacking)
    if args.figure:
        figure = {"decided": lr.figures.answers_spent(played)}
        lr.figures.save(figure, args.figure, formats=("png",), width="full", title=True, dpi=180)
    once, layers, everything = (
        lr.localize(result, ablation=args.ablation).layers
        for result in (first_questions(whole, FIRST), played, whole)
    )
    print(f"{describe_decided(played)}; {len(lacking)} conditions lack answers")
    print(against_all(layers, everything))
    for n in args.fixed:
        fixed = first_questions(whole, n)
        judged = lr.localize(fixed, ablation=args.ablation).layers["verdict"]
        decided = judged.isin(VERDICTS[:-1]).sum()
        print(f"judged once at {n}: {decided} verdicts, {len(fixed.frame):,} answers, no sinks")
    print()
    print("| family | protocol | intact | 32 questions | until decided | questions: mean, median |")
    print("| --- | --- | --- | --- | --- | --- |")
    scores = played.intact().groupby(["family", "protocol"], sort=False).first()
    for key, row in scores.iterrows():
        own, first = (of_cell(table, key) for table in (layers, once))
        intact = f"{row['score']:.2f} [{row['score_low']:.2f}, {row['score_high']:.2f}]"
        asked = f"{own['n'].mean():.0f}, {own['n'].median():.0f}"
        print(f"| {' | '.join(key)} | {intact} | {counts(first)} | {counts(own)} | {asked} |")
    print("\n| family | protocol | critical | spare |\n| --- | --- | --- | --- |")
    for key in scores.index:
        own = of_cell(layers, key)
        named = [
            format_layers(own.loc[own["verdict"] == v, "layer"]) for v in ("critical", "spare")
        ]
        print(f"| {' | '.join((*key, *named))} |")


def of_kind(result: SweepResult, ablation: str) -> SweepResult:
    """The answers under one kind of ablation, as of a finished run."""
    left_out = ("unfinished", "asked_next")
    manifest = {key: value for key, value in result.manifest.items() if key not in left_out}
    kinds = (INTACT, ablation)
    manifest["conditions"] = [c for c in manifest["conditions"] if c["ablation"] in kinds]
    frame = result.frame[result.frame["ablation"].isin(kinds)].reset_index(drop=True)
    return dataclasses.replace(result, frame=frame, manifest=manifest)


def first_questions(result: SweepResult, n: int) -> SweepResult:
    """The first answers at all positions, as of a sweep that looks once."""
    manifest = {k: v for k, v in result.manifest.items() if k not in ("looks", "until")}
    manifest |= {"only_needed": False}
    manifest["conditions"] = [c for c in manifest["conditions"] if c["at"] == "all"]
    place = result.frame.groupby(KEYS[:3]).cumcount()
    at_all = result.frame["at"].eq("all") | result.frame["condition"].eq(INTACT)
    frame = result.frame[(place < n) & at_all].reset_index(drop=True)
    return dataclasses.replace(result, frame=frame, manifest=manifest)


def of_cell(layers: pd.DataFrame, key: tuple[str, str]) -> pd.DataFrame:
    """The layers of a family under a protocol."""
    return layers[(layers["family"] == key[0]) & (layers["protocol"] == key[1])]


def counts(layers: pd.DataFrame) -> str:
    """The number of layers with each verdict."""
    if layers["verdict"].eq("not measurable").all():
        return "not measurable"
    return ", ".join(str(layers["verdict"].eq(verdict).sum()) for verdict in VERDICTS)


def against_all(layers: pd.DataFrame, everything: pd.DataFrame) -> str:
    """How often the estimate from all answers lies outside of the region of a verdict."""
    both = layers.merge(everything, on=["family", "protocol", "layer"], suffixes=("", "_all"))
    more = both[both["verdict"].isin(VERDICTS[:-1]) & (both["n_all"] > both["n"])]
    region_of = {region.verdict: region for region in REGIONS}
    region_of["sink"] = region_of["critical"]
    outside = sum(
        not region_of[verdict].low <= harm <= region_of[verdict].high
        for verdict, harm in zip(more["verdict"], more["harm_all"], strict=True)
    )
    return f"{len(more)} verdicts were given before all answers; {outside} are outside with all"


if __name__ == "__main__":
    main()

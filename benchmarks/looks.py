"""How often verdicts are wrong, and how few questions they take, if a sweep looks several times.

The tables of docs/statistics.md, from simulated sweeps (`looks_simulation.py`):

    OMP_NUM_THREADS=1 python -m benchmarks.looks --sweeps 2000

It takes 20 minutes on one core. `--only errors`, `verdicts`, `together`, `bias`, `designs` or
`clusters` prints one table, and `--each` prints one row for each setting instead of one for each
kind of setting.
"""

import argparse
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.looks_clusters import FIXED_LEVEL, ClusteredSetting, stop_clustered
from benchmarks.looks_designs import designs
from benchmarks.looks_simulation import (
    ERROR,
    LIMIT,
    LONG_LIMIT,
    LONG_LOOKS,
    LOOKS,
    Setting,
    Sweeps,
    fixed_size,
    standard_error,
    stop_at_looks,
)
from layerroles.results.verdict_thresholds import REGIONS

N_LAYERS = 30
SKILLED = 0.7
INTACT = (0.3, 0.5, 0.7, 0.8, 0.95, 1.0)
CHANCES = (0.0, 0.25)
CHURNS = (0.03, 0.06, 0.1)
# As the layers of SmolLM2-135M: a few without which nothing is right, many that matter little.
MIXTURE = (
    *([1.0] * 3 + [0.6] * 2 + [0.3] * 3 + [0.2] + [0.15] * 4),
    *([0.08] * 5 + [0.02] * 6 + [0.0] * 5 + [-0.15]),
)
# Which layers a verdict ought to find: those whose true harm lies well within its region.
SOUGHT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "critical": lambda harm: harm >= 0.3,
    "spare": lambda harm: np.abs(harm) <= 0.05,
    "partial": lambda harm: (harm > 0.1) & (harm <= 0.2),
    "helps": lambda harm: harm < -0.1,
}
BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 1.01))


def settings() -> list[Setting]:
    """Return all settings."""
    models = [pair for pair in itertools.product(INTACT, CHANCES) if pair[0] > pair[1]]
    drawn = []
    for intact, chance in models:
        for churn in CHURNS:
            drawn.append(Setting("no harm", (0.0,) * N_LAYERS, intact, chance, churn))
        for border in (0.1, 0.2, 0.4):
            drawn.append(Setting("at a border", (border,) * N_LAYERS, intact, chance, 0.06))
        rare = 0.02 / (intact - chance)
        drawn.append(Setting("rare losses", (rare,) * N_LAYERS, intact, chance, 0.0))
        drawn.append(Setting("mixture", MIXTURE, intact, chance, 0.06))
    spread = tuple(np.resize([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35], N_LAYERS).tolist())
    for intact, chance, churn in itertools.product((0.4, 0.6, 0.8), CHANCES, CHURNS):
        drawn.append(Setting("0.05 to 0.35", spread, intact, chance, churn))
    return drawn


def group_settings(each: bool) -> Iterator[tuple[str, list[Setting]]]:
    """Return settings by kind and skill, or one by one, with the cells that name them."""
    if each:
        for setting in settings():
            harms = set(setting.harms)
            name = setting.kind if len(harms) > 1 else f"{setting.kind} {min(harms):.3g}"
            yield f"{name} | {setting.intact:g}, {setting.chance:g}, {setting.churn:g}", [setting]
        return
    for kind in dict.fromkeys(setting.kind for setting in settings()):
        for low, high in BANDS:
            group = [
                setting
                for setting in settings()
                if setting.kind == kind and low <= setting.skill - 1e-9 < high
            ]
            if group:
                skills = [setting.skill for setting in group]
                yield f"{kind} | {min(skills):.2g} to {max(skills):.2g}", group


@dataclass(frozen=True)
class Tally:
    """What one setting adds to a table; shares are of all layers of all sweeps."""

    wrong: float
    wrong_error: float
    by_verdict: tuple[float, ...]
    defined: float
    coverage: float
    decided: float
    questions: float
    fixed: float
    long_decided: float
    long_wrong: float
    long_coverage: float


@functools.cache
def tally(setting: Setting, count: int) -> Tally:
    """Simulate one setting up to both limits, and find the fixed size that decides as many."""
    sweeps = Sweeps(setting, count)
    stopped = stop_at_looks(sweeps)
    decided = float((stopped.verdict >= 0).mean())
    by_verdict = [
        (stopped.wrong & (stopped.verdict == index)).mean() for index in range(len(REGIONS))
    ]
    longer = None
    if 0.3 <= round(setting.skill, 9) <= 0.5:
        longer = stop_at_looks(sweeps, LONG_LOOKS)
    return Tally(
        wrong=float(stopped.wrong.mean()),
        wrong_error=standard_error(stopped.wrong.mean(axis=1)),
        by_verdict=tuple(float(share) for share in by_verdict),
        defined=float(stopped.defined.mean()),
        coverage=float(stopped.covered.sum() / max(1, stopped.defined.sum())),
        decided=decided,
        questions=float(stopped.n.mean()),
        fixed=fixed_size(sweeps, decided),
        long_decided=float((longer.verdict >= 0).mean()) if longer else math.nan,
        long_wrong=float(longer.wrong.mean()) if longer else math.nan,
        long_coverage=float(longer.covered[longer.defined].mean()) if longer else math.nan,
    )


def errors_table(count: int, each: bool) -> Iterator[str]:
    """Wrong verdicts, coverage at stopping and questions, by kind of setting and skill."""
    names = "setting | intact, chance, churn" if each else "setting | skill"
    yield (
        f"| {names} | wrong verdicts | most | in a sweep | coverage | least | decided at {LIMIT} | "
        f"at {LONG_LIMIT:,} | questions | fixed | of fixed |"
    )
    yield f"|{' --- |' * 12}"
    tallies: dict[Setting, Tally] = {}
    for name, group in group_settings(each):
        tallies.update((setting, tally(setting, count)) for setting in group)
        of_group = [tallies[setting] for setting in group]
        worst = max(of_group, key=lambda row: row.wrong)
        coverage = [row.coverage for row in of_group if row.defined > 0]
        long_decided = [row.long_decided for row in of_group if not math.isnan(row.long_decided)]
        fixed = np.mean([row.fixed for row in of_group])
        asked = np.mean([row.questions for row in of_group])
        cells = (
            f"{np.mean([row.wrong for row in of_group]):.4f}",
            f"{worst.wrong:.4f} ± {worst.wrong_error:.4f}",
            f"{worst.wrong * N_LAYERS:.2f}",
            f"{np.mean(coverage):.3f}",
            f"{min(coverage):.3f}",
            f"{np.mean([row.decided for row in of_group]):.3f}",
            f"{np.mean(long_decided):.3f}" if long_decided else "",
            f"{asked:.0f}",
            f"{fixed:.0f}",
            f"{asked / fixed:.2f}",
        )
        yield f"| {name} | {' | '.join(cells)} |"
    yield from _sum_up(tallies)


def _sum_up(tallies: dict[Setting, Tally]) -> Iterator[str]:
    """Coverage, null layers called spare and the error of each verdict, over all settings."""
    usual = [row.coverage for row in tallies.values() if row.defined >= 0.8]
    yield (
        f"\nWhere the intact score is above chance for 80% of layers or more: {len(usual)} of "
        f"{len(tallies)} settings, coverage mean {np.mean(usual):.4f}, least {min(usual):.4f}."
    )
    longer = [row for row in tallies.values() if not math.isnan(row.long_decided)]
    yield (
        f"Up to {LONG_LIMIT:,} questions: {len(longer)} settings, coverage mean "
        f"{np.mean([row.long_coverage for row in longer]):.4f}, least "
        f"{min(row.long_coverage for row in longer):.4f}; wrong verdicts at most "
        f"{max(row.long_wrong for row in longer):.4f}."
    )
    for churn in CHURNS:
        spare = min(
            row.decided - row.wrong
            for setting, row in tallies.items()
            if (setting.kind, setting.churn) == ("no harm", churn)
            and setting.skill > SKILLED - 1e-9
        )
        yield f"Layers without harm called spare, churn {churn:g}, skill {SKILLED} up: {spare:.3f}"
    most = [max(row.by_verdict[index] for row in tallies.values()) for index in range(len(REGIONS))]
    yield "Wrong verdicts at most, by verdict: " + ", ".join(
        f"{region.verdict} {share:.4f}" for region, share in zip(REGIONS, most, strict=True)
    )


def verdicts_table(count: int) -> Iterator[str]:
    """Precision and recall of each verdict on the mixture, by skill."""
    names = [region.verdict for region in REGIONS]
    yield (
        f"| intact | chance | {' | '.join(f'{name}: precision, recall' for name in names)} | "
        "no harm is spare | right | decided | questions | fixed | of fixed |"
    )
    yield f"|{' --- |' * (8 + len(names))}"
    for setting in settings():
        if setting.kind != "mixture":
            continue
        stopped, truth = stop_at_looks(Sweeps(setting, count)), setting.truth
        row = tally(setting, count)
        cells = [f"{setting.intact:g}", f"{setting.chance:g}"]
        for index, name in enumerate(names):
            called = stopped.verdict == index
            sought = SOUGHT[name](truth)
            precision = f"{1 - stopped.wrong[called].mean():.3f}" if called.any() else "none"
            recall = f"{called[:, sought].mean():.3f}" if sought.any() else "none"
            cells.append(f"{precision}, {recall}")
        cells += [
            f"{(stopped.verdict[:, truth == 0] == names.index('spare')).mean():.3f}",
            f"{row.decided - row.wrong:.3f}",
            f"{row.decided:.3f}",
            f"{row.questions:.0f}",
            f"{row.fixed:.0f}",
            f"{row.questions / row.fixed:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def together_table(count: int, each: bool) -> Iterator[str]:
    """The same with all 30 verdicts at 95% together (Bonferroni)."""
    names = "setting | intact, chance, churn" if each else "setting | skill"
    yield f"| {names} | any wrong | most | all covered | least | decided | questions |"
    yield f"|{' --- |' * 8}"
    for name, group in group_settings(each):
        rows = []
        for setting in group:
            stopped = stop_at_looks(Sweeps(setting, count), level=1 - ERROR / N_LAYERS)
            wrong = stopped.wrong.any(axis=1)
            covered = (stopped.covered | ~stopped.defined).all(axis=1).mean()
            decided = (stopped.verdict >= 0).mean()
            rows.append((wrong.mean(), standard_error(wrong), covered, decided, stopped.n.mean()))
        wrong, _, covered, decided, questions = np.mean(rows, axis=0)
        worst = max(rows)
        yield (
            f"| {name} | {wrong:.4f} | {worst[0]:.4f} ± {worst[1]:.4f} | {covered:.4f} | "
            f"{min(row[2] for row in rows):.4f} | {decided:.3f} | {questions:.0f} |"
        )


def bias_table(count: int) -> Iterator[str]:
    """The mean of the estimate at stopping minus the true harm, by true harm."""
    harms = (-0.15, 0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0)
    models = ((0.5, 0.0), (0.7, 0.0), (0.95, 0.25), (0.95, 0.0))
    columns = []
    for intact, chance in models:
        setting = Setting("bias", harms * 2, intact, chance, 0.06)
        stopped = stop_at_looks(Sweeps(setting, count))
        bias = np.nanmean(stopped.estimate, axis=0) - setting.truth
        possible = setting.truth == setting.harms
        both = np.where(possible, bias, math.nan).reshape(2, -1).mean(axis=0)
        columns.append([f"{value:+.3f}" if math.isfinite(value) else "" for value in both])
    titles = [f"intact {intact:g}, chance {chance:g}" for intact, chance in models]
    yield f"| true harm | {' | '.join(titles)} |"
    yield f"|{' --- |' * (1 + len(models))}"
    for harm, row in zip(harms, zip(*columns, strict=True), strict=True):
        yield f"| {harm:g} | {' | '.join(row)} |"


def designs_table(count: int) -> Iterator[str]:
    """Mean questions, share decided and share of wrong verdicts of each design."""
    models = (("mixture", 0.5), ("mixture", 0.7), ("mixture", 0.95), ("at a border", 0.7))
    columns = {}
    for kind, intact in models:
        harms = MIXTURE if kind == "mixture" else (0.2,) * N_LAYERS
        sweeps = Sweeps(Setting(kind, harms, intact, 0.0, 0.06), count, LOOKS.sizes)
        columns[kind, intact] = designs(sweeps)
    titles = [f"{kind}, intact {intact:g}" for kind, intact in models]
    yield f"| design | {' | '.join(titles)} |"
    yield f"|{' --- |' * (1 + len(models))}"
    for name in columns[models[0]]:
        cells = []
        for model in models:
            stopped = columns[model][name]
            decided, wrong = (stopped.verdict >= 0).mean(), stopped.wrong.mean()
            cells.append(f"{stopped.n.mean():.0f}, {decided:.3f}, {wrong:.4f}")
        yield f"| {name} | {' | '.join(cells)} |"


def clusters_table(count: int) -> Iterator[str]:
    """Questions in clusters: verdicts by intervals that allow for clusters, or do not."""
    yield (
        "| clusters | correlation | harm | wrong verdicts | coverage | decided | questions | "
        f"as independent: wrong | coverage | 95% at {LIMIT}: coverage | decided |"
    )
    yield f"|{' --- |' * 11}"
    for size, icc, harm in itertools.product((8, None), (0.1, 0.3), (0.0, 0.2)):
        setting = ClusteredSetting(harm, icc, size)
        stopped, naive = (stop_clustered(setting, count, aware=aware) for aware in (True, False))
        fixed = stop_clustered(setting, count, levels=FIXED_LEVEL)
        error = standard_error(stopped.wrong.mean(axis=1))
        yield (
            f"| {f'of {size}' if size else '33'} | {icc:g} | {harm:g} | "
            f"{stopped.wrong.mean():.4f} ± {error:.4f} | {stopped.covered.mean():.3f} | "
            f"{(stopped.verdict >= 0).mean():.3f} | {stopped.n.mean():.0f} | "
            f"{naive.wrong.mean():.4f} | {naive.covered.mean():.3f} | "
            f"{fixed.covered.mean():.3f} | {(fixed.verdict >= 0).mean():.3f} |"
        )


# By name; each is given the number of sweeps and whether settings have a row each.
TABLES: dict[str, Callable[[int, bool], Iterator[str]]] = {
    "errors": errors_table,
    "verdicts": lambda count, each: verdicts_table(count),
    "together": together_table,
    "bias": lambda count, each: bias_table(count),
    "designs": lambda count, each: designs_table(max(2, count // 5)),
    "clusters": lambda count, each: clusters_table(max(2, count // 10)),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=2000)
    parser.add_argument("--only", choices=tuple(TABLES))
    parser.add_argument("--each", action="store_true", help="one row for each setting")
    args = parser.parse_args()
    for name, table in TABLES.items():
        if args.only in (None, name):
            print(f"\n{name}\n")
            for line in table(args.sweeps, args.each):
                print(line, flush=True)


if __name__ == "__main__":
    main()

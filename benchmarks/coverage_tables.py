"""How often the intervals of harm hold the truth, and how often claims are decided rightly.

Answers are drawn from a known truth; nothing is loaded. The tables of docs/statistics.md:

    python -m benchmarks.coverage_tables --draws 4000 --sweeps 200

It takes 30 minutes on one core; `--only harm`, `depth`, `claims` or `clusters` gives one of them.
"""

import argparse
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats as distributions

from benchmarks.simulated import Simulation, Truth, claims_of
from layerroles import stats
from layerroles.roles.claim_findings import SMALLEST
from layerroles.roles.literature import DEEP, ORDER, SHALLOW
from layerroles.roles.protocol_claims import MORE
from layerroles.stats.ratio_score_test import score

# Skill, chance, harm, churn.
Point = tuple[float, float, float, float]
SIZES = (32, 64, 128, 256, 512)
SKILLS = (0.1, 0.2, 0.35, 0.5, 0.7, 0.95)
HARMS = (-0.5, -0.2, 0.0, 0.2, 0.5, 0.9, 1.0)
CHURNS = (0.0, 0.03, 0.1)
CRITICAL = float(distributions.norm.isf(0.025))
G, C = "generation", "continuation"
# Families of layers in two halves, early and late.
PROFILES = {
    "even": [0.3] * 8,
    "early": [0.5] * 4 + [0.0] * 4,
    "all early": [1.0] * 4 + [0.0] * 4,
    "helps": [-0.3] * 4 + [0.0] * 4,
    "two": [1.0, 1.0] + [0.0] * 6,
}


def points(skills: Sequence[float] = SKILLS) -> list[Point]:
    """Wherever probabilities allow: wrong answers come right by churn, and as many are lost."""
    every = itertools.product(skills, (0.0, 0.25), HARMS, CHURNS)
    return [point for point in every if min(cells(point)) >= 0 and point[0] + point[1] < 1]


def cells(point: Point) -> list[float]:
    """The probabilities of right twice, lost, gained and wrong twice."""
    skill, chance, harm, churn = point
    right = skill + chance
    gained = churn * (1 - right) if harm >= 0 else churn * right - harm * skill
    lost = gained + harm * skill
    return [round(p, 12) for p in (right - lost, lost, gained, 1 - right - gained)]


def covered(n: int, point: Point, draws: int) -> tuple[float, float]:
    """The share of draws with skill above chance, and of those whose interval holds the truth."""
    _, chance, harm, _ = point
    rng = np.random.default_rng([n, *(round(abs(value) * 100) for value in point)])
    drawn = rng.multinomial(n, cells(point), size=draws)
    tables, counts = np.unique(drawn, axis=0, return_counts=True)
    values = [-harm * (1 - chance), 1 - harm * (1 - chance), -1 + harm * chance, harm * chance]
    reach = CRITICAL * math.sqrt(n / (n - 1)) + 1e-9
    passed = inside = 0
    for table, count in zip(tables.tolist(), counts.tolist(), strict=True):
        right = np.repeat([1.0, 0.0], [table[0] + table[1], table[2] + table[3]])
        if not stats.is_above(right, chance):
            continue
        passed += count
        seen = [(k, v) for k, v in zip(table, values, strict=True) if k]
        statistic = score([k for k, _ in seen], [v for _, v in seen], values)
        inside += count * (abs(statistic) <= reach)
    return passed / draws, inside / max(1, passed)


def covered_depth(
    n: int, skill: float, chance: float, harms: Sequence[float], draws: int
) -> tuple[float, float]:
    """The same of early minus late, over layers of which half of the questions are alike hard."""
    rng = np.random.default_rng([n, round(skill * 100), round(chance * 100)])
    harm, half, right = np.array(harms)[:, None], len(harms) // 2, skill + chance
    gained = np.where(harm < 0, -harm * skill, 0.0) + 0.02 * (1 - right)
    gained = np.minimum(1 - right, gained)
    lost = np.minimum(right, np.where(harm < 0, 0.0, harm * skill) + 0.02 * (1 - right))
    cost = (lost - gained) / skill  # no more can be lost than is right, nor gained than is wrong
    truth = float(cost[:half].mean() - cost[half:].mean())
    weights = np.repeat([-1 / half, 1 / half], half)  # on what is right
    possible = stats.possible_losses(chance, 1.0, -1.0)
    passed = inside = 0
    for _ in range(draws):
        intact = rng.random(n) < right
        u = np.where(rng.random((2 * half, n)) < 0.5, rng.random(n), rng.random((2 * half, n)))
        if not stats.is_above(intact.astype(float), chance):
            continue
        ablated = np.where(intact, u >= lost / right, u < gained / (1 - right))
        _, interval = stats.ratio(weights @ ablated, intact - chance, possible)
        passed += 1
        inside += interval.low <= truth <= interval.high
    return passed / draws, inside / max(1, passed)


N_CLUSTERS = 16


def covered_clusters(
    size: int, icc: float, skill: float, chance: float, harm: float, draws: int
) -> tuple[float, float]:
    """Coverage of harm in 16 clusters: as it is, and as if all examples were independent.

    What is right and what is lost vary between clusters by beta distributions of intraclass
    correlation `icc`.
    """
    rng = np.random.default_rng([size, *(round(abs(x) * 100) for x in (icc, skill, chance, harm))])
    right, clusters = skill + chance, np.repeat(np.arange(N_CLUSTERS), size)
    passed = inside = naive = 0
    for _ in range(draws):
        intact = (rng.random(len(clusters)) < varied(right, icc, size, rng)).astype(float)
        kept = rng.random(len(clusters)) >= varied(harm * skill / right, icc, size, rng)
        if stats.is_above(intact, chance, clusters=clusters):
            passed += 1
            _, wide = stats.harm_interval(intact, intact * kept, chance, clusters=clusters)
            _, plain = stats.harm_interval(intact, intact * kept, chance)
            inside += wide.low <= harm <= wide.high
            naive += plain.low <= harm <= plain.high
    return inside / max(1, passed), naive / max(1, passed)


def covered_mean(size: int, icc: float, right: float, draws: int) -> float:
    """Coverage of a mean score in 16 clusters."""
    rng = np.random.default_rng([size, round(icc * 100), round(right * 100)])
    clusters, inside = np.repeat(np.arange(N_CLUSTERS), size), 0
    for _ in range(draws):
        scores = (rng.random(len(clusters)) < varied(right, icc, size, rng)).astype(float)
        plain = stats.wilson(int(scores.sum()), len(scores))
        interval = stats.clustered(plain, scores, clusters, (0.0, 1.0))
        inside += interval.low <= right <= interval.high
    return inside / draws


def varied(mean: float, icc: float, size: int, rng: np.random.Generator) -> np.ndarray:
    """A probability for each example that varies between clusters with this correlation."""
    if not icc or mean in (0, 1):
        return np.full(N_CLUSTERS * size, mean)
    a = mean * (1 - icc) / icc
    return np.repeat(rng.beta(a, a / mean - a, N_CLUSTERS), size)


def clusters_table(draws: int) -> Iterator[str]:
    """Coverage in 16 clusters."""
    yield "| in a cluster | correlation | harm, mean | harm, least | as independent | score |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for size, icc in itertools.product((2, 8), (0.0, 0.1, 0.2, 0.3)):
        found = np.array(
            [
                covered_clusters(size, icc, skill, chance, harm, draws)
                for skill, chance in ((0.5, 0.0), (0.7, 0.25), (0.9, 0.0))
                for harm in (0.1, 0.3, 0.6)
            ]
        )
        score = min(covered_mean(size, icc, right, 3 * draws) for right in (0.1, 0.5, 0.9, 0.95))
        numbers = (found[:, 0].mean(), *found.min(axis=0), score)
        yield f"| {size} | {icc} | {' | '.join(f'{number:.3f}' for number in numbers)} |"


def apart(by: float, base: float, n_layers: int) -> Truth:
    """Harms for which the number of every claim is `by`: beyond copying, between protocols ..."""
    third, flat, more = n_layers // 3, [base] * n_layers, [base + by] * n_layers
    return {
        ("retrieval", G): [base + by] * third + [base] * (n_layers - third),
        ("reasoning", G): more,
        ("commonsense", G): more,
        ("commonsense", C): flat,
        ("language", G): flat,
    }


CLAIMS = (SHALLOW["retrieval"], ORDER, DEEP, MORE)


def statuses(truth: Truth, n: int, sweeps: int) -> dict[str, Counter[str]]:
    """How often each claim came out how, of two kinds with correlated answers and skill .7."""
    found: dict[str, Counter[str]] = {claim: Counter() for claim in CLAIMS}
    for seed in range(sweeps):
        claims = claims_of(Simulation(truth, n=n).draw(seed))
        for row in claims.itertuples():
            if row.claim in found:
                found[row.claim][row.status] += 1
    return found


def harm_table(draws: int) -> Iterator[str]:
    """Coverage of harm by skill and number of questions, over harm, chance and churn."""
    yield "| skill | n | points | pass rate | coverage given a pass: mean | least |"
    yield "| --- | --- | --- | --- | --- | --- |"
    usual: list[float] = []
    for skill, n in itertools.product(SKILLS, SIZES):
        found = np.array([covered(n, point, draws) for point in points((skill,))])
        passed, share = found.T
        usual += list(share[passed >= 0.8])
        share = share[passed > 0]
        yield (
            f"| {skill:g} | {n} | {len(found)} | {passed.min():.2f} to {passed.max():.2f} | "
            f"{share.mean():.3f} | {share.min():.3f} |"
        )
    yield (
        f"\nWhere the intact score is above chance in 80% of draws or more: {len(usual)} points, "
        f"mean {np.mean(usual):.4f}, least {min(usual):.4f}."
    )


def depth_table(draws: int) -> Iterator[str]:
    """Coverage of early minus late by skill, chance and number of questions, over profiles."""
    yield "| skill | chance | n | pass rate | coverage given a pass: mean | least |"
    yield "| --- | --- | --- | --- | --- | --- |"
    usual: list[float] = []
    for skill, chance, n in itertools.product((0.12, 0.35, 0.7), (0.0, 0.25), (32, 64, 200, 512)):
        found = np.array(
            [covered_depth(n, skill, chance, harms, draws) for harms in PROFILES.values()]
        )
        passed, share = found.T
        usual += list(share[passed >= 0.8])
        yield (
            f"| {skill:g} | {chance:g} | {n} | {passed.mean():.2f} | {share.mean():.3f} | "
            f"{share.min():.3f} |"
        )
    yield (
        f"\nWhere the intact score is above chance in 80% of draws or more: {len(usual)} points, "
        f"mean {np.mean(usual):.4f}, least {min(usual):.4f}."
    )


def claims_table(sweeps: int) -> Iterator[str]:
    """How claims come out, by the true number, the harm of all else, and the questions."""
    yield "| harm elsewhere | n | true number | claim | supported | contradicted | not shown |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for base, n in ((0.05, 400), (0.1, 400), (0.2, 400), (0.2, 800)):
        for by in (0.0, SMALLEST, 0.15):
            for claim, counts in statuses(apart(by, base, 30), n, sweeps).items():
                shares = [
                    f"{counts[status] / sweeps:.2f}"
                    for status in ("supported", "contradicted", "not shown")
                ]
                yield f"| {base:g} | {n} | {by:g} | {claim} | {' | '.join(shares)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--only", choices=("harm", "depth", "claims", "clusters"))
    args = parser.parse_args()
    tables = {
        "harm": harm_table(args.draws),
        "depth": depth_table(max(1, args.draws // 2)),
        "claims": claims_table(args.sweeps),
        "clusters": clusters_table(max(1, args.draws // 4)),
    }
    for name, lines in tables.items():
        if args.only in (None, name):
            print(f"\n{name}\n")
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()

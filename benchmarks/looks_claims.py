"""How claims come out if a sweep asks until="claims", by the true number: a table.

A claim's number is its smallest effect or less (it must not be supported), that effect or more (it
must not be contradicted), or exactly that (neither). Sweeps of 30 layers by Skip and Mean, with
correlated answers and skill 0.7, are asked up to `--limit` questions.

    python -m benchmarks.looks_claims --sweeps 100
"""

import argparse
from collections import Counter

from benchmarks.coverage_tables import CLAIMS, apart
from benchmarks.played_sweeps import ask
from benchmarks.simulated import Simulation
from layerroles.roles import claims_on_layers
from layerroles.roles.claim_findings import SMALLEST

N_LAYERS = 30


def main() -> None:
    """Print the table, a line for each truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--limit", type=int, default=512)
    parser.add_argument("--layers", type=int, default=N_LAYERS)
    args = parser.parse_args()
    print("| harm elsewhere | true number | supported | contradicted | not shown | answers |")
    print("| --- | --- | --- | --- | --- | --- |")
    for base in (0.05, 0.1, 0.2):
        for by in (0.0, SMALLEST, 0.1, 0.15):
            counts: Counter[str] = Counter()
            answers = total = 0
            for seed in range(args.sweeps):
                whole = Simulation(apart(by, base, args.layers), n=args.limit).draw(seed)
                result = ask(whole, args.limit, "claims")
                answers, total = answers + len(result.frame), total + len(whole.frame)
                claims = claims_on_layers(result, "skip")
                counts.update(claim.status for claim in claims if claim.claim in CLAIMS)
            n = counts.total()
            shares = [counts[name] / n for name in ("supported", "contradicted", "not shown")]
            text = " | ".join(f"{share:.3f}" for share in shares)
            print(f"| {base:g} | {by:g} | {text} | {answers / total:.0%} |", flush=True)


if __name__ == "__main__":
    main()

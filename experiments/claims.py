r"""Does each claim of the paper on layers hold, by two kinds of ablation and enough questions?

Claims
    Those of arXiv 2510.02091 that ablations of single layers can test: retrieval, knowledge and
    commonsense lean on shallow layers, reasoning needs middle and deep ones, generation needs more
    of the depth than likelihood, and a context changes which layers matter.

Setting
    Key-value look-up, facts, word problems with one sum, and copying as the control, by likelihood
    (`continuation`), `exact` and greedy `generation`; and the same facts with and without a context
    that holds them (`contexts`), by likelihood and generation. With `--data FOLDER`, HellaSwag for
    commonsense, from `hellaswag/` (`validation*.jsonl` of `query`, `choices`, `gold`). Each layer
    is skipped at all positions and, where that is critical, with the first token kept; where a
    claim depends on a second kind of ablation, layers are replaced by their mean. A claim is asked
    about until it is supported, contradicted, or known to lie within its smallest effect of the
    border.

Run
    python experiments/claims.py --minutes 60 --out runs/claims  # again, and it goes on

Cost
    The first questions (32 of each task by each protocol, 11,904 answers for the first sweep), and
    then no more than `--minutes`. The table is written to `claims.md`.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knowledge import make_benchmark_tasks
from passages import CONTEXTS
from sentences import describe_claim
from setting import Options, conclude, make_layer_conditions, run

import layerroles as lr
from layerroles.models import Provenance, provenance
from layerroles.roles import SMALLEST, describe_decided
from layerroles.roles.literature import DEEP, ORDER, SHALLOW
from layerroles.roles.protocol_claims import MORE, STRICTER, WRITING
from layerroles.roles.retrieval_augmentation_claims import CONTEXT

# Facts in contexts are a sweep of their own: its tasks are one set of questions, asked three times.
IN_CONTEXTS = "contexts"
NAMES = ("kv_retrieval", "facts", "word_problems[steps=1]", "copying", IN_CONTEXTS)
PROTOCOLS = ("continuation", "exact", "generation")
# What the paper reports for each claim; it states neither sample sizes nor intervals.
REPORTED = {
    SHALLOW["retrieval"]: "skipping layers 1 and 2 costs up to 0.8, deep layers almost nothing",
    SHALLOW["knowledge"]: "by likelihood, only the first few layers matter",
    SHALLOW["commonsense"]: "by likelihood, only the first few layers matter",
    ORDER: "retrieval in shallow layers, reasoning in middle and deep ones",
    DEEP: "GSM8K: skipping one deep layer (35 of a Qwen model) costs about 0.6",
    MORE: "MMLU: by likelihood the first few layers matter, by generation every depth",
    STRICTER: "not separated from writing",
    WRITING: "not separated from stricter scoring",
    CONTEXT: "with the fact in the context, other layers matter",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Ask until the claims are decided or the time is spent, and write the table."""
    options = Options(__doc__, limit=512, out="runs/claims")
    options.add_argument("--minutes", type=float, help="the time to spend; by default no limit")
    options.add_argument(
        "--tasks",
        nargs="+",
        default=NAMES,
        help=f"ask only these; copying is the control, {IN_CONTEXTS} the facts in each context",
    )
    options.add_argument(
        "--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS, help="ask by these only"
    )
    options.add_argument("--data", type=Path, help="a folder with hellaswag/")
    args = options.parse(argv, least=32)
    if args.minutes is not None and not args.minutes > 0:
        options.error(f"--minutes {args.minutes:g} leaves no time: give more than 0")
    began = time.monotonic()
    families = [lr.task(name) for name in args.tasks if name != IN_CONTEXTS]
    if args.data:
        families += make_benchmark_tasks(args.data, args.out / "data", only="hellaswag")
    contexts = []
    in_contexts = [name for name in args.protocols if name != "exact"]
    if IN_CONTEXTS in args.tasks and in_contexts:
        contexts = [lr.task("facts", context=context) for context in CONTEXTS]
    model = lr.load(args.model, dtype=args.dtype)
    conditions = make_layer_conditions(model, thorough=True)
    sweeps = {
        "layers": (families, args.protocols),
        IN_CONTEXTS: (contexts, in_contexts),
    }
    folders = {name: args.out / name for name, (tasks, _) in sweeps.items() if not tasks}
    results = read_earlier_results(folders, provenance(model))
    for name, (tasks, protocols) in sweeps.items():
        if not tasks:
            continue
        left = None
        if args.minutes is not None:  # at least a tenth for the second
            share = 0.9 if name == "layers" and contexts else 1.0
            left = max(0.01, share * args.minutes - (time.monotonic() - began) / 60)
        sweep = lr.Sweep(
            model,
            tasks,
            conditions,
            protocols=protocols,
            until=lr.Decided(goal="claims", minutes=left),
            limit=args.limit,
            noise_floor=False,
        )
        results[name] = sweep.run(args.out / name)
    results = {name: results[name] for name in sweeps if name in results}
    rows = claim_rows(results)
    (args.out / "claims.md").write_text(table(rows), encoding="utf-8")
    conclude(args, __doc__, next(iter(results.values())), findings(results, rows))
    print(f"Table: {args.out / 'claims.md'}")


def read_earlier_results(
    folders: Mapping[str, Path], asked: Provenance
) -> dict[str, lr.SweepResult]:
    """Read the runs of earlier commands in `folders`; refuse one of another model."""
    results = {}
    for name, folder in folders.items():
        if (folder / "manifest.json").is_file():
            results[name] = lr.read(folder)
            model = results[name].manifest["model"]
            if (model["weights"], model["dtype"]) != (asked.weights, asked.dtype):
                raise lr.InputError(
                    f"{folder} holds answers of {model['name']} in {model['dtype']}, not of "
                    f"{asked.name} in {asked.dtype}: use another --out"
                )
    return results


def claim_rows(results: Mapping[str, lr.SweepResult]) -> list[dict[str, Any]]:
    """The rows of `Roles.claims`; of the facts in contexts, only those on contexts."""
    rows: list[dict[str, Any]] = []
    for name, result in results.items():
        claims = lr.localize(result, ablation="skip").claims
        own = claims["claim"] == CONTEXT if name == IN_CONTEXTS else claims["claim"].isin(REPORTED)
        rows += claims[own].to_dict("records")
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of claims, decided ones first: reported, numbers by kind, and verdict."""
    lines = [
        "| claim | reported | asked of | by Skip | by Mean | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    claims = list(REPORTED)
    for row in sorted(rows, key=lambda row: (rank(row), claims.index(row["claim"]))):
        cells = [
            row["claim"],
            REPORTED[row["claim"]],
            f"{row['family']}, {row['protocol']}",
            *(describe_numbers(row, kind) for kind in ("skip", "mean")),
            describe_verdict(row),
        ]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def rank(row: Mapping[str, Any]) -> int:
    """0 for a claim that is decided, 1 for one that is not, 2 for one that cannot be measured."""
    return {"supported": 0, "contradicted": 0, "not measurable": 2}.get(row["status"], 1)


def describe_verdict(row: Mapping[str, Any]) -> str:
    """The verdict on a claim, and the reason if it is neither supported nor contradicted."""
    return ": ".join(filter(None, (row["status"], row["reason"])))


def describe_numbers(row: Mapping[str, Any], kind: str) -> str:
    """The numbers of a claim by one kind of ablation, each with its interval and questions.

    The claim on contexts has a number for each layer. Shown is that of `find_changed_layer`, or
    the largest one if there is none.
    """
    own = [number for number in row["numbers"] if number["ablation"] == kind]
    if row["claim"] == CONTEXT and own:
        layer = find_changed_layer(row["numbers"])
        largest = max(own, key=lambda number: abs(number["estimate"]))
        own = [number for number in own if number["quantity"] == layer] or [largest]
    return "; ".join(
        f"{number['quantity']} {number['estimate']:+.2f} [{number['low']:+.2f}, "
        f"{number['high']:+.2f}], n = {number['n']:,}"
        for number in own
    ) or ("" if row["status"] == "not measurable" else "not asked")


def find_changed_layer(numbers: Sequence[Mapping[str, Any]]) -> str:
    """The change whose intervals, by all kinds, lie on one side of 0 and farthest from it.

    Returns:
        The quantity; empty if no change is shown by all kinds.
    """
    kinds = {number["ablation"] for number in numbers}
    changes: dict[str, list[Mapping[str, Any]]] = {}
    for number in numbers:
        changes.setdefault(number["quantity"], []).append(number)
    distances = {
        name: max(min(one["low"] for one in own), -max(one["high"] for one in own))
        for name, own in changes.items()
        if len(own) == len(kinds)
    }
    name = max(distances, key=lambda name: distances[name], default="")
    return name if name and distances[name] > 0 else ""


def findings(results: Mapping[str, lr.SweepResult], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much was decided in each sweep, and a sentence on each claim."""
    return [
        *(f"{name}: {describe_decided(result)}." for name, result in results.items()),
        f"A claim needs an effect of {SMALLEST} of the skill or more.",
        *(describe_claim(row, f"{row['family']}, {row['protocol']}") for row in rows),
    ]


if __name__ == "__main__":
    run("claims", main)

"""Ask the localizer about models whose truth is known, and count how often it is right.

    python benchmarks/planted.py --models 100 --n 96 --out runs/planted
    python benchmarks/planted.py --until-decided --models 100 --n 512 --out runs/planted_decided

Each model is drawn at random: depth, heads, which layers do what, which write nothing, how large a
share of the examples depends on the roles, how much noise the other layers write, which heads of a
layer do its step, and whether a layer has a double. Every layer is skipped under two protocols and
every head is zeroed under generation; where a layer has a double, pairs of layers that nothing
showed for are skipped too. With `--until-decided`, only layers are skipped, each until its verdict
is decided or `--n` examples are asked. What `lr.localize` says is held against the truth. What was
found of each model is kept in `models.jsonl`, so that an interrupted run goes on; `planted.md` is
the page.
"""

import argparse
import json
import platform
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import layerroles as lr
from layerroles.plants import Plant

PROTOCOLS = ("continuation", "generation")
# Harm from which a layer or head must be found.
LARGE = 0.35

Found = dict[str, Any]


def main() -> None:
    """Ask the models that are not known yet, and write the page."""
    parser = argparse.ArgumentParser(description="Hold the localizer against planted truth.")
    parser.add_argument("--models", type=int, default=100, help="how many; model i has seed i")
    parser.add_argument("--n", type=int, default=96, help="examples of each family")
    parser.add_argument("--out", type=Path, default=Path("runs/planted"))
    parser.add_argument("--until-decided", action="store_true", help="layers only; n is the limit")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "models.jsonl"
    known = {}
    if kept.is_file():
        with kept.open(encoding="utf-8") as lines:
            known = {found["seed"]: found for found in map(json.loads, lines)}
    known = {seed: found for seed, found in known.items() if found["n"] == args.n}
    with kept.open("a", encoding="utf-8") as lines:
        for seed in range(args.models):
            if seed not in known:
                known[seed] = asked(seed, args.n, until_decided=args.until_decided)
                lines.write(json.dumps(known[seed]) + "\n")
                lines.flush()
    page = written([known[seed] for seed in range(args.models)], args.n)
    (args.out / "planted.md").write_text(page, encoding="utf-8")


def drawn(seed: int) -> tuple[dict[str, Any], Plant]:
    """A random placement, and the model."""
    rng = random.Random(f"planted {seed}")
    while True:
        n_layers = rng.randint(4, 9)
        previous, first, second = sorted(rng.sample(range(n_layers), 3))
        knowledge = rng.randrange(n_layers)
        roles = {previous, first, second, knowledge}
        backup = []
        if rng.random() < 0.3:
            backup = [(rng.choice(sorted(roles)), rng.randrange(n_layers))]
        heads = rng.randint(1, 3)
        chosen = {}
        if heads > 1 and rng.random() < 0.5:
            layer = rng.choice((previous, first, second))
            chosen = {layer: tuple(rng.sample(range(heads), rng.randint(2, heads)))}
        free = sorted(set(range(n_layers)) - roles - {layer for pair in backup for layer in pair})
        placement: dict[str, Any] = {
            "n_layers": n_layers,
            "retrieval": (previous, first),
            "reasoning": (second,),
            "knowledge": (knowledge,),
            "inert": tuple(sorted(rng.sample(free, rng.randint(0, min(2, len(free)))))),
            "backup": tuple(backup),
            "heads": heads,
            "heads_of": chosen,
            "strength": round(rng.uniform(0.3, 1), 2),
            "noise": round(rng.uniform(0, 0.1), 3),
            "seed": seed,
        }
        try:
            return placement, lr.planted(**placement)
        except lr.InputError:  # a double in a place where it could not stand in: draw again
            continue


def asked(seed: int, n: int, *, until_decided: bool = False) -> Found:
    """What the localizer says of one model, beside what is true of it."""
    began = time.process_time()
    placement, made = drawn(seed)
    layers = lr.each_layer(made.model, lr.Skip())
    with tempfile.TemporaryDirectory() as folder:
        until = lr.Decided() if until_decided else None
        result = swept(made, layers, PROTOCOLS, n, Path(folder) / "layers", until)
        roles = parts = lr.localize(result)
        if not until_decided:
            smaller = [*layers, *lr.each_head(made.model, lr.Zero()), *doubles(made, roles)]
            parts = lr.localize(swept(made, smaller, ["generation"], n, Path(folder) / "parts"))
    found: Found = {
        "seed": seed,
        "n": n,
        "until_decided": until_decided,
        "answers": len(result.frame) / (n * len(PROTOCOLS) * len(made.tasks) * (len(layers) + 1)),
        "placement": {**placement, "heads_of": list(placement["heads_of"].items())},
        "truth": made.truth,
        "joint": made.joint,
        "harms": {
            family: {str(site): harm for site, harm in own.items()}
            for family, own in made.harms.items()
        },
        "layers": records(roles.layers, "family protocol layer harm harm_low harm_high verdict"),
        "families": records(
            roles.frame, "family protocol early_minus_late ci_low ci_high specific"
        ),
        "heads": records(parts.heads, "family layer head harm harm_low harm_high verdict"),
        "pairs": records(parts.pairs, "family layer other excess excess_low excess_high verdict"),
    }
    found["seconds"] = time.process_time() - began
    plain: Found = json.loads(json.dumps(found, default=int))
    return plain


def swept(
    made: Plant,
    conditions: list[lr.Condition],
    protocols: Iterable[str],
    n: int,
    folder: Path,
    until: lr.Decided | None = None,
) -> lr.SweepResult:
    """One sweep over all tasks."""
    how: dict[str, Any] = {"protocols": list(protocols), "limit": n, "until": until}
    return lr.Sweep(made.model, made.tasks, conditions, noise_floor=False, **how).run(folder)


def doubles(made: Plant, roles: lr.Roles) -> list[lr.Condition]:
    """Where a layer has a double: every pair of layers critical for no family by themselves."""
    if not any(made.joint.values()):
        return []
    own = roles.layers[roles.layers["protocol"] == "generation"]
    shown = set(own.loc[own["verdict"] == "critical", "layer"])
    quiet = [layer for layer in range(made.model.cfg.n_layers) if layer not in shown]
    return lr.pairs(made.model, lr.Skip(), layers=quiet)


def records(frame: Any, columns: str) -> list[Found]:
    """Some columns of a frame as JSON, with null for what is not known."""
    some = frame[columns.split()].astype(object)
    rows: list[Found] = some.where(some.notna(), None).to_dict("records")
    return rows


class Count:
    """How often something is so, of how many times."""

    def __init__(self) -> None:
        self.so, self.of = 0, 0

    def add(self, is_so: bool) -> None:
        """One more."""
        self.so += bool(is_so)
        self.of += 1

    def __str__(self) -> str:
        return f"{self.so / self.of:.3f} ({self.so} of {self.of})" if self.of else "- (0)"


# What was looked at, by its name in the tables, and whether it is so.
Judged = Iterator[tuple[str, bool]]


def counted(judged: Iterable[tuple[str, bool]]) -> dict[str, Count]:
    """How often each thing that was looked at is so."""
    counts: dict[str, Count] = defaultdict(Count)
    for name, is_so in judged:
        counts[name].add(is_so)
    return counts


def judged_layers(found: list[Found], protocol: str) -> Judged:
    """Layer verdicts and specific layers under a protocol, against the truth."""
    for one in found:
        for row in one["layers"]:
            if row["protocol"] == protocol:
                yield from judged_layer(one, row)
        for row in one["families"]:
            if row["protocol"] == protocol:
                yield from judged_family(one, row)


def judged_layer(one: Found, row: Found) -> Judged:
    """One layer's verdict for one family."""
    family, layer = row["family"], row["layer"]
    critical, spare = row["verdict"] == "critical", row["verdict"] == "spare"
    yield "decided", row["verdict"] != "undecided"
    strength = one["placement"]["strength"]
    harms = {name: dict.fromkeys(own, strength) for name, own in one["truth"].items()}
    yield from judged_place(one, family, layer, harms, critical)
    if is_still(one, layer):
        yield "still spare", spare
    elif layer not in one["truth"][family]:
        yield "spare", spare
    if any(layer in pair for pair in one["joint"][family]):
        yield "backup alone", critical


def is_still(one: Found, layer: int) -> bool:
    """Whether a layer writes nothing at all."""
    placement = one["placement"]
    roles = {*placement["retrieval"], *placement["reasoning"], *placement["knowledge"]}
    roles |= {double for _, double in placement["backup"]}
    return layer in placement["inert"] or (not placement["noise"] and layer not in roles)


def judged_place(
    one: Found, family: str, place: object, harms: dict[str, dict[Any, float]], critical: bool
) -> Judged:
    """Whether a layer or a head is critical for a family, against the harms that are true."""
    harm = harms[family].get(place, 0.0)
    layer = int(str(place).removeprefix("L").split(".")[0])
    if harm >= LARGE:
        yield "recall", critical
    if critical:
        yield "precision", harm > 0
    if not harm and any(place in own for own in harms.values()):
        yield "other truth", critical
    if layer in one["placement"]["inert"]:
        yield "inert", critical
    if family == "language":
        yield "null", critical


def judged_family(one: Found, row: Found) -> Judged:
    """A family's specific layers, and what is said of early against late."""
    own = one["truth"][row["family"]]
    needed = Counter(layer for some in one["truth"].values() for layer in some)
    alone = [layer for layer in own if needed[layer] == 1]
    yield from (("specific", layer in alone) for layer in row["specific"])
    if one["placement"]["strength"] >= LARGE:
        yield from (("specific recall", layer in row["specific"]) for layer in alone)
    low, high = row["ci_low"], row["ci_high"]
    yield "depth known", low is not None
    if low is None:
        return
    claimed = low > 0 or high < 0
    planted = lean(own, one["placement"]["n_layers"])
    if not planted:
        yield "even", claimed
    elif claimed:
        yield "sign", (planted > 0) == (low > 0)


def lean(truth: list[int], n_layers: int) -> int:
    """How many layers of a truth are in the first third, less how many in the last."""
    third = n_layers // 3
    return sum((layer < third) - (layer >= n_layers - third) for layer in truth)


def judged_heads(found: list[Found]) -> Judged:
    """Head verdicts."""
    for one in found:
        for row in one["heads"]:
            place = f"L{row['layer']}.H{row['head']}"
            critical = row["verdict"] == "critical"
            yield from judged_place(one, row["family"], place, one["harms"], critical)


def judged_pairs(found: list[Found]) -> Judged:
    """Verdicts of pairs of layers without harm alone."""
    for one in found:
        for row in one["pairs"]:
            backup = row["verdict"] == "backup"
            if [row["layer"], row["other"]] not in one["joint"][row["family"]]:
                yield "others", backup
            elif one["placement"]["strength"] >= LARGE:
                yield "recall", backup


ROWS = {
    "decided": "layers with a verdict",
    "recall": f"recall: layers of the truth with a harm of {LARGE} or more that are critical",
    "precision": "precision: critical layers that are of the family's truth",
    "other truth": "layers of another family's truth that are critical",
    "inert": "inert layers that are critical",
    "null": "layers that are critical for the null family",
    "backup alone": "layers with a double that are critical by themselves",
    "spare": "active layers that the family does not need: share called spare",
    "still spare": "layers that write nothing that are spare",
    "specific": "specific layers that no other family needs, and this one does",
    "specific recall": f"such layers, harm {LARGE} or more, that are specific",
    "sign": "early against late, where claimed, that has the planted sign",
    "even": "families whose truth is even, for which a side is claimed (at most 0.05 is expected)",
    "depth known": "families for which early against late is known at all",
}
HEAD_ROWS = {
    "recall": f"recall: heads of the truth with a harm of {LARGE} or more that are critical",
    "precision": "precision: critical heads that are of the family's truth",
    "other truth": "heads of another family's truth that are critical",
    "inert": "heads of inert layers that are critical",
    "null": "heads that are critical for the null family",
}
PAIR_ROWS = {
    "recall": f"pairs that stand in for each other, harm {LARGE} or more, that are backups",
    "others": "other pairs that are called backups",
}


def written(found: list[Found], n: int) -> str:
    """The page."""
    layers = {p: counted(judged_layers(found, p)) for p in PROTOCOLS}
    heads, pairs = counted(judged_heads(found)), counted(judged_pairs(found))
    drawn_of = {
        name: [one["placement"][name] for one in found]
        for name in ("n_layers", "heads", "strength", "noise")
    }
    ranges = {name: f"{min(some):g} to {max(some):g}" for name, some in drawn_of.items()}
    doubles = sum(bool(one["placement"]["backup"]) for one in found)
    still = sum(bool(one["placement"]["inert"]) for one in found)
    shared = sum(bool(one["placement"]["heads_of"]) for one in found)
    until_decided = any(one.get("until_decided") for one in found)
    command = f"python benchmarks/planted.py --models {len(found)} --n {n} --out FOLDER"
    answers = sum(one.get("answers", 1.0) for one in found) / len(found)
    lines = [
        "# Planted truth",
        "",
        "How often the localizer is right, on models whose roles are known because their weights",
        "are set by hand (`lr.planted`). Written by `benchmarks/planted.py`; the numbers are of",
        "this run:",
        "",
        f"- command: `{command}{' --until-decided' * until_decided}`",
        f"- models: {len(found)}, seeds 0 to {len(found) - 1}; {ranges['n_layers']} layers of "
        f"{ranges['heads']} heads; strength {ranges['strength']}; noise {ranges['noise']}; "
        f"{still} with inert layers, {doubles} with a double",
        f"- examples: {n} of each family: retrieval, reasoning, knowledge, and the null family "
        f"(`planted_echo`, family language), which depends on no layer"
        + f"; until decided, {answers:.0%} of the answers"
        * until_decided,
        f"- time: {sum(one['seconds'] for one in found) / 60:.0f} minutes of one core",
        f"- versions: layerroles {lr.__version__}, Python {platform.python_version()}",
        "",
        "A layer's true harm is the strength: the share of examples that depends on its role.",
        "",
        "## Layers, each skipped",
        "",
        "| | " + " | ".join(PROTOCOLS) + " |",
        "|---|" + "---|" * len(PROTOCOLS),
        *(
            f"| {words} | " + " | ".join(str(layers[p][name]) for p in PROTOCOLS) + " |"
            for name, words in ROWS.items()
        ),
        "",
    ]
    if until_decided:
        return "\n".join(lines)
    lines += [
        "## Heads, each zeroed, under generation",
        "",
        f"In {shared} models several heads share the step of a layer, each for its own part of the",
        "words; the true harm of such a head is the share of the examples that takes it.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {words} | {heads[name]} |" for name, words in HEAD_ROWS.items()),
        "",
        "## Pairs of layers without harm alone, skipped together, under generation",
        "",
        "A layer with a double shows nothing when it is skipped alone: no single ablation can see",
        "it. Pairs do.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {words} | {pairs[name]} |" for name, words in PAIR_ROWS.items()),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

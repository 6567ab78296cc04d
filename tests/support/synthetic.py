"""Results whose truth is known: sweeps and probe frames with planted roles.

The harm of every layer is chosen here, the scores are drawn from it, and so a test can ask whether
what was planted is found again. `synthetic_result` gives the four families of the demo, two
protocols and both `at`; `synthetic_lens` and `synthetic_attention` give probe frames beside it.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from layerroles.results import SweepResult

TASKS = {
    "retrieval": "kv_retrieval",
    "knowledge": "facts",
    "reasoning": "word_problems",
    "language": "copying",
}
INTACT = {
    ("retrieval", "continuation"): 0.81,
    ("retrieval", "generation"): 0.66,
    ("knowledge", "continuation"): 0.94,
    ("knowledge", "generation"): 0.78,
    ("reasoning", "continuation"): 0.62,
    ("reasoning", "generation"): 0.47,
    ("language", "continuation"): 0.97,
    ("language", "generation"): 0.91,
}
CHANCE = {"continuation": 0.25, "letter": 0.25, "generation": 0.0, "answer_logprob": None}
SCRIPT = "<script>alert('not run')</script>"
N_HEADS = 9
EVIDENCE_HEADS = {"retrieval": ((16, 3), (18, 7)), "reasoning": ((20, 1),), "language": ((12, 5),)}
EMERGES = {"retrieval": 0.62, "knowledge": 0.82, "reasoning": 0.9, "language": 0.5}

_CITIES = ("Paris", "Rome", "Cairo", "Lima", "Oslo", "Tokyo", "Madrid", "Vienna")
_LANDS = ("France", "Italy", "Egypt", "Peru", "Norway", "Japan", "Spain", "Austria")
_NAMES = ("Tom", "Mia", "Sam", "Ana", "Leo", "Eva", "Ben", "Zoë")
_THINGS = ("apples", "pens", "cards", "shells", "coins", "books", "cups", "stamps")


def profiles(n_layers: int = 30) -> dict[str, dict[str, np.ndarray]]:
    """Planted harm `family -> at -> [layer]`, placed by relative depth as in a 30-layer model.

    Layers 0 and 1 are general, layer 11 is a sink, knowledge needs layers 23, 24 and 29, reasoning
    the whole middle, retrieval layers 2, 16 and 18.
    """
    depth = np.arange(n_layers)

    def at(*layers: int) -> list[int]:
        return sorted({min(n_layers - 1, round(layer * n_layers / 30)) for layer in layers})

    harm = {family: np.full(n_layers, 0.02) for family in TASKS}
    harm["retrieval"][at(2)] = 0.85
    harm["retrieval"][at(16, 18)] = 0.75
    harm["knowledge"][at(23)] = 1.0
    harm["knowledge"][at(24, 29)] = 0.85
    harm["reasoning"][(depth >= n_layers * 0.23) & (depth < n_layers * 0.8)] = 0.6
    harm["reasoning"][at(2)] = 0.9
    sink = {"retrieval": 0.7, "knowledge": 1.0, "reasoning": 0.95, "language": 0.9}
    result = {}
    for family, after_first in harm.items():
        after_first[at(0, 1)] = 1.0
        everywhere = after_first.copy()
        everywhere[at(11)] = sink[family]
        after_first[at(11)] = 0.1 if family == "reasoning" else 0.02
        result[family] = {"all": everywhere, "after_first": after_first}
    return result


EACH_VERDICT = ("critical", "partial", "helps", "spare", "undecided")


def each_verdict_result() -> SweepResult:
    """Return a sweep over five layers of one family, with the verdicts `EACH_VERDICT`."""
    harms = {"reasoning": {"all": [0.8, 0.15, -0.5, 0.0, 0.3]}}
    protocols = ["generation"]
    return synthetic_result(5, 120, 1, harms=harms, protocols=protocols, churn=0.005)


def synthetic_result(
    n_layers: int = 30,
    n: int = 32,
    seed: int = 0,
    *,
    harms: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    protocols: Sequence[str] = ("continuation", "generation"),
    ablations: Sequence[str] = ("skip",),
    churn: float = 0.02,
    not_finite: int = 0,
    intact: Mapping[tuple[str, str], float] | None = None,
) -> SweepResult:
    """Draw a sweep over every layer from planted harms.

    Args:
        n_layers: layers of the pretended model, each ablated alone.
        n: examples per task and protocol.
        seed: of the draws; the same seed gives the same result.
        harms: family -> at -> harm per layer; `profiles(n_layers)` if not given.
        protocols: each of continuation, letter, generation, answer_logprob (nats, no chance).
        ablations: kinds; all of them get the same harms, drawn independently.
        churn: chance that an answer that was wrong comes out right, balanced by as many of the
            right ones that come out wrong.
        not_finite: rows of every ablated cell whose status is "not finite" and score NaN.
        intact: (family, protocol) -> intact accuracy, over the defaults.
    """
    planted = profiles(n_layers) if harms is None else harms
    accuracy = {**INTACT, **(intact or {})}
    asked = {family: _examples(family, n) for family in planted}
    conditions = [
        (ablation, at, layer)
        for ablation in ablations
        for at in next(iter(planted.values()))
        for layer in range(n_layers)
    ]
    blocks = []
    for family in planted:
        for protocol in protocols:
            rng = np.random.default_rng([seed, zlib.crc32(f"{family} {protocol}".encode())])
            base = accuracy.get((family, protocol), 0.7)
            right = _exactly(base, n, rng)
            blocks.append(_cell(family, protocol, asked[family], right, 0.0, rng, None, 0))
            for ablation, at, layer in conditions:
                harm = float(planted[family][at][layer])
                chance = CHANCE[protocol] or 0.0
                score = right.mean() - harm * (right.mean() - chance)
                now = _ablated(right, score, churn, rng)
                where = (ablation, at, layer)
                blocks.append(
                    _cell(family, protocol, asked[family], now, harm, rng, where, not_finite)
                )
    frame = pd.concat(blocks, ignore_index=True)
    frame = frame.astype(
        {
            "layer": "Int64",
            "head": "Int64",
            "n_tokens": "Int64",
            "correct": "boolean",
            "changed": "boolean",
            "strict": "boolean",
        }
    )
    manifest = _manifest(n_layers, n, seed, list(planted), protocols, conditions)
    examples = pd.DataFrame(
        [
            {
                "task": TASKS[family],
                "example": example["example"],
                "prompt": example["prompt"],
                "answer": example["answer"],
                "evidence": example["evidence"],
            }
            for family, rows in asked.items()
            for example in rows
        ]
    )
    return SweepResult(frame=frame, manifest=manifest, examples=examples)


def unfinished(result: SweepResult) -> SweepResult:
    """The same rows, of a run that would have asked twice as many questions."""
    n = int(result.intact()["n"].max())
    cells = [{**cell, "n": 2 * n} for cell in result.manifest["cells"]]
    manifest = {**result.manifest, "cells": cells, "unfinished": [{"cells": [], "conditions": []}]}
    return dataclasses.replace(result, manifest=manifest)


def synthetic_lens(n_layers: int = 30, n: int = 32, seed: int = 0) -> pd.DataFrame:
    """A logit-lens frame in which the answer emerges at `EMERGES[family] * n_layers`, +-2 layers.

    One example in eight never emerges.
    """
    rng = np.random.default_rng([seed, 1])
    layers = np.arange(-1, n_layers)
    rows = []
    for family, depth in EMERGES.items():
        for index, example in enumerate(_examples(family, n)):
            emerges = round(depth * n_layers) + int(rng.integers(-2, 3))
            emerges = n_layers + 2 if index % 8 == 7 else min(max(emerges, 0), n_layers - 1)
            gap = np.maximum(emerges - layers, 0)
            rank = np.where(gap == 0, 0, np.ceil(1.45 ** np.minimum(gap, 26)) + rng.integers(0, 3))
            logprob = np.where(gap == 0, -0.4, -0.9 - 0.33 * gap) - rng.exponential(
                0.1, len(layers)
            )
            entropy = np.where(gap == 0, 1.2, np.minimum(10.8, 2 + 0.6 * gap))
            rows.append(
                pd.DataFrame(
                    {
                        "probe": "logit_lens",
                        "model": "synthetic-135m",
                        "task": TASKS[family],
                        "family": family,
                        "example": example["example"],
                        "layer": layers,
                        "rank": rank.astype(int),
                        "logprob": logprob,
                        "entropy": entropy,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def synthetic_attention(n_layers: int = 30, n: int = 32, seed: int = 0) -> pd.DataFrame:
    """An attention frame with a few strong heads per family (`EVIDENCE_HEADS`, by depth of 30).

    Knowledge is absent: its questions carry no evidence.
    """
    rng = np.random.default_rng([seed, 2])
    layer, head = (axis.ravel() for axis in np.mgrid[:n_layers, :N_HEADS])
    rows = []
    for family, heads in EVIDENCE_HEADS.items():
        mean = np.full((n_layers, N_HEADS), 0.03)
        for strong, which in heads:
            mean[min(n_layers - 1, round(strong * n_layers / 30)), which] = 0.6
        for example in _examples(family, n):
            share = rng.beta(12 * mean.ravel(), 12 * (1 - mean.ravel()))
            rows.append(
                pd.DataFrame(
                    {
                        "probe": "attention",
                        "model": "synthetic-135m",
                        "task": TASKS[family],
                        "family": family,
                        "example": example["example"],
                        "layer": layer,
                        "head": head,
                        "evidence": share,
                        "first": (1 - share) * rng.beta(6, 3, share.shape),
                        "uniform": 0.05,
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def _exactly(accuracy: float, n: int, rng: np.random.Generator) -> np.ndarray:
    right = np.zeros(n, dtype=bool)
    right[: round(accuracy * n)] = True
    return rng.permutation(right)


def _ablated(right: np.ndarray, score: float, churn: float, rng: np.random.Generator) -> np.ndarray:
    """Answers whose expected mean is `score`, correlated with the intact ones."""
    share = right.mean()
    gained = 0.0
    if share < 1:
        needed = (score - share) / (1 - share)  # if no right answer is lost
        gained = min(1.0, max(min(churn, score / (1 - share)), needed))
    kept = 0.0 if share == 0 else min(1.0, max(0.0, (score - (1 - share) * gained) / share))
    return rng.random(right.size) < np.where(right, kept, gained)


def _cell(
    family: str,
    protocol: str,
    asked: list[dict[str, str]],
    right: np.ndarray,
    harm: float,
    rng: np.random.Generator,
    where: tuple[str, str, int] | None,
    not_finite: int,
) -> pd.DataFrame:
    ablation, at, layer = where or ("intact", "all", None)
    name = "intact" if where is None else f"{ablation} L{layer}"
    nats = protocol == "answer_logprob"
    generated = protocol == "generation"
    wrong = ("wrong", "no answer", "degenerate", "truncated", "empty")
    outcomes, responses = [], []
    for example, good in zip(asked, right, strict=True):
        outcome = "correct" if good else "wrong"
        if generated and not good and harm > 0.3:
            outcome = str(rng.choice(wrong, p=(0.45, 0.1, 0.25, 0.15, 0.05)))
        outcomes.append("" if nats else outcome)
        responses.append(_response(example, outcome, protocol))
    score = right.astype(float)
    if nats:
        score = -0.6 - 6 * harm - rng.exponential(0.3, len(right))
    failed = np.zeros(len(right), dtype=bool)
    if where is not None and not_finite:
        failed[:not_finite] = True
    correct = pd.array([pd.NA] * len(right) if nats else list(right), dtype="boolean")
    correct[failed] = pd.NA
    strict = pd.array(list(right) if generated else [pd.NA] * len(right), dtype="boolean")
    strict[failed] = pd.NA
    return pd.DataFrame(
        {
            "model": "synthetic-135m",
            "condition": name + ("" if at == "all" else f" {at}"),
            "ablation": ablation,
            "at": at,
            "site": "" if layer is None else f"L{layer}",
            "layer": pd.array([layer] * len(right), dtype="Int64"),
            "part": "" if layer is None else "block",
            "head": pd.array([pd.NA] * len(right), dtype="Int64"),
            "task": TASKS[family],
            "family": family,
            "protocol": protocol,
            "example": [example["example"] for example in asked],
            "score": np.where(failed, np.nan, score),
            "correct": correct,
            "outcome": [
                "" if bad else outcome for bad, outcome in zip(failed, outcomes, strict=True)
            ],
            "response": ["" if bad else text for bad, text in zip(failed, responses, strict=True)],
            "status": np.where(failed, "not finite", "ok"),
            "changed": pd.array([where is not None] * len(right), dtype="boolean"),
            "n_tokens": pd.array([3 if not generated else 12] * len(right), dtype="Int64"),
            "strict": strict,
        }
    )


def _response(example: dict[str, str], outcome: str, protocol: str) -> str:
    if protocol != "generation":
        return example["answer"] if outcome == "correct" else example["wrong"]
    return {
        "correct": example["said"],
        "wrong": example["said"].replace(example["answer"], example["wrong"]),
        "no answer": "I think that the question is about",
        "degenerate": "the the the the the the the the the the the the",
        "truncated": example["said"][: len(example["said"]) // 2],
        "empty": "",
    }[outcome]


def _examples(family: str, n: int) -> list[dict[str, str]]:
    """Questions in the manner of the real tasks; one word problem carries a script tag."""
    made = []
    for index in range(n):
        name, thing = _NAMES[index % 8], _THINGS[(index // 2) % 8]
        a, b, c = 3 + index % 7, 2 + index % 5, 1 + index % 4
        if family == "retrieval":
            values = [f"{(index * 37 + k * 101) % 4096:03x}" for k in range(4)]
            pairs = ", ".join(f'"{_THINGS[k]}": "{value}"' for k, value in enumerate(values))
            evidence = f'"{_THINGS[index % 4]}": "{values[index % 4]}"'
            prompt = f'{{{pairs}}}\nKey: "{_THINGS[index % 4]}"\nCorresponding value:'
            answer, wrong = f'"{values[index % 4]}"', f'"{values[(index + 1) % 4]}"'
            said = answer
        elif family == "knowledge":
            prompt = f"The capital of {_LANDS[index % 8]} is"
            evidence, answer, wrong = "", _CITIES[index % 8], _CITIES[(index + 3) % 8]
            said = f"{answer}."
        elif family == "reasoning":
            mark = f" {SCRIPT}" if index == 1 else ""
            evidence = f"{name} has {a} {thing} and buys {b} bags of {c}."
            prompt = f"Question: {evidence}{mark} How many {thing} are there now?\nAnswer:"
            answer, wrong = str(a + b * c), str(a + b + c)
            said = f"{b} bags of {c} are {b * c}. {a} + {b * c} = {answer}. The answer is {answer}."
        else:
            evidence = (
                f"{name} puts {a} {thing} beside the {_THINGS[index % 7]} of {_NAMES[index % 3]}"
            )
            prompt = f"Repeat the text.\nText: {evidence}\nCopy:"
            answer, wrong = evidence, evidence.replace(thing, "lamps")
            said = answer
        made.append(
            {
                "example": f"{TASKS[family]}-{index:04d}",
                "prompt": prompt,
                "answer": answer,
                "wrong": wrong,
                "said": said,
                "evidence": evidence,
            }
        )
    return made


def _manifest(
    n_layers: int,
    n: int,
    seed: int,
    families: list[str],
    protocols: Sequence[str],
    conditions: list[tuple[str, str, int]],
) -> dict[str, object]:
    named = [
        (
            f"{ablation} L{layer}" + ("" if at == "all" else f" {at}"),
            ablation,
            at,
            layer,
        )
        for ablation, at, layer in conditions
    ]
    return {
        "layerroles": "0.1.0",
        "created": "2026-01-02T03:04:05+00:00",
        "model": {
            "name": "synthetic-135m",
            "revision": "none",
            "weights": "0123456789abcdef",
            "dtype": "float32",
            "device": "cpu",
            "n_layers": n_layers,
            "n_heads": N_HEADS,
            "architecture": "LlamaForCausalLM",
        },
        "versions": {"torch": "2.13.0", "transformer-lens": "4.3.0", "transformers": "5.23.0"},
        "seed": seed,
        "limit": n,
        "cells": [
            {
                "task": TASKS[family],
                "family": family,
                "protocol": protocol,
                "n": n,
                "chance": CHANCE[protocol],
                "unit": "nats per token" if protocol == "answer_logprob" else "accuracy",
            }
            for family in families
            for protocol in protocols
        ],
        "conditions": [
            {"name": "intact", "hash": "0" * 16, "ablation": "intact", "at": "all", "sites": []},
            *(
                {
                    "name": name,
                    "hash": f"{zlib.crc32(name.encode()):016x}",
                    "ablation": ablation,
                    "at": at,
                    "sites": [f"L{layer}"],
                    "layers": [layer],
                    "parts": ["block"],
                }
                for name, ablation, at, layer in named
            ),
        ],
        "command": "layerroles sweep --model synthetic-135m --ablation skip --at all,after_first",
        "seconds": 754.2,
        "machine": "2 cores, 8 GiB",
    }

"""Sweeps drawn from a known truth, fast enough to be drawn hundreds of times.

The harm of every layer is given, by task and protocol. Every question is easy or hard in the same
way under all kinds of ablation, so that their answers are correlated, as those of real ones are.
"""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from layerroles.results import BUILT_IN, SweepResult
from layerroles.roles.all_claims import decide_claims
from layerroles.roles.harms_by_ablation import measure_kinds

# Task and protocol -> harm per layer.
Truth = Mapping[tuple[str, str], Sequence[float]]


@dataclass(frozen=True)
class Simulation:
    """How sweeps are drawn.

    Attributes:
        truth: harm per layer by task and protocol. A task is called by its family, perhaps with
            something in brackets, which it then asks behind a context.
        n: questions of each task.
        skill: of the intact model above chance.
        chance: the score of guessing.
        kinds: the ablations.
        churn: chance that a wrong answer comes out right, balanced by as many right ones lost.
        alike: how often a question is as hard for one kind as for another.
        joint: how often a question is as hard at one layer as at another.
        other: truth under some of the kinds, in the place of `truth`.
        spared: harm per layer with the first token's write kept, by task and protocol; None where
            that was not swept.
        shared: whether the tasks of a family ask the same questions.
    """

    truth: Truth
    n: int = 400
    skill: float = 0.7
    chance: float = 0.0
    kinds: Sequence[str] = ("skip", "mean")
    churn: float = 0.02
    alike: float = 0.7
    joint: float = 0.3
    other: Mapping[str, Truth] = field(default_factory=dict)
    spared: Truth | None = None
    shared: bool = False

    def draw(self, seed: int) -> SweepResult:
        """One sweep."""
        frame = pd.concat([self._cell(*key, seed) for key in self.truth], ignore_index=True)
        frame = frame.astype({"layer": "Int64", "head": "Int64", "changed": "boolean"})
        n_layers = len(next(iter(self.truth.values())))
        manifest = {
            "model": {"name": "simulated", "n_layers": n_layers, "n_heads": 4},
            "seed": seed,
            "cells": [
                {
                    **{"task": task, "protocol": p, "n": self.n},
                    **{"chance": self.chance, "unit": "accuracy"},
                }
                for task, p in self.truth
            ],
            "conditions": describe_conditions(frame),
        }
        examples = [self._examples(task) for task in dict.fromkeys(task for task, _ in self.truth)]
        return SweepResult(frame, manifest, pd.concat(examples, ignore_index=True))

    def _examples(self, task: str) -> pd.DataFrame:
        before = "A context. " if "[" in task else ""
        names = [f"{family(task)} {index}" for index in range(self.n)]
        return pd.DataFrame(
            {
                "task": task,
                "example": [f"{task}-{index}" for index in range(self.n)],
                "prompt": [f"{before}{name}?" for name in names],
                "answer": names,
                "evidence": '["A context."]' if before else "[]",
                "question": names if self.shared else "",
            }
        )

    def _cell(self, task: str, protocol: str, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng([seed, zlib.crc32(f"{task} {protocol}".encode())])
        n, n_layers = self.n, len(self.truth[task, protocol])
        intact = rng.random(n) < self.skill + self.chance
        shared = rng.random((n_layers, n)) < self.joint
        hard = np.where(shared, rng.random(n), rng.random((n_layers, n)))
        blocks = [("intact", "all", None, intact.astype(float))]
        for kind in self.kinds:
            at_all = self.other.get(kind, self.truth)[task, protocol]
            swept = {"all": at_all}
            if self.spared is not None:
                swept["after_first"] = self.spared[task, protocol]
            u = np.where(rng.random((n_layers, n)) < self.alike, hard, rng.random((n_layers, n)))
            for at, harms in swept.items():
                # The same question fares alike at both positions.
                again = np.where(rng.random((n_layers, n)) < self.alike, u, rng.random(u.shape))
                blocks += [
                    (kind, at, layer, self._ablated(intact, again[layer], harm))
                    for layer, harm in enumerate(harms)
                ]
        return self._frame(task, protocol, blocks, rng)

    def _ablated(self, intact: np.ndarray, u: np.ndarray, harm: float) -> np.ndarray:
        right = self.skill + self.chance
        gained = self.churn * (1 - right)
        lost = harm * self.skill + gained
        if lost < 0:
            gained, lost = gained - lost, 0.0
        wrong = u < gained / (1 - right) if right < 1 else np.zeros(len(u), dtype=bool)
        return np.where(intact, u >= lost / right, wrong).astype(float)

    def _frame(
        self,
        task: str,
        protocol: str,
        blocks: Sequence[tuple[str, str, int | None, np.ndarray]],
        rng: np.random.Generator,
    ) -> pd.DataFrame:
        n, count = self.n, len(blocks)
        sites = ["" if layer is None else f"L{layer}" for _, _, layer, _ in blocks]
        names = [
            kind if not site else f"{kind} {site}{'' if at == 'all' else f' {at}'}"
            for (kind, at, _, _), site in zip(blocks, sites, strict=True)
        ]

        def each(values: Sequence[object]) -> np.ndarray:
            return np.repeat(np.array(values, dtype=object), n)

        return pd.DataFrame(
            {
                "condition": each(names),
                "ablation": each([kind for kind, *_ in blocks]),
                "at": each([at for _, at, *_ in blocks]),
                "site": each(sites),
                "layer": each([layer for _, _, layer, _ in blocks]),
                "part": each(["block" if site else "" for site in sites]),
                "head": None,
                "task": task,
                "family": family(task),
                "protocol": protocol,
                "example": np.tile([f"{task}-{index}" for index in range(n)], count),
                "score": np.concatenate([scores for *_, scores in blocks]),
                # What is written differs from one ablation to the next, right or wrong.
                "response": rng.integers(0, 1000, n * count).astype(str),
                "status": "ok",
                "changed": each([bool(site) for site in sites]),
            }
        )


def describe_conditions(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The manifest entries of the conditions in a frame; the name of each serves as its hash."""
    columns = ["condition", "ablation", "at", "site", "layer"]
    return [
        {
            **{"name": row.condition, "hash": row.condition},
            **{"ablation": row.ablation, "mechanism": BUILT_IN.get(row.ablation, "")},
            **{"at": row.at, "sites": [row.site] if row.site else []},
            "layers": [int(row.layer)] if row.site else [],
            **{"parts": ["block"] if row.site else [], "parameters": {}},
        }
        for row in frame[columns].drop_duplicates("condition").itertuples()
    ]


def family(task: str) -> str:
    """The family of a task: what stands before a bracket."""
    return task.partition("[")[0]


def copied(result: SweepResult, kind: str, name: str) -> SweepResult:
    """The same with the rows of one ablation once more under another name."""
    own = result.frame[result.frame["ablation"] == kind]
    renamed = own["condition"].str.replace(kind, name, regex=False)
    again = own.assign(ablation=name, condition=renamed)
    frame = pd.concat([result.frame, again], ignore_index=True)
    return SweepResult(frame, result.manifest, result.examples)


def with_guesses(result: SweepResult, chances: Mapping[str, float]) -> SweepResult:
    """The same with a measured score of the best guess, by task, under each protocol."""
    protocols = result.frame["protocol"].unique()
    guesses = {
        task: json.dumps(dict.fromkeys(protocols, chances.get(task, 0.0)))
        for task in result.examples["task"].unique()
    }
    examples = result.examples.assign(cluster="", guesses=result.examples["task"].map(guesses))
    return SweepResult(result.frame, result.manifest, examples)


def without_any_answer(result: SweepResult, layers: Collection[int]) -> SweepResult:
    """The same with no right answer in any task where one of these layers is ablated."""
    gone = result.frame["layer"].isin(layers).fillna(False)
    frame = result.frame.assign(score=result.frame["score"].mask(gone.astype(bool), 0.0))
    return SweepResult(frame, result.manifest, result.examples)


def claims_of(
    result: SweepResult, ablation: str = "skip", base: SweepResult | None = None
) -> pd.DataFrame:
    """The claims of `localize`, without the tables and sentences beside them."""
    return decide_claims(result, measure_kinds(result, ablation), base, [])

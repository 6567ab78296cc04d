"""Sweeps drawn from a known truth, fast enough to be drawn hundreds of times.

The harm of every layer is given, by family and protocol. Every question is easy or hard in the same
way under all kinds of ablation, so that their answers are correlated, as those of real ones are.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from layerroles.results import SweepResult

# Family and protocol -> harm per layer.
Truth = Mapping[tuple[str, str], Sequence[float]]


@dataclass(frozen=True)
class Simulation:
    """How sweeps are drawn.

    Attributes:
        truth: harm per layer by family and protocol; the same under every kind, unless `other` says
            more of one.
        n: questions of each family.
        skill: of the intact model above chance.
        chance: the score of guessing.
        kinds: the ablations.
        churn: chance that a wrong answer comes out right, balanced by as many right ones lost.
        alike: how often a question is as hard for one kind as for another.
        joint: how often a question is as hard at one layer as at another.
        other: truth under some of the kinds, in the place of `truth`.
        ats: positions at which every condition acts, with what is left of harm there.
        question: by family, whose questions it asks; its own by default.
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
    ats: Mapping[str, float] = field(default_factory=lambda: {"all": 1.0})

    def draw(self, seed: int) -> SweepResult:
        """One sweep."""
        cells = [self._cell(*key, seed) for key in self.truth]
        n_layers = len(next(iter(self.truth.values())))
        frame = pd.concat(cells, ignore_index=True)
        frame = frame.astype({"layer": "Int64", "head": "Int64", "changed": "boolean"})
        manifest = {
            "model": {"name": "simulated", "n_layers": n_layers, "n_heads": 4},
            "seed": seed,
            "cells": [
                {"task": family, "protocol": p, "chance": self.chance, "unit": "accuracy"}
                for family, p in self.truth
            ],
        }
        return SweepResult(frame, manifest)

    def _cell(self, family: str, protocol: str, seed: int) -> pd.DataFrame:
        rng = np.random.default_rng([seed, zlib.crc32(f"{family} {protocol}".encode())])
        n, n_layers = self.n, len(self.truth[family, protocol])
        intact = rng.random(n) < self.skill + self.chance
        hard = rng.random((n_layers, n))
        same = rng.random((n_layers, n)) < self.joint
        hard = np.where(same, rng.random(n), hard)
        blocks = [self._rows(family, protocol, "intact", "all", None, intact, rng)]
        for kind in self.kinds:
            harms = self.other.get(kind, self.truth)[family, protocol]
            for at, left in self.ats.items():
                own = rng.random((n_layers, n))
                u = np.where(rng.random((n_layers, n)) < self.alike, hard, own)
                for layer, harm in enumerate(harms):
                    scores = self._ablated(intact, u[layer], harm * left)
                    blocks.append(self._rows(family, protocol, kind, at, layer, scores, rng))
        return pd.concat(blocks, ignore_index=True)

    def _ablated(self, intact: np.ndarray, u: np.ndarray, harm: float) -> np.ndarray:
        right = self.skill + self.chance
        gained = self.churn * (1 - right)
        lost = harm * self.skill + gained
        if lost < 0:
            gained, lost = gained - lost, 0.0
        return np.where(intact, u >= lost / right, u < gained / (1 - right) if right < 1 else False)

    def _rows(
        self,
        family: str,
        protocol: str,
        kind: str,
        at: str,
        layer: int | None,
        scores: np.ndarray,
        rng: np.random.Generator,
    ) -> pd.DataFrame:
        site = "" if layer is None else f"L{layer}"
        name = kind if layer is None else f"{kind} {site}{'' if at == 'all' else f' {at}'}"
        return pd.DataFrame(
            {
                "condition": name,
                "ablation": kind,
                "at": at,
                "site": site,
                "layer": layer,
                "part": "block" if site else "",
                "head": None,
                "task": family,
                "family": family,
                "protocol": protocol,
                "example": [f"{family}-{index}" for index in range(self.n)],
                "score": scores.astype(float),
                # What is written differs from one ablation to the next, right or wrong.
                "response": rng.integers(0, 1000, self.n).astype(str),
                "status": "ok",
                "changed": bool(site),
            }
        )


def copied(result: SweepResult, kind: str, name: str) -> SweepResult:
    """The same with the rows of one ablation once more under another name."""
    own = result.frame[result.frame["ablation"] == kind]
    again = own.assign(
        ablation=name, condition=own["condition"].str.replace(kind, name, regex=False)
    )
    return SweepResult(
        pd.concat([result.frame, again], ignore_index=True), result.manifest, result.examples
    )

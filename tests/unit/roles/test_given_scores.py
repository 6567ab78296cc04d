"""What is reported for results whose scores are all specified."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest

from layerroles.errors import InputError
from layerroles.results import SweepResult
from layerroles.roles import localize
from layerroles.roles.probe_summary import summarize_probes
from tests.support.synthetic import synthetic_attention, synthetic_lens

Scores = np.ndarray
# (ablation, at, layer)
Where = tuple[str, str, int]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A task under a protocol: the intact scores, and those under each ablation of a layer."""

    task: str
    intact: Scores
    ablated: Mapping[Where, Scores]
    family: str = "retrieval"
    protocol: str = "generation"
    chance: float = 0.0


def result_of(cells: Sequence[Cell], n_layers: int) -> SweepResult:
    """A result with just these scores; NaN is not finite."""
    names: dict[str, dict[str, object]] = {}
    parts = []
    for cell in cells:
        for where, scores in {None: cell.intact, **cell.ablated}.items():
            ablation, at, layer = where or ("intact", "all", None)
            site = "" if layer is None else f"L{layer}"
            name = f"{ablation} {site}{'' if at == 'all' else f' {at}'}" if where else "intact"
            kind = ablation.partition("[")[0]
            names[name] = {"name": name, "hash": name, "ablation": kind, "at": at, "sites": [site]}
            known = ~np.isnan(scores)
            parts.append(
                pd.DataFrame(
                    {
                        **{"model": "m", "condition": name, "ablation": kind, "at": at},
                        **{"site": site, "layer": layer, "part": "block", "head": None},
                        **{"task": cell.task, "family": cell.family, "protocol": cell.protocol},
                        "example": [f"{cell.task}-{index}" for index in range(len(scores))],
                        "score": scores,
                        "correct": np.where(known, scores == 1, None),
                        "strict": np.where(known, scores == 1, None),
                        "outcome": np.where(known, np.where(scores == 1, "correct", "wrong"), ""),
                        "response": "x",
                        "status": np.where(known, "ok", "not finite"),
                        "changed": where is not None,
                        "n_tokens": 3,
                    }
                )
            )
    types = {
        **dict.fromkeys(("layer", "head", "n_tokens"), "Int64"),
        **dict.fromkeys(("correct", "strict", "changed"), "boolean"),
        "score": "float",
    }
    return SweepResult(
        frame=pd.concat([part.astype(types) for part in parts], ignore_index=True),
        manifest={
            "model": {"name": "m", "n_layers": n_layers, "n_heads": 4, "dtype": "float32"},
            "seed": 0,
            "cells": [
                {
                    **{"task": cell.task, "family": cell.family, "protocol": cell.protocol},
                    **{"n": len(cell.intact), "chance": cell.chance, "unit": "accuracy"},
                }
                for cell in cells
            ],
            "conditions": list(names.values()),
        },
    )


def right(n: int, share: float = 1.0) -> Scores:
    """Scores of which the first are 1."""
    return (np.arange(n) < round(share * n)).astype(float)


def lost(scores: Scores, share: float, rng: np.random.Generator) -> Scores:
    """The same scores, of whose 1s such a share was lost."""
    return np.where(rng.random(len(scores)) < share, 0.0, scores)


def every(
    n_layers: int,
    scores: Callable[[str, str, int], Scores],
    kinds: Sequence[str] = ("skip",),
    ats: Sequence[str] = ("all",),
) -> dict[Where, Scores]:
    """Scores under each kind, at each positions, of each layer."""
    return {(k, at, i): scores(k, at, i) for k in kinds for at in ats for i in range(n_layers)}


def claim(result: SweepResult, begins: str) -> pd.Series:
    """The one claim of the literature that begins so."""
    claims = localize(result, ablation="skip").claims
    (row,) = [row for _, row in claims.iterrows() if row["claim"].startswith(begins)]
    return row


@pytest.mark.parametrize(("kept", "status"), [(0.0, "supported"), (1.0, "not shown")])
def test_a_sink_alone_supports_no_claim_of_depth(kept: float, status: str) -> None:
    rng = np.random.default_rng(0)

    def scores(kind: str, at: str, layer: int) -> Scores:
        gone = at == "all" or not kept
        return lost(right(100), 1.0 if layer == 1 and gone else 0.02, rng)

    cell = Cell("a", right(100), every(12, scores, ("skip", "mean"), ("all", "after_first")))
    found = claim(result_of([cell], 12), "Retrieval leans on shallow")
    assert found["status"] == status, found["evidence"]
    assert ("with the first token kept" in found["evidence"]) == (status == "not shown")
    (row,) = localize(result_of([cell], 12), ablation="skip").frame["claim"]
    assert ("mean agrees" in row) == (status == "supported")
    assert ("not shown with the first token's write kept" in row) == (status == "not shown")
    quantities = {record["quantity"] for record in found["numbers"]}
    assert quantities == {"early minus late", "early minus late, first token kept"}


def test_protocols_are_compared_on_the_tasks_that_have_skill_under_both() -> None:
    rng = np.random.default_rng(0)
    cells = []
    for protocol, chance in (("continuation", 0.5), ("generation", 0.0)):
        for task, harm in (("a", 0.1), ("b", 0.7)):
            at_chance = task == "b" and protocol == "continuation"
            intact = right(64, 0.53 if at_chance else 0.85)
            share = harm * (intact.mean() - chance) / intact.mean()
            ablated = every(12, lambda *_, x=intact, s=share: lost(x, s, rng), ("skip", "mean"))
            cells.append(Cell(task, intact, ablated, "reasoning", protocol, chance))
    result = result_of(cells, 12)
    roles = localize(result, ablation="skip")
    total = roles.contrasts[roles.contrasts["quantity"] == "mean_harm"].iloc[0]
    assert total["ci_low"] < 0 < total["ci_high"]
    assert claim(result, "Generation needs more")["status"] == "not shown"
    of_all = roles.frame.set_index("protocol")["mean_harm"]
    assert of_all["generation"] - of_all["continuation"] > 0.2  # of different tasks
    # With no task in common nothing is compared.
    apart = [cell for cell in cells if (cell.task == "a") == (cell.protocol == "continuation")]
    contrasts = localize(result_of(apart, 12), ablation="skip").contrasts
    assert contrasts.loc[contrasts["quantity"] == "mean_harm", "difference"].isna().all()
    found = claim(result_of(apart, 12), "Generation needs more")
    assert found["status"] == "not measurable"
    assert found["evidence"] == "no question of reasoning was asked under both"


@pytest.mark.parametrize("chance", [0.0, 0.25])  # with .25 all draws are 1/.75, but for rounding
def test_a_difference_is_no_surer_than_a_side_that_does_not_vary(chance: float) -> None:
    rng = np.random.default_rng(0)
    few, many = right(16), right(400)
    one = every(6, lambda _k, _a, layer: few * (layer >= 2))
    two = every(6, lambda _k, _a, layer: lost(many, 0.3 if layer < 2 else 0.0, rng))
    cells = [
        Cell("a", few, one, chance=chance),
        Cell("b", many, two, "reasoning", chance=chance),
    ]
    roles = localize(result_of(cells, 6))
    width = roles.frame.set_index("family")
    assert width.loc["retrieval", "ci_high"] - width.loc["retrieval", "ci_low"] > 0.3
    pair = roles.contrasts.iloc[0]
    assert pair["ci_high"] - pair["ci_low"] >= (
        width.loc["retrieval", "ci_high"] - width.loc["retrieval", "ci_low"]
    )


def test_a_kind_at_two_settings_is_no_second_kind() -> None:
    rng = np.random.default_rng(1)
    kinds = ("skip", "clip[length=0.25]", "clip[length=0.5]")
    cell = Cell("a", right(32), every(6, lambda *_: lost(right(32), 0.4, rng), kinds))
    result = result_of([cell], 6)
    roles = localize(result, ablation="skip")
    assert "under skip only" in roles.verdict
    with pytest.raises(InputError, match="ablated more than once alike"):
        localize(result, ablation="clip")


def test_tasks_of_a_family_are_not_one_sample() -> None:
    def unchanged(n: int) -> SweepResult:
        same = right(n, 20 / 24)
        return result_of([Cell(task, same, every(6, lambda *_: same)) for task in "ab"], 6)

    roles = localize(unchanged(24))
    assert set(roles.layers["verdict"]) == {"undecided"}
    (told,) = [one.text for one in roles.sentences if one.about == "precision"]
    assert "no layer could be spare (within ±0.1) for 1 of 1 families" in told
    n = int(told.split("that takes n=retrieval ")[1].split(" a task")[0])
    assert set(localize(unchanged(n)).layers["verdict"]) == {"spare"}
    assert set(localize(unchanged(n - 1)).layers["verdict"]) == {"undecided"}
    detectable = unchanged(24).effects()["detectable"].iloc[0]
    assert f"a drop of {detectable:.2f} or more" in told


def test_layer_without_scores_is_reported_as_not_measured() -> None:
    rng = np.random.default_rng(0)
    none = np.full(32, np.nan)

    def scores(_kind: str, _at: str, layer: int) -> Scores:
        return none if layer == 5 else lost(right(32), 0.9 if layer < 4 else 0.0, rng)

    roles = localize(result_of([Cell("a", right(32), every(12, scores))], 12))
    row = roles.frame.iloc[0]
    assert row["ci_low"] > 0.5  # of the first and the last third, which are known
    assert np.isnan(row["mean_harm"])
    assert np.isnan(row["effective"])
    assert roles.layers.set_index("layer")["verdict"][5] == "not measured"
    assert 5 not in row["critical"] + row["spare"] + row["undecided"] + row["sink"]
    assert "nan" not in roles.verdict


def test_a_layer_with_one_score_gives_no_interval_of_depth() -> None:
    one = np.full(32, np.nan)
    one[3] = 0.0
    ablated = every(12, lambda _k, _a, layer: one if layer == 1 else right(32))
    roles = localize(result_of([Cell("a", right(32), ablated)], 12))
    assert np.isnan(roles.frame["early_minus_late"].iloc[0])
    assert "Early against late is not known" in roles.frame["claim"].iloc[0]
    assert "nan" not in roles.verdict
    assert "last: ." not in roles.verdict


def test_frames_of_one_probe_are_one() -> None:
    for frame in (synthetic_lens(), synthetic_attention()):
        first = frame["example"] == frame["example"].iloc[0]
        parts = [frame[first], frame[~first]]
        pd.testing.assert_frame_equal(summarize_probes(parts), summarize_probes([frame]))
        pd.testing.assert_frame_equal(summarize_probes([frame, frame]), summarize_probes([frame]))
        with pytest.raises(InputError, match="on the same examples: pass one of them"):
            summarize_probes([frame, frame[~first]])

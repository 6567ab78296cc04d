"""The two-stage search finds heads that are known to matter, and knows how many it missed."""

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

import layerroles as lr
from layerroles import stats
from layerroles.plants import Plant
from tests.support.scripted_result import scripted_result


@cache
def made() -> Plant:
    return lr.planted(
        n_layers=6, retrieval=(1, 3), reasoning=(5,), knowledge=(2,), heads=6, inert=(), seed=4
    )


def asked(family: str) -> lr.Task:
    return next(task for task in made().tasks if task.family == family)


def planted_heads(family: str) -> set[tuple[int, int]]:
    return {(s.layer, s.head) for s in made().sites[family] if s.head is not None}


def screen(family: str, path: Path) -> "pd.Series[float]":
    conditions = lr.each_head(made().model, lr.Zero())
    options = {"protocols": ["answer_logprob"], "limit": 6, "seed": 1, "noise_floor": False}
    effects = lr.Sweep(made().model, [asked(family)], conditions, **options).run(path).effects()
    return -effects.set_index(["layer", "head"])["effect"]


def confirmed(search: lr.HeadSearch, family: str, path: Path) -> lr.SweepResult:
    options = {"protocols": ["generation"], "limit": 24, "noise_floor": False}
    return lr.Sweep(made().model, [asked(family)], search.conditions(), **options).run(path)


@pytest.mark.parametrize(("family", "n"), [("retrieval", 2), ("reasoning", 3)])
def test_planted_heads_are_found_by_likelihood_then_generation(
    family: str, n: int, tmp_path: Path
) -> None:
    truth = planted_heads(family)
    assert len(truth) == n
    search = lr.HeadSearch(screen(family, tmp_path / "screen"), confirm=4, audit=8)
    result = confirmed(search, family, tmp_path / "confirm")
    assert result.effects()["condition"].nunique() == 12
    found = search.judge(result, top=n)
    frame = found.frame
    assert len(frame) == 36
    critical = frame[frame["verdict"] == "critical"]
    assert set(zip(critical["layer"], critical["head"], strict=True)) == truth
    assert (critical["stage"] == "confirmed").all()
    assert frame.loc[frame["stage"] == "screened out", "harm"].isna().all()
    for _, row in found.misses.iterrows():
        assert row["found"] == n
        assert (row["screened_out"], row["audited"], row["hits"], row["missed"]) == (32, 8, 0, 0)
        assert row["missed_high"] == stats.sampled_total(0, 8, 32)[1].high > 0
    assert "36 heads screened" in repr(found)


def test_the_audit_counts_what_a_bad_screen_misses(tmp_path: Path) -> None:
    truth = planted_heads("reasoning")
    # The planted heads come last of all.
    scores = pd.Series(
        {(layer, head): -float((layer, head) in truth) for layer in range(6) for head in range(6)}
    )
    search = lr.HeadSearch(scores, confirm=4, audit=100)
    assert len(search.audited) == 32
    found = search.judge(confirmed(search, "reasoning", tmp_path), top=2)
    missed = found.misses.set_index("wanted")
    assert missed.loc["critical", ["found", "hits", "missed"]].tolist() == [0, 3, 3]
    # All were looked at: only heads whose interval reaches above 0.2 are left to be unsure of.
    open_ = found.frame[(found.frame["stage"] == "audited") & (found.frame["harm_high"] >= 0.2)]
    assert missed.loc["critical", ["missed_low", "missed_high"]].tolist() == [3, len(open_)]
    assert missed.loc["top 2", "hits"] == 3


def test_heads_whose_verdict_is_open_may_be_missed_ones() -> None:
    """All 29 heads screened out cost .3, which 48 questions rarely show to be above .2."""
    rng, n_covered = np.random.default_rng(0), 0
    places = list(itertools.product(range(5), range(6)))
    scores = pd.Series(np.arange(30.0), index=pd.MultiIndex.from_tuples(places))
    search = lr.HeadSearch(scores, confirm=1, audit=29)
    for _ in range(20):
        intact = (np.arange(48) < 40).astype(float)
        heads = {f"zero L{i}.H{j}": intact * (rng.random(48) >= 0.3) for i, j in places}
        cells = {("retrieval", "generation"): {"intact": intact, **heads}}
        found = search.judge(scripted_result(cells, n_layers=5, n_heads=6))
        missed = found.misses.set_index("wanted").loc["critical"]
        assert missed["hits"] < 29
        n_covered += missed["missed_low"] <= 29 <= missed["missed_high"]
    assert n_covered >= 18


def test_the_interval_of_the_missed_covers_the_truth() -> None:
    population, drawn = 40, 12
    bounds = [stats.sampled_total(hits, drawn, population)[1] for hits in range(drawn + 1)]
    for total in range(population + 1):
        chance = hypergeom.pmf(np.arange(drawn + 1), population, total, drawn)
        inside = [bound.low <= total <= bound.high for bound in bounds]
        assert chance[inside].sum() >= 0.95, total
    assert bounds[0].low == 0 < bounds[0].high < population
    assert stats.sampled_total(3, 12, 40)[0] == 10
    assert stats.sampled_total(2, 7, 7)[1] == stats.Interval(2.0, 2.0)
    assert np.isnan(stats.sampled_total(0, 0, 7)[0])
    assert stats.sampled_total(0, 0, 0) == (0.0, stats.Interval(0.0, 0.0))
    with pytest.raises(ValueError, match="3 hits"):
        stats.sampled_total(3, 2, 7)


def test_scores_that_are_not_known_come_last_and_draws_are_seeded() -> None:
    scores = pd.Series({(0, 0): float("nan"), (0, 1): 1.0, (1, 0): 3.0, (1, 1): 1.0, (2, 0): 0.0})
    search = lr.HeadSearch(scores, confirm=3, audit=1, seed=7)
    assert list(map(str, search.confirmed)) == ["L1.H0", "L0.H1", "L1.H1"]
    assert set(map(str, search.screened_out)) == {"L2.H0", "L0.H0"}
    assert search.audited == lr.HeadSearch(scores, confirm=3, audit=1, seed=7).audited
    drawn = {lr.HeadSearch(scores, confirm=3, audit=1, seed=n).audited for n in range(8)}
    assert len(drawn) == 2
    assert "3 of 5 heads to confirm" in repr(search)


def test_invalid_searches_raise_input_error(tmp_path: Path) -> None:
    scores = pd.Series({(0, 0): 1.0, (0, 1): 2.0})
    for confirm, audit in ((0, 1), (3, 1), (1, -1)):
        with pytest.raises(lr.InputError, match=f"confirm={confirm}, audit={audit}"):
            lr.HeadSearch(scores, confirm=confirm, audit=audit)
    with pytest.raises(lr.InputError, match="indexed by layer and head"):
        lr.HeadSearch(pd.Series([1.0, 2.0]))
    with pytest.raises(lr.InputError, match=r"L0\.H1 is scored twice"):
        lr.HeadSearch(pd.concat([scores, scores[1:]]), confirm=1)
    search = lr.HeadSearch(scores, confirm=1, audit=0)
    with pytest.raises(lr.InputError, match="skip"):
        search.conditions(lr.Skip())
    result = confirmed(search, "retrieval", tmp_path / "one")
    assert np.isnan(search.judge(result, top=1).misses["missed"]).all()
    with pytest.raises(lr.InputError, match=r"L0\.H0 is not in the sweep"):
        lr.HeadSearch(scores, confirm=2).judge(result)
    unable = lr.planted(n_layers=3, retrieval=(0, 1), reasoning=(), knowledge=(), inert=())
    options = {"protocols": ["generation"], "limit": 8, "noise_floor": False}
    asked = [lr.task("planted_chain")]
    result = lr.Sweep(unable.model, asked, search.conditions(), **options).run(tmp_path / "two")
    with pytest.raises(lr.InputError, match="no skill is measurable"):
        search.judge(result)

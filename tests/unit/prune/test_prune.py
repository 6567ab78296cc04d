"""Pruning plans on models with known roles; the kept families decide what is dropped."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd
import pytest

import layerroles as lr
from layerroles.plants import Plant
from layerroles.probes.similarity import least_change
from layerroles.prune.layer_search import _search_greedily
from layerroles.prune.plan import Candidate, label_layers, sort_candidates
from layerroles.prune.scoring import Harm, PlanningSweep
from layerroles.stats import UNKNOWN, Interval
from tests.support.random_models import random_model

LIMIT = 8


@pytest.fixture(scope="module")
def plant() -> Plant:
    """Reasoning needs layers 1, 2 and one of 4 and 7; knowledge 3; layer 6 writes nothing."""
    return lr.planted(n_layers=8, reasoning=(4,), backup=((4, 7),), inert=(6,))


def plan(plant: Plant, drop: int, **options: object) -> lr.PruningPlan:
    # In one folder, so that what was asked for one test is not asked again for the next.
    given = {"keep": ["reasoning"], "tasks": plant.tasks, "limit": LIMIT, "path": folder(plant)}
    return lr.plan_pruning(plant.model, drop=drop, **(given | options))  # type: ignore[arg-type]


@cache
def folder(_plant: Plant) -> Path:
    return Path(mkdtemp(prefix="layerroles-plans-")) / "run"


@pytest.mark.parametrize(("inert", "keep"), [(0, "reasoning"), (4, "retrieval"), (6, "knowledge")])
def test_the_inert_layer_goes_first(inert: int, keep: str) -> None:
    made = lr.planted(n_layers=7, retrieval=(1, 2), reasoning=(5,), knowledge=(3,), inert=(inert,))
    found = plan(made, 1, keep=[keep])
    assert found.layers == (inert,)
    assert found.keep == (keep,)
    first = found.frame.iloc[0]
    assert (first["layers"], first["score"], bool(first["chosen"])) == (f"L{inert}", 0, True)
    assert len(found.frame) == 7
    needed = {f"L{layer}" for layer in made.truth[keep]}
    harms = found.frame.set_index("layers")["score"]
    assert set(harms[harms > 0.5].index) == needed
    assert found.frame["n"].eq(LIMIT).all()


def test_layers_that_stand_in_for_each_other_are_not_both_dropped(plant: Plant) -> None:
    found = plan(plant, 5)
    # Alone, neither of the pair is missed.
    alone = found.frame[found.frame["step"] == 1].set_index("layers")["score"]
    assert alone["L4"] == alone["L7"] == 0
    assert {0, 3, 5, 6} < set(found.layers)
    assert len({4, 7} & set(found.layers)) == 1
    last = found.frame[found.frame["step"] == 5].set_index("layers")["score"]
    assert last.min() == 0
    assert last.max() > 0.5  # together with the one that went before, or without a look-up
    six = plan(plant, 6)
    assert six.layers[:5] == found.layers
    assert six.frame.query("step == 6 and chosen")["score"].item() > 0.5


def test_plan_depends_on_the_kept_families(plant: Plant) -> None:
    assert 3 in plan(plant, 5).layers
    both = plan(plant, 4, keep=["reasoning", "knowledge"])
    assert 3 not in both.layers
    assert set(both.keep) == {"knowledge", "reasoning"}
    label = plant.tasks[0].label
    assert plan(plant, 1, keep=[label]).tasks == (label,)


def test_the_likelihood_method_asks_by_likelihood(plant: Plant, tmp_path: Path) -> None:
    found = plan(plant, 1, method="likelihood", path=tmp_path / "run")
    assert found.protocols == ("continuation",)
    assert set(lr.read(tmp_path / "run").frame["protocol"]) == {"continuation"}
    assert found.layers == (6,)


def test_influence_and_angular_distance_choose_as_their_papers_do(plant: Plant) -> None:
    tasks = [task for task in plant.tasks if task.family == "reasoning"]
    influence = lr.probes.Similarity("all").measure(plant.model, tasks, limit=LIMIT)
    single = influence[influence["n"] == 1].groupby("layer")["influence"].mean()
    found = plan(plant, 3, method="block_influence")
    assert list(found.layers) == list(single.nsmallest(3).index)
    table = found.frame[found.frame["step"] == 1].set_index("layers")["score"]
    assert table["L2"] == pytest.approx(single[2])
    turned = least_change(lr.probes.Similarity("last").measure(plant.model, tasks, limit=LIMIT))
    run = turned[turned["n"] == 3].iloc[0]
    assert plan(plant, 3, method="angular").layers == tuple(range(run["layer"], run["stop"]))


def test_random_layers_are_a_function_of_the_seed(plant: Plant) -> None:
    drawn = [plan(plant, 3, method="random", seed=seed).layers for seed in range(8)]
    assert plan(plant, 3, method="random", seed=2).layers == drawn[2]
    assert len(set(drawn)) > 4
    assert plan(plant, 2, method="random", seed=2).layers == drawn[2][:2]


def test_plan_resumes_in_its_folder(plant: Plant, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fresh = plan(plant, 2, path=None)
    assert plan(plant, 1, path=run).layers == fresh.layers[:1]
    asked = len(lr.read(run).frame)
    assert asked == LIMIT * (1 + 8)
    assert plan(plant, 2, path=run) == fresh
    assert len(lr.read(run).frame) == asked + LIMIT * 7
    stamp = (run / "rows.sqlite").read_bytes()
    assert plan(plant, 2, path=run) == fresh
    assert (run / "rows.sqlite").read_bytes() == stamp


def test_a_folder_that_holds_more_does_not_change_a_plan(plant: Plant, tmp_path: Path) -> None:
    # Only some layers have been asked more.
    conditions = lr.each_layer(plant.model, lr.Skip(), layers=[1, 6])
    options = {"limit": LIMIT + 9, "noise_floor": False}
    lr.Sweep(plant.model, plant.tasks, conditions, **options).run(tmp_path / "run")
    assert plan(plant, 1, path=tmp_path / "run") == plan(plant, 1)


def test_conditions_of_a_folder_are_known_by_their_content(plant: Plant, tmp_path: Path) -> None:
    mine = lr.Condition({lr.Site(6): lr.Skip()}, name="mine")
    kept = [task for task in plant.tasks if task.family == "reasoning"]
    sweep = lr.Sweep(
        plant.model, kept, [mine], protocols=["generation"], limit=LIMIT, noise_floor=False
    )
    sweep.run(tmp_path / "run")
    assert plan(plant, 1, path=tmp_path / "run").frame.equals(plan(plant, 1).frame)


def test_single_layers_may_come_from_a_sweep(plant: Plant, tmp_path: Path) -> None:
    tasks = [task for task in plant.tasks if task.family == "reasoning"]
    conditions = lr.each_layer(plant.model, lr.Skip())
    sweep = lr.Sweep(plant.model, tasks, conditions, protocols=["generation"], limit=10)
    singles = sweep.run(tmp_path / "singles")
    found = plan(plant, 2, singles=singles, path=tmp_path / "run")
    assert found.layers == plan(plant, 2).layers
    assert set(found.frame.loc[found.frame["step"] == 1, "n"]) == {10}
    assert set(found.frame.loc[found.frame["step"] == 2, "n"]) == {LIMIT}
    assert lr.read(tmp_path / "run").frame["condition"].str.contains(",").sum() == LIMIT * 7

    with pytest.raises(lr.InputError, match=r"^singles: unknown protocol 'continuation'"):
        plan(plant, 1, singles=singles, protocols=["continuation"])
    with pytest.raises(lr.InputError, match=r"^singles is a sweep of 'planted' with other weights"):
        plan(lr.planted(seed=1), 1, singles=singles)
    with pytest.raises(lr.InputError, match=r"^method 'random' asks nothing: leave out"):
        plan(plant, 1, method="random", singles=singles)
    some = singles.frame[singles.frame["layer"].ne(5).fillna(True)]
    with pytest.raises(lr.InputError, match=r"^singles skips no layer 5 at all positions"):
        plan(plant, 1, singles=lr.SweepResult(some, singles.manifest))
    # A layer that was skipped under one of two protocols only.
    other = singles.frame.assign(protocol="exact")
    both = pd.concat([singles.frame, other[other["layer"].ne(5).fillna(True)]], ignore_index=True)
    with pytest.raises(lr.InputError, match=r"^singles skips no layer 5 at all positions .*exact"):
        plan(
            plant, 1, singles=lr.SweepResult(both, singles.manifest),
            protocols=["generation", "exact"],
        )  # fmt: skip
    unfinished = {**singles.manifest, "unfinished": [{"conditions": [], "cells": []}]}
    partly = singles.frame.drop(singles.frame.index[singles.frame["layer"].eq(5).fillna(False)][-1])
    with pytest.raises(lr.InputError, match=r"^singles is not finished"):
        plan(plant, 1, singles=lr.SweepResult(partly, unfinished))
    # A run of which something else is unfinished.
    assert plan(plant, 1, singles=lr.SweepResult(singles.frame, unfinished, singles.examples))


def test_a_plan_prints_what_was_chosen(plant: Plant) -> None:
    found = plan(plant, 2)
    text = str(found)
    assert text.startswith("PruningPlan of planted: drop 2 of 8 layers (0-based): 6, ")
    assert "(reasoning) under generation; 8 examples of each of planted_chain, seed 0" in text
    assert "too hopeful" in text
    assert "<table" in found._repr_html_()
    assert "too hopeful" not in str(plan(plant, 2, method="random"))
    assert found.condition == lr.Condition({lr.Site(layer): lr.Skip() for layer in found.layers})


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"drop": 0}, r"^drop=0: planted has 8 layers, drop 1 to 7 of them$"),
        ({"drop": 8}, r"^drop=8: planted has 8 layers, drop 1 to 7 of them$"),
        ({"keep": ["commonsense"]}, r"^keep: unknown family or task 'commonsense'"),
        ({"keep": "reasoning"}, r"^keep='reasoning' is no list: write it as \['reasoning'\]$"),
        ({"tasks": []}, r"^a plan needs tasks"),
        ({"method": "anglar"}, r"^unknown method 'anglar': did you mean 'angular'"),
        ({"limit": 0}, r"^limit=0, screen=8: both must be 1 or more$"),
        ({"screen": 0}, r"^limit=8, screen=0: both must be 1 or more$"),
        ({"method": "angular", "protocols": ["generation"]}, r"^method 'angular' asks nothing"),
        ({"protocols": ["generatio"]}, r"^unknown protocol 'generatio'"),
        ({"protocols": []}, r"^a sweep needs at least one task and one protocol"),
        ({"protocols": ["answer_logprob"]}, r"no chance level\)"),
    ],
)
def test_invalid_input_raises_a_one_line_error(plant: Plant, options: dict, line: str) -> None:
    with pytest.raises(lr.InputError, match=line) as caught:
        plan(plant, options.pop("drop", 1), **options)
    assert "\n" not in str(caught.value)


def test_a_task_without_skill_is_not_counted_and_named(plant: Plant, tmp_path: Path) -> None:
    able = next(task for task in plant.tasks if task.family == "reasoning")
    rows = [
        {"prompt": one.prompt, "answer": "no such answer", "family": "reasoning"}
        for one in able.examples(LIMIT, 0)
    ]
    file = tmp_path / "wrong.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    unable = lr.task(f"local:{file}", max_gen_toks=2)
    found = plan(plant, 1, tasks=[able, unable], path=tmp_path / "run")
    assert (found.tasks, found.without_skill) == ((able.label,), (unable.label,))
    not_counted = "Not counted, since the intact model is not shown to be above chance"
    assert f"{not_counted}: {unable.label}." in str(found)
    alone = plan(plant, 1, tasks=[able], path=tmp_path / "alone")
    assert alone.without_skill == () and "Not counted" not in str(alone)
    assert found.layers == alone.layers


def test_a_skill_that_is_not_there_cannot_be_kept() -> None:
    model = random_model("llama")
    line = (
        r"^family 'knowledge' is not shown to be above chance under 'generation' "
        r"\(facts@2 0\.00 \[0\.00, 0\.\d\d\] on 4 examples, chance 0\.\d\d\): take easier tasks"
    )
    with pytest.raises(lr.InputError, match=line):
        lr.plan_pruning(model, drop=1, tasks=[lr.task("facts")], limit=4)


def test_candidates_that_fail_come_last_and_ties_go_to_the_least_influence() -> None:
    half = Interval(0.4, 0.6)
    failed = Candidate((0,), -1.0, half, influence=0.0, n=9, n_failed=1)
    unknown = Candidate((1,), float("nan"), UNKNOWN, influence=0.0)
    strong = Candidate((2,), 0.5, half, influence=0.3)
    weak = Candidate((3,), 0.5 + 1e-12, half, influence=0.2)
    best = Candidate((4,), 0.4, half, influence=0.9)
    ordered = sort_candidates([failed, unknown, strong, weak, best])
    assert [one.layers[0] for one in ordered] == [4, 3, 2, 0, 1]


class Broken(PlanningSweep):
    """An asker under which every pair of layers gives no number."""

    def __init__(self) -> None:
        pass

    def harms(self, conditions: Sequence[lr.Condition]) -> list[Harm]:
        return [Harm(float("nan"), UNKNOWN, 0, 4) for _ in conditions]


def test_step_without_any_score_raises() -> None:
    first = [Harm(value, Interval(value, value), 4, 0) for value in (0.2, 0.1, 0.3)]
    with pytest.raises(lr.InputError, match=r"^no layer can be chosen beside \[1\]"):
        _search_greedily(Broken(), first, [0.1, 0.2, 0.3], 2, 8)


def test_layers_are_named_as_sites_are() -> None:
    assert [label_layers(each) for each in ((7, 3), (4, 3, 5), (2,))] == ["L3,L7", "L3:6", "L2"]


def test_plans_are_compared_on_other_examples(plant: Plant, tmp_path: Path) -> None:
    ours, other, drawn = (
        plan(plant, 2, method=method) for method in ("role_aware", "block_influence", "angular")
    )
    bad = lr.PruningPlan(**{**vars(drawn), "method": "random", "layers": (1, 5), "steps": ()})
    plans = [ours, other, drawn, bad]
    conditions = [one.condition for one in plans]
    protocols = ["generation", "answer_logprob"]
    tasks = [task for task in plant.tasks if task.family == "reasoning"]
    sweep = lr.Sweep(plant.model, tasks, conditions, protocols=protocols, limit=20, seed=1)
    result = sweep.run(tmp_path / "run")
    table = lr.compare_plans(result, plans)
    assert len(table) == 4 * 2
    own = table[table["protocol"] == "generation"].set_index("method")
    nats = table[table["protocol"] == "answer_logprob"].set_index("method")
    assert nats.loc["random", "harm"] != nats.loc["random", "harm"]  # no chance, no harm
    assert nats.loc["random", "difference"] > 0.5
    assert nats.loc["random", "low"] > 0
    assert own.loc["role_aware", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert own.loc["role_aware", "harm"] == 0
    assert own.loc["random", "harm"] > 0.5
    lost = own.loc["random"]
    assert lost["difference"] == pytest.approx(-lost["effect"])
    assert lost["low"] == pytest.approx(-lost["ci_high"])  # intact and role-aware are all right
    assert lost["low"] > 0.3
    assert own["best_baseline"].tolist() == [False, True, True, False]

    without = lr.compare_plans(result, plans[1:])
    assert without["difference"].isna().all()
    three = plan(plant, 3, method="random")
    with pytest.raises(lr.InputError, match=r"^the result lacks 'skip .*', by method 'random'"):
        lr.compare_plans(result, [three])
    with pytest.raises(lr.InputError, match=r"^two plans drop 2 layers by method 'angular'"):
        lr.compare_plans(result, [drawn, drawn])
    both = lr.Sweep(plant.model, plant.tasks, [], protocols=["generation"], limit=4, seed=1)
    both.run(tmp_path / "apart")
    alone = lr.Sweep(
        plant.model, tasks, [ours.condition], protocols=["generation"], limit=4, seed=1
    )
    held = alone.run(tmp_path / "apart")
    with pytest.raises(lr.InputError, match=r"was not asked under 'generation' with 'skip .*'"):
        lr.compare_plans(held, [ours])
    with pytest.raises(lr.InputError, match=r"^there are no plans"):
        lr.compare_plans(result, [])


def test_the_figure_draws_harm_by_layers_dropped() -> None:
    keys = {"task": "t<", "family": "reasoning", "protocol": "generation", "n": 40, "layers": "L3"}
    rows = [
        {**keys, "drop": k, "method": m, "harm": h, "harm_low": h - 0.1, "harm_high": h + 0.2}
        for m, hs in (("role_aware", (0.1, 0.3)), ("angular", (0.4, 0.6)))
        for k, h in enumerate(hs, start=1)
    ]
    nats = {**rows[0], "protocol": "chain_logprob", "harm": float("nan")}
    figure = lr.figures.pruned_harm(pd.DataFrame([*rows, nats]))
    ours, angular = figure.data
    assert (ours.name, angular.name) == ("role aware", "angular")
    assert list(ours.y) == [0.1, 0.3]
    assert list(angular.error_y.array) == pytest.approx([0.2, 0.2])
    assert list(angular.error_y.arrayminus) == pytest.approx([0.1, 0.1])
    assert [round(x) for x in ours.x] == [1, 2]
    assert "t&lt;" in figure.layout.annotations[0].text
    with pytest.raises(lr.InputError, match="needs tasks with skill above chance"):
        lr.figures.pruned_harm(pd.DataFrame([nats]))
    with pytest.raises(lr.InputError, match="needs the columns"):
        lr.figures.pruned_harm(pd.DataFrame({"a": [1]}))

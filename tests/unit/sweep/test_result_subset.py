"""Rows of one sweep are selected from all rows in its folder."""

from pathlib import Path

import layerroles as lr
from layerroles.results import INTACT
from layerroles.sweep import select_asked


def test_select_asked_returns_only_the_rows_of_one_sweep(tmp_path: Path) -> None:
    made = lr.planted(n_layers=4, retrieval=(1, 2), reasoning=(3,), inert=())
    options = {"protocols": ["generation"], "noise_floor": False}
    skips = lr.each_layer(made.model, lr.Skip())
    whole = lr.Sweep(made.model, made.tasks, skips, limit=8, **options).run(tmp_path)
    renamed = lr.Condition(dict(skips[1].edits), name="another name")
    less = lr.Sweep(made.model, made.tasks[:1], [renamed], limit=4, **options)
    part = select_asked(less.run(tmp_path), less)
    assert set(part.frame["condition"]) == {INTACT, skips[1].name}
    assert set(part.frame["task"]) == {made.tasks[0].label}
    assert set(part.examples["task"]) == {made.tasks[0].label}
    first = [one.id for one in made.tasks[0].examples(4, 0)]
    assert sorted(part.frame["example"].unique()) == sorted(first)
    assert part.effects()["n"].tolist() == [4]
    assert len(whole.effects()) == 4 * len(made.tasks)


def test_it_is_finished_although_another_is_not(tmp_path: Path) -> None:
    made = lr.planted(n_layers=4, retrieval=(1, 2), reasoning=(3,), inert=())
    skips = lr.each_layer(made.model, lr.Skip())
    sweep = lr.Sweep(made.model, made.tasks[:1], skips, limit=4, noise_floor=False)
    stored = sweep.run(tmp_path)
    larger = {"conditions": [one.hash for one in skips], "cells": []}
    stored.manifest["unfinished"] = [larger]
    for cell in stored.manifest["cells"]:
        cell["n"] = 8
    assert stored.interim
    assert not select_asked(stored, sweep).interim
    lacking = lr.SweepResult(stored.frame.iloc[:-1], stored.manifest, stored.examples)
    assert select_asked(lacking, sweep).interim

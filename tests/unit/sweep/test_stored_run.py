"""Read, resume and extend a stored run folder; check the format and the rows of a new one.

`python -m tests.support.small_run` wrote the stored folder, `tests/data/run_2026_11`. A folder is
resumed only with the same weights, dtype and seed. The manifest records the versions of Python and
of libraries; resuming does not compare them, so they may differ here.
"""

import json
import re
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import layerroles as lr
from layerroles.ablations import ABLATIONS
from layerroles.models import behaviour_config
from layerroles.plants import Plant
from tests.support import small_run

# Keys and types of manifest.json, by path. `?` marks a key that some items lack, `*` any key.
MANIFEST = {
    "": "cells:list chat:bool coherence:bool command:str conditions:list created:str executors:list"
    " layerroles:str limit:int machine:str memory_halved:int model:dict noise_floor:list"
    " peak_memory:int seconds:float seed:int versions:dict",
    "model": "architecture:str d_model:int device:str dtype:str n_heads:int n_layers:int name:str"
    " revision:NoneType weights:str",
    "versions": "layerroles:str python:str torch:str transformer-lens:str transformers:str",
    "cells": "chance:NoneType|float chance_from:str? family:str n:int protocol:str references:dict"
    " shuffled:float? task:str unit:str",
    "cells.references": "*:str",
    "conditions": "ablation:str at:str hash:str heads:list layers:list mechanism:str name:str"
    " parameters:dict parts:list sites:list",
    "conditions.heads": "int",
    "conditions.layers": "int",
    "conditions.parameters": "*:dict",
    "conditions.parts": "str",
    "conditions.sites": "str",
    "executors": "str",
    "noise_floor": "intact:float n:int n_changed:int protocol:str score:float task:str",
}
PROGRESS = {
    "": "host:str now:str pid:int reason:str rows_before:int rows_computed:float"
    " rows_done:int rows_per_second:float rows_total:int seconds:float seconds_left:float"
    " started:str state:str updated:float"
}
# Columns, their types, and their position in the primary key.
TABLES = {
    "examples": "task:TEXT:1 protocol:TEXT:2 example:TEXT:3 place:INTEGER context:TEXT prompt:TEXT"
    " answer:TEXT evidence:TEXT question:TEXT cluster:TEXT guess:TEXT",
    "rows": "condition:TEXT:1 task:TEXT:2 protocol:TEXT:3 example:TEXT:4 score correct strict"
    " outcome response status changed n_tokens form thought details",
}


@cache
def made() -> Plant:
    return small_run.plant()


@cache
def larger() -> lr.Sweep:
    return small_run.sweep(made(), small_run.LARGER)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the stored folder."""
    return Path(shutil.copytree(small_run.RUN, tmp_path / "run"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder written by the current code, with the larger limit."""
    folder = tmp_path_factory.mktemp("runs") / "new"
    larger().run(folder)
    return folder


def stored(run: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(run / "rows.sqlite")) as db:
        return db.execute(query).fetchall()


def schema(value: Any, path: str = "") -> dict[str, str]:
    """Return the keys and types of a nested JSON value, in the format of MANIFEST."""
    items = value if isinstance(value, list) else [value]
    inner = [item for item in items if isinstance(item, dict)]
    if not inner:
        return {path: "|".join(sorted({type(item).__name__ for item in items}))} if items else {}
    free = path.endswith((".parameters", ".references", "s_at_once"))
    names = sorted({name for item in inner for name in item})
    types = {
        name: "|".join(sorted({type(item[name]).__name__ for item in inner if name in item}))
        + "?" * any(name not in item for item in inner)
        for name in names
    }
    if free:
        return {path: " ".join(sorted({f"*:{one.rstrip('?')}" for one in types.values()}))}
    found = {path: " ".join(f"{name}:{types[name]}" for name in names)}
    for name in names:
        below = [item[name] for item in inner if isinstance(item.get(name), dict | list)]
        if below:
            flat = [one for each in below for one in (each if isinstance(each, list) else [each])]
            found |= schema(flat, f"{path}.{name}".lstrip("."))
    return found


def assert_like(found: pd.DataFrame, file: Path, tolerance: float) -> None:
    """Check a frame against a CSV file: text exactly, numbers within a tolerance."""
    number = r"-?\b\d+(?:\.\d+)?(?:e[-+]?\d+)?\b"
    texts = small_run.as_csv(found), file.read_text("utf-8")
    words, expected_words = (re.sub(number, "#", text).split("\n") for text in texts)
    assert words == expected_words
    numbers, expected = ([float(one) for one in re.findall(number, text)] for text in texts)
    np.testing.assert_allclose(numbers, expected, rtol=0, atol=tolerance)


def test_the_rows_are_those_of_the_csv_file(new: Path) -> None:
    assert_like(small_run.rows(lr.read(new)), small_run.ROWS, 1e-4)


@pytest.mark.parametrize("which", ["old", "new"])
def test_the_manifest_has_these_keys_and_types(which: str, request: Any) -> None:
    manifest = json.loads((request.getfixturevalue(which) / "manifest.json").read_text("utf-8"))
    expected = dict(MANIFEST)
    if which == "new":  # what the old folder's version did not know
        names = expected[""].split()
        more = ["unfinished:list", "only_needed:bool", "rounds:bool"]
        more += ["examples_at_once:dict", "rows_at_once:dict"]
        more += ["asked_next:list", "looks:dict", "until:NoneType"]
        expected[""] = " ".join(sorted([*names, *more]))
        expected |= {"examples_at_once": "", "rows_at_once": "*:int", "looks": ""}
        assert manifest["model"].pop("config") == behaviour_config(made().model)
    assert schema(manifest) == expected


def test_the_folder_has_these_files_and_tables_and_stores_no_module_path(new: Path) -> None:
    progress = json.loads((new / "progress.json").read_text("utf-8"))
    assert schema(progress | {"seconds_left": 0.0}) == PROGRESS  # None when a run is done
    tables = [name for (name,) in stored(new, "SELECT name FROM sqlite_master WHERE type='table'")]
    assert {
        table: " ".join(
            ":".join(filter(None, [name, kind, str(key or "")]))
            for _, name, kind, _, _, key in stored(new, f"PRAGMA table_info({table})")
        )
        for table in tables
    } == TABLES
    files = {path.name: path.read_bytes() for path in new.iterdir()}
    shared = {"rows.sqlite-shm", "rows.sqlite-wal"}  # a reader leaves these
    assert set(files) - shared == {".lock", "manifest.json", "progress.json", "rows.sqlite"}
    assert not [name for name, content in files.items() if b"layerroles." in content]


def test_the_stored_folder_gives_the_same_effects(old: Path) -> None:
    result = lr.read(old)
    assert len(result.frame) == 7 * 2 * 3 * small_run.LIMIT
    assert_like(small_run.effects(result), small_run.EFFECTS, 1e-5)


def test_resuming_the_stored_folder_asks_nothing_again(old: Path) -> None:
    manifest = json.loads((old / "manifest.json").read_text("utf-8"))
    assert_nothing_is_asked(old, small_run.PROTOCOLS)
    now = json.loads((old / "manifest.json").read_text("utf-8"))
    for name in ("created", "seconds", "cells", "conditions", "noise_floor", "executors"):
        assert now[name] == manifest[name], name


def test_it_resumes_after_the_modules_of_registered_classes_have_moved(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for registry in (ABLATIONS, lr.tasks.TASKS, lr.protocols.PROTOCOLS, lr.probes.PROBES):
        for name in registry:
            monkeypatch.setattr(registry[name], "__module__", "layerroles.elsewhere")
    assert_nothing_is_asked(old, ["answer_logprob"])


def assert_nothing_is_asked(run: Path, protocols: Sequence[str]) -> None:
    engine, before = lr.Engine(made().model), stored(run, "SELECT * FROM rows")
    small_run.sweep(made(), small_run.LIMIT, protocols, engine).run(run)
    assert engine.used == set()
    progress = json.loads((run / "progress.json").read_text("utf-8"))
    assert (progress["state"], progress["rows_total"]) == ("done", 0)
    assert stored(run, "SELECT * FROM rows") == before


def test_extending_the_stored_folder_leaves_its_rows_unchanged(old: Path) -> None:
    before = stored(old, "SELECT * FROM rows")
    result = larger().run(old)
    ids = ", ".join(sorted({f"'{row[3]}'" for row in before}))
    assert stored(old, f"SELECT * FROM rows WHERE example IN ({ids})") == before
    added = json.loads((old / "progress.json").read_text("utf-8"))["rows_total"]
    assert added == 7 * 2 * 3 * (small_run.LARGER - small_run.LIMIT)
    assert_like(small_run.rows(result), small_run.ROWS, 1e-4)


def test_a_stored_probe_is_read_and_not_measured_again(old: Path) -> None:
    table = old / "probes" / "logit_lens.csv"
    table.write_text(table.read_text("utf-8").replace("water", "read back"), encoding="utf-8")
    assert "read back" in set(small_run.lens(made(), old)["top_0"])

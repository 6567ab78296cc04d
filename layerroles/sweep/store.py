"""Write a run folder; `results.read_run_folder` reads it.

Answers that were computed together are written in one transaction, so a run that was killed at any
moment resumes with what is missing. One process writes at a time, under a lock that is released
when the process ends.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from layerroles.errors import InputError
from layerroles.models import first_difference
from layerroles.results import EXAMPLE, ROW, check_not_cut_off, read_manifest
from layerroles.sweep.stopping_rule import extend_looks

Key = tuple[str, str, str]  # condition hash, task, protocol

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS rows (
    condition TEXT, task TEXT, protocol TEXT, example TEXT,
    {", ".join(ROW)},
    PRIMARY KEY (condition, task, protocol, example)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS examples (
    task TEXT, protocol TEXT, example TEXT, place INTEGER,
    {", ".join(f"{name} TEXT" for name in EXAMPLE)},
    PRIMARY KEY (task, protocol, example)
) WITHOUT ROWID;
"""
# The manifest values that must be the same when a run is resumed, as paths of keys; tasks and
# conditions may be added, and other values are only recorded.
_SAME = (("model", "weights"), ("model", "dtype"), ("seed",), ("chat",), ("coherence",))
# The manifest values that are kept when a run is resumed.
_KEPT = ("created", "seconds", "executors", "memory_halved", "peak_memory", "noise_floor")


class Store:
    """An open run folder; made by `open_store`."""

    def __init__(self, folder: Path, manifest: dict[str, Any], db: sqlite3.Connection) -> None:
        self.folder = folder
        self.manifest = manifest
        self._db = db

    def answered_ids(self) -> dict[Key, set[str]]:
        """Return the ids of the answered examples, by condition hash, task and protocol."""
        ids: dict[Key, set[str]] = {}
        for *key, example in self._db.execute(
            "SELECT condition, task, protocol, example FROM rows"
        ):
            ids.setdefault((key[0], key[1], key[2]), set()).add(example)
        return ids

    def read_answers(self, condition: str, task: str, protocol: str) -> dict[str, dict[str, Any]]:
        """Return the stored answers under a condition in a cell, by example id and column."""
        rows = self._db.execute(
            f"SELECT example, {', '.join(ROW)} FROM rows "
            "WHERE condition = ? AND task = ? AND protocol = ?",
            (condition, task, protocol),
        )
        return {id: dict(zip(ROW, values, strict=True)) for id, *values in rows}

    def manifest_cell(self, task: str, protocol: str) -> dict[str, Any]:
        """Return a cell's manifest entry; changes to it are stored by `save_manifest`."""
        cells: list[dict[str, Any]] = self.manifest["cells"]
        (cell,) = (one for one in cells if (one["task"], one["protocol"]) == (task, protocol))
        return cell

    def add_noise_floor(self, floor: dict[str, Any]) -> None:
        """Add a cell's noise floor to the manifest, unless one from more examples is there."""
        keys = ("task", "protocol")
        floors = _merge_items(self.manifest["noise_floor"], [floor], keys)
        order = [(cell["task"], cell["protocol"]) for cell in self.manifest["cells"]]
        floors.sort(key=lambda item: order.index((item["task"], item["protocol"])))
        self.manifest["noise_floor"] = floors

    def add_examples(
        self,
        task: str,
        protocol: str,
        examples: Mapping[str, Sequence[Any]],
        *,
        are_all: bool = False,
    ) -> None:
        """Add a cell's new examples; update questions, clusters and guess scores of stored ones.

        Args:
            task: the cell's task.
            protocol: the cell's protocol.
            examples: the values of `EXAMPLE`, in that order, by example id.
            are_all: whether the task has no further examples.

        Raises:
            InputError: the folder holds an example of the same id with another context, prompt or
                answer, or one that the task no longer gives, or the folder cannot be written.
        """
        stored = {
            row[0]: row[1:]
            for row in self._db.execute(
                "SELECT example, context, prompt, answer FROM examples "
                "WHERE task = ? AND protocol = ?",
                (task, protocol),
            )
        }
        for id, values in examples.items():
            if stored.get(id, tuple(values[:3])) != tuple(values[:3]):
                raise InputError(
                    f"run folder {str(self.folder)!r} asked example {id!r} of task {task!r} under "
                    f"{protocol!r} in other words, or with another answer: the task or protocol "
                    f"has changed, use a new folder"
                )
        gone = [id for id in stored if id not in examples]
        # A larger limit only appends (`Task.examples`), so a smaller one asks a part of the stored.
        if gone and (are_all or not examples.keys() <= stored.keys()):
            raise InputError(
                f"run folder {str(self.folder)!r} asked example {gone[0]!r} of task {task!r}, "
                "which the task no longer gives: its questions have changed, or a larger limit "
                "does more than append to them; use a new folder"
            )
        new = [
            (task, protocol, id, place, *values)
            for place, (id, values) in enumerate(examples.items())
            if id not in stored
        ]
        self._insert("examples", 4 + len(EXAMPLE), new)
        # A task may have named no questions or clusters when it was asked first. Scores of guessing
        # are replaced only together with the cell's chance, which is kept if fewer examples are
        # asked than before.
        names = ["question", "cluster"]
        names += ["guess"] if self.manifest_cell(task, protocol)["n"] == len(examples) else []
        for name in names:
            column = EXAMPLE.index(name)
            values = [(values_of[column], task, protocol, id) for id, values_of in examples.items()]
            with _refuse_write_errors(self.folder), self._db:
                self._db.executemany(
                    f"UPDATE examples SET {name} = COALESCE(NULLIF(?, ''), {name}) "
                    f"WHERE task = ? AND protocol = ? AND example = ?",
                    values,
                )

    def add_rows(self, unit: Mapping[Key, Mapping[str, Sequence[Any]]]) -> None:
        """Write rows in one transaction.

        Args:
            unit: the values of the columns `ROW`, in that order, by key (condition hash, task,
                protocol) and example id.
        """
        rows = [
            (*key, id, *values) for key, examples in unit.items() for id, values in examples.items()
        ]
        self._insert("rows", 4 + len(ROW), rows)

    def save_manifest(self) -> None:
        """Write the manifest to the folder, by atomic replacement of the file."""
        with _refuse_write_errors(self.folder):
            _write_manifest(self.folder, self.manifest)

    def _insert(self, table: str, n: int, rows: Sequence[Sequence[Any]]) -> None:
        marks = ", ".join("?" * n)
        with _refuse_write_errors(self.folder), self._db:
            self._db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder against other writers in the `with` block; create the folder if missing.

    Raises:
        InputError: the folder cannot be written, another process is writing to it, or the system
            has no `fcntl` locks (Windows).
    """
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise InputError(
            f"run folder {str(folder)!r} cannot be locked on this system: write it on Linux, on "
            "macOS or in WSL"
        ) from error
    with ExitStack() as exit_stack:
        with _refuse_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = exit_stack.enter_context((folder / ".lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"run folder {str(folder)!r} is being written by another process"
                ) from None
        yield


@contextmanager
def open_store(folder: Path, manifest: dict[str, Any]) -> Iterator[Store]:
    """Open a folder that is locked by `lock_folder`; merge the given manifest with the stored one.

    The stored manifest stays as it is until `Store.save_manifest` replaces it.

    Raises:
        InputError: the folder cannot be written, is damaged or of an early version, or holds
            another run: another model, dtype, seed or way of asking, or conditions or tasks of the
            same names that differ; or `extend_looks` refuses the number of questions.
    """
    with ExitStack() as exit_stack:
        with _refuse_write_errors(folder):
            merged_manifest = _merge_manifest(folder, manifest)
            check_not_cut_off(folder / "rows.sqlite")
            db = exit_stack.enter_context(closing(sqlite3.connect(folder / "rows.sqlite")))
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            _check_columns(folder, db)
        yield Store(folder, merged_manifest, db)


def _check_columns(folder: Path, db: sqlite3.Connection) -> None:
    """Check that the tables have the columns that are written, in this order.

    Raises:
        InputError: the columns are others, as in folders of early versions.
    """
    for table, columns in (("rows", ROW), ("examples", EXAMPLE)):
        present = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
        if tuple(present[4:]) != columns:
            raise _early_version(folder, f"table {table} of its rows.sqlite has other columns")


def _early_version(folder: Path, reason: str) -> InputError:
    return InputError(
        f"run folder {str(folder)!r} is of an early version and can only be read: {reason}; use "
        f"another folder"
    )


@contextmanager
def _refuse_write_errors(folder: Path) -> Iterator[None]:
    """Convert errors of the disk or the database to an `InputError` that names the run folder."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"run folder {str(folder)!r} cannot be written: {reason}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"run folder {str(folder)!r}: rows.sqlite is damaged ({error})") from error


def _merge_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    stored = read_manifest(folder)
    if stored is None:
        return manifest
    for name in ("limit", "chat", "coherence", *_KEPT):
        if name not in stored:
            raise _early_version(folder, f"its manifest.json lacks {name!r}")
    _check_same_model_and_settings(folder, stored, manifest)
    rules = {(cell["task"], cell["protocol"]): cell.get("rules") for cell in stored["cells"]}
    references = _references_by_cell(stored["cells"])
    for cell in manifest["cells"]:
        names = cell["task"], cell["protocol"]
        if rules.get(names, cell.get("rules")) != cell.get("rules"):
            raise InputError(
                f"run folder {str(folder)!r} asked task {names[0]!r} by other rules (its prompts, "
                f"filters or metrics have changed): use another folder"
            )
        before, now = references.get(names, {}), cell.get("references", {})
        if any(before.get(name, digest) != digest for name, digest in now.items()):
            raise InputError(
                f"run folder {str(folder)!r} asked task {names[0]!r} with a reference of other "
                f"prompts (the task's questions have changed): use another folder"
            )
    hashes = {item["name"]: item["hash"] for item in stored["conditions"]}
    for item in manifest["conditions"]:
        if hashes.get(item["name"], item["hash"]) != item["hash"]:
            raise InputError(
                f"run folder {str(folder)!r} holds another condition called {item['name']!r} "
                f"(other parameters or another reference): give one of them a name of its own, or "
                f"use another folder"
            )
    cells = _merge_items(stored["cells"], manifest["cells"], ("task", "protocol"))
    for cell in cells:  # keep the references of conditions that are not asked this time
        names = cell["task"], cell["protocol"]
        noted = references.get(names, {}) | _references_by_cell(manifest["cells"]).get(names, {})
        cell |= {"references": noted} if noted else {}
    return {
        **manifest,
        **{name: stored[name] for name in _KEPT},
        **{name: stored.get(name, {}) for name in ("rows_at_once", "examples_at_once")},
        "unfinished": stored.get("unfinished", []),
        "looks": extend_looks(stored, manifest),
        "until": manifest["until"] or stored.get("until"),
        "asked_next": stored.get("asked_next", []),
        # A folder of an earlier version keeps its units (answers that are stored together).
        "rounds": stored.get("rounds", False),
        "only_needed": stored.get("only_needed", False) and manifest["only_needed"],
        "limit": max(stored["limit"], manifest["limit"]),
        "cells": cells,
        "conditions": _merge_items(stored["conditions"], manifest["conditions"], ("hash",)),
    }


def _check_same_model_and_settings(
    folder: Path, stored: dict[str, Any], manifest: dict[str, Any]
) -> None:
    for path in _SAME:
        old, new = _value_at(stored, path), _value_at(manifest, path)
        if old != new:
            what = " ".join(path)
            name = _value_at(stored, ("model", "name"))
            raise InputError(
                f"run folder {str(folder)!r} is of another run: its {what} is {old!r} "
                f"(model {name!r}), not {new!r}; use another folder"
            )
    old, new = (one["model"].get("config", {}) for one in (stored, manifest))
    if (differing := first_difference(old, new)) is not None:
        raise InputError(
            f"run folder {str(folder)!r} is of a model with another configuration: {differing!r} "
            f"differs; use another folder"
        )


def _references_by_cell(cells: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, str]]:
    """Return how open references were filled, by (task, protocol).

    Each value maps the digest of an open reference (one without prompts of its own) to the digest
    of the reference that was made for the task.
    """
    return {(cell["task"], cell["protocol"]): cell.get("references", {}) for cell in cells}


def _merge_items(
    old: list[dict[str, Any]], new: list[dict[str, Any]], keys: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Merge two lists of manifest entries; entries that are only in `new` come last.

    A new entry replaces the old one with the same values of `keys`, unless the new one covers fewer
    examples (`n`). The old `name` is kept; so are the old estimates of chance if both entries have
    the same `n`.
    """
    merged = {tuple(item[key] for key in keys): item for item in old}
    for item in new:
        before = merged.get(tuple(item[key] for key in keys), {})
        # With a smaller limit than before, the old entry stays.
        if before.get("n", 0) <= item.get("n", 0):
            values_kept = {"name": before["name"]} if "name" in before else {}
            if "chance_from" in before and before.get("n") == item.get("n"):
                values_kept |= {key: before[key] for key in ("chance", "chance_from")}
            if "shuffled" in before and before.get("n") == item.get("n"):
                values_kept["shuffled"] = before["shuffled"]
            merged[tuple(item[key] for key in keys)] = item | values_kept
    return list(merged.values())


def _value_at(manifest: dict[str, Any], path: tuple[str, ...]) -> object:
    value: Any = manifest
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    scratch = folder / ".manifest.json"
    # A parameter of a user's ablation may be anything, and an argument of the command may hold
    # bytes that are not UTF-8 (lone surrogates), so the text is ASCII.
    text = json.dumps(manifest, indent=2, default=repr)
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(folder / "manifest.json")

"""Questions from files that a user has: read and written row by row."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import layerroles as lr

PLACE = "_place"  # where a row comes from, among its fields


def read_rows(folder: Path, pattern: str, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """Read the rows of JSONL files; the field `PLACE` of a row has its file and line.

    Args:
        folder: the folder of the files.
        pattern: glob pattern of their names.
        fields: the fields that each row must have, with their types; others are dropped.

    Raises:
        InputError: no such file, one that is not UTF-8, or a row without one of the fields.
    """
    if not (files := sorted(folder.glob(pattern))):
        raise lr.InputError(f"--data: {str(folder)!r} holds no {pattern}: see --help")
    rows = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise lr.InputError(f"--data: {file} cannot be read as UTF-8: {error}") from error
        # A line of JSON may hold what `splitlines` takes for the end of one.
        for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
            place = f"{file}, line {number}"
            row = _parse_line(line)
            if not all(isinstance(row.get(name), kind) for name, kind in fields.items()):
                wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in fields.items())
                raise lr.InputError(f"--data: {place} is no JSON object with {wanted}")
            rows.append({name: row[name] for name in fields} | {PLACE: place})
    return rows


def _parse_line(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def map_rows(
    rows: Iterable[dict[str, Any]], one: Callable[[dict[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the results of `one` on each row.

    Raises:
        InputError: `one` cannot read a row; the message names the row's place.
    """
    found = []
    for row in rows:
        try:
            found.append(one(row))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise lr.InputError(
                f"--data: {row[PLACE]} cannot be read as --help says ({what})"
            ) from None
    return found


def select_choice(choices: list[str], gold: int) -> str:
    """Return the right choice, the one with index `gold`.

    Raises:
        ValueError: a choice is not a text, or there is none with that index.
    """
    if not all(isinstance(choice, str) for choice in choices):
        raise ValueError("choices must be texts")
    if isinstance(gold, bool) or not 0 <= gold < len(choices):
        raise ValueError(f"there is no choice {gold}")
    return choices[gold]


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows, without `PLACE`, to a JSONL file; create missing folders, return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fields = ({name: value for name, value in row.items() if name != PLACE} for row in rows)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in fields), encoding="utf-8")
    return file


def drop_repeated_rows(rows: Iterable[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Return the rows without those that equal an earlier row in the fields `names`."""
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        first.setdefault(tuple(json.dumps(row[name]) for name in names), row)
    return list(first.values())

"""Read the files of a run folder: `manifest.json` describes the run, `rows.sqlite` has the answers.

The primary key of a row is its condition hash, task, protocol and example. A task under a protocol
is a *cell*; the manifest has an entry for each, with its number of examples and its chance.
"""

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from layerroles.errors import InputError

# The columns of the two tables that come after those of the primary key.
ROW = (
    *("score", "correct", "strict", "outcome", "response", "status", "changed", "n_tokens"),
    *("form", "thought", "details"),
)
EXAMPLE = ("context", "prompt", "answer", "evidence", "question", "cluster", "guess")


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a run folder's manifest, rows and examples; both lists in the order of the examples.

    Raises:
        InputError: the path is not a run folder, or its files are damaged or do not match.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{str(folder)!r} is not a run folder: it has no manifest.json")
    try:
        check_not_cut_off(folder / "rows.sqlite")
        uri = f"{(folder / 'rows.sqlite').absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            db.row_factory = sqlite3.Row
            examples = list(map(dict, db.execute("SELECT * FROM examples ORDER BY place")))
            rows = list(
                map(
                    dict,
                    db.execute(
                        "SELECT rows.* FROM rows JOIN examples USING (task, protocol, example) "
                        "ORDER BY examples.place"
                    ),
                )
            )
    except (sqlite3.DatabaseError, OSError) as error:
        raise InputError(
            f"run folder {str(folder)!r}: rows.sqlite cannot be read ({error})"
        ) from error
    conditions = {item["hash"] for item in manifest["conditions"]}
    cells = {(cell["task"], cell["protocol"]) for cell in manifest["cells"]}
    if any(
        r["condition"] not in conditions or (r["task"], r["protocol"]) not in cells for r in rows
    ):
        raise InputError(
            f"run folder {str(folder)!r}: rows.sqlite holds rows of which manifest.json knows "
            f"nothing; the two are of different runs"
        )
    return manifest, rows, examples


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a run folder; None if the folder has none.

    Raises:
        InputError: the file cannot be read, is damaged, or is not that of a run.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(
            f"run folder {str(folder)!r}: manifest.json cannot be read ({error.strerror})"
        ) from error
    except ValueError as error:
        raise InputError(f"run folder {str(folder)!r}: manifest.json is damaged") from error
    if not isinstance(manifest, dict) or not _is_manifest(manifest):
        raise InputError(f"run folder {str(folder)!r}: manifest.json is not that of a run")
    return manifest


def _is_manifest(manifest: dict[str, Any]) -> bool:
    lists = {"cells": {"task", "protocol", "family"}, "conditions": {"name", "hash"}}
    return isinstance(manifest.get("model"), dict) and all(
        isinstance(manifest.get(name), list)
        and all(isinstance(item, dict) and keys <= set(item) for item in manifest[name])
        for name, keys in lists.items()
    )


def check_not_cut_off(file: Path) -> None:
    """Check that a database file does not end inside a page.

    SQLite would read the rest of the page as zeros.

    Raises:
        sqlite3.DatabaseError: the file was cut off.
    """
    journal = file.with_name(f"{file.name}-wal")
    with suppress(FileNotFoundError):  # the journal may vanish at any moment: the file is complete
        if journal.stat().st_size:
            return  # SQLite repairs the file from its journal
    if not file.is_file():
        return
    with file.open("rb") as reading:
        header = reading.read(18)
    page = int.from_bytes(header[16:18])
    if len(header) == 18 and file.stat().st_size % (65536 if page == 1 else max(page, 1)):
        raise sqlite3.DatabaseError("the file was cut off")

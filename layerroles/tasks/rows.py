"""Read a user's questions from a file, and say where it is wrong: file, line, what to do.

The fields of a row are documented in `layerroles.tasks.local`.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from layerroles.errors import InputError
from layerroles.tasks.base import FAMILIES, Example

Row = dict[str, object]
# In these a cell of a CSV file holds several values.
_LISTS = ("choices", "evidence")


@dataclass(frozen=True)
class Questions:
    """What a file holds.

    Attributes:
        examples: its questions, in its order.
        family: the family that its rows name, or nothing if none does.
    """

    examples: tuple[Example, ...]
    family: str | None


def read_questions(path: Path) -> Questions:
    """Read a JSONL or CSV file of questions.

    Raises:
        InputError: it cannot be read as such; with its name and the line, counted from 1.
    """
    examples: dict[str, Example] = {}
    lines: dict[str, int] = {}
    families: dict[str, int] = {}
    for line, row in _rows(path):
        try:
            example, family = _example(row), _family(row)
        except _RowError as error:
            raise InputError(f"{path}, line {line}: {error}") from None
        if example.id in lines:
            raise InputError(
                f"{path}, line {line}: id {example.id!r} is that of line {lines[example.id]} too; "
                f"give each question its own"
            )
        if family:
            families.setdefault(family, line)
        examples[example.id] = example
        lines[example.id] = line
    if len(families) > 1:
        (first, _), (second, line) = list(families.items())[:2]
        raise InputError(
            f"{path}, line {line}: family {second!r} after rows of {first!r}; a file holds one "
            f"family: put the others into files of their own"
        )
    if not examples:
        raise InputError(f"{path} holds no question; put one into each line")
    return Questions(examples=tuple(examples.values()), family=next(iter(families), None))


class _RowError(Exception):
    """What is wrong in a row; the caller knows the file and the line."""


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    readers = {".jsonl": _json_rows, ".csv": _csv_rows}
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a .jsonl or .csv file in it")
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: the name of a file of questions ends in .jsonl or .csv")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path of the file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    return readers[path.suffix.lower()](path, text)


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    # Not splitlines(): it would cut rows at U+2028 and the like, which JSON allows within texts.
    for line, written in enumerate(text.split("\n"), start=1):
        if not written.strip():
            continue
        try:
            row = json.loads(written)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}, line {line}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(
                f'{path}, line {line}: not a JSON object; write {{"prompt": ..., "answer": ...}}'
            )
        # A field that holds nothing is as good as none.
        yield line, {name: value for name, value in row.items() if value is not None}


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            # A cell may run over several lines: a row is named by its first.
            start, line = line, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not names:
                names = [cell.strip() for cell in cells]
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{path}, line {start}: {len(cells)} cells under {len(names)} names; put a "
                    f"cell that holds a comma into double quotes"
                )
            yield start, _split(dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not CSV: {error}") from None


def _split(cells: dict[str, str]) -> Row:
    return {
        name: [part.strip() for part in cell.split("|")] if name in _LISTS else cell
        for name, cell in cells.items()
        if cell.strip()
    }


def _example(row: Row) -> Example:
    prompt, answer = _text(row, "prompt").rstrip(), _text(row, "answer").strip()
    choices = tuple(_choice(choice) for choice in _list(row, "choices"))
    if choices and answer not in choices:
        raise _RowError(f"answer {answer!r} is not among the choices {list(choices)}")
    if len(set(choices)) < len(choices):
        raise _RowError(f"choices {list(choices)} name one twice")
    digest = hashlib.sha256(json.dumps([prompt, answer]).encode()).hexdigest()[:12]
    example = Example(
        id=_text(row, "id").strip() if "id" in row else digest,
        prompt=prompt,
        answer=answer,
        choices=choices,
        solution=_text(row, "solution").strip() if "solution" in row else "",
    )
    evidence = tuple(_span(prompt, given) for given in _list(row, "evidence"))
    return dataclasses.replace(example, evidence=evidence)


def _family(row: Row) -> str | None:
    family = row.get("family")
    if family is None:
        return None
    if not isinstance(family, str) or family.strip() not in FAMILIES:
        raise _RowError(f"unknown family {family!r}: known are {', '.join(FAMILIES)}")
    return family.strip()


def _text(row: Row, name: str) -> str:
    if name not in row:
        raise _RowError(f"no field {name!r}; each question needs 'prompt' and 'answer'")
    text = _choice(row[name], name)
    if not text.strip():
        raise _RowError(f"field {name!r} is empty")
    return text


def _choice(value: object, name: str = "choices") -> str:
    """A text; a number written as one serves too."""
    if isinstance(value, str):
        return value.strip() if name == "choices" else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise _RowError(f"field {name!r} holds {value!r}, which is not a text")


def _list(row: Row, name: str) -> list[object]:
    value = row.get(name, [])
    if not isinstance(value, list):
        raise _RowError(f"field {name!r} holds {value!r}, which is not a list")
    return value


def _span(prompt: str, given: object) -> tuple[int, int]:
    if isinstance(given, str) and given:
        start = prompt.find(given)
        if start < 0:
            raise _RowError(f"evidence {given!r} does not occur in the prompt")
        return start, start + len(given)
    match given:
        case [int(start), int(end)] if 0 <= start < end <= len(prompt):
            return start, end
    raise _RowError(
        f"evidence {given!r} is neither a text of the prompt nor [start, end] within its "
        f"{len(prompt)} characters"
    )

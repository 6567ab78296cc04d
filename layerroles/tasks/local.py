"""Questions of the user's own, from a JSONL or CSV file.

One question a row, with these fields:

- `prompt` (needed): the question, up to where the answer follows after one space; white space at
  its end is dropped.
- `answer` (needed): the right answer.
- `choices`: possible answers, the right one among them; a JSON list, in CSV separated by `|`.
- `evidence`: what in the prompt holds the answer; a JSON list of texts that occur in the prompt
  (the first place counts) or of `[start, end]` pairs of character positions, the end excluded; in
  CSV texts separated by `|`.
- `solution`: a worked solution that ends in the answer, as in "The answer is 7."; shown in the
  worked examples of protocols that generate, and scored by `chain_logprob`.
- `family`: one of the families, the same one in the whole file; else given as a parameter.
- `id`: names the question, once in the file; else made from prompt and answer.

Other fields are left alone, and empty lines are skipped. The file is UTF-8, and its name ends in
`.jsonl` or `.csv`.

Read a user's questions from a file, and say where it is wrong: file, line, what to do.

The fields of a row are documented in `layerroles.tasks.local`.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.tasks.base import FAMILIES, Example, Grade, grade_text, one_of, register, whole
from layerroles.tasks.grading import grade_number, is_number
from layerroles.tasks.sources import Listed

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


_OF_THE_FILE = "of the file"


@register("local")
@dataclass(frozen=True)
class Local(Listed):
    """Ask the questions of a JSONL or CSV file with the fields `prompt` and `answer`.

    The file is read once, when the task is made. 64 of its questions, or a fifth where there are
    fewer than 320, are reserved for references and never asked.

    Attributes:
        path: the file.
        family: the family of the questions; needed only where the rows do not name it.
        max_gen_toks: tokens after which a generated answer is cut.
        num_fewshot: other questions of the file before each.

    Raises:
        InputError: a file that cannot be read, a row that is no question, no family, or several.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from layerroles.tasks import task
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "questions.jsonl")
        ...     row = '{"prompt": "2 + 2 =", "answer": "4", "family": "reasoning"}'
        ...     _ = path.write_text(row, encoding="utf-8")
        ...     asked = task(f"local:{path}")
        >>> asked.family, asked.examples(limit=1, seed=0)[0].answer
        ('reasoning', '4')
    """

    argument: ClassVar[str] = "path"
    grading: ClassVar[int] = 2

    path: str
    family: str = _OF_THE_FILE
    max_gen_toks: int = 32

    def __post_init__(self) -> None:
        """Read the file.

        Raises:
            InputError: the file cannot be read as questions of one family.
        """
        super().__post_init__()
        whole(self.name, "max_gen_toks", self.max_gen_toks, 1, 4096)
        object.__setattr__(self, "path", str(self.path))
        given, named = self.family, self._questions.family
        if given == _OF_THE_FILE:
            if named is None:
                raise InputError(
                    f"{self.path}: no row has a field 'family'; add it or give the parameter "
                    f"family, one of {', '.join(FAMILIES)}"
                )
            object.__setattr__(self, "family", named)
            return
        one_of(self.name, "family", given, FAMILIES)
        if named not in (None, given):
            raise InputError(
                f"{self.path}: its rows are of the family {named!r}, not {given!r}; a file holds "
                f"one family"
            )

    @property
    def label(self) -> str:
        """`local:PATH`, or with brackets where more than the path is given."""
        given = [] if self._questions.family else [f"family={self.family}"]
        given += [f"max_gen_toks={self.max_gen_toks}"] if self.max_gen_toks != 32 else []
        given += [f"num_fewshot={self.num_fewshot}"] if self.num_fewshot else []
        if not given:
            return f"{self.name}:{self.path}"
        return f"{self.name}[{','.join([f'path={self.path}', *given])}]"

    def groups(self) -> dict[str, list[Example]]:
        """All questions, as one group."""
        return {"": list(self._questions.examples)}

    @property
    def until(self) -> tuple[str, ...]:
        """The end of the line; where worked solutions are shown, a blank line."""
        return ("\n\n",) if self._worked else ("\n",)

    def grade(self, response: str, example: Example) -> Grade:
        """By value where the answer is a number, else as a short text.

        The first line is read; where worked solutions are shown, all of it, and as a short text
        what "answer is" names last, or else the last line.
        """
        response = response.strip()
        if not self._worked:
            response = response.split("\n", 1)[0]
        if is_number(example.answer):
            return grade_number(response, example.answer)
        return grade_text(_concluded(response) if self._worked else response, example)

    @property
    def _worked(self) -> bool:
        return self.num_fewshot > 0 and any(e.solution for e in self._questions.examples)

    @cached_property
    def _questions(self) -> Questions:
        return read_questions(Path(self.path))


def _concluded(response: str) -> str:
    """What a worked solution comes to."""
    last = response.rsplit("\n", 1)[-1]
    return re.split(r"answer is:?", last, flags=re.IGNORECASE)[-1].strip()

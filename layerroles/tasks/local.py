"""Read a user's own questions from a JSONL or CSV file.

Each row is a question, with these fields:

- `prompt` (required): the question; the answer follows it after one space. White space at its end
  is dropped.
- `answer` (required): the right answer.
- `choices`: possible answers, including the right one, none of them empty. In JSON, a list; in
  CSV, texts separated by `|`.
- `evidence`: the parts of the prompt on which the answer depends. In JSON, a list of texts that
  occur in the prompt (the first occurrence counts) or of `[start, end]` pairs of character
  positions, the end excluded; in CSV, texts separated by `|`.
- `solution`: a worked solution that ends in the answer, as in "The answer is 7."; shown in the
  worked examples of protocols that generate, and scored by `chain_logprob`.
- `family`: one of the families, the same in the whole file; if no row has it, set the task's
  parameter `family`.
- `id`: unique in the file; by default a hash of prompt and answer.

Other fields are ignored, and empty lines are skipped. The file is UTF-8, and its name ends in
`.jsonl` or `.csv`. Error messages name the file and the line, and say what to do.
"""

import csv
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
from layerroles.tasks.base import (
    FAMILIES,
    Example,
    Grade,
    check_one_of,
    check_whole_number,
    grade_text,
    register,
)
from layerroles.tasks.grade_numbers import grade_number, is_number
from layerroles.tasks.task_base_classes import Listed

_OF_THE_FILE = "of the file"


@register("local")
@dataclass(frozen=True)
class Local(Listed):
    """Ask the questions of a JSONL or CSV file with the fields `prompt` and `answer`.

    The file is read once, when the task is made. 64 of its questions, or a fifth if there are fewer
    than 320, are never asked, but reserved for references (see `held_out`).

    Attributes:
        path: the file.
        family: the family of the questions; required only if the rows do not name it.
        max_gen_toks: the maximum number of tokens in a generated answer.
        num_fewshot: worked examples before each question: other questions of the file.
        shot_order: the order of the worked examples: `drawn` or `reversed`.

    Raises:
        InputError: a file that cannot be read, a row that is not a valid question, or rows of no
            family or of several.

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
    grading: ClassVar[int] = 3

    path: str
    family: str = _OF_THE_FILE
    max_gen_toks: int = 32

    def __post_init__(self) -> None:
        """Read the file and check the parameters.

        Raises:
            InputError: the file cannot be read as questions of one family, or `family` or
                `max_gen_toks` is not allowed.
        """
        super().__post_init__()
        check_whole_number(self.name, "max_gen_toks", self.max_gen_toks, 1, 4096)
        object.__setattr__(self, "path", str(self.path))
        family, file_family = self.family, self._questions.family
        if family == _OF_THE_FILE:
            if file_family is None:
                raise InputError(
                    f"{self.path}: no row has a field 'family'; add it or give the parameter "
                    f"family, one of {', '.join(FAMILIES)}"
                )
            object.__setattr__(self, "family", file_family)
            return
        check_one_of(self.name, "family", family, FAMILIES)
        if file_family not in (None, family):
            raise InputError(
                f"{self.path}: its rows are of the family {file_family!r}, not {family!r}; a file "
                f"holds one family"
            )

    @property
    def label(self) -> str:
        """The task's label: `local:PATH`, or `local[path=PATH,...]` if other parameters are set."""
        parameters = [] if self._questions.family else [f"family={self.family}"]
        parameters += [f"max_gen_toks={self.max_gen_toks}"] if self.max_gen_toks != 32 else []
        parameters += [f"num_fewshot={self.num_fewshot}"] if self.num_fewshot else []
        parameters += [f"shot_order={self.shot_order}"] if self.shot_order != "drawn" else []
        if not parameters:
            return f"{self.name}:{self.path}"
        return f"{self.name}[{','.join([f'path={self.path}', *parameters])}]"

    def groups(self) -> dict[str, list[Example]]:
        """Return all questions as one group."""
        return {"": list(self._questions.examples)}

    @property
    def until(self) -> tuple[str, ...]:
        """The string that ends an answer: a line break, or a blank line if shots show solutions."""
        return ("\n\n",) if self._shows_solutions else ("\n",)

    def grade(self, response: str, example: Example) -> Grade:
        """Grade by value (`grade_number`) if the answer is a number, else as a short text.

        Only the first line is read. If shots show worked solutions, the whole response is read
        instead: a text answer is what follows the last "answer is" in the last line, or the whole
        last line if these words are missing.
        """
        response = response.strip()
        if not self._shows_solutions:
            response = response.split("\n", 1)[0]
        if is_number(example.answer):
            return grade_number(response, example.answer)
        return grade_text(
            _find_conclusion(response) if self._shows_solutions else response, example
        )

    @property
    def _shows_solutions(self) -> bool:
        return self.num_fewshot > 0 and any(e.solution for e in self._questions.examples)

    @cached_property
    def _questions(self) -> "QuestionFile":
        return read_questions(Path(self.path).expanduser())


def _find_conclusion(response: str) -> str:
    """Return what follows the last "answer is" of the last line; without it, the whole line."""
    last_line = response.rsplit("\n", 1)[-1]
    return re.split(r"answer is:?", last_line, flags=re.IGNORECASE)[-1].strip()


@dataclass(frozen=True)
class QuestionFile:
    """The content of a file of questions.

    Attributes:
        examples: the questions in the order of the file.
        family: the family that the rows name; None if no row names one.
    """

    examples: tuple[Example, ...]
    family: str | None


def read_questions(path: Path) -> QuestionFile:
    """Read a JSONL or CSV file of questions.

    Raises:
        InputError: the file cannot be read as questions; the message names the file and the line,
            counted from 1.
    """
    examples: dict[str, Example] = {}
    lines: dict[str, int] = {}
    families: dict[str, int] = {}
    for line, row in _read_rows(path):
        try:
            example, family = _parse_example(row), _parse_family(row)
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
    return QuestionFile(examples=tuple(examples.values()), family=next(iter(families), None))


class _RowError(Exception):
    """An error in a row; `read_questions` adds the file and the line to its message."""


FieldValues = dict[str, object]
# Fields whose cell in a CSV file contains several values.
_LIST_FIELDS = ("choices", "evidence")


def _read_rows(path: Path) -> Iterator[tuple[int, FieldValues]]:
    readers = {".jsonl": _read_json_rows, ".csv": _read_csv_rows}
    try:
        is_folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if is_folder:
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


def _read_json_rows(path: Path, text: str) -> Iterator[tuple[int, FieldValues]]:
    # Not splitlines(): it would cut rows at U+2028 and the like, which JSON allows within texts.
    for line, row_text in enumerate(text.split("\n"), start=1):
        if not row_text.strip():
            continue
        try:
            row = json.loads(row_text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}, line {line}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(
                f'{path}, line {line}: not a JSON object; write {{"prompt": ..., "answer": ...}}'
            )
        # A field that is null counts as missing.
        yield line, {name: value for name, value in row.items() if value is not None}


def _read_csv_rows(path: Path, text: str) -> Iterator[tuple[int, FieldValues]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            # A row may span several lines: errors name the first.
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
            yield start, _split_lists(dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not CSV: {error}") from None


def _split_lists(cells: dict[str, str]) -> FieldValues:
    return {
        name: [part.strip() for part in cell.split("|")] if name in _LIST_FIELDS else cell
        for name, cell in cells.items()
        if cell.strip()
    }


def _parse_example(row: FieldValues) -> Example:
    prompt, answer = _text_field(row, "prompt").rstrip(), _text_field(row, "answer").strip()
    choices = tuple(_to_text(choice) for choice in _list_field(row, "choices"))
    if not all(choices):
        raise _RowError(
            f"choices {list(choices)} hold an empty one; leave it out (in CSV, no | at the end)"
        )
    if choices and answer not in choices:
        raise _RowError(f"answer {answer!r} is not among the choices {list(choices)}")
    if len(set(choices)) < len(choices):
        raise _RowError(f"choices {list(choices)} name one twice")
    digest = hashlib.sha256(json.dumps([prompt, answer]).encode()).hexdigest()[:12]
    return Example(
        id=_text_field(row, "id").strip() if "id" in row else digest,
        prompt=prompt,
        answer=answer,
        choices=choices,
        solution=_text_field(row, "solution").strip() if "solution" in row else "",
        evidence=tuple(_parse_span(prompt, value) for value in _list_field(row, "evidence")),
    )


def _parse_family(row: FieldValues) -> str | None:
    family = row.get("family")
    if family is None:
        return None
    if not isinstance(family, str) or family.strip() not in FAMILIES:
        raise _RowError(f"unknown family {family!r}: known are {', '.join(FAMILIES)}")
    return family.strip()


def _text_field(row: FieldValues, name: str) -> str:
    if name not in row:
        raise _RowError(f"no field {name!r}; each question needs 'prompt' and 'answer'")
    text = _to_text(row[name], name)
    if not text.strip():
        raise _RowError(f"field {name!r} is empty")
    return text


def _to_text(value: object, name: str = "choices") -> str:
    """Return a field's value, a text or a number, as text.

    Raises:
        _RowError: the value has another type; the message names the field `name`.
    """
    if isinstance(value, str):
        return value.strip() if name == "choices" else value
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if is_whole or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    raise _RowError(f"field {name!r} holds {value!r}, which is not a text")


def _list_field(row: FieldValues, name: str) -> list[object]:
    value = row.get(name, [])
    if not isinstance(value, list):
        raise _RowError(f"field {name!r} holds {value!r}, which is not a list")
    return value


def _parse_span(prompt: str, evidence: object) -> tuple[int, int]:
    if isinstance(evidence, str) and evidence:
        start = prompt.find(evidence)
        if start < 0:
            raise _RowError(f"evidence {evidence!r} does not occur in the prompt")
        return start, start + len(evidence)
    match evidence:
        case [int(start), int(end)] if 0 <= start < end <= len(prompt):
            return start, end
    raise _RowError(
        f"evidence {evidence!r} is neither a text of the prompt nor [start, end] within its "
        f"{len(prompt)} characters"
    )

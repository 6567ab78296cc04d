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
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.tasks.base import FAMILIES, Example, Grade, grade_text, register
from layerroles.tasks.listed import Listed
from layerroles.tasks.numbers import grade_number, is_number
from layerroles.tasks.parameters import one_of, whole
from layerroles.tasks.rows import Questions, read_questions

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

"""Code that is printed on pages: find it, and run it as a reader would, in an empty folder.

A page is a list of fenced blocks. What becomes of one is said by its language:

- `python` is run, all blocks of a page in one namespace; a `text` block right behind one is what it
  must have printed (`...` stands for anything, blanks for blanks);
- `pycon` is run as a doctest;
- `console` holds commands behind `$ `, one a line, `\\` goes on; those that only read a run which
  the page has made are run, see `commands` for all;
- anything with a `title` is a file of that name beside the others, and python is run as well;
- everything else is only shown.
"""

import contextlib
import doctest
import io
import re
import shlex
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from layerroles.cli import main

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)?(?P<options>[^\n]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
MODULE = "printed_page"  # in which the code of a page stands
READING = ("status", "compare")
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: relative to the project.
        line: of its first line of code.
        language: behind the fence.
        title: of the file that it is, or nothing.
        code: without the fence.
        follows: whether nothing but blank lines is between it and the block before.
    """

    page: str
    line: int
    language: str
    title: str
    code: str
    follows: bool

    @property
    def name(self) -> str:
        """Where it is, and how it begins: what is still right when other lines are added."""
        return f"{self.page}: {self.code.strip().splitlines()[0]}"


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, those in tabs and lists among them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found, last = [], -1
    for match in _FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match["options"])
        found.append(
            Block(
                page,
                text[: match.start("body")].count("\n") + 1,
                match["language"] or "",
                title[1] if title else "",
                textwrap.dedent(match["body"]),
                last >= 0 and not text[last : match.start()].strip(),
            )
        )
        last = match.end()
    return found


def run_page(page: str, *, elsewhere: frozenset[str] = frozenset()) -> list[str]:
    """Run the python of a page in the current folder; returns what did not print as is shown.

    Args:
        page: relative to the project.
        elsewhere: names of blocks that are left out.
    """
    module = types.ModuleType(MODULE)  # pickle and dataclasses look for their module
    sys.modules[module.__name__] = module
    printed, wrong = "", []
    try:
        for block in blocks(page):
            if block.title:
                file = Path(block.title)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.code, encoding="utf-8")
            if block.language == "python" and block.name not in elsewhere:
                printed = _run(block, module.__dict__)
            elif block.language == "text" and block.follows:
                if not doctest.OutputChecker().check_output(block.code, printed, _FLAGS):
                    wrong.append(f"{page}:{block.line} shows\n{block.code}\nbut it is\n{printed}")
            elif block.language == "pycon":
                wrong += _try(block, module.__dict__)
            elif block.language == "console":
                wrong += _look(block)
    finally:
        del sys.modules[module.__name__]
    return wrong


def _run(block: Block, namespace: dict[str, object]) -> str:
    """Run a block, whose traceback tells the page and its line; what it printed."""
    lines = "\n" * (block.line - 1)
    code = compile(lines + block.code, str(ROOT / block.page), "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, namespace)
    return out.getvalue()


def _try(block: Block, namespace: dict[str, object]) -> list[str]:
    test = doctest.DocTestParser().get_doctest(
        block.code, namespace, block.name, block.page, block.line
    )
    printed: list[str] = []
    runner = doctest.DocTestRunner(optionflags=_FLAGS, verbose=False)
    runner.run(test, out=printed.append, clear_globs=False)
    namespace.update(test.globs)
    return printed


def _look(block: Block) -> list[str]:
    """Run the commands of a console that read finished runs; those that fail."""
    failed = []
    for _, (program, *words) in _commands(block):
        name, *runs = words or [""]
        if program == "layerroles" and name in READING and all(Path(run).is_dir() for run in runs):
            with contextlib.redirect_stdout(io.StringIO()):
                code = main(words)
            failed += [f"{block.page}:{block.line}: {words} exits with {code}"] * bool(code)
    return failed


def commands(page: str) -> Iterator[tuple[int, list[str]]]:
    """The commands of a page's consoles, as words, with their lines; comments are left out.

    Of a `bash` script, those of `layerroles` alone.
    """
    for block in blocks(page):
        if block.language == "console":
            yield from _commands(block)
        elif block.language == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "layerroles" in words:
                    yield block.line, words[words.index("layerroles") :]


def _commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            for joined, part in groupby(words, lambda word: word in ("&&", "|")):
                if not joined:
                    yield block.line, list(part)

"""Every public name is documented: a line, an example that runs, its errors, a place in docs."""

import ast
import inspect
import pydoc
import re
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layerroles as lr
from layerroles.ablations.base import ABLATIONS
from layerroles.errors import InputError
from tests.support import page_code
from tests.support.random_models import model_path
from tests.support.tiers import mark_rest

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Their examples take a data set of the hub; tests/integration/test_lm_eval.py asks such tasks.
NEED_DATA = {"tasks.LmEval", "protocols.Harness"}
# A first line that is shown in one row of a table.
LONGEST_LINE = 180


def public() -> Iterator[tuple[str, Any]]:
    """Every public name, as it is written behind `lr.`, with what it stands for."""
    for name in lr.__all__:
        value = getattr(lr, name)
        if isinstance(value, types.ModuleType):
            own = getattr(value, "__all__", [one for one in vars(value) if one[0] != "_"])
            found = {one: getattr(value, one) for one in own}
            yield from (
                (f"{name}.{one}", what)
                for one, what in found.items()
                if not isinstance(what, types.ModuleType)
            )
        elif name != "__version__":
            yield name, value


PUBLIC = dict(public())
# Constants, such as `tasks.FAMILIES`, have no docstring; the pages speak of them.
DOCUMENTED = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isclass(value) or inspect.isroutine(value)
}


def doc(value: object) -> str:
    """A docstring, an inherited one not counted."""
    return inspect.cleandoc(value.__doc__ or "")


def example(text: str) -> str:
    """What stands under `Example:` in a docstring, without its indent."""
    found = re.search(r"^Example:\n((?: {4}.*\n?|\n)+)", text, re.MULTILINE)
    return textwrap.dedent(found[1]) if found else ""


def raises_input_error(function: ast.AST) -> bool:
    """Whether it contains `raise InputError(...)`."""
    return any(
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id == "InputError"
        for node in ast.walk(function)
    )


def silent(value: object) -> list[str]:
    """Methods and functions that raise `InputError` without documenting it in `Raises:`."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))  # type: ignore[arg-type]
    tree = ast.parse(source).body[0]
    if not isinstance(tree, ast.ClassDef):
        return ["itself"] if raises_input_error(tree) and "Raises:" not in doc(value) else []
    docs = {"__init__": doc(value), "__post_init__": doc(value)}
    methods = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    docs |= {node.name: ast.get_docstring(node) or "" for node in methods if node.name[0] != "_"}
    return [
        node.name
        for node in methods
        if node.name in docs and raises_input_error(node) and "Raises:" not in docs[node.name]
    ]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_begins_with_a_line_and_has_an_example(name: str) -> None:
    text = doc(DOCUMENTED[name])
    first = text.split("\n\n")[0]
    assert first.endswith(".") and len(first) <= LONGEST_LINE, f"{name}: {first!r}"
    assert example(text), f"{name} has no `Example:`"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_what_raises_input_error_says_so(name: str) -> None:
    assert not silent(DOCUMENTED[name]), f"{name}: `Raises:` is missing"


def test_what_is_silent_is_found() -> None:
    class Loud:
        """Speak up."""

        def speak(self) -> None:
            """Speak."""
            raise InputError("no")

        def shout(self) -> None:
            """Shout.

            Raises:
                InputError: always.
            """
            raise InputError("no")

    assert silent(Loud) == ["speak"]


def test_the_reference_holds_every_public_name() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/*.md"))
    index = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: layerroles\.(\S+)", pages, re.MULTILINE))
    listed = set(re.findall(r"\]\[layerroles\.(\S+?)\]", index))
    assert shown == listed, "docs/api.md and docs/reference/ name different things"
    registers = {"ablation", "tasks.register", "protocols.register", "probes.register"}
    same = {name.removeprefix("tasks.") for name in PUBLIC}  # lr.task and lr.tasks.task
    missing = set(DOCUMENTED) & same - registers - shown
    assert not missing, f"put {sorted(missing)} into docs/api.md and a page of docs/reference/"
    for name in set(PUBLIC) - set(DOCUMENTED) | registers - {"ablation"}:
        assert f"lr.{name}" in pages, f"no page of docs/reference/ speaks of lr.{name}"


def test_the_index_says_what_docstrings_say_first() -> None:
    index = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`\S+`\]\[(layerroles\.\S+)\] \| (.*) \|$", index, re.MULTILINE)
    assert len(rows) > 100
    for path, summary in rows:
        if path == "layerroles.registry.Registry.register":  # there of ablations alone
            continue
        value = pydoc.locate(path)
        assert value is not None, path
        assert summary == " ".join(doc(value).split("\n\n")[0].split()), path


def test_assistants_page_matches_the_index() -> None:
    page = (DOCS / "llms.txt").read_text(encoding="utf-8")
    index = (DOCS / "api.md").read_text(encoding="utf-8")
    summaries = dict(re.findall(r"^- lr\.(\w+): (.*)$", page, re.MULTILINE))
    listed = dict(re.findall(r"^\| \[`(\w+)`\]\[layerroles\.\1\] \| (.*) \|$", index, re.MULTILINE))
    assert len(summaries) == 12
    assert summaries == {name: listed[name] for name in summaries}
    links = re.findall(r"\]\((\S+)\)", page)
    assert len(links) > 8 and all((DOCS / link).is_file() for link in links)
    for name in re.findall(r"\blr\.(\w+)", page):
        assert name in DOCUMENTED or name in PUBLIC, name


def code_of(page: str) -> list[str]:
    """The python that stands on a page."""
    return [block.code for block in page_code.blocks(page) if block.language == "python"]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What docs/api.md makes before its examples begin, in a folder of its own."""
    begin = code_of("docs/api.md")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        patch.setattr(
            "layerroles.ablations.statistics_cache.cache_folder", lambda: Path("kept").resolve()
        )
        made: dict[str, Any] = {"__name__": "examples"}
        exec(compile(begin, "docs/api.md", "exec"), made)
        # The built-in model is large; one with random weights takes its place.
        load = lr.load
        patch.setattr(lr, "model_folder", lambda _: model_path("llama"))
        patch.setattr(
            lr,
            "load",
            lambda name, **options: load(
                model_path("llama") if name == "smollm2-135m" else name, **options
            ),
        )
        yield made


CODE = [name for name, value in DOCUMENTED.items() if ">>>" not in example(doc(value))]


# Examples of some seconds, which run more than a sweep.
LONG = {"figures.answers_spent", "compare_plans", "figures.pruned_harm", "figures.save"}


@pytest.mark.parametrize(
    "name", mark_rest("pages", sorted(set(CODE) - NEED_DATA), first=set(CODE) - NEED_DATA - LONG)
)
def test_an_example_runs(name: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # What it registers is forgotten again.
    for registry in (ABLATIONS, lr.probes.PROBES):
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    exec(compile(example(doc(DOCUMENTED[name])), name, "exec"), dict(names))


def test_the_checks_of_the_gotchas_run(names: dict[str, Any]) -> None:
    made = dict(names)
    for code in code_of("docs/gotchas.md"):
        exec(compile(code, "docs/gotchas.md", "exec"), made)


def test_the_tests_that_the_gotchas_name_exist() -> None:
    text = (DOCS / "gotchas.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text)
    assert named
    for file, test in named:
        source = (DOCS.parent / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source, f"{file} has no {test}"


def test_the_gallery_shows_every_figure() -> None:
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"lr\.figures\.(\w+)\(", text))
    others = {"themed", "paper", "save", "caption", "every"}  # take figures, or a whole run
    assert drawn - others == {name for name in lr.figures.__all__ if name[0].islower()} - others
    pictures = re.findall(r"^!\[.+\]\((img/\S+)\)", text, re.MULTILINE)
    assert len(pictures) >= len(drawn - others)
    for picture in pictures:
        assert (DOCS / picture).is_file(), picture

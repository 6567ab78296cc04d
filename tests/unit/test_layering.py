"""Imports run one way, and only `sites` knows the names of hook points.

Read from the syntax trees, so that an import inside a function or for type checkers counts too.
"""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "layerroles"
TESTS = PACKAGE.parent / "tests"

# Left may not import right.
ORDER = (
    "lazy_names errors invisible_characters atomic_replacement private_apis registry sites "
    "notebook_display progress models ablations engine tasks protocols harness probes plants "
    "backends roles figures page "
    "sweep prune cli lm __main__"
).split()
# These stand beside: they use nothing but what is named, and serve `harness` and all behind it; the
# audit of a task takes its correction for many tests from `stats`.
BESIDE = {"stats": {"errors"}, "results": {"errors", "registry", "notebook_display", "stats"}}
SERVED = set(ORDER[ORDER.index("harness") :]) | set(BESIDE)
WITHOUT_TORCH = ("lazy_names", "stats", "results", "roles", "figures", "page")
HEAVY = {"torch", "transformer_lens", "transformers"}

HOOK_NAME = re.compile(
    r"(?<!\w)(hook_(in|out|resid_\w+|attn_\w+|mlp_\w+|[qkvz]|pattern|result|rot_\w+|embed|"
    r"pos_embed|normalized|scale|hidden_states|head_input|pre|post)|blocks\.(\d+|\{))(?!\w)"
)


def modules() -> Iterator[tuple[str, Path, ast.Module]]:
    """Top-level name, path and syntax tree of each module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        yield top, path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module, path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports, absolute, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            if node.module == "layerroles":
                yield from ((f"layerroles.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def may_import(top: str, other: str) -> bool:
    """Whether a module under `top` may import from `other`, both top-level names."""
    if top == other or top not in (*ORDER, *BESIDE):  # a test of its own finds the latter
        return True
    if top in BESIDE:
        return other in BESIDE[top]
    if other in BESIDE:
        return top in SERVED or (top, other) == ("tasks", "stats")
    return ORDER.index(other) < ORDER.index(top)


def typed_only(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that only type checkers see."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from node.body


def wrong_imports(top: str, tree: ast.Module, path: Path) -> list[str]:
    """What a module imports against the order, each with its place."""
    found = []
    for_checkers = {node.lineno for node in typed_only(tree) if isinstance(node, ast.ImportFrom)}
    for name, line in imported(tree, path):
        package, *rest = name.split(".")
        if package == "layerroles" and rest and rest[0] in {*ORDER, *BESIDE}:
            known = line in for_checkers and (top, rest[0]) in FOR_TYPE_CHECKERS
            if not may_import(top, rest[0]) and not known:
                found.append(f"{path}:{line}: {top} imports {rest[0]}")
        elif top in WITHOUT_TORCH and package in HEAVY:
            found.append(f"{path}:{line}: {top} imports {package}")
    return found


# Faces that show type checkers what they import when it is first used.
FOR_TYPE_CHECKERS = {("tasks", "harness"), ("protocols", "harness")}
# Modules that others than their own package use: what draws a page's figures.
PAST_THE_FACE = {"figures.select", "figures.style"}


def past_faces(top: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Modules inside of other packages that a module imports, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            first, _, rest = module.partition(".")
            package, _, inner = rest.partition(".")
            if first != "layerroles" or package == top or not (PACKAGE / package).is_dir():
                continue
            inside = inner or (name if is_module(package, name) else "")
            if package and inside:
                yield f"{package}.{inside}", node.lineno


def is_module(package: str, name: str) -> bool:
    """Whether a package holds a module of this name, and its face no other thing of the name."""
    face = (PACKAGE / package / "__init__.py").read_text(encoding="utf-8")
    return (PACKAGE / package / f"{name}.py").is_file() and not re.search(
        rf"import.*\b{name}\b", face
    )


def module_imports(path: Path, tree: ast.Module) -> set[str]:
    """Modules that are imported when this one is: not by its functions, not for type checkers."""
    lazy = {
        id(node)
        for part in ast.walk(tree)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(part, ast.If) and "TYPE_CHECKING" in ast.unparse(part.test))
        for node in ast.walk(part)
    }
    found: set[Path] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in lazy:
            place = PACKAGE.parent / (node.module or "").replace(".", "/")
            face = {place.with_suffix(".py"), place / "__init__.py"}
            for alias in node.names:
                inner = place / f"{alias.name}.py"
                found |= {inner} if inner.is_file() and inner not in face else face
    return {str(one) for one in found if one.is_file() and PACKAGE in one.parents} - {str(path)}


def hook_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names of hook points in a module's strings, docstrings left out."""
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            match = HOOK_NAME.search(node.value)
            if match:
                yield match[0], node.lineno


# The tables of `torch.nn.Module`, what a namedtuple offers; what the package's own classes share.
_NOT_PRIVATE = {"_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks", "_asdict"}
_OWN = {"_cells", "_columns", "_conditions", "_effects"}


def private_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Names with a leading underscore that a module takes from others, with their lines."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "layerroles":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names = [node.attr]
        for name in names:
            if re.match("_[^_]", name) and name not in _NOT_PRIVATE | _OWN:
                yield name, getattr(node, "lineno", 0)


def imported_tests(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Test modules that a module imports, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = "tests." if node.level else ""  # a relative import stays in `tests`
            names = [f"{package}{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "tests" and any(part.startswith("test_") for part in rest):
                yield name, node.lineno


def test_every_module_has_its_place() -> None:
    placed = {*ORDER, *BESIDE, "__init__"}
    unplaced = sorted({top for top, _, _ in modules()} - placed)
    assert not unplaced, f"say in this test where {unplaced} stand in the order of imports"


def test_imports_run_one_way() -> None:
    wrong = [
        line
        for top, path, tree in modules()
        if top != "__init__"  # names them all, for type checkers
        for line in wrong_imports(top, tree, path)
    ]
    assert not wrong, "\n".join(wrong)


def test_packages_are_imported_by_their_faces() -> None:
    found = {
        (inside, f"{path}:{line}: {inside}")
        for top, path, tree in modules()
        if top != "__init__"
        for inside, line in past_faces(top, tree)
    }
    wrong = [line for inside, line in found if inside not in PAST_THE_FACE]
    assert not wrong, "\n".join(wrong)
    assert {inside for inside, _ in found} == PAST_THE_FACE and len(PAST_THE_FACE) <= 5


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        str(path): module_imports(path, tree)
        for top, path, tree in modules()
        if top != "__init__"  # its imports are for type checkers
    }
    assert sum(map(len, graph.values())) > len(graph)
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(graph)


def test_only_the_harness_imports_lm_eval() -> None:
    found = [
        (top, f"{path}:{line}")
        for top, path, tree in modules()
        for name, line in imported(tree, path)
        if name.partition(".")[0] == "lm_eval"
    ]
    wrong = [line for top, line in found if top != "harness"]
    assert len(wrong) < len(found) and not wrong, "\n".join(wrong)


def test_package_init_imports_only_lazy_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name for node in at_import for name, _ in imported(ast.Module([node], []), PACKAGE)}
    assert names == {"typing", "layerroles.lazy_names"}


def test_only_sites_holds_names_of_hook_points() -> None:
    found = [
        f"{path}:{line}: {name!r}"
        for top, path, tree in modules()
        if top != "sites"
        for name, line in hook_names(tree)
    ]
    assert not found, "\n".join(found)


def test_only_one_module_holds_private_names_of_other_libraries() -> None:
    found = [
        (top, f"{path}:{line}: {name!r}")
        for top, path, tree in modules()
        for name, line in private_names(tree)
    ]
    wrong = [line for top, line in found if top != "private_apis"]
    assert len(wrong) < len(found) and not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("top", "source"),
    [
        ("sites", "from layerroles.models import load"),
        ("models", "import layerroles.engine.reference_executor"),
        ("engine", "def f():\n    from layerroles import tasks"),
        ("engine", "from layerroles.results import SweepResult"),
        ("stats", "import torch.nn"),
        ("results", "from transformer_lens import HookedTransformer"),
        ("results", "from layerroles.sites import Site"),
    ],
)
def test_a_wrong_import_is_found(top: str, source: str) -> None:
    assert wrong_imports(top, ast.parse(source), Path("made_up.py"))


@pytest.mark.parametrize(
    ("top", "source"),
    [
        ("models", "from layerroles.sites import Site"),
        ("sweep", "from layerroles.results import SweepResult"),
        ("results", "from layerroles.stats import paired"),
        ("cli", "import layerroles as lr"),
        ("figures", "from layerroles.figures.style import palette"),
    ],
)
def test_a_right_import_is_not(top: str, source: str) -> None:
    assert not wrong_imports(top, ast.parse(source), Path("made_up.py"))


def test_a_hook_name_is_found_in_code_but_not_in_prose() -> None:
    source = '"""About hook_z."""\nname = f"blocks.{layer}.hook_resid_post"\nother = "a hook_up"'
    assert {line for _, line in hook_names(ast.parse(source))} == {2}


def test_no_test_imports_another() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name, line in imported_tests(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "what tests share belongs into tests/support:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from tests.unit.engine.test_engine import PAIRS", 1),
        ("from tests.unit.engine import test_engine", 1),
        ("import tests.unit.engine.test_engine as other", 1),
        ("def f():\n    from .test_engine import PAIRS", 1),
        ("from tests.support.scale import Scale\nfrom tests.faults.kill import sweep", 0),
        ("from torch.testing import test_case", 0),
    ],
)
def test_an_import_of_a_test_is_found(source: str, count: int) -> None:
    assert len(list(imported_tests(ast.parse(source)))) == count


def test_make_quick_names_files_that_there_are() -> None:
    makefile = (PACKAGE.parent / "Makefile").read_text(encoding="utf-8")
    files = re.findall(r"[\w/]+\.py", makefile.split("QUICK :=")[1].split("\nquick:")[0])
    unit = PACKAGE.parent / "tests" / "unit"
    assert len(files) > 15 and [file for file in files if not (unit / file).is_file()] == []


def test_the_reading_path_names_files_that_there_are() -> None:
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = re.findall(r"^\| `([\w/]+\.py)` \|", page, re.MULTILINE)
    assert 30 < len(files) <= 42
    assert [file for file in files if not (PACKAGE / file).is_file()] == []

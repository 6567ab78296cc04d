"""The package as a whole: it is cheap to import, and its public names resolve."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

import layerroles

# The public names: a contract, stored with the other names that users rely on.
STORED = Path(__file__).resolve().parents[1] / "data" / "names.txt"
NAMES = re.findall(r"^layerroles\.(\w+)$", STORED.read_text("utf-8"), re.MULTILINE)


def run(code: str, *options: str) -> str:
    """The standard output of Python on `code` in a process of its own."""
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_public_names() -> None:
    assert sorted(layerroles.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(layerroles))
    assert set(layerroles.probes.__all__) <= set(dir(layerroles.probes))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_resolves(name: str) -> None:
    value = getattr(layerroles, name)
    assert value is getattr(layerroles, name)
    if name in ("figures", "probes", "protocols", "tasks"):
        assert value.__name__ == f"layerroles.{name}"
    elif name == "ablation":
        assert value.__qualname__ == "Registry.register"
    elif name != "__version__":
        assert value.__name__ == name


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(layerroles.__file__).read_text(encoding="utf-8"))
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )
    seen = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "written `X as X`, it is re-exported"
            seen[alias.name] = node.module
    assert sorted([*seen, "__version__"]) == sorted(NAMES)
    for name, module in seen.items():
        if module != "layerroles":
            assert getattr(layerroles, name) is getattr(importlib.import_module(str(module)), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'layerroles' has no attribute 'sweeep'"):
        _ = layerroles.sweeep  # type: ignore[attr-defined]


def test_no_public_function_shares_its_name_with_a_module() -> None:
    # Importing the module later would replace the function.
    folder = Path(layerroles.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {
        path.name for path in folder.iterdir() if path.is_dir()
    }
    shared = {
        name
        for name in NAMES
        if name in modules and not isinstance(getattr(layerroles, name), types.ModuleType)
    }
    assert not shared


@pytest.mark.package
def test_functions_are_still_there_when_every_module_is_imported() -> None:
    out = run(
        "import importlib, layerroles as lr\n"
        "names = [n for n in lr.__all__ if n != '__version__']\n"
        "before = {n: getattr(lr, n) for n in names}\n"
        "for m in 'sites models ablations engine tasks protocols probes sweep results "
        "stats roles figures page cli'.split(): importlib.import_module(f'layerroles.{m}')\n"
        "print([n for n in names if getattr(lr, n) is not before[n]])"
    )
    assert out == "[]"


def test_import_is_light_and_silent() -> None:
    code = (
        "import sys, layerroles; "
        "print([m for m in ('torch', 'pandas', 'plotly', 'transformers') if m in sys.modules])"
    )
    assert run(code, "-W", "error") == "[]"


def test_a_run_is_read_judged_drawn_and_reported_without_pytorch(tmp_path: Path) -> None:
    # A copy, since SQLite writes files beside a database that it reads.
    folder = str(shutil.copytree(STORED.parent / "run_2026_11", tmp_path / "run"))
    out = run(
        "import sys\n"
        "import layerroles as lr\n"
        "from layerroles.sweep import describe_unfinished\n"
        f"result = lr.read({folder!r})\n"
        "roles = lr.localize(result, ablation='skip')\n"
        "lr.figures.role_map(result, ablation='skip'), lr.compare(result, result)\n"
        f"lr.report(result, lr.probes.read_saved({folder!r}), {str(tmp_path / 'page.html')!r})\n"
        f"describe_unfinished({folder!r})\n"
        "print({'torch', 'transformer_lens', 'transformers', 'datasets'} & set(sys.modules))"
    )
    assert out == "set()"
    assert (tmp_path / "page.html").is_file()


def test_it_is_imported_from_a_zip_file(tmp_path: Path) -> None:
    folder = Path(layerroles.__file__).parent
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for file in folder.rglob("*.py"):
            made.write(file, file.relative_to(folder.parent))
    out = run(
        f"import sys; sys.path.insert(0, {str(archive)!r}); import layerroles as lr; "
        "from layerroles.cli import shell_completion; "
        "print('package.zip' in lr.__file__, lr.Site(1), 'skip' in shell_completion.ABLATIONS)"
    )
    assert out == "True L1 True"


def test_version() -> None:
    assert importlib.import_module("importlib.metadata").version("layerroles") == (
        layerroles.__version__
    )


def test_is_typed() -> None:
    assert (Path(layerroles.__file__).parent / "py.typed").is_file()


_WITHOUT_POSIX = """
import builtins
from pathlib import Path

import torch

usual = builtins.__import__


def as_on_windows(name, globals=None, *others, **named):
    if name in ("resource", "fcntl") and (globals or {}).get("__name__", "").startswith("layerr"):
        raise ImportError(name)
    return usual(name, globals, *others, **named)


builtins.__import__ = as_on_windows
import layerroles as lr
from layerroles.engine.planning.memory import peak_bytes
from layerroles.sweep.store import lock_folder

for name in lr.__all__:
    getattr(lr, name)
print(peak_bytes(torch.device("cpu")))
try:
    lock_folder(Path("never_made")).__enter__()
except lr.InputError as error:
    print(error)
"""


@pytest.mark.package
def test_it_is_imported_where_posix_modules_are_missing() -> None:
    peak, refused = run(_WITHOUT_POSIX).splitlines()
    assert peak == "0"
    assert refused.startswith("run folder 'never_made' cannot be locked on this system")

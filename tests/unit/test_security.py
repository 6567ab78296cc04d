"""No module of the package makes dangerous calls, by its syntax tree: see SECURITY.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "layerroles"
FOREIGN = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
RUNS = {"eval", "exec", "compile", "__import__"}


def dangers(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [module] if module else [alias.name for alias in node.names]
            found += [f"imports {n}" for n in names if n.split(".")[0] in FOREIGN]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in RUNS or called in ("torch.load", "np.load", "numpy.load", "pd.read_pickle"):
            found.append(f"calls {called}")
        for word in node.keywords:
            if word.arg in ("trust_remote_code", "allow_pickle"):
                found.append(f"sets {word.arg}")
            if word.arg == "shell":
                found.append("runs a shell")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_no_module_makes_dangerous_calls(path: Path) -> None:
    assert dangers(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_check_finds_what_it_looks_for() -> None:
    code = "import pickle.x\nfrom torch import load\ntorch.load(x)\neval(a)\nf(trust_remote_code=y)"
    assert dangers(ast.parse(code)) == [
        *("imports pickle.x", "calls torch.load", "calls eval", "sets trust_remote_code")
    ]

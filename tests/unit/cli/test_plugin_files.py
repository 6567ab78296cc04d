"""Files of plugins: run once, and what fails in them is one line."""

import sys
from pathlib import Path

import pytest

from layerroles.cli.plugin_files import import_plugins
from layerroles.errors import InputError


def test_a_plugin_is_run_once_for_each_import(tmp_path: Path) -> None:
    plugin = tmp_path / "my plugin.py"
    plugin.write_text("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n")
    import_plugins([plugin, plugin])
    assert any(getattr(module, "__file__", None) == str(plugin) for module in sys.modules.values())


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1\nimport no_such_package_at_all\n", "line 2: ModuleNotFoundError: No module named"),
        ("x = (\n", r"line 1: SyntaxError: '\(' was never closed"),
        ("def f():\n    return 1 / 0\n\nf()\n", "line 2: ZeroDivisionError: division by zero"),
        ("raise SystemExit\n", "line 1: SystemExit"),
        (
            "from layerroles.errors import InputError\nraise InputError('no')\n",
            "line 2: no$",
        ),
    ],
)
def test_a_plugin_that_fails(source: str, reason: str, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(source)
    with pytest.raises(InputError, match=reason) as caught:
        import_plugins([plugin])
    assert f"plugin {str(plugin)!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.py", "folder.py", "text.txt"])
def test_a_plugin_that_is_no_python_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "text.txt").write_text("x = 1\n")
    with pytest.raises(InputError, match="is not a Python file"):
        import_plugins([tmp_path / name])


def test_a_plugin_that_cannot_be_looked_up() -> None:
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        import_plugins([Path(f"{'n' * 300}.py")])

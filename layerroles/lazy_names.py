"""Import the names of a package when they are first used (PEP 562).

The package's `__init__` lists its names as imports that only type checkers see; `lazy_getattr`
reads that list and makes the `__getattr__` of the package. So neither `import layerroles` nor
reading a saved run imports PyTorch.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module


def modules_of_names(package: str) -> dict[str, str]:
    """Map each name in the `TYPE_CHECKING` block of a package's `__init__` to its module."""
    tree = ast.parse(inspect.getsource(sys.modules[package]))  # works in a zip file too
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module != package
        for alias in node.names
    }


def lazy_getattr(package: str, submodules: Sequence[str] = ()) -> Callable[[str], object]:
    """Return a `__getattr__` that imports the names of `package` and these of its submodules."""
    modules = modules_of_names(package)

    def import_name(name: str) -> object:
        if name in submodules:
            return import_module(f"{package}.{name}")
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return import_name

"""Public names, registered names and command-line options are those of `tests/data/names.txt`.

Users' scripts and run folders contain them. To add a name, add its line to the file.
"""

import dataclasses
import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layerroles as lr
import layerroles.plants  # registers the tasks of planted models
import layerroles.stats
from layerroles.ablations import ABLATIONS
from layerroles.registry import Registry
from tests.support.command_line_page import commands

FILE = Path(__file__).resolve().parents[1] / "data" / "names.txt"


def stored() -> set[str]:
    lines = FILE.read_text("utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def in_modules() -> Iterator[str]:
    """Yield the dotted path of every public name."""
    for module in (lr, lr.figures, lr.probes, lr.protocols, lr.tasks, layerroles.stats):
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            is_private = name.startswith("_") or isinstance(value, types.ModuleType)
            if module is lr or not is_private:
                yield f"{module.__name__}.{name}"


def registered() -> Iterator[str]:
    """Yield every registered name with its parameters and defaults, of which labels are made."""
    registries: tuple[Registry[Any], ...] = (
        ABLATIONS, lr.tasks.TASKS, lr.protocols.PROTOCOLS, lr.probes.PROBES
    )  # fmt: skip
    for registry in registries:
        for name in registry:
            kind = registry[name]
            if kind.__module__.startswith("layerroles."):  # tests register others
                version = f"@{kind.version}" if registry is lr.tasks.TASKS else ""
                fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
                parameters = [
                    field.name + f"={field.default!r}" * (field.default is not dataclasses.MISSING)
                    for field in fields
                ]
                yield " ".join([f"{registry.kind} {name}{version}", *parameters])


def on_the_command_line() -> Iterator[str]:
    """Yield every argument and option of every command."""
    for name, command in commands().items():
        for param in command.params:
            argument = param.param_type_name == "argument"
            spelled = [param.metavar] if argument else [*param.opts, *param.secondary_opts]
            yield f"layerroles {name} {', '.join(spelled)}"


def resolves(path: str) -> bool:
    """Return whether a name exists, lazily imported or not."""
    module, _, name = path.rpartition(".")
    return hasattr(importlib.import_module(module), name)


def test_the_names_are_those_of_the_file() -> None:
    known = stored()
    paths = {line for line in known if " " not in line}
    gone = {path for path in paths if not resolves(path)}
    found = {*in_modules(), *registered(), *on_the_command_line()}
    gone |= known - paths - found
    assert not gone, f"these names are gone, which breaks users' scripts: {sorted(gone)}"
    assert not found - known, f"add these lines to {FILE.name}: {sorted(found - known)}"

"""Names that users' scripts, run folders and papers hold: none goes away, none comes unnoticed.

`tests/data/names.txt` holds them, one a line. Whoever adds a name adds its line.
"""

import dataclasses
import importlib
import types
from collections.abc import Iterator
from pathlib import Path

import layerroles as lr
import layerroles.plants  # registers the tasks of planted models
import layerroles.stats
from layerroles.ablations import ABLATIONS
from layerroles.registry import Registry
from tests.unit.command_line_page import commands

FILE = Path(__file__).resolve().parents[1] / "data" / "names.txt"


def held() -> set[str]:
    lines = FILE.read_text("utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def in_modules() -> Iterator[str]:
    """Public names, as they are imported."""
    for module in (lr, lr.figures, lr.probes, lr.protocols, lr.tasks, layerroles.stats):
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            is_private = name.startswith("_") or isinstance(value, types.ModuleType)
            if module is lr or not is_private:
                yield f"{module.__name__}.{name}"


def registered() -> Iterator[str]:
    """What is registered, with the parameters and defaults of which labels are made."""
    registries: tuple[Registry, ...] = (
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
    """Each command, with its arguments and options."""
    for name, command in commands().items():
        for param in command.params:
            argument = param.param_type_name == "argument"
            spelled = [param.metavar] if argument else [*param.opts, *param.secondary_opts]
            yield f"layerroles {name} {', '.join(spelled)}"


def resolves(path: str) -> bool:
    """Whether a name is there, also where its module imports it only when it is asked for."""
    module, _, name = path.rpartition(".")
    return hasattr(importlib.import_module(module), name)


def test_every_name_is_there_and_held() -> None:
    known = held()
    paths = {line for line in known if " " not in line}
    gone = {path for path in paths if not resolves(path)}
    found = {*in_modules(), *registered(), *on_the_command_line()}
    gone |= known - paths - found
    assert not gone, f"these are gone, and users' scripts may hold them: {sorted(gone)}"
    assert not found - known, f"add these lines to {FILE.name}: {sorted(found - known)}"

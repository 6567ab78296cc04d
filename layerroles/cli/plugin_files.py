"""Run the files of plugins, which register ablations, tasks, protocols and probes."""

import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from layerroles.errors import InputError


def import_plugins(paths: Sequence[Path]) -> None:
    """Run Python files that register ablations, tasks, protocols or probes.

    Raises:
        InputError: a file is missing, is not Python or fails; the message names the file and the
            reason.
    """
    for path in paths:
        _import_plugin(path)


def _import_plugin(path: Path) -> None:
    try:
        is_python = path.suffix == ".py" and path.is_file()
    except OSError as error:
        raise InputError(f"plugin {str(path)!r} cannot be read: {error.strerror}") from error
    if not is_python:
        raise InputError(f"plugin {str(path)!r} is not a Python file: name an existing FILE.py")
    # A file always gets the same module name: if it is imported again, its classes replace their
    # older versions in the registries.
    name = f"layerroles_plugin_{re.sub(r'[^0-9a-zA-Z]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the suffix says that it is Python
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    # Every error of a user's file, also sys.exit(), becomes one line; interrupts pass through.
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        reason = str(error) or type(error).__name__
        if not isinstance(error, InputError):
            reason = f"{type(error).__name__}: {reason}"
        raise InputError(f"plugin {str(path)!r}{_describe_line(error, path)}: {reason}") from error


def _describe_line(error: BaseException, path: Path) -> str:
    """Return the line of the plugin at which the error arose, as ` line 3`; empty if unknown."""
    if isinstance(error, SyntaxError):
        return f" line {error.lineno}"
    line = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f" line {line}" if line else ""

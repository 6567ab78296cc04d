"""The command of a run, and the versions of the packages that its tasks name, for the manifest.

The device, and the versions of Python and the model libraries, are in `models.provenance`.
"""

import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from layerroles.errors import InputError
from layerroles.sweep.task_protocol_cells import SweepCell


def command_line() -> str:
    """Return the command line of this process, with the program's name but not its folder."""
    program = Path(sys.argv[0]).name
    # `python -m layerroles`
    shown = "layerroles" if program == "__main__.py" else program
    return shlex.join([shown, *sys.argv[1:]])


def package_versions(cells: Sequence[SweepCell]) -> dict[str, str]:
    """Return the versions of the packages on which the cells' questions depend.

    Raises:
        InputError: a package that a task names is not installed.
    """
    versions = {}
    for task in (cell.task for cell in cells):
        for name in task.question_packages:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                raise InputError(
                    f"task {task.label!r} names the package {name!r}, which is not installed: "
                    f"pip install {name}"
                ) from None
    return versions

"""Describe a run in its manifest: the command, and the definition of each condition."""

import shlex
import sys
from pathlib import Path
from typing import Any

from layerroles.ablations import Condition


def command_line() -> str:
    """Return the command line of this process, with the program's name but not its folder."""
    program = Path(sys.argv[0]).name
    # `python -m layerroles`
    shown = "layerroles" if program == "__main__.py" else program
    return shlex.join([shown, *sys.argv[1:]])


def describe_condition(condition: Condition) -> dict[str, Any]:
    """Return the manifest entry of a condition: name, ablation, hash, sites and parameters."""
    return {
        "name": condition.name,
        "hash": condition.hash,
        "ablation": condition.ablation,
        "mechanism": condition.mechanism,
        "at": condition.at_name,
        "sites": [str(site) for site in condition],
        "layers": sorted({site.layer for site in condition}),
        "parts": sorted({site.part for site in condition}),
        "heads": sorted({site.head for site in condition if site.head is not None}),
        "parameters": {str(site): edit.parameters() for site, edit in condition.edits.items()},
    }

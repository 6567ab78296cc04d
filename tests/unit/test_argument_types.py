"""A string in place of a result or a model, such as a run's path, raises a one-line error.

The calls are made in a process of its own, in which no type is checked before the package sees it.
"""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import layerroles as lr

KINDS = {
    "SweepResult": ("result", 12),
    "TransformerBridge": ("use load(name)", 12),
}
# These look at something else first, which a string for everything would not get past.
OTHERS = {
    "SweepResult": ("caption", "direct_against_total", "plan_pruning", "save"),
    "TransformerBridge": ("random_heads",),
}


def taking(kind: str) -> Iterator[tuple[str, Callable[..., object], list[str]]]:
    """Public functions and classes that take one of a kind: name, itself, those parameters."""
    for module in (lr, lr.figures):
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if not callable(value) or name in OTHERS[kind]:
                continue
            parameters = inspect.signature(value).parameters.values()
            found = [each.name for each in parameters if kind in str(each.annotation)]
            if found:
                yield f"{module.__name__}.{name}", value, found


def error_line(call: Callable[..., object], names: list[str]) -> str:
    """What is raised where each of these parameters is a string, and the others are fit."""
    given: dict[str, Any] = {
        "ablation": lr.Zero(),
        "condition": lr.Condition({}),
        "conditions": [],
        "drop": 1,
        "factors": {"seed": [0, 1]},
        "order": "top-down",
        "path": "nowhere",
        "plans": [],
        "probes": [],
        "task": lr.task("facts"),
        "tasks": [lr.task("facts")],
        "width": 1,
    }
    parameters = inspect.signature(call).parameters.values()
    needed = [each.name for each in parameters if each.default is each.empty]
    try:
        found = call(
            **{name: given[name] for name in needed if name not in names}
            | dict.fromkeys(names, "some/run")
        )
        if isinstance(found, AbstractContextManager):
            found.__enter__()
    except lr.InputError as error:
        return str(error)
    return "nothing was raised"


def test_a_string_is_neither_a_result_nor_a_model() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = json.loads(done.stdout)
    for kind, (expected, at_least) in KINDS.items():
        assert len(lines[kind]) >= at_least
        for name, line in lines[kind].items():
            assert expected in line, f"{name}: {line}"


if __name__ == "__main__":
    answers = {
        kind: {name: error_line(call, names) for name, call, names in taking(kind)}
        for kind in KINDS
    }
    print(json.dumps(answers))

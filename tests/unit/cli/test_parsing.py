"""What the values of options say: lists, settings, parameters, plugins."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from layerroles.cli.parsing import (
    check_options,
    describe_parameters,
    first_line,
    parse_parameters,
    split_list,
    split_settings,
)
from layerroles.cli.plugin_files import import_plugins
from layerroles.errors import InputError


@dataclass(frozen=True)
class Shape:
    """A thing with parameters of each kind.

    And more about it.
    """

    needed: int
    factor: float = 0.5
    style: Literal["hex", "words"] = "words"
    on: bool = True
    name: str | None = None
    bound: int | str = 3
    path: Path = Path("x")
    ranks: tuple[int, ...] = field(default_factory=tuple)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("facts", ["facts"]),
        (" facts , copying ", ["facts", "copying"]),
        (
            "kv_retrieval[pairs=20,key_style=hex],facts",
            ["kv_retrieval[pairs=20,key_style=hex]", "facts"],
        ),
        ("a[x=1,y=2],b[z=3,w=4]", ["a[x=1,y=2]", "b[z=3,w=4]"]),
    ],
)
def test_split_list(text: str, words: list[str]) -> None:
    assert split_list(text, "--tasks") == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--tasks '' has an empty item"),
        ("facts,", "--tasks 'facts,' has an empty item"),
        ("facts,,copying", "has an empty item"),
        ("facts,facts", "names 'facts' more than once"),
    ],
)
def test_a_wrong_list(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_list(text, "--tasks")


def test_split_settings() -> None:
    assert split_settings(["factor=0.25", "name=a=b"]) == {"factor": "0.25", "name": "a=b"}


@pytest.mark.parametrize("pair", ["factor", "=1", "a b=1", ""])
def test_a_wrong_setting(pair: str) -> None:
    with pytest.raises(InputError, match=r"not of the form name=value"):
        split_settings([pair])


def test_a_setting_twice() -> None:
    with pytest.raises(InputError, match="'factor' more than once"):
        split_settings(["factor=1", "factor=2"])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("needed", "7", 7),
        ("factor", "0.25", 0.25),
        ("factor", "1", 1.0),
        ("style", "hex", "hex"),
        ("on", "False", False),
        ("name", "none", None),
        ("name", "amber", "amber"),
        ("bound", "4", 4),
        ("bound", "high", "high"),
        ("path", "a/b", Path("a/b")),
    ],
)
def test_a_setting_takes_the_type_of_its_field(name: str, text: str, value: Any) -> None:
    converted = parse_parameters(Shape, {name: text})[name]
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"needed": "0.5"}, r"--set needed=0.5: '0.5' is not a whole number"),
        ({"factor": "half"}, r"--set factor=half: 'half' is not a number"),
        ({"style": "uuid"}, "'uuid' is not one of hex, words"),
        ({"on": "maybe"}, "'maybe' is neither true nor false"),
        ({"ranks": "1"}, "cannot be given on the command line"),
    ],
)
def test_a_wrong_value(settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_parameters(Shape, settings)


def test_parameters_are_described() -> None:
    assert describe_parameters(Shape) == (
        "needed, factor=0.5, style=words, on=True, name=None, bound=3, "
        f"path={Path('x')!r}, ranks=()"
    )
    assert describe_parameters(int) == ""
    assert first_line(Shape) == "A thing with parameters of each kind."


def test_only_the_types_of_parameters_that_are_set_need_to_be_known(tmp_path: Path) -> None:
    plugin = tmp_path / "typed.py"
    plugin.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    from torch import Tensor\n"
        "@dataclass\n"
        "class Masked:\n"
        "    factor: float = 0.5\n"
        "    mask: Tensor | None = None\n"
    )
    import_plugins([plugin])
    (masked,) = (
        module.Masked
        for module in list(sys.modules.values())
        if getattr(module, "__file__", None) == str(plugin)
    )
    assert parse_parameters(masked, {"factor": "0.25"}) == {"factor": 0.25}
    with pytest.raises(InputError, match=r"--set mask: Masked .* name 'Tensor' is not defined"):
        parse_parameters(masked, {"mask": "none"})


def test_a_number_in_sites_that_python_cannot_read_is_refused() -> None:
    with pytest.raises(InputError, match="is not a site: write L3"):
        check_options(limit=None, sites=f"L{'9' * 5000}")

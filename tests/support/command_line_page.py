"""The tables of docs/command_line.md, made of the commands themselves.

`python -m tests.support.command_line_page` writes them into the page.
"""

import re
from pathlib import Path
from typing import Any

import typer

from layerroles.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "command_line.md"
_BLOCK = "<!-- options of {name} -->\n{body}<!-- end -->"


def commands() -> dict[str, Any]:
    """The commands by name, in the order of the help."""
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def block(name: str) -> str:
    """What the page holds of a command: usage, what it does, an example, its options."""
    command = commands()[name]
    text, _, example = command.help.partition("[bold]Example")
    examples = [line.strip() for line in example.split("\n")[1:] if line.strip()]
    rows = [_row(param) for param in command.params if param.name != "help"]
    about = " ".join(_plain(text).split())
    shown = "\n".join(f"$ {line}" for line in examples)
    table = "\n".join(["| option | default | what it says |", "| --- | --- | --- |", *rows])
    body = f"\n{about}\n\n```console\n{shown}\n```\n\n{table}\n\n"
    return _BLOCK.format(name=name, body=body)


def page(text: str) -> str:
    """The page with the block of every command as it should be."""
    for name in commands():
        pattern = re.escape(f"<!-- options of {name} -->") + r".*?<!-- end -->"
        made = block(name)
        text = re.sub(pattern, lambda _, made=made: made, text, flags=re.DOTALL)
    return text


def _row(param: Any) -> str:
    argument = param.param_type_name == "argument"
    names = param.metavar if argument else ", ".join([*param.opts, *param.secondary_opts])
    takes = "" if argument or param.is_flag else f" {param.metavar or 'TEXT'}"
    default = "needed" if param.required else _default(param)
    return f"| `{names}{takes}` | {default} | {_plain(param.help or '').replace('|', '/')} |"


def _default(param: Any) -> str:
    value = param.default
    if value is None or value is False or value == []:
        return ""
    if value is True:
        return "yes"
    return f"`{value}`" if not callable(value) else ""


def _plain(text: str) -> str:
    """Help without rich's marks."""
    return re.sub(r"\[/?bold\]", "", text).replace("\\[", "[")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), encoding="utf-8")

"""Pages that are made of the code: options, the index of names, the pages that it stands on.

`make pages` writes them, and `tests/data/names.txt`, to which it only adds.
"""

import dataclasses
import inspect
import pydoc
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import layerroles as lr
import layerroles.stats
from layerroles.ablations import ABLATIONS
from layerroles.cli import app
from layerroles.registry import Registry

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "command_line.md"
NAMES = Path(__file__).parents[1] / "data" / "names.txt"
_ROW = re.compile(r"^\| \[`(\S+)`\]\[(layerroles\.\S+)\] \| (.*) \|$", re.MULTILINE)
_OBJECT = re.compile(r"^::: (layerroles\.\S+)$", re.MULTILINE)
_REGISTER = "layerroles.registry.Registry.register"
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


def ablations_page(text: str) -> str:
    """Add to docs/reference/ablations.md the registered ablations that it lacks."""
    for name in ABLATIONS:
        kind = ABLATIONS[name]
        line = f"::: layerroles.{kind.__name__}\n"
        if kind.__module__.startswith("layerroles.") and line not in text:
            text = text.replace("::: layerroles.Reference\n", f"{line}\n::: layerroles.Reference\n")
    return text


def index_page(text: str, reference: dict[str, str]) -> str:
    """Fill docs/api.md: a row for each object of a reference page, with its docstring's first line.

    Args:
        text: of docs/api.md.
        reference: text of each reference page by its file's name.
    """
    known = {path: (name, row) for name, path, row in _ROW.findall(text)}
    for file, page_text in reference.items():
        rows = []
        for path in _OBJECT.findall(page_text):
            name, row = known.get(path, (path.removeprefix("layerroles."), ""))
            rows.append(f"| [`{name}`][{path}] | {row if path == _REGISTER else said(path)} |")
        table = "\n".join(["| name | what |", "| --- | --- |", *rows])
        heading = rf"(## \[[^\]]+\]\(reference/{re.escape(file)}\)\n\n).*?(?=\n\n|\n*\Z)"
        text = re.sub(heading, lambda m, table=table: m[1] + table, text, flags=re.DOTALL)
    return text


def assistants_page(text: str) -> str:
    """Fill docs/llms.txt with what the docstrings say first."""
    return re.sub(
        r"^- lr\.(\w+): .*$",
        lambda m: f"- lr.{m[1]}: {said(f'layerroles.{m[1]}')}",
        text,
        flags=re.MULTILINE,
    )


def said(path: str) -> str:
    """What the docstring of a public name says first, in one line."""
    value = pydoc.locate(path)
    assert value is not None, path
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


def names() -> set[str]:
    """All that `names.txt` holds: public names, what is registered, arguments and options."""
    return {*_in_modules(), *_members(), *_registered(), *_on_the_command_line()}


def _in_modules() -> Iterator[str]:
    """The dotted path of every public name."""
    for module in (lr, lr.figures, lr.probes, lr.protocols, lr.tasks, layerroles.stats):
        for name in module.__all__:
            if module is lr or not isinstance(getattr(module, name), types.ModuleType):
                yield f"{module.__name__}.{name}"


def _members() -> Iterator[str]:
    """Public fields and methods of every public class: users call and override them."""
    for path in _in_modules():
        kind = pydoc.locate(path)
        if inspect.isclass(kind) and kind.__module__.startswith("layerroles."):
            fields = getattr(kind, "__dataclass_fields__", {})
            for name in {*vars(kind), *fields}:
                if not name.startswith("_"):
                    yield f"{path}: {name}"


def _registered() -> Iterator[str]:
    """Every registered name with its parameters and defaults, of which labels are made."""
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


def _on_the_command_line() -> Iterator[str]:
    """Every argument and option of every command."""
    for name, command in commands().items():
        for param in command.params:
            argument = param.param_type_name == "argument"
            spelled = [param.metavar] if argument else [*param.opts, *param.secondary_opts]
            yield f"layerroles {name} {', '.join(spelled)}"


def pages() -> dict[Path, str]:
    """Each page that is made of the code, as it should be."""
    reference = {file.name: file.read_text("utf-8") for file in DOCS.glob("reference/*.md")}
    reference["ablations.md"] = ablations_page(reference["ablations.md"])
    return {
        PAGE: page(PAGE.read_text("utf-8")),
        DOCS / "reference" / "ablations.md": reference["ablations.md"],
        DOCS / "api.md": index_page((DOCS / "api.md").read_text("utf-8"), reference),
        DOCS / "llms.txt": assistants_page((DOCS / "llms.txt").read_text("utf-8")),
    }


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
    stored = NAMES.read_text("utf-8").splitlines()
    new = sorted(names() - set(stored))
    NAMES.write_text("\n".join([*stored, *new, ""]), encoding="utf-8")

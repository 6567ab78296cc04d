"""`layerroles tasks`: the tasks that `--tasks` takes, and a check of one of them."""

from typing import TYPE_CHECKING, Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import AsJson, Plugins, Seed
from layerroles.cli.parsing import describe_parameters, first_line
from layerroles.cli.plugin_files import import_plugins
from layerroles.errors import InputError

if TYPE_CHECKING:
    from layerroles.tasks import Audit


def command(
    check: Annotated[
        str | None,
        typer.Option(
            metavar="TASK",
            help="Check one task in place of the list: whether its choices give answers away, "
            "duplicates, clusters, lengths. As in --tasks: facts, local:FILE.jsonl, lm_eval:NAME.",
            autocompletion=shell_completion.one_of(shell_completion.TASKS),
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="Questions that --check reads.")] = 2000,
    seed: Seed = 0,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model whose tokenizer and context length --check measures prompts by; only its "
            "config.json and tokenizer are read.",
            autocompletion=shell_completion.models,
        ),
    ] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    r"""List the tasks with their families, parameters and defaults, or check one of them.

    A parameter is set in brackets: kv_retrieval\[pairs=20]. A check runs strategies that do not
    understand a question, such as picking the longest choice, and names those that beat chance.

    [bold]Example:[/bold]
    layerroles tasks --plugin mine.py
    layerroles tasks --check local:questions.jsonl
    """
    import_plugins(plugin or [])
    if check is not None:
        _check_task(check, limit=limit, seed=seed, model=model, as_json=as_json)
        return
    if model is not None:
        raise InputError(f"--model {model} is of use with --check TASK only")

    from layerroles.cli.printing import print_json, print_table
    from layerroles.tasks import TASKS

    rows = []
    for name in TASKS:
        cls = TASKS[name]
        family = getattr(cls, "family", None)
        # A task that reads its questions from a file knows its family only when it is made.
        shown = family if isinstance(family, str) else "of the file"
        rows.append((name, shown, describe_parameters(cls), first_line(cls)))
    if as_json:
        keys = ("name", "family", "parameters", "what")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    print_table("Tasks", ("name", "family", "parameters", "what it asks"), rows)


def _check_task(name: str, *, limit: int, seed: int, model: str | None, as_json: bool) -> None:
    """Check one task's questions by `audit_task`; print the findings as text or as JSON."""
    from layerroles.cli.printing import print_json, print_line
    from layerroles.tasks import audit_task, task

    if limit < 1:
        raise InputError(f"--limit {limit} asks for nothing: give 1 or more")
    made = task(name)
    bridge = None
    if model is not None:
        import layerroles as lr

        bridge = lr.load(model, device="meta")
    audit = audit_task(made, limit=limit, seed=seed, model=bridge)
    if as_json:
        print_json(audit.to_dict())
        return
    _print_strategies(audit)
    for sentence in audit.sentences:
        print_line(sentence)


def _print_strategies(audit: "Audit") -> None:
    from layerroles.cli.printing import format_number, format_p, print_table

    if audit.frame.empty:
        return
    rows = [
        (
            str(row["strategy"]),
            str(row["n"]),
            format_number(row["share"]),
            format_number(row["chance"]),
            format_number(row["excess"], sign=True),
            format_p(row["p_adjusted"]),
            "yes" if row["flagged"] else "",
        )
        for _, row in audit.frame.iterrows()
    ]
    columns = ("always picking", "n", "right", "chance", "excess", "p adjusted", "beats chance")
    print_table(f"Strategies on {audit.task}", columns, rows)

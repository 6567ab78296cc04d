"""`layerroles tasks`: the tasks that `--tasks` takes."""

from layerroles.cli.fields import describe_fields, first_line
from layerroles.cli.options import AsJson, Plugins
from layerroles.cli.plugins import import_plugins


def command(plugin: Plugins = None, as_json: AsJson = False) -> None:
    r"""List the tasks with their families, parameters and defaults.

    A parameter is set in brackets: kv_retrieval\[pairs=20].

    [bold]Example:[/bold]
    layerroles tasks --plugin mine.py
    """
    import_plugins(plugin or [])

    from layerroles.cli.tables import print_json, print_table
    from layerroles.tasks import TASKS

    rows = []
    for name in TASKS:
        cls = TASKS[name]
        family = getattr(cls, "family", None)
        # A task that reads its questions from a file knows its family only when it is made.
        shown = family if isinstance(family, str) else "of the file"
        rows.append((name, shown, describe_fields(cls), first_line(cls)))
    if as_json:
        keys = ("name", "family", "parameters", "what")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    print_table("Tasks", ("name", "family", "parameters", "what it asks"), rows)

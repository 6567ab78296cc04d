"""`layerroles ablations`: the ablations that `--ablation` takes."""

from layerroles.cli.options import AsJson, Plugins
from layerroles.cli.parsing import describe_parameters, first_line
from layerroles.cli.plugin_files import import_plugins


def command(plugin: Plugins = None, as_json: AsJson = False) -> None:
    """List the ablations with their parameters and defaults.

    A parameter is given by --set NAME=VALUE; each task is asked with a reference made of its own
    held-out prompts.

    [bold]Example:[/bold]
    layerroles ablations --plugin scale.py
    """
    import_plugins(plugin or [])

    from layerroles.ablations import ABLATIONS
    from layerroles.cli.printing import print_json, print_table

    rows = [
        (name, describe_parameters(ABLATIONS[name]), first_line(ABLATIONS[name]))
        for name in ABLATIONS
    ]
    if as_json:
        keys = ("name", "parameters", "what")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    print_table("Ablations", ("name", "parameters", "what it does"), rows)

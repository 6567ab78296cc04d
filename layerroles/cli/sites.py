"""`layerroles sites`: where a model can be ablated."""

from typing import Annotated

import typer


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face name, a local folder, a .gguf file, or the built-in smollm2-135m.",
        ),
    ],
) -> None:
    """Show how many layers and heads a model has, and how its sites are written.

    [bold]Example:[/bold]
    layerroles sites smollm2-135m
    """
    import layerroles as lr
    from layerroles.cli.tables import print_table

    config = lr.load(model).cfg
    layers, heads = config.n_layers, config.n_heads
    last, head = f"L{layers - 1}", f"H{heads - 1}"
    groups = getattr(config, "n_key_value_heads", None) or heads
    shared = f", {groups} key/value heads" if groups != heads else ""
    typer.echo(
        f"{model}: {layers} layers of {heads} heads{shared}; stream {config.d_model} wide, "
        f"heads {config.d_head}. Layers and heads are counted from 0."
    )
    rows = [
        ("block", f"L0 ... {last}", "all", "everything the layer adds to the stream"),
        ("attn", f"L0.attn ... {last}.attn", "all.attn", "what its attention adds"),
        ("mlp", f"L0.mlp ... {last}.mlp", "all.mlp", "what its MLP adds"),
        ("head", f"L0.H0 ... {last}.{head}", "all.head", "one query head's z (not with skip)"),
    ]
    print_table("Sites", ("part", "written", "all of them", "its write"), rows)
    typer.echo(f"Ranges are half-open: L0:{min(5, layers)} is layers 0 to {min(5, layers) - 1}.")

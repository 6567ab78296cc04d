"""`layerroles sites`: where a model can be ablated."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import AsJson

if TYPE_CHECKING:
    from layerroles.models import Checks
    from layerroles.sites import Part, Size


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A Hugging Face name, a local folder, a .gguf file, or the built-in smollm2-135m.",
            autocompletion=shell_completion.models,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Show how many layers and heads a model has, how its sites are written, and which can be used.

    Sites are the places that can be ablated. Sublayers can be ablated where the outputs of mixer
    (attention, or what a hybrid layer has instead) and MLP sum to what the layer adds to the
    stream. This is checked when the model is loaded; the second table shows the relative error.

    [bold]Example:[/bold]
    layerroles sites smollm2-135m
    """
    import layerroles as lr
    from layerroles.cli.printing import print_json, print_line, print_table
    from layerroles.models import prepared
    from layerroles.sites import size_of

    bridge = lr.load(model)
    config, size, checks = bridge.cfg, size_of(bridge.cfg), prepared(bridge).checks
    if as_json:
        print_json(
            {
                "model": model,
                "n_layers": size.n_layers,
                "n_heads": size.n_heads,
                "n_kv_heads": size.n_kv_heads,
                "d_model": config.d_model,
                "d_head": config.d_head,
                "parts": [_describe_part(part, size, checks) for part in _SHOWN],
                "identity_error": list(checks.identity_error),
                "adds_up": list(checks.holds),
            }
        )
        return
    shared = f", {size.n_kv_heads} key/value heads" if size.n_kv_heads != size.n_heads else ""
    print_line(
        f"{model}: {size.n_layers} layers of {size.n_heads} heads{shared}; "
        f"stream {config.d_model} wide, heads {config.d_head}. Layers and heads are counted from 0."
    )
    print_table(
        "Sites",
        ("part", "written", "all of them", "what is ablated", "supported"),
        [_part_row(part, size, checks) for part in _SHOWN],
    )
    print_table(
        "What mixer and MLP add, against what the layer adds",
        ("layer", "relative error", "they add up"),
        [
            (f"L{layer}", _format_error(error), "yes" if holds else "no")
            for layer, (error, holds) in enumerate(
                zip(checks.identity_error, checks.holds, strict=True)
            )
        ],
    )
    typer.echo(
        f"Ranges are half-open: L0:{min(5, size.n_layers)} is layers 0 to "
        f"{min(5, size.n_layers) - 1}."
    )


_SHOWN: dict["Part", str] = {
    "block": "everything the layer adds to the stream",
    "attn": "what its attention adds",
    "mlp": "what its MLP adds",
    "head": "one query head's z (not with skip or swap)",
    "kv_group": "z of the heads that share a key/value head (likewise)",
    "mixer": "what it mixes tokens with: attention, or what a hybrid has in its place",
    "stream": "the stream itself, as it leaves the layer (likewise)",
}


def _describe_part(part: "Part", size: "Size", checks: "Checks") -> dict[str, object]:
    """Return JSON values on a part: how its sites are written, and which cannot be ablated."""
    from layerroles.sites import each_site

    sites = each_site(size, part)
    return {
        "part": part,
        "first": str(sites[0]),
        "last": str(sites[-1]),
        "all": "all" if part == "block" else f"all.{part}",
        "refused": [str(site) for site in sites if checks.refusal(site) is not None],
    }


def _part_row(part: "Part", size: "Size", checks: "Checks") -> tuple[str, ...]:
    from layerroles.sites import each_site

    sites = each_site(size, part)
    all_of_them = "all" if part == "block" else f"all.{part}"
    refused: dict[str, list[int]] = {}
    for site in sites:
        reason = checks.refusal(site)
        if reason is not None:
            # Drop the number at the end, which differs between layers; the second table has it.
            refused.setdefault(reason.split(" (")[0], []).append(site.layer)
    supported = "yes"
    if refused:
        layers = sorted({layer for layers_refused in refused.values() for layer in layers_refused})
        which = "no" if len(layers) == size.n_layers else f"not in {_join_layers(layers)}"
        supported = f"{which}: {'; '.join(refused)}"
    return part, f"{sites[0]} ... {sites[-1]}", all_of_them, _SHOWN[part], supported


def _format_error(error: float) -> str:
    return "no hooks" if math.isnan(error) else f"{error:.1e}"


def _join_layers(layers: list[int]) -> str:
    return ", ".join(f"L{layer}" for layer in layers)

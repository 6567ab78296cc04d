r"""Write captions: what a figure shows, its number of examples, its intervals, and the model.

>>> latex_figure("Harm \N{MINUS SIGN} 5% of x_1.", "harm.pdf", full=False).splitlines()[2]
'  \\includegraphics{harm.pdf}'
"""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

import plotly.graph_objects as go

from layerroles.errors import InputError
from layerroles.results import SweepResult, check_result

_OF_EFFECTS = (
    "Intervals: Wilson's of shares of right answers, Tango's of paired effects on them, bootstrap "
    "of other scores"
)
_OF_HARM = (
    "Intervals of harm: Tango's of the paired effect on 0/1 scores (bootstrap on others), divided "
    "by intact minus chance"
)
_NOT_CORRECTED = "not corrected for the number of {many}"
_OF_MEANS = "Intervals: Student's t over examples"
_LENS = "Intervals: order statistics of a median, Student's t of a mean"
_JOINT = "Intervals: bootstrap over examples, drawn jointly for all layers and protocols"
_SINGLE = f"{_OF_HARM}; {_NOT_CORRECTED.format(many='layers')}"
_PROFILE = (
    "Solid line and band: the intact model; dotted line: chance. Marks show at which positions the "
    "ablation acts",
    f"{_OF_EFFECTS}; {_NOT_CORRECTED.format(many='layers')}",
)

# How to read each figure, and what its intervals are.
_READ: dict[str, tuple[str, str]] = {
    "role_map": (
        "Bars: full where the interval of harm lies above 0.2, outlined where it lies within 0.1 "
        "of 0 (spare), outlined and half full between 0 and 0.4 (partial), blue below 0 (helps), "
        "pale otherwise (undecided). Circles: the same layer, ablated at other positions",
        _SINGLE,
    ),
    "harm_map": ("", _SINGLE),
    "answers_spent": (
        "Height of a bar: questions asked of a layer, on a logarithmic scale; colour: its "
        "verdict, by the interval of its harm",
        "",
    ),
    "depth_contrasts": ("", _JOINT),
    "depth_profile": _PROFILE,
    "protocols": _PROFILE,
    "likelihood_hides": (
        "The two harms of a layer are joined; their difference is filled where its interval "
        "excludes 0",
        "Intervals of differences: from those of the two harms and the correlation of their "
        f"paired differences; {_NOT_CORRECTED.format(many='layers')}",
    ),
    "harm_profiles": ("Dotted: the first panel's line", _SINGLE),
    "outcome_profile": ("", ""),
    "pruned_harm": ("", _OF_HARM),
    "head_harms": ("", f"{_OF_HARM}; {_NOT_CORRECTED.format(many='heads')}"),
    "pair_excess": ("", "Intervals of the excess: of a difference of paired harms"),
    "lens_trajectories": ("", _LENS),
    "decision_margin": ("", _LENS),
    "attention_map": ("", ""),
    "head_map": ("", ""),
    "attention_pattern": ("", ""),
    "token_table": ("", ""),
    "similarity_triangle": ("", ""),
    "influence_profile": ("", _OF_MEANS),
    "direct_against_total": (
        "Across, what attention and MLP of a layer write into the answer's logit; up, the harm of "
        "ablating it",
        f"{_OF_MEANS} across; up as of paired effects; {_NOT_CORRECTED.format(many='layers')}",
    ),
}
# How to read a figure of a run that is not finished, where that differs.
_READ_INTERIM = {
    "role_map": "Bars: all pale, since no layer is judged before the run is finished. Circles: the "
    "same layer, ablated at other positions",
}
# What a caption names of the rows drawn, in this order: column, singular, plural.
_WORDS = (
    ("ablation", "ablation", "ablations"),
    ("at", "at", "at"),
    ("probe", "probe", "probes"),
    ("task", "task", "tasks"),
    ("family", "family", "families"),
    ("protocol", "protocol", "protocols"),
)

# Characters that are special to LaTeX in a file name, and LaTeX for characters in text.
_SPECIAL = "%#&$~^"
_TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "\N{MINUS SIGN}": r"$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MIDDLE DOT}": r"$\cdot$",
    "\N{BULLET}": r"$\bullet$",
    "\N{WHITE CIRCLE}": r"$\circ$",
    "\N{PARALLEL TO}": r"$\parallel$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
}


def caption(figure: go.Figure, result: SweepResult | None = None) -> str:
    """Return a caption: how to read the figure, n, ablation, positions, intervals, model, versions.

    Args:
        figure: a figure of `lr.figures`, before or after `paper`.
        result: the sweep that it shows; adds model, dtype, seed and versions to the caption, and
            how far the run is if it is not finished.

    Raises:
        InputError: the figure is not one of `lr.figures`, or `result` is not a sweep's result.

    Example:
        print(lr.figures.caption(lr.figures.harm_map(result), result))
    """
    meta = _unescape_meta(read_meta(figure, "caption"))
    if result is not None:
        check_result(result)
    reading, intervals = _READ[meta["figure"]]
    interim = "" if result is None else result.interim
    if interim:
        reading = _READ_INTERIM.get(meta["figure"], reading)
    sentences = [
        f"Interim, {interim}" if interim else "",
        meta["title"],
        meta["subtitle"],
        reading,
        "; ".join(meta.get("notes", [])),
        intervals,
        _describe_rows(meta),
        *(_provenance(result.manifest) if result is not None else ()),
    ]
    return " ".join(f"{_capitalize(text).rstrip('.')}." for text in sentences if text)


def read_meta(figure: object, by: str) -> Mapping[str, Any]:
    """Return what a figure of `lr.figures` records about itself (`layout.meta`).

    Raises:
        InputError: not a figure of `lr.figures`; the message names the calling function `by`.
    """
    meta = figure.layout.meta if isinstance(figure, go.Figure) else None
    if not isinstance(meta, Mapping) or meta.get("figure") not in _READ:
        raise InputError(f"{by} takes a figure of lr.figures, which notes what it shows")
    return meta


def latex_figure(caption: str, file: str, *, full: bool) -> str:
    """Return a LaTeX figure environment for an image `file`; it spans both columns if `full`."""
    kind = "figure*" if full else "figure"
    label = re.sub(r"[^A-Za-z0-9_.:-]+", "-", file.rpartition(".")[0])
    # Within the file name, characters special to LaTeX are made ordinary ones.
    signs = [sign for sign in _SPECIAL if sign in file]
    plain = "".join(rf"\catcode`\{sign}=12 " for sign in signs)
    return "\n".join(
        [
            rf"\begin{{{kind}}}[t]",
            r"  \centering",
            rf"  {{{plain}\includegraphics{{{file}}}}}"
            if plain
            else rf"  \includegraphics{{{file}}}",
            rf"  \caption{{{escape_latex(caption)}}}",
            rf"  \label{{fig:{label}}}",
            rf"\end{{{kind}}}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    r"""Escape text for LaTeX.

    Example:
        >>> print(escape_latex("5% of a_b"))
        5\% of a\_b
    """
    return "".join(_TEX.get(letter, letter) for letter in text)


def _describe_rows(meta: Mapping[str, Any]) -> str:
    """Return a text on the rows drawn: ablation, positions, probe, task or family, protocol and n.

    `meta` is what `read_meta` returns, unescaped.
    """
    parts = []
    for column, one, several in _WORDS:
        values = meta.get(column)
        if values and not (column == "family" and meta.get("task")):  # tasks are more specific
            parts.append(f"{several if len(values) > 1 else one} {', '.join(values)}")
    if n := meta.get("n"):
        parts.append(f"n = {n[0]}" if n[0] == n[1] else f"n = {n[0]}\N{EN DASH}{n[1]}")
    return "; ".join(parts)


def _provenance(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield two sentences, on model and seed and on versions; omit what the manifest lacks."""
    model = manifest.get("model", {})
    facts = [str(model.get("name", "unknown"))]
    facts += [str(model[key]) for key in ("dtype",) if model.get(key)]
    facts += [f"revision {model['revision']}"] if model.get("revision") else []
    facts += [f"{model['n_layers']} layers"] if model.get("n_layers") else []
    facts += [f"seed {manifest['seed']}"] if "seed" in manifest else []
    yield f"Model {', '.join(facts)}"
    versions = dict(manifest.get("versions", {}))
    if "layerroles" in manifest:
        versions = {"layerroles": manifest["layerroles"], **versions}
    yield ", ".join(f"{name} {number}" for name, number in versions.items())


def _unescape_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    def unescape(value: Any) -> Any:
        if isinstance(value, str):
            return html.unescape(value)
        return [unescape(item) for item in value] if isinstance(value, list | tuple) else value

    return {name: unescape(value) for name, value in meta.items()}


def _capitalize(text: str) -> str:
    """Capitalize the first letter, unless the text begins with a name like `torch 2.13`."""
    return text if re.match(r"[a-z_]+ \d", text) else text[:1].upper() + text[1:]

r"""The report: one HTML file that opens offline, with the verdict first.

Everything that comes from a model or from data (prompts, answers, names) is escaped: in the text by
the template engine, in the figures by `figures.style.escape`, in embedded JSON by `sections.embed`.
The file holds its own copy of plotly.js and asks nothing of the network.
"""

import json
from collections.abc import Collection, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from layerroles.errors import InputError, visible
from layerroles.figures import select, style
from layerroles.figures.catalogue import localized
from layerroles.page.answers import changed
from layerroles.page.beside import beside, names
from layerroles.page.explored import Run, explored
from layerroles.page.glance import glance
from layerroles.page.said import head, tail
from layerroles.page.sections import DRAWN, embed, sections, seen_in
from layerroles.probes.frames import by_probe
from layerroles.results import Comparison, SweepResult, check_result, compare, detectable_line
from layerroles.roles import Roles
from layerroles.roles.heads import heads_of


def report(
    result: SweepResult,
    probes: Sequence[pd.DataFrame] = (),
    path: str | PathLike[str] = "report.html",
    *,
    findings: Sequence[str] = (),
    against: SweepResult | None = None,
) -> Path:
    """Write the report of a sweep as one self-contained HTML file, and return its path.

    Args:
        result: a sweep.
        probes: probe frames of the same model and tasks.
        path: the file to write; folders on the way to it are made.
        findings: sentences of one's own, shown above the verdict.
        against: another sweep, which the page holds against the first (see `compare`): effects and
            answers of both side by side.

    Raises:
        InputError: the file cannot be written, a probe frame has another form, or the two sweeps
            have no task, protocol, condition and example in common.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        path = lr.report(result, probes=[lens], path="runs/first/report.html")
        # lr.report(base, path="base-and-twin.html", against=lr.read("runs/twin"))
    """
    target = Path(path)
    text = render(result, probes, findings, against=against)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate from a damaged model must not cost the report.
        target.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"cannot write the report to {str(target)!r}: {reason}; choose another path"
        ) from error
    return target


def render(
    result: SweepResult,
    probes: Sequence[pd.DataFrame] = (),
    findings: Sequence[str] = (),
    *,
    against: SweepResult | None = None,
) -> str:
    """Return the report's HTML."""
    check_result(result)
    drawn = by_probe(probes, condition=None)
    comparison = None if against is None else compare(result, against)
    kinds = select.ablations(result)
    effects = result.effects()
    roles = localized(result, probes)
    # Answers are shown once for each kind of ablation.
    first = {found.ablation: found for found in reversed(roles)}.values()
    # Verdicts on heads do not depend on how layers were ablated, or whether any were.
    heads = next((found.heads for found in roles), None)
    if heads is None:
        heads = heads_of(result, "all")
    shown = list(sections(result, drawn, kinds, roles, heads))
    there = {"setup", "effects", *(section["id"] for section in shown if section["figures"])}
    data = explored(_runs(result, roles, against, comparison), drawn, comparison)
    environment = _environment()
    return environment.get_template("page.html.j2").render(
        manifest=result.manifest,
        model=result.manifest.get("model", {}),
        kinds=kinds,
        findings=findings,
        verdicts=[(_under(found), _verdict(found, there)) for found in roles],
        answer=glance(roles[0]) if roles else None,
        intact=result.intact().to_dict("records"),
        sections=shown,
        explored=None if data is None else _compact(data),
        two=None if against is None or comparison is None else beside(result, against, comparison),
        changed=[(found.ablation, list(changed(result, effects, found))) for found in first],
        effects=effects.to_dict("records"),
        detectable=detectable_line(effects),
        other_probes=sorted(set(drawn) - DRAWN),
        templates={name: made.to_plotly_json() for name, made in style.TEMPLATES.items()},
        plotlyjs=Markup(get_plotlyjs()),
    )


def _environment() -> Environment:
    """Build the template environment: text is escaped, and control characters are written out."""
    environment = Environment(
        loader=FunctionLoader(_part),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters.update(
        num=style.number, interval=style.interval, layers=layer_list, tail=tail, head=head
    )
    environment.globals.update(
        colour=style.colour, embed=embed, part=lambda name: Markup(_part(name))
    )
    return environment


def _part(name: str) -> str:
    """A file of the page's own."""
    return files("layerroles.page").joinpath(name).read_text("utf-8")


def _compact(data: dict[str, Any]) -> Markup:
    return embed(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def _under(roles: Roles) -> str:
    """The ablation, and where it acts if not everywhere."""
    return roles.ablation if roles.at == "all" else f"{roles.ablation}, at {roles.at}"


def _runs(
    result: SweepResult,
    roles: Sequence[Roles],
    against: SweepResult | None,
    comparison: Comparison | None,
) -> list[Run]:
    """The runs to explore: this one, and the one that it is held against."""
    if against is None or comparison is None:
        name = str(result.manifest.get("model", {}).get("name", "model"))
        return [Run(name, result, roles)]
    one, two = names(comparison)
    return [Run(one, result, roles), Run(two, against, localized(against))]


def layer_list(layers: Sequence[int]) -> str:
    """Layers as text, runs joined; both ends are in the run.

    >>> layer_list([0, 1, 2, 11])
    '0\N{EN DASH}2, 11'
    """
    runs: list[list[int]] = []
    for layer in sorted(int(layer) for layer in layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    named = [
        ", ".join(map(str, run)) if len(run) < 3 else f"{run[0]}\N{EN DASH}{run[-1]}"
        for run in runs
    ]
    return ", ".join(named) or "\N{EM DASH}"


def _verdict(roles: Roles, there: Collection[str]) -> dict[str, Any]:
    """The verdict's sentences, those on one protocol or on probes together under a heading.

    Each has the id of the section that shows it, if the page has it.
    """
    opening, *rest = roles.sentences
    groups: dict[str, list[dict[str, str]]] = {}
    for protocol in dict.fromkeys(roles.frame["protocol"]):
        groups[f"Under {protocol}"] = []
    measured = set(roles.probes["probe"]) if len(roles.probes) else set()
    for sentence in rest:
        place = "Seen by probes" if sentence.about in measured else "In all"
        heading = f"Under {sentence.protocol}" if sentence.protocol else place
        text = sentence.text.removeprefix(f"{heading}, ")
        see = seen_in(sentence.about)
        groups.setdefault(heading, []).append(
            {"text": text[:1].upper() + text[1:], "see": see if see in there else ""}
        )
    return {"opening": opening.text, "groups": groups, "rows": roles.frame.to_dict("records")}

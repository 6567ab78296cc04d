"""The report: one HTML file that opens offline, with the verdict first.

Everything that comes from a model or from data (prompts, answers, names) is escaped: in the text by
the template engine, in the figures by `figures.style.escape`, in embedded JSON by `sections.embed`.
The file holds its own copy of plotly.js and asks nothing of the network.

Two runs in one page: how their effects differ, in words, tables and figures that stand still.

Changed answers for the still part of the page: the first few of the layers that hurt most.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from layerroles import figures
from layerroles.errors import InputError, visible
from layerroles.figures import localized, select, style
from layerroles.page.explorer import Run, explored
from layerroles.page.glance import glance
from layerroles.page.sections import DRAWN, drawing, embed, sections, seen_in
from layerroles.page.texts import head, tail
from layerroles.probes import by_probe
from layerroles.results import Comparison, SweepResult, check_result, compare, detectable_line
from layerroles.roles import Roles, heads_of


def names(comparison: Comparison) -> tuple[str, str]:
    """What the two runs are called on the page."""
    return f"a: {comparison.names[0]}", f"b: {comparison.names[1]}"


def beside(a: SweepResult, b: SweepResult, comparison: Comparison) -> dict[str, Any]:
    """The section on two runs: what is compared, profiles, effects side by side, figures."""
    drawn = list(_profiles(a, b, comparison))
    return {
        "names": names(comparison),
        "unmatched": comparison.unmatched,
        "profiles": comparison.profiles.to_dict("records"),
        "rows": comparison.frame[comparison.frame["n"] > 0].to_dict("records"),
        "figures": [drawing(f"runs-{index}", figure) for index, figure in enumerate(drawn)],
    }


def _profiles(a: SweepResult, b: SweepResult, comparison: Comparison) -> Iterator[go.Figure]:
    """Harm over depth in both, for each cell in which both have skill, at the first positions."""
    frame = comparison.frame
    layers = frame[(frame["part"] == "block") & frame["layer"].notna() & (frame["n"] > 0)]
    one, two = names(comparison)
    for (task, protocol, ablation), rows in layers.groupby(
        ["task", "protocol", "ablation"], sort=False
    ):
        at = select.ats(rows)[0]
        known = rows.loc[rows["at"] == at, ["harm_a", "harm_b"]].notna().any()
        if known.any():
            yield figures.harm_profiles(
                {one: a, two: b}, task=task, protocol=protocol, ablation=ablation, at=at
            )


_LAYERS_SHOWN, _ANSWERS_SHOWN = 3, 2  # layers per task, examples per layer


def changed(result: SweepResult, effects: pd.DataFrame, roles: Roles) -> Iterator[dict[str, Any]]:
    """Yield per task the answers that the worst layers changed, by generation if it was run."""
    single = effects[effects["layer"].notna() & (effects["part"] == "block")]
    single = single[(single["ablation"] == roles.ablation) & single["effect"].notna()]
    for task in dict.fromkeys(single["task"]):
        cell = single[single["task"] == task]
        protocols = list(dict.fromkeys(cell["protocol"]))
        protocol = [*select.written(protocols), *protocols][0]
        cell = cell[cell["protocol"] == protocol]
        family = cell["family"].iloc[0]
        layers = []
        for line in _worst(cell, roles, family, protocol).to_dict("records"):
            rows = result.changed_answers(line["condition"], task, protocol)
            if len(rows):
                shown = rows.head(_ANSWERS_SHOWN).to_dict("records")
                layers.append({**line, "total": len(rows), "answers": shown})
        if layers:
            yield {"task": task, "family": family, "protocol": protocol, "layers": layers}


def _worst(cell: pd.DataFrame, roles: Roles, family: str, protocol: str) -> pd.DataFrame:
    """The layers that hurt a task most, those that break everything left out where others are."""
    row = roles.frame[(roles.frame["family"] == family) & (roles.frame["protocol"] == protocol)]
    general = set(row["general"].iloc[0]) if len(row) else set()
    spared, hurts = cell["at"] == "after_first", cell["ci_high"] < 0
    own = ~cell["layer"].isin(general)
    for choice in (spared & hurts & own, spared & hurts, hurts & own, hurts):
        if choice.any():
            return cell[choice].nsmallest(_LAYERS_SHOWN, "effect").sort_values("layer")
    return cell.iloc[:0]


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

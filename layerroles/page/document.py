"""Assemble the report: one HTML file that opens offline, with the verdict first.

Everything that comes from a model or from data (prompts, answers, names) is escaped: in the text by
the template engine, in the figures by `figures.style.escape`, in embedded JSON by
`sections.embed_json`. The file holds its own copy of plotly.js and requests nothing from the
network. In addition to the explorer (the interactive view of every condition's effects and
answers), the page shows some of the answers that change under the ablations that hurt most. If two
runs are compared, the page shows how their effects differ, in words, tables and figures.
"""

import errno
import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from layerroles import figures
from layerroles.atomic_replacement import replace_atomically
from layerroles.errors import InputError, check_several
from layerroles.figures import localize_all, select, style
from layerroles.invisible_characters import visible
from layerroles.page.explorer_data import Run, lay_out_runs
from layerroles.page.first_screen import make_first_screen
from layerroles.page.sections import DRAWN, embed_json, figure_data, make_sections, section_of
from layerroles.page.shortened_texts import end_of, start_of
from layerroles.probes import group_by_probe
from layerroles.results import (
    Comparison,
    SweepResult,
    check_result,
    compare,
    detectable_line,
)
from layerroles.roles import Roles, describe_decided, heads_of, interim_sentence

_LAYERS_SHOWN, _ANSWERS_SHOWN = 3, 2  # layers per task, examples per layer


def report(
    result: SweepResult,
    probes: Sequence[pd.DataFrame] = (),
    path: str | os.PathLike[str] = "report.html",
    *,
    findings: Sequence[str] = (),
    against: SweepResult | None = None,
) -> Path:
    """Write the report of a sweep as one self-contained HTML file, and return its path.

    The report of a run that is not finished says so at its top, and shows estimates and intervals
    without verdicts.

    Args:
        result: a sweep.
        probes: probe frames of the same model and tasks.
        path: the file to write; missing folders are created.
        findings: your own sentences, shown above the verdict.
        against: another sweep to compare the first with (see `compare`); the page shows effects and
            answers of both side by side.

    Raises:
        InputError: the path does not end in `.html` or cannot be written, a frame is not of a known
            probe, `findings` is one text instead of several, or the two sweeps have no task,
            protocol, condition and example in common.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        path = lr.report(result, probes=[lens], path="runs/first/report.html")
        # lr.report(base, path="base-and-twin.html", against=lr.read("runs/twin"))
    """
    target = Path(path)
    with _refuse_write_errors(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    check_name(target)
    check_several("findings", findings)
    text = render(result, probes, findings, against=against)
    with _refuse_write_errors(target), replace_atomically(target) as scratch:
        # Lone surrogates, which a damaged model may write, are replaced.
        scratch.write_text(text, encoding="utf-8", errors="replace")
    return target


def check_name(file: Path) -> None:
    """Check the name of a report's file, so that no other file is overwritten by mistake.

    Raises:
        InputError: the name does not end in `.html` or `.htm`.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"a report is an HTML page: {str(file)!r} does not end in .html")


@contextmanager
def _refuse_write_errors(target: Path) -> Iterator[None]:
    """Convert errors of the disk to an `InputError` that names the report's file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"cannot write the report to {str(target)!r}: {reason}; choose another path"
        ) from error


def render(
    result: SweepResult,
    probes: Sequence[pd.DataFrame] = (),
    findings: Sequence[str] = (),
    *,
    against: SweepResult | None = None,
) -> str:
    """Return the report's HTML; see `report`."""
    check_result(result)
    frames = group_by_probe(probes, condition=None)
    comparison = None if against is None else compare(result, against)
    kinds = select.ablation_kinds(result)
    effects = result.effects()
    roles = localize_all(result, probes)
    # Answers are shown once for each kind of ablation.
    of_kinds = {of_kind.ablation: of_kind for of_kind in reversed(roles)}.values()
    # Verdicts on heads do not depend on how layers were ablated, or whether any were.
    heads = roles[0].heads if roles else heads_of(result, "all")
    page_sections = list(make_sections(result, frames, kinds, roles, heads))
    with_figures = (section["id"] for section in page_sections if section["figures"])
    shown_sections = {"setup", "effects", *with_figures}
    explorer_data = lay_out_runs(
        _runs_to_explore(result, roles, against, comparison), frames, comparison
    )
    environment = _environment()
    return environment.get_template("page.html.j2").render(
        manifest=result.manifest,
        model=result.manifest.get("model", {}),
        kinds=kinds,
        findings=findings,
        interim=interim_sentence(result.interim) if result.interim else "",
        other_interim="" if against is None else against.interim,
        verdicts=[
            (_describe_ablation(judged), _group_sentences(judged, shown_sections))
            for judged in roles
        ],
        answer=make_first_screen(roles[0], describe_decided(result)) if roles else None,
        intact=result.intact().to_dict("records"),
        sections=page_sections,
        explored=None if explorer_data is None else _compact_json(explorer_data),
        two=None
        if against is None or comparison is None
        else comparison_section(result, against, comparison),
        changed=[
            (of_kind.ablation, list(changed_answers(result, effects, of_kind)))
            for of_kind in of_kinds
        ],
        effects=effects.to_dict("records"),
        detectable=detectable_line(effects),
        other_probes=sorted(set(frames) - DRAWN),
        templates={name: made.to_plotly_json() for name, made in style.TEMPLATES.items()},
        plotlyjs=Markup(get_plotlyjs()),
    )


def _environment() -> Environment:
    """Build the template environment: text is escaped, and control characters are made visible."""
    environment = Environment(
        loader=FunctionLoader(_read_page_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters.update(
        num=style.format_number,
        interval=style.format_interval,
        layers=join_layers,
        tail=end_of,
        head=start_of,
    )
    environment.globals.update(
        colour=style.family_colour,
        embed=embed_json,
        part=lambda name: Markup(_read_page_file(name)),
    )
    return environment


def _read_page_file(name: str) -> str:
    """Read a file of the page: a template, style sheet or script."""
    return files("layerroles.page").joinpath(name).read_text("utf-8")


def join_layers(layers: Sequence[int]) -> str:
    """Return layers as text, three or more in a row as a range with both ends; a dash if empty.

    >>> join_layers([0, 1, 2, 11])
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


def _compact_json(data: dict[str, Any]) -> Markup:
    return embed_json(json.dumps(data, ensure_ascii=False, separators=(",", ":")))


def _describe_ablation(roles: Roles) -> str:
    """Return the kind of ablation of `roles` as text, with its positions unless they are "all"."""
    return roles.ablation if roles.at == "all" else f"{roles.ablation}, at {roles.at}"


def _group_sentences(roles: Roles, shown_sections: Collection[str]) -> dict[str, Any]:
    """Return the verdict for the template: `opening` sentence, `groups` of sentences, table `rows`.

    `groups` maps a heading ("Under PROTOCOL", "In all" or "Seen by probes") to its sentences. Each
    sentence has a `text`, and in `see` the id of the section that shows its topic; `see` is empty
    if that section is not one of `shown_sections`.
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
        section = section_of(sentence.about)
        groups.setdefault(heading, []).append(
            {
                "text": text[:1].upper() + text[1:],
                "see": section if section in shown_sections else "",
            }
        )
    return {"opening": opening.text, "groups": groups, "rows": roles.frame.to_dict("records")}


def _runs_to_explore(
    result: SweepResult,
    roles: Sequence[Roles],
    against: SweepResult | None,
    comparison: Comparison | None,
) -> list[Run]:
    """Return the runs that the explorer shows: `result`, and `against` if two are compared."""
    if against is None or comparison is None:
        name = str(result.manifest.get("model", {}).get("name", "model"))
        return [Run(name, result, roles)]
    name_a, name_b = run_names(comparison)
    return [Run(name_a, result, roles), Run(name_b, against, localize_all(against))]


def run_names(comparison: Comparison) -> tuple[str, str]:
    """Return the names of the two runs on the page: the models' names after `a: ` and `b: `."""
    return f"a: {comparison.names[0]}", f"b: {comparison.names[1]}"


def comparison_section(a: SweepResult, b: SweepResult, comparison: Comparison) -> dict[str, Any]:
    """Return template data for comparing two runs.

    The data holds the runs' names, what only one of them contains, tables and figures.
    """
    profile_figures = list(_draw_profiles(a, b, comparison))
    return {
        "names": run_names(comparison),
        "unmatched": comparison.unmatched,
        "profiles": comparison.profiles.to_dict("records"),
        "rows": comparison.frame[comparison.frame["n"] > 0].to_dict("records"),
        "figures": [
            figure_data(f"runs-{index}", figure) for index, figure in enumerate(profile_figures)
        ],
    }


def _draw_profiles(a: SweepResult, b: SweepResult, comparison: Comparison) -> Iterator[go.Figure]:
    """Yield a figure of both runs' harm over depth for each task, protocol and kind of ablation.

    If there are several sets of positions (`at`), only the first is drawn. Figures without any
    defined harm are left out.
    """
    frame = comparison.frame
    layers = frame[(frame["part"] == "block") & frame["layer"].notna() & (frame["n"] > 0)]
    name_a, name_b = run_names(comparison)
    for (task, protocol, ablation), rows in layers.groupby(
        ["task", "protocol", "ablation"], sort=False
    ):
        at = select.positions_of(rows)[0]
        has_harm = rows.loc[rows["at"] == at, ["harm_a", "harm_b"]].notna().any()
        if has_harm.any():
            yield figures.harm_profiles(
                {name_a: a, name_b: b}, task=task, protocol=protocol, ablation=ablation, at=at
            )


def changed_answers(
    result: SweepResult, effects: pd.DataFrame, roles: Roles
) -> Iterator[dict[str, Any]]:
    """Yield, for each task, answers that change when a layer is ablated.

    The layers are those whose ablation hurts the task most (see `_most_harmful`). Answers are shown
    under a protocol in which the model generates text, if there is one. Tasks without changed
    answers are left out.

    Yields:
        A dict with `task`, `family`, `protocol` and `layers`. Each of the `layers` is a row of
        `effects` as a dict, with `total` (the number of changed answers) and `answers` (the first
        two of them, as dicts).
    """
    single = effects[effects["layer"].notna() & (effects["part"] == "block")]
    single = single[(single["ablation"] == roles.ablation) & single["effect"].notna()]
    for task in dict.fromkeys(single["task"]):
        cell = single[single["task"] == task]
        protocols = list(dict.fromkeys(cell["protocol"]))
        protocol = [*select.written_protocols(protocols), *protocols][0]
        cell = cell[cell["protocol"] == protocol]
        family = cell["family"].iloc[0]
        layers = []
        for line in _most_harmful(cell, roles, family, protocol).to_dict("records"):
            rows = result.changed_answers(line["condition"], task, protocol)
            if len(rows):
                shown = rows.head(_ANSWERS_SHOWN).to_dict("records")
                layers.append({**line, "total": len(rows), "answers": shown})
        if layers:
            yield {"task": task, "family": family, "protocol": protocol, "layers": layers}


def _most_harmful(cell: pd.DataFrame, roles: Roles, family: str, protocol: str) -> pd.DataFrame:
    """Return the rows of the (at most three) layers whose ablation hurts a task most, by layer.

    Only rows whose effect has an interval below 0 are considered. They are narrowed to ablations
    that spare the first token (`at="after_first"`) and then to layers that are not general
    (critical for every measured family), if rows are left: ablating a sink or a general layer
    breaks every task. No rows are returned if no ablation is shown to hurt.

    Args:
        cell: effects of ablating single layers, on one task under one protocol.
        roles: the run's roles, which say which layers are general.
        family: the task's family.
        protocol: the protocol.
    """
    row = roles.frame[(roles.frame["family"] == family) & (roles.frame["protocol"] == protocol)]
    general = set(row["general"].iloc[0]) if len(row) else set()
    spared, hurts = cell["at"] == "after_first", cell["ci_high"] < 0
    not_general = ~cell["layer"].isin(general)
    for choice in (spared & hurts & not_general, spared & hurts, hurts & not_general, hurts):
        if choice.any():
            ranked = cell[choice].sort_values("effect", kind="stable").drop_duplicates("layer")
            return ranked.head(_LAYERS_SHOWN).sort_values("layer")
    return cell.iloc[:0]

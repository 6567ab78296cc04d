r"""The report: one HTML file that opens offline, with the verdict first.

Everything that comes from a model or from data (prompts, answers, names) is escaped: in the text by
the template engine, in the figures by `figures.style.escape`, in embedded JSON by `sections.embed`.
The file holds its own copy of plotly.js and asks nothing of the network.
"""

from collections.abc import Collection, Iterator, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.figures.catalogue import judged
from layerroles.results import SweepResult, detectable_line
from layerroles.roles import Roles, localize
from layerroles.roles.heads import heads_of
from layerroles.sections import DRAWN, embed, sections, seen_in

_LAYERS_SHOWN, _ANSWERS_SHOWN = 3, 2  # changed answers: layers per task, examples per layer
_PROMPT_TAIL, _RESPONSE_HEAD = 260, 500  # characters


def report(
    result: SweepResult,
    probes: Sequence[pd.DataFrame] = (),
    path: str | PathLike[str] = "report.html",
    *,
    findings: Sequence[str] = (),
) -> Path:
    """Write the report of a sweep as one self-contained HTML file, and return its path.

    Args:
        result: a sweep.
        probes: probe frames of the same model and tasks.
        path: the file to write; folders on the way to it are made.
        findings: sentences of one's own, shown above the verdict.

    Raises:
        InputError: the file cannot be written, or a probe frame has another form.
    """
    target = Path(path)
    text = render(result, probes, findings)
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
    result: SweepResult, probes: Sequence[pd.DataFrame] = (), findings: Sequence[str] = ()
) -> str:
    """Return the report's HTML."""
    drawn = select.by_probe(probes)
    kinds = select.ablations(result)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        num=style.number, interval=style.interval, layers=layer_list, tail=_tail, head=_head
    )
    environment.globals.update(colour=style.colour, embed=embed)
    template = environment.from_string(
        files("layerroles").joinpath("page.html.j2").read_text("utf-8")
    )
    effects = result.effects()
    asked = [(kind, at) for kind in kinds for at in judged(result, kind)]
    roles = {
        kind if at == "all" else f"{kind}, at {at}": localize(result, probes, ablation=kind, at=at)
        for kind, at in asked
    }
    # Answers are shown once for each kind of ablation.
    first = {found.ablation: found for found in reversed(roles.values())}.values()
    # Heads are judged in the same way whatever is done to layers, and where nothing is.
    heads = next((found.heads for found in roles.values()), None)
    if heads is None:
        heads = heads_of(result, "all")
    shown = list(sections(result, drawn, kinds, list(roles.values()), heads))
    there = {"setup", "effects", *(section["id"] for section in shown if section["figures"])}
    return template.render(
        manifest=result.manifest,
        model=result.manifest.get("model", {}),
        kinds=kinds,
        findings=findings,
        verdicts=[(label, _verdict(found, there)) for label, found in roles.items()],
        intact=result.intact().to_dict("records"),
        sections=shown,
        changed=[(found.ablation, list(_changed(result, effects, found))) for found in first],
        effects=effects.to_dict("records"),
        detectable=detectable_line(effects),
        other_probes=sorted(set(drawn) - DRAWN),
        templates={name: made.to_plotly_json() for name, made in style.TEMPLATES.items()},
        plotlyjs=Markup(get_plotlyjs()),
    )


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


def _changed(result: SweepResult, effects: pd.DataFrame, roles: Roles) -> Iterator[dict[str, Any]]:
    """Per task: answers that the most harmful layers changed, by generation where it was run."""
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


def _tail(text: str) -> str:
    """The end of a prompt, where the question stands."""
    text = str(text)
    return text if len(text) <= _PROMPT_TAIL else "\N{HORIZONTAL ELLIPSIS}" + text[-_PROMPT_TAIL:]


def _head(text: str) -> str:
    """The start of a response."""
    text = str(text)
    if len(text) <= _RESPONSE_HEAD:
        return text
    more = len(text) - _RESPONSE_HEAD
    return f"{text[:_RESPONSE_HEAD]}\N{HORIZONTAL ELLIPSIS} ({more} characters more)"

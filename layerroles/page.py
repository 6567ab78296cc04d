r"""The report: one HTML file that opens offline, with the verdict first.

Everything that comes from a model or from data (prompts, answers, names) is escaped: in the text by
the template engine, in the figures by `figures.style.escape`, in embedded JSON by `embed`. The file
holds its own copy of plotly.js and asks nothing of the network.

    >>> embed({"prompt": "</script>"})
    Markup('{"prompt": "\\u003c/script\\u003e"}')
"""

import html
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from layerroles import figures
from layerroles.errors import InputError
from layerroles.figures import select, style
from layerroles.results import SweepResult, detectable_line
from layerroles.roles import Roles, localize

_LAYERS_SHOWN, _ANSWERS_SHOWN = 3, 2  # changed answers: layers per task, examples per layer
_PROMPT_TAIL, _RESPONSE_HEAD = 260, 500  # characters
_TITLE_SPACE = 58  # pixels of the figure's top margin that its title needs; the page sets its own

_HOW = {
    "role": (
        "Read it downwards: a layer is one vertical line through every panel. Bars are harm: full "
        "where the interval lies above 0.2, an outline where it lies within 0.1 of 0 (spare), "
        "pale where it does neither (undecided). Hollow circles are the same layer, ablated at "
        "other positions; the legend names both. Where they spare the first token, a full bar "
        "with its circle beside it is critical, and one whose circle is near 0 is a sink and not "
        "the seat of a skill. A probe that sees the answer emerge somewhere shows where it "
        "is readable, not what makes it."
    ),
    "depth": (
        "Above: the score with the layer ablated; the solid line and its band are the intact "
        "model, the dotted line is chance. Below: the paired effect on the same examples, "
        "negative where the ablation hurts. The marks tell at which positions it acts. An "
        "interval across 0 shows no effect of either sign."
    ),
    "harm": (
        "Orange hurts, blue helps, and the scale is the same on both sides of 0. A dot marks an "
        "interval that excludes 0, before any correction for the number of layers; p values "
        "after Holm are in the table. Hatched cells have no harm to show, and say why under the "
        "pointer."
    ),
    "protocols": (
        "The same layers, asked in two ways. Left: harm under each, joined; right: harm under "
        "generation minus harm under likelihood, filled where its interval excludes 0. Above 0, a "
        "layer is needed to write the answer though its likelihood hardly moves."
    ),
    "outcome": (
        "Blue is right. Grey is an answer that is wrong; the warm colours are answers that fail "
        "as answers: none found, cut short, repeating itself, empty. A model that cannot keep a "
        "format is not a model that cannot reason."
    ),
    "lens": (
        "Higher is better; at 1 the model would already say the answer if it stopped there. The "
        "last point is the model's own output. Bands are the interval of each median by itself."
    ),
    "attention": (
        "Darker (on a dark page, brighter) is more attention from the position that answers to "
        "the evidence in the prompt. A head is named where its share is at least twice what "
        "even attention gives. Attention shows where a head looks, not that the answer depends "
        "on it."
    ),
}


def report(
    result: SweepResult,
    probes: Sequence[pd.DataFrame] = (),
    path: str | PathLike[str] = "report.html",
) -> Path:
    """Write the report of a sweep as one self-contained HTML file, and return its path.

    Args:
        result: a sweep.
        probes: probe frames of the same model and tasks; those of the logit lens and of attention
            are drawn.
        path: the file to write; folders on the way to it are made.

    Raises:
        InputError: the file cannot be written, or a probe frame has another form.
    """
    target = Path(path)
    text = render(result, probes)
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


def render(result: SweepResult, probes: Sequence[pd.DataFrame] = ()) -> str:
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
    asked = [(kind, at) for kind in kinds for at in _judged(result, kind)]
    roles = {
        kind if at == "all" else f"{kind}, at {at}": localize(result, probes, ablation=kind, at=at)
        for kind, at in asked
    }
    # Answers are shown once for each kind of ablation.
    first = {found.ablation: found for found in reversed(roles.values())}.values()
    return template.render(
        manifest=result.manifest,
        model=result.manifest.get("model", {}),
        kinds=kinds,
        verdicts=[(label, _verdict(found)) for label, found in roles.items()],
        intact=result.intact().to_dict("records"),
        sections=list(_sections(result, drawn, kinds)),
        changed=[(found.ablation, list(_changed(result, effects, found))) for found in first],
        effects=effects.to_dict("records"),
        detectable=detectable_line(effects),
        other_probes=sorted(set(drawn) - {"logit_lens", "attention"}),
        templates={name: made.to_plotly_json() for name, made in style.TEMPLATES.items()},
        plotlyjs=Markup(get_plotlyjs()),
    )


def _judged(result: SweepResult, kind: str) -> list[str]:
    """The positions that are judged; sparing the first token is judged with all positions."""
    ats = select.ats(select.layer_effects(result, ablation=kind))
    return [at for at in ats if at != "after_first" or "all" not in ats]


def embed(value: object) -> Markup:
    """JSON that can stand in a script element: nothing in it ends the element or a line."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


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


def _verdict(roles: Roles) -> dict[str, Any]:
    """The verdict's sentences, those on one protocol or on probes together under a heading."""
    opening, *lines = [line.strip() for line in roles.verdict.splitlines() if line.strip()] or [""]
    groups: dict[str, list[str]] = {}
    for protocol in dict.fromkeys(roles.frame["protocol"]):
        groups[f"Under {protocol}"] = []
    for line in lines:
        heading, comma, rest = line.partition(", ")
        if comma and heading in groups:
            groups[heading].append(_sentence(rest))
        else:
            probe = line.startswith(("Logit lens", "Attention"))
            groups.setdefault("Seen by probes" if probe else "In all", []).append(_sentence(line))
    return {"opening": opening, "groups": groups, "rows": roles.frame.to_dict("records")}


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:]


def _sections(
    result: SweepResult, found: dict[str, pd.DataFrame], kinds: list[str]
) -> Iterator[dict[str, Any]]:
    """The figures in reading order, grouped under headings."""
    lens, attention = found.get("logit_lens"), found.get("attention")
    roles, harms, depth, outcomes, asked = [], [], [], [], []
    for kind in kinds:
        single = select.layer_effects(result, ablation=kind)
        roles.append(figures.role_map(result, lens, attention, ablation=kind))
        tasks = dict.fromkeys(single["task"])
        depth += [figures.depth_profile(result, task=task, ablation=kind) for task in tasks]
        harms.append(figures.harm_map(result, ablation=kind))
        for protocol in select.written(single["protocol"]):
            outcomes.append(figures.outcome_profile(result, ablation=kind, protocol=protocol))
            asked += _hidden(result, kind, protocol)
    yield _section("roles", "Role map", "role", roles)
    yield _section("harm", "Harm map", "harm", harms)
    yield _section("depth", "Depth profiles", "depth", depth)
    yield _section("protocols", "What likelihood hides", "protocols", asked)
    yield _section("outcomes", "How answers fail", "outcome", outcomes)
    lenses = [figures.lens_trajectories(lens)] if lens is not None else []
    yield _section("lens", "Logit lens", "lens", lenses)
    maps = [figures.attention_map(attention)] if _has_evidence(attention) else []
    yield _section("attention", "Attention", "attention", maps)


def _hidden(result: SweepResult, kind: str, protocol: str) -> list[go.Figure]:
    """Harm by likelihood against harm by generation, where tasks were asked both ways."""
    both = result.differences()
    both = both[(both["ablation"] == kind) & (both["protocol_b"] == protocol)]
    both = both[both["layer"].notna() & (both["part"] == "block")]
    asked = dict.fromkeys(zip(both["protocol_a"], both["at"], strict=True))
    return [
        figures.likelihood_hides(
            result, likelihood=likelihood, generation=protocol, ablation=kind, at=at
        )
        for likelihood, at in asked
        if at == both["at"].iloc[0]
    ]


def _has_evidence(attention: pd.DataFrame | None) -> bool:
    return attention is not None and bool(attention["evidence"].notna().any())


def _section(name: str, heading: str, how: str, drawn: list[go.Figure]) -> dict[str, Any]:
    return {
        "id": name,
        "heading": heading,
        "how": _HOW[how],
        "figures": [_drawing(f"{name}-{index}", figure) for index, figure in enumerate(drawn)],
    }


def _drawing(name: str, figure: go.Figure) -> dict[str, Any]:
    """A figure for the page: title and subtitle as text of the page, the rest as JSON."""
    title = html.unescape(figure.layout.title.text)
    subtitle = html.unescape(figure.layout.title.subtitle.text)
    figure.update_layout(title=None, template=None)
    figure.update_layout(
        margin_t=figure.layout.margin.t - _TITLE_SPACE, height=figure.layout.height - _TITLE_SPACE
    )
    return {
        "id": name,
        "title": title,
        "subtitle": subtitle,
        "height": int(figure.layout.height),
        "json": embed(figure.to_json()),
    }


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

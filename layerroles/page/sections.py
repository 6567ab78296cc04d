r"""Make the sections of the report: figures in reading order, each with a note on how to read it.

Figures go into the page as JSON:

    >>> embed_json({"prompt": "</script>"})
    Markup('{"prompt": "\\u003c/script\\u003e"}')
"""

import html
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from layerroles.figures import PROBES_DRAWN, iter_drawings
from layerroles.results import SweepResult
from layerroles.roles import Roles

_TITLE_SPACE = 58  # pixels of the figure's top margin that its title needs; the page sets its own

_HOW = {
    "role": (
        "Read it downwards: a layer is one vertical line through every panel. Bars are harm: full "
        "where the interval lies above 0.2, an outline where it lies within 0.1 of 0 (spare), an "
        "outline and half full between 0 and 0.4 (partial), blue below 0 (helps), pale otherwise "
        "(undecided). Hollow circles are the same layer, ablated at other positions; the legend "
        "names both. Where they spare the first token, a full bar with its circle beside it is "
        "critical, and one whose circle is near 0 is a sink and not the seat of a skill. A probe "
        "that sees the answer emerge somewhere shows where it is readable, not what makes it."
    ),
    "contrasts": (
        "The numbers in which the verdict sums up depth. Above 0 in the first panel, early layers "
        "matter more; an interval across 0 shows no difference. Every mark is computed from the "
        "harms of the map above, example by example."
    ),
    "heads": (
        "Orange is harm: what is lost without that one head. Others often stand in for a head, so "
        "a map without harm does not show that no heads matter."
    ),
    "pairs": (
        "Orange: the two layers cost more together than either alone explains, which one layer "
        "standing in for the other would do. Single ablation cannot see that."
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
    "logit_lens": (
        "Higher is better; at 1 the model would already say the answer if it stopped there. The "
        "last point is the model's own output. Bands are the interval of each median by itself."
    ),
    "attention": (
        "Darker (on a dark page, brighter) is more attention from the position that answers to "
        "the evidence in the prompt. A head is named where its share is at least twice what "
        "even attention gives. Attention shows where a head looks, not that the answer depends "
        "on it."
    ),
    "tuned_lens": (
        "As above, with the stream of each layer first mapped by a fitted affine map, so that "
        "early layers are read in the last one's terms. What a map has learnt it can also supply."
    ),
    "decision": (
        "Above 0, the right option is ahead of the best other one. The decisive phase of an "
        "example begins at the layer from which its final choice stays ahead; before it, the "
        "model is silent on the choice."
    ),
    "retrieval_score": (
        "The share of the evidence that a head copies: it attends most to a token of it, and that "
        "token is what the model writes next. The heads that are named are the largest of many."
    ),
    "head_scores": (
        "How much attention goes to the token before, to earlier occurrences of the same token, "
        "and to what followed them. Averages over the tokens that have such a key."
    ),
    "similarity": (
        "How little a run of layers turns the stream. A small change is not a small effect: a "
        "layer may write little, and all of it matter."
    ),
    "attribution": (
        "Across, what a layer writes into the answer's logit directly; up, the harm when it is "
        "ablated. A layer high up and near the middle acts by way of later ones; one far to the "
        "right and low writes the answer, and others would write it too."
    ),
}

# How to read the figures of a run that is not finished, where that differs.
_HOW_INTERIM = {
    "role": (
        "Read it downwards: a layer is one vertical line through every panel. Bars are harm with "
        "its interval, all of them pale: no layer is judged before the run is finished. Hollow "
        "circles are the same layer, ablated at other positions; the legend names both. A probe "
        "that sees the answer emerge somewhere shows where it is readable, not what makes it."
    ),
    "contrasts": (
        "The numbers in which a verdict sums up depth. Above 0 in the first panel, early layers "
        "matter more. Every mark is computed from the harms of the map above, example by example."
    ),
}


# Sections in the page's order: id, heading, how to read it.
_ORDER = (
    ("roles", "Role map", "role"),
    ("harm", "Harm map", "harm"),
    ("contrasts", "Depth in numbers", "contrasts"),
    ("heads", "Heads ablated alone", "heads"),
    ("pairs", "Pairs of layers", "pairs"),
    ("depth", "Depth profiles", "depth"),
    ("protocols", "What likelihood hides", "protocols"),
    ("outcomes", "How answers fail", "outcome"),
    ("logit-lens", "Logit lens", "logit_lens"),
    ("tuned-lens", "Tuned lens", "tuned_lens"),
    ("decision", "Decision", "decision"),
    ("attention", "Attention", "attention"),
    ("retrieval-score", "Retrieval heads", "retrieval_score"),
    ("head-scores", "Kinds of heads", "head_scores"),
    ("similarity", "Similarity", "similarity"),
    ("direct", "Direct against total effect", "attribution"),
)
DRAWN = {*PROBES_DRAWN, "attribution"}
# Topic of a sentence of the verdict -> section that shows it, where their names differ.
_SEEN = {
    **{"depth": "contrasts", "spread": "contrasts", "protocols": "contrasts", "layers": "roles"},
    **{"precision": "harm", "unmeasured": "setup", "noise": "setup", "failures": "effects"},
    **{"attribution": "direct", **{probe: probe.replace("_", "-") for probe in PROBES_DRAWN}},
}


def section_of(about: str) -> str:
    """Return the id of the report section that shows `about`, the topic of a verdict's sentence."""
    return _SEEN.get(about, about)


def make_sections(
    result: SweepResult,
    probe_frames: dict[str, pd.DataFrame],
    kinds: list[str],
    all_roles: Sequence[Roles],
    heads: pd.DataFrame,
) -> Iterator[dict[str, Any]]:
    """Yield the sections in reading order, each with its figures; a section may have none.

    Args:
        result: a sweep.
        probe_frames: probe frames by the probe's name.
        kinds: the kinds of ablation to draw.
        all_roles: the run's roles, as `localize_all` returns them.
        heads: verdicts on heads ablated alone, as in `Roles.heads`.
    """
    figures_of: dict[str, list[go.Figure]] = {}
    for drawing in iter_drawings(result, probe_frames, kinds, lambda: all_roles, heads):
        figures_of.setdefault(drawing.section, []).append(drawing.draw())
    for name, heading, how in _ORDER:
        how_to_read = (_HOW | _HOW_INTERIM if result.interim else _HOW)[how]
        drawn = enumerate(figures_of.get(name, []))
        yield {
            "id": name,
            "heading": heading,
            "how": how_to_read,
            "figures": [figure_data(f"{name}-{index}", figure) for index, figure in drawn],
        }


def figure_data(name: str, figure: go.Figure) -> dict[str, Any]:
    """Return a figure for the page: title and subtitle as text, the rest as JSON.

    Title and template are removed from `figure`, and the space of the title from its height.
    """
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
        "json": embed_json(figure.to_json()),
    }


def embed_json(value: object) -> Markup:
    r"""Return a value as JSON that is safe in a script element; a string is taken as JSON already.

    `<`, `>`, `&` and the Unicode line separators are written as `\uXXXX`.
    """
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)

"""Summarize the verdict for the top of the page, by a picture and three sentences.

The picture has a row per family and protocol and a cell per layer, coloured by the layer's verdict.
The sentences restate `Roles.frame`, `Roles.layers` and `Roles.claims`, and add no conclusions. The
full verdict, with its numbers, follows further down the page. Before the run is finished there are
no sentences, and the picture gives the number of questions in each row.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from layerroles.results import NOT_MEASURABLE, records
from layerroles.roles import (
    CONTROL,
    UNDECIDED,
    Roles,
    describe_needed,
    format_layers,
    round_up,
)


def make_first_screen(roles: Roles, decided: str = "") -> dict[str, Any]:
    """Return template data: `rows` and `layers` of the picture, and the `sentences`.

    `sentences` has three items of one or more sentences each, or none before the run is finished.
    The item on how many verdicts are decided comes first if `decided` is given, else last.

    Args:
        roles: the roles of the run.
        decided: text on how many verdicts or claims are decided (`roles.describe_decided`), for a
            run that stops asking questions once they are decided; "" for a run of all questions.
    """
    layers = sorted(int(layer) for layer in roles.layers["layer"].unique())
    sentences = []
    if not roles.interim:
        sentences = [_say_critical(roles, len(layers)), _say_shared(roles)]
        sentences.insert(0 if decided else 2, _say_certainty(roles, decided))
    return {
        "sentences": sentences,
        "layers": layers,
        "rows": list(_rows(roles)),
    }


def _rows(roles: Roles) -> Iterator[dict[str, Any]]:
    """Yield a row of the picture per family and protocol.

    A row's `cells` are rows of `Roles.layers` as dicts, sorted by layer, with `needed` (how many
    questions would decide the verdict) as text; there are none if harm cannot be measured. `n` is
    the number of questions, as text.
    """
    for (family, protocol), layers in roles.layers.groupby(["family", "protocol"], sort=False):
        measured = layers[layers["verdict"] != NOT_MEASURABLE].sort_values("layer")
        yield {
            "family": family,
            "protocol": protocol,
            "n": _format_range(measured["n"]),
            "cells": [
                {**cell, "needed": _say_needed(cell["needed"])}
                for cell in measured.to_dict("records")
            ],
        }


def _say_needed(needed: float) -> str:
    return f"about {round_up(needed)} questions would decide" if math.isfinite(needed) else ""


def _say_critical(roles: Roles, n_layers: int) -> str:
    """Return a sentence on how many layers are critical for each family, under each protocol."""
    counts = []
    for protocol, rows in roles.frame.groupby("protocol", sort=False):
        measured = _measured_families(roles, str(protocol))
        named = [
            f"{row.family} {len(row.critical)}" for row in records(rows) if row.family in measured
        ]
        unmeasured = [row.family for row in records(rows) if row.family not in measured]
        named += [f"{family} cannot be measured" for family in unmeasured]
        counts.append(f"under {protocol}, {', '.join(named)}")
    return f"Critical layers, of {n_layers}: {'; '.join(counts)}."


def _say_shared(roles: Roles) -> str:
    """Return sentences on which layers are critical for every family, and which are sinks."""
    measured = {
        str(name): _measured_families(roles, str(name)) for name in roles.frame["protocol"].unique()
    }
    general = [
        f"{_format_numbered(layers)} under {protocol}"
        for protocol, rows in roles.frame.groupby("protocol", sort=False)
        if (
            layers := sorted(
                {int(layer) for layers_of_row in rows["general"] for layer in layers_of_row}
            )
        )
    ]
    if general:
        first = (
            f"Critical for every measured family, and so no evidence of a particular skill: "
            f"{'; '.join(general)}."
        )
    elif any(CONTROL in families and len(families) > 1 for families in measured.values()):
        first = "No layer is shown to be critical for every measured family."
    else:
        first = (
            "Which layers every skill needs was not measured: that takes the copying control "
            f"(family {CONTROL}) and another family, both above chance."
        )
    sinks = _list_sinks(roles)
    return first + (f" Attention sinks: {sinks}." if sinks else "")


def _list_sinks(roles: Roles) -> str:
    """Return which layers are attention sinks, and for which families; empty if no layer is."""
    families: dict[int, dict[str, list[str]]] = {}
    for row in records(roles.frame):
        for layer in row.sink:
            families.setdefault(int(layer), {}).setdefault(row.protocol, []).append(row.family)
    protocols = roles.frame["protocol"].unique()
    measured = {protocol: _measured_families(roles, protocol) for protocol in protocols}
    listed = []
    for layer, by_protocol in sorted(families.items()):
        whole = {name for name, found in by_protocol.items() if set(found) == measured[name]}
        if whole == {name for name, found in measured.items() if found}:
            listed.append(f"layer {layer} for every measured family")
            continue
        where = " and ".join(
            f"{'every measured family' if name in whole else ', '.join(found)} under {name}"
            for name, found in by_protocol.items()
        )
        listed.append(f"layer {layer} for {where}")
    return "; ".join(listed)


def _say_certainty(roles: Roles, decided: str) -> str:
    """Return sentences on how many verdicts are undecided, and which claims are decided.

    If `decided` (an argument of `make_first_screen`) is not empty, it replaces the first sentence.
    """
    measured = roles.layers[roles.layers["verdict"] != NOT_MEASURABLE]
    undecided = int((measured["verdict"] == UNDECIDED).sum())
    needed = describe_needed(measured)
    questions = _format_range(measured["n"])
    first = "No verdict on a layer is possible: no family was answered above chance."
    if len(measured):
        first = (
            f"{undecided} of {len(measured)} verdicts on a layer are undecided "
            f"(at {questions} questions{f'; {needed}' if needed else ''})."
        )
    if decided and len(measured):
        first = f"{decided}{f'. Verdicts on layers that are open: {needed}' if needed else ''}."
    claims = [
        f"{row.claim[0].lower()}{row.claim[1:]} ({row.family}, {row.protocol or 'all protocols'}): "
        f"{row.status}"
        for row in records(roles.claims)
        if row.status in ("supported", "contradicted")
    ]
    if claims:
        return f"{first} Claims of the literature that are decided: {'; '.join(claims)}."
    return f"{first} No claim of the literature is supported or contradicted."


def _measured_families(roles: Roles, protocol: str) -> set[str]:
    measured = roles.layers[roles.layers["verdict"] != NOT_MEASURABLE]
    return set(measured.loc[measured["protocol"] == protocol, "family"])


def _format_range(numbers: Iterable[int]) -> str:
    counts = sorted({int(n) for n in numbers})
    return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else ", ".join(map(str, counts))


def _format_numbered(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {format_layers(list(layers))}"

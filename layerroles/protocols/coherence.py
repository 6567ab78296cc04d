"""How coherent a written text is: how likely the intact model finds it, in nats per token."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from layerroles.ablations import INTACT
from layerroles.engine import Engine, Scored, Writing, Written
from layerroles.protocols.base import Answer

# What was read and what was written, as tokens.
Text = tuple[tuple[int, ...], tuple[int, ...]]


def add_coherence(
    known: Mapping[Text, float],
    requests: Sequence[Any],
    found: Sequence[Any],
    answers: Sequence[Answer],
) -> list[Answer]:
    """The answers, those that were written with `coherence` among their details.

    Args:
        known: how coherent texts are, see `coherence`.
        requests: one for each answer, where something was written.
        found: what the model answered to them.
        answers: what that was judged to be.
    """
    if not known or not requests or not isinstance(requests[0], Written):
        return list(answers)
    texts = (text_of(*pair) for pair in zip(requests, found, strict=True))
    return [
        _with(answer, known.get(text)) if text else answer
        for answer, text in zip(answers, texts, strict=True)
    ]


def texts_of(requests: Sequence[Any], found: Sequence[Any]) -> Iterator[Text]:
    """What was written in answer to requests, where there is something to score."""
    if requests and isinstance(requests[0], Written):
        texts = (text_of(*pair) for pair in zip(requests, found, strict=True))
        yield from (text for text in texts if text)


def coherence(engine: Engine, texts: Iterable[Text]) -> dict[Text, float]:
    """Nats per token of each text under the intact model, after what it was written for.

    What several conditions wrote alike is scored once. Texts whose score is not finite are left
    out.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return {}
    (scores,) = engine.score([Scored(*text) for text in distinct], [INTACT])
    return {
        text: score.logprob / score.n_tokens
        for text, score in zip(distinct, scores, strict=True)
        if score.finite
    }


def text_of(request: Written, writing: Writing) -> Text | None:
    """What was written, after what; None if there is nothing to score."""
    if not writing.text.strip() or not writing.ids or not writing.finite:
        return None
    return request.context, writing.ids


def _with(answer: Answer, nats: float | None) -> Answer:
    if nats is None:
        return answer
    return dataclasses.replace(answer, details={**answer.details, "coherence": nats})

"""How coherent a written text is: how likely the intact model finds it, in nats per token."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from layerroles.ablations import INTACT
from layerroles.engine import Engine, Scored, Writing, Written
from layerroles.protocols.base import Answer

# What was read and what was written, as tokens.
WrittenText = tuple[tuple[int, ...], tuple[int, ...]]


def add_coherence(
    coherence_of: Mapping[WrittenText, float],
    requests: Sequence[Any],
    found: Sequence[Any],
    answers: Sequence[Answer],
) -> list[Answer]:
    """The answers, those that were written with `coherence` among their details.

    Args:
        coherence_of: how coherent texts are, see `score_coherence`.
        requests: one for each answer, where something was written.
        found: what the model answered to them.
        answers: what that was judged to be.
    """
    if not coherence_of or not requests or not isinstance(requests[0], Written):
        return list(answers)
    texts = (find_written_text(*pair) for pair in zip(requests, found, strict=True))
    return [
        _with_coherence(answer, coherence_of.get(text)) if text else answer
        for answer, text in zip(answers, texts, strict=True)
    ]


def find_written_texts(requests: Sequence[Any], found: Sequence[Any]) -> Iterator[WrittenText]:
    """What was written in answer to requests, where there is something to score."""
    if requests and isinstance(requests[0], Written):
        texts = (find_written_text(*pair) for pair in zip(requests, found, strict=True))
        yield from (text for text in texts if text)


def score_coherence(engine: Engine, texts: Iterable[WrittenText]) -> dict[WrittenText, float]:
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


def find_written_text(request: Written, writing: Writing) -> WrittenText | None:
    """What was written, after what; None if there is nothing to score."""
    if not writing.text.strip() or not writing.ids or not writing.finite:
        return None
    return request.context, writing.ids


def _with_coherence(answer: Answer, nats: float | None) -> Answer:
    if nats is None:
        return answer
    return dataclasses.replace(answer, details={**answer.details, "coherence": nats})

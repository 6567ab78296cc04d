"""Score the coherence of generated texts: their log-likelihood under the intact model."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from layerroles.ablations import INTACT
from layerroles.engine import Engine, Scored, Writing, Written
from layerroles.protocols.base import Answer

# Token ids of the context, and of the text written after it.
WrittenText = tuple[tuple[int, ...], tuple[int, ...]]


def add_coherence(
    coherence_of: Mapping[WrittenText, float],
    requests: Sequence[Any],
    found: Sequence[Any],
    answers: Sequence[Answer],
) -> list[Answer]:
    """Return the answers, with the coherence of the generated texts added to their `details`.

    Args:
        coherence_of: log-likelihood of each text in nats per token, from `score_coherence`; the
            answer of a text that is not in it stays unchanged.
        requests: the requests; unless they are generation requests, answers are returned unchanged.
        found: what the model wrote for each request.
        answers: the scored answer to each request.
    """
    if not coherence_of or not requests or not isinstance(requests[0], Written):
        return list(answers)
    texts = (find_written_text(*pair) for pair in zip(requests, found, strict=True))
    return [
        _with_coherence(answer, coherence_of.get(text)) if text else answer
        for answer, text in zip(answers, texts, strict=True)
    ]


def find_written_texts(requests: Sequence[Any], found: Sequence[Any]) -> Iterator[WrittenText]:
    """Yield the token ids of each request's context and of the text generated after it.

    Leaves out empty texts, and texts with a logit that was NaN or infinite. Yields nothing unless
    the requests are generation requests.
    """
    if requests and isinstance(requests[0], Written):
        texts = (find_written_text(*pair) for pair in zip(requests, found, strict=True))
        yield from (text for text in texts if text)


def score_coherence(engine: Engine, texts: Iterable[WrittenText]) -> dict[WrittenText, float]:
    """Return the intact model's log-likelihood of each text after its context, in nats per token.

    0 is the best. Equal texts are scored once. Texts whose score is not finite are left out.
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
    """Return the token ids of a request's context and of the text generated after it.

    Returns None if the text is empty, or if one of its logits was NaN or infinite.
    """
    if not writing.text.strip() or not writing.ids or not writing.finite:
        return None
    return request.context, writing.ids


def _with_coherence(answer: Answer, nats: float | None) -> Answer:
    if nats is None:
        return answer
    return dataclasses.replace(answer, details={**answer.details, "coherence": nats})

"""Requests to a model, as token ids, and the model's answers.

The two kinds of request are lm-eval's `loglikelihood` and `generate_until`. Context and
continuation are encoded as one text and then split, so that the tokens are those of the whole text.
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Prompt
from layerroles.errors import InputError
from layerroles.models import encode, prepared, tokenize

log = logging.getLogger(__name__)

AnyRequest = TypeVar("AnyRequest", "Scored", "Written")
Second = TypeVar("Second")
Options = Mapping[str, object]
# For each request, character spans `[start, end)` of its context; None if they are not known.
Spans = Sequence[Sequence[tuple[int, int]] | None]
_KNOWN_OPTIONS = ("until", "max_gen_toks")
_MAX_GEN_TOKS = 256


@dataclass(frozen=True)
class Scored:
    """A request for the log-likelihood of a continuation (lm-eval's `loglikelihood`).

    Attributes:
        context: token ids that precede the continuation.
        continuation: token ids that are scored.
        evidence: positions of the context's tokens that hold what the answer needs; None if
            unknown.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    evidence: tuple[int, ...] | None = None

    @property
    def prompt(self) -> Prompt:
        """The context and its evidence positions."""
        return Prompt(self.context, self.evidence)


@dataclass(frozen=True)
class Written:
    """A request to generate a text greedily after a context (lm-eval's `generate_until`).

    Attributes:
        context: token ids that precede the generated text.
        until: strings that end the text; it is cut before them.
        max_gen_toks: the most tokens that are generated.
        evidence: positions of the context's tokens that hold what the answer needs; None if
            unknown.
    """

    context: tuple[int, ...]
    until: tuple[str, ...]
    max_gen_toks: int
    evidence: tuple[int, ...] | None = None

    @property
    def prompt(self) -> Prompt:
        """The context and its evidence positions."""
        return Prompt(self.context, self.evidence)


@dataclass(frozen=True)
class Score:
    """The answer to a `Scored` request.

    Attributes:
        logprob: log-likelihood of the continuation (larger is more likely), summed over its tokens,
            in nats; NaN if a logit was not finite.
        is_greedy: whether greedy decoding would have written the continuation.
        n_tokens: number of tokens of the continuation.
        finite: whether all logits at the scored positions were finite.
        changed: whether the condition's edits changed anything for this request.
    """

    logprob: float
    is_greedy: bool
    n_tokens: int
    finite: bool
    changed: bool

    def then(self, rest: "Score") -> "Score":
        """Return a whole continuation's score, from those of its first part (`self`) and `rest`."""
        return Score(
            logprob=self.logprob + rest.logprob,
            is_greedy=self.is_greedy and rest.is_greedy,
            n_tokens=self.n_tokens + rest.n_tokens,
            finite=self.finite and rest.finite,
            changed=self.changed or rest.changed,
        )


@dataclass(frozen=True)
class Writing:
    """The answer to a `Written` request.

    Attributes:
        text: the generated text, cut before the first `until` string.
        n_tokens: number of tokens generated, including those that end the text.
        ended: whether the text ended with an `until` string or an end-of-text token (rather than at
            `max_gen_toks` or a logit that was not finite).
        finite: whether all logits were finite; the text stops at one that is not.
        changed: whether the condition's edits changed anything for this request.
        ids: ids of the tokens generated, including those that end the text.
    """

    text: str
    n_tokens: int
    ended: bool
    finite: bool
    changed: bool
    ids: tuple[int, ...] = ()


Requests = Sequence[Scored | Written]


def split_requests(
    indexed: Iterable[tuple[int, Scored | Written]],
) -> tuple[dict[int, Scored], dict[int, Written]]:
    """Return two maps from index to request: the `Scored` requests, and the `Written` ones."""
    scored: dict[int, Scored] = {}
    written: dict[int, Written] = {}
    for index, request in indexed:
        if isinstance(request, Scored):
            scored[index] = request
        else:
            written[index] = request
    return scored, written


def max_length(request: Scored | Written) -> int:
    """Return the number of tokens of a request, including the most that it may generate."""
    if isinstance(request, Written):
        return len(request.context) + request.max_gen_toks
    return len(request.context) + len(request.continuation)


def max_new_tokens(request: Scored | Written) -> int:
    """Return the most tokens that a request may generate; 0 for a request to score."""
    return request.max_gen_toks if isinstance(request, Written) else 0


def collect_answers(parts: Iterable[tuple[int, int, list[Any]]]) -> list[list[Any]]:
    """Return the answers to one list of requests, ordered by condition: `[condition][request]`.

    Args:
        parts: triples of list index, condition index and answers, from `Executor.answer`.
    """
    by_condition = {condition: answers for _, condition, answers in parts}
    return [by_condition[condition] for condition in range(len(by_condition))]


def encode_scored(
    model: TransformerBridge,
    pairs: Iterable[tuple[str, str]],
    evidence: Spans | None = None,
    *,
    cut: int | None = None,
) -> list[Scored]:
    """Encode pairs of context and continuation as requests of token ids.

    Args:
        model: the model whose tokenizer is used.
        pairs: pairs of a context and a continuation, as texts; as in lm-eval, whitespace at the end
            of a context moves to the continuation. The BOS token, or else the end-of-text token,
            stands for an empty context.
        evidence: for each pair, the character spans of its context that conditions with
            `at="evidence"` act on; None if not known.
        cut: the most tokens that a request may read; a longer one loses the start of its context,
            as in lm-eval, unless no token of the context would remain. By default, nothing is cut.
            In either case, a request longer than the model's context window is refused.

    Raises:
        InputError: an item that is not a pair of texts, a continuation without tokens, an empty
            context if the tokenizer has neither token, a request longer than the context window, or
            evidence that is not a list of spans per request.
    """
    pairs = check_pairs(pairs)
    spans = _check_evidence(evidence, len(pairs))
    return [
        _encode_scored(model, index, *pair, spans[index], cut) for index, pair in enumerate(pairs)
    ]


def encode_written(
    model: TransformerBridge,
    asked: Iterable[tuple[str, Options]],
    evidence: Spans | None = None,
    *,
    cut: int | None = None,
) -> list[Written]:
    """Encode contexts with their options as requests of token ids.

    Args:
        model: the model whose tokenizer is used.
        asked: pairs of a context and options: `until` (a string or a list of strings) and
            `max_gen_toks` (256 by default). The BOS token, or else the end-of-text token, stands
            for an empty context.
        evidence: for each pair, the character spans of its context that conditions with
            `at="evidence"` act on; None if not known.
        cut: the most tokens that a request may read and generate; a longer one loses the start of
            its context, unless no token of the context would remain. By default, nothing is cut. In
            either case, a request longer than the model's context window is refused.

    Raises:
        InputError: an item that is not a pair of a text and options, an unknown or invalid option,
            an empty context if the tokenizer has neither token, a request longer than the context
            window, or evidence that is not a list of spans for each request.
    """
    asked = check_pairs(asked)
    spans = _check_evidence(evidence, len(asked))
    return [
        _encode_written(model, index, *pair, spans[index], cut) for index, pair in enumerate(asked)
    ]


def check_pairs(given: Iterable[tuple[str, Second]]) -> list[tuple[str, Second]]:
    """Check that every item is a pair, and return the items as a list.

    Raises:
        InputError: an item is not a tuple or list of two.
    """
    pairs = list(given) if isinstance(given, Iterable) else [given]
    for index, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"request {index}: {pair!r} is no pair of a context and a continuation, or of a "
                f'context and options: write [("1 + 1 =", " 2")], or '
                f'[("1 + 1 =", {{"max_gen_toks": 4}})]'
            )
    return pairs


def empty_context_ids(model: TransformerBridge) -> tuple[int, ...]:
    """Return the ids that stand for an empty context: the BOS token, else the end-of-text token.

    Raises:
        InputError: the tokenizer has neither.
    """
    tokenizer = prepared(model).tokenizer
    token = tokenizer.bos_token_id
    token = tokenizer.eos_token_id if token is None else token
    if token is None:
        raise InputError(
            "a context is empty, and the tokenizer has neither a BOS nor an end-of-text token that "
            "could stand for it: give a context"
        )
    return (token,)


def _check_text(index: int, what: str, text: object) -> None:
    """Check that a value is a string that can be encoded.

    Raises:
        InputError: the value is no such string. The message names the request by `index`, and the
            value by `what`.
    """
    if not isinstance(text, str):
        raise InputError(f"request {index}: the {what} is {text!r}, not a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"request {index}: the {what} holds {text[error.start]!r} at {error.start}, half of a "
            f"character (a surrogate), which no tokenizer can read"
        ) from None


def _check_evidence(
    evidence: Spans | None, n_requests: int
) -> Sequence[Sequence[tuple[int, int]] | None]:
    if evidence is None:
        return [None] * n_requests
    if isinstance(evidence, str) or not isinstance(evidence, Sequence):
        raise InputError(f"evidence={evidence!r:.80} is not a list with spans for each request")
    if len(evidence) != n_requests:
        raise InputError(f"evidence of {len(evidence)} requests is given for {n_requests}")
    for index, spans in enumerate(evidence):
        listed = spans is None or isinstance(spans, Sequence)
        if not listed or not all(map(_is_span, spans or ())):
            raise InputError(
                f"request {index}: evidence={spans!r} is not a list of spans, such as [(0, 5)]"
            )
    return evidence


def _is_span(span: object) -> bool:
    if not isinstance(span, tuple | list) or len(span) != 2:
        return False
    return all(isinstance(place, int | np.integer) for place in span)


def _evidence_positions(
    model: TransformerBridge, text: str, spans: Sequence[tuple[int, int]] | None, n: int
) -> tuple[int, ...] | None:
    """Return the positions of those of a text's first `n` tokens that overlap the character spans.

    Returns None if `spans` is None, or if the tokenizer cannot return character offsets.
    """
    if not spans:
        return None if spans is None else ()
    if not prepared(model).tokenizer.is_fast:  # slow tokenizers return no character offsets
        return None
    offsets = tokenize(model, text, offsets=True)["offset_mapping"][:n]
    return tuple(
        position
        for position, (start, end) in enumerate(offsets)
        if any(start < last and first < end for first, last in spans)
    )


def _encode_scored(
    model: TransformerBridge,
    index: int,
    context: str,
    continuation: str,
    spans: Sequence[tuple[int, int]] | None,
    cut: int | None,
) -> Scored:
    _check_text(index, "context", context)
    _check_text(index, "continuation", continuation)
    if not continuation:
        raise InputError(f"request {index}: the continuation is empty, there is nothing to score")
    n_blanks = len(context) - len(context.rstrip())
    if n_blanks:  # as in lm-eval, blanks at the end of the context move to the continuation
        continuation = context[-n_blanks:] + continuation
        context = context[:-n_blanks]
    if context:
        whole, start = encode(model, context + continuation), len(encode(model, context))
        evidence = _evidence_positions(model, context + continuation, spans, start)
        request = Scored(tuple(whole[:start]), tuple(whole[start:]), evidence)
    else:
        ids = prepared(model).tokenizer(continuation, add_special_tokens=False)["input_ids"]
        begin = empty_context_ids(model)
        if tuple(ids[:1]) == begin:  # the continuation begins with this token already
            ids = ids[1:]
        request = Scored(begin, tuple(ids), None if spans is None else ())
    if not request.continuation:
        raise InputError(
            f"request {index}: continuation {continuation!r} melts into the context's last token"
        )
    return _fit_window(model, index, request, cut)


def _encode_written(
    model: TransformerBridge,
    index: int,
    context: str,
    options: Options,
    spans: Sequence[tuple[int, int]] | None,
    cut: int | None,
) -> Written:
    if not isinstance(options, Mapping):
        raise InputError(f'request {index}: {options!r} are no options, such as {{"until": ["."]}}')
    unknown = sorted(map(str, set(options) - set(_KNOWN_OPTIONS)))
    if unknown:
        raise InputError(
            f"request {index}: unknown option {unknown[0]!r}, known are {', '.join(_KNOWN_OPTIONS)}"
        )
    _check_text(index, "context", context)
    until, limit = options.get("until"), options.get("max_gen_toks", _MAX_GEN_TOKS)
    until = () if until is None else (until,) if isinstance(until, str) else until
    if not isinstance(until, list | tuple) or not all(isinstance(text, str) for text in until):
        raise InputError(f"request {index}: until={until!r} is not a string, or a list of strings")
    if not isinstance(limit, int) or limit < 1:
        raise InputError(f"request {index}: max_gen_toks={limit!r} is not a number above 0")
    ids = tuple(encode(model, context)) if context else empty_context_ids(model)
    evidence = _evidence_positions(model, context, spans, len(ids))
    request = Written(ids, tuple(text for text in until if text), limit, evidence)
    return _fit_window(model, index, request, cut)


def _fit_window(
    model: TransformerBridge, index: int, request: AnyRequest, cut: int | None
) -> AnyRequest:
    """Return the request; if it is longer than `cut`, without the first tokens of its context.

    Raises:
        InputError: the result is longer than the model's context window.
    """
    # The last token of a continuation is scored, but not read: nothing after it is scored.
    length = max_length(request) - isinstance(request, Scored)
    n = 0 if cut is None else length - cut
    if 0 < n < len(request.context):
        log.warning("a request is longer than the model's context: its first %d tokens are cut", n)
        evidence = request.evidence and tuple(place - n for place in request.evidence if place >= n)
        request = dataclasses.replace(request, context=request.context[n:], evidence=evidence)
        length -= n
    if length > model.cfg.n_ctx:
        raise InputError(
            f"request {index} takes {length} tokens, more than the {model.cfg.n_ctx} of the "
            f"model's context: shorten the prompt, or use fewer shots or a smaller max_gen_toks"
        )
    return request

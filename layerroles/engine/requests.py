"""What a model is asked, in token ids.

The two verbs and their meaning are lm-eval's. Context and continuation are encoded together and
then split, so that a word never falls apart at the seam; the ids are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import encode, prepared

Options = Mapping[str, object]
_KNOWN_OPTIONS = ("until", "max_gen_toks")
_MAX_GEN_TOKS = 256


@dataclass(frozen=True)
class Scored:
    """`loglikelihood(context, continuation)`: how likely is this text after that one?"""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """`generate_until(context, until, max_gen_toks)`: what does the model write?"""

    context: tuple[int, ...]
    until: tuple[str, ...]
    max_gen_toks: int


@dataclass(frozen=True)
class Score:
    """The answer to a `Scored` request.

    Attributes:
        logprob: sum over the continuation's tokens, in nats; NaN if a logit was not finite.
        is_greedy: whether greedy decoding would have written the continuation.
        n_tokens: tokens of the continuation.
        finite: whether all scored logits were finite.
        changed: whether the condition's edits changed anything for this request.
    """

    logprob: float
    is_greedy: bool
    n_tokens: int
    finite: bool
    changed: bool

    def then(self, rest: "Score") -> "Score":
        """The score of a continuation whose beginning and rest were scored apart."""
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
        text: what was written, cut before the first `until` string.
        n_tokens: tokens generated, the ending ones included.
        ended: whether it ended by itself (an `until` string or the end-of-text token) rather than
            at `max_gen_toks`.
        finite: whether all logits were finite.
        changed: whether the condition's edits changed anything for this request.
    """

    text: str
    n_tokens: int
    ended: bool
    finite: bool
    changed: bool


def scored(model: TransformerBridge, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
    """Encode pairs of context and continuation.

    Raises:
        InputError: an empty continuation, or a request longer than the model's context.
    """
    return [_scored(model, index, *pair) for index, pair in enumerate(pairs)]


def written(model: TransformerBridge, asked: Sequence[tuple[str, Options]]) -> list[Written]:
    """Encode contexts with their options `until` (strings) and `max_gen_toks` (256 by default).

    Raises:
        InputError: an unknown option, or a request longer than the model's context.
    """
    return [_written(model, index, *one) for index, one in enumerate(asked)]


def prefix_ids(model: TransformerBridge) -> tuple[int, ...]:
    """What stands for an empty context: the BOS token, else the end-of-text token."""
    tokenizer = prepared(model).tokenizer
    known = tokenizer.bos_token_id
    return (tokenizer.eos_token_id if known is None else known,)


def _scored(model: TransformerBridge, index: int, context: str, continuation: str) -> Scored:
    if not continuation:
        raise InputError(f"request {index}: the continuation is empty, there is nothing to score")
    moved = len(context) - len(context.rstrip())
    if moved:  # lm-eval's way: blanks at the seam belong to the continuation
        continuation = context[-moved:] + continuation
        context = context[:-moved]
    if context:
        whole, start = encode(model, context + continuation), len(encode(model, context))
        request = Scored(tuple(whole[:start]), tuple(whole[start:]))
    else:
        ids = prepared(model).tokenizer(continuation, add_special_tokens=False)["input_ids"]
        request = Scored(prefix_ids(model), tuple(ids))
    if not request.continuation:
        raise InputError(
            f"request {index}: continuation {continuation!r} melts into the context's last token"
        )
    _check_length(model, index, len(request.context) + len(request.continuation))
    return request


def _written(model: TransformerBridge, index: int, context: str, options: Options) -> Written:
    unknown = sorted(set(options) - set(_KNOWN_OPTIONS))
    if unknown:
        raise InputError(
            f"request {index}: unknown option {unknown[0]!r}, known are {', '.join(_KNOWN_OPTIONS)}"
        )
    until, limit = options.get("until", ()), options.get("max_gen_toks", _MAX_GEN_TOKS)
    until = (until,) if isinstance(until, str) else tuple(until)  # type: ignore[arg-type]
    if not isinstance(limit, int) or limit < 1:
        raise InputError(f"request {index}: max_gen_toks={limit!r} is not a number above 0")
    ids = tuple(encode(model, context)) if context else prefix_ids(model)
    _check_length(model, index, len(ids) + limit)
    return Written(ids, tuple(text for text in until if text), limit)


def _check_length(model: TransformerBridge, index: int, length: int) -> None:
    if length > model.cfg.n_ctx:
        raise InputError(
            f"request {index} takes {length} tokens, more than the {model.cfg.n_ctx} of the "
            f"model's context: shorten the prompt, or use fewer shots or a smaller max_gen_toks"
        )

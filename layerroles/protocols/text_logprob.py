"""Score how likely a plain text is, as a control for damage to language modelling in general."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Score, Scored, empty_context_ids
from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.protocols.base import Answer, Unit, register
from layerroles.protocols.likelihood import LikelihoodProtocol, make_measurement
from layerroles.protocols.prompt_format import Turn
from layerroles.tasks import Example


@register("text_logprob")
@dataclass(frozen=True)
class TextLogprob(LikelihoodProtocol):
    """Score the log-likelihood of a whole text, in nats per UTF-8 byte (0 at best).

    This is lm-eval's `loglikelihood_rolling`, divided by bytes so that models with different
    tokenizers can be compared. Examples must have an empty prompt; their answer is the text. No
    chat template is used, even with `chat`.

    Example:
        >>> from layerroles.protocols import TextLogprob
        >>> TextLogprob().name, TextLogprob().unit
        ('text_logprob', 'nats per byte')
    """

    unit: ClassVar[Unit] = "nats per byte"

    def check(self, example: Example) -> None:
        """Check that the example is a text without a question.

        Raises:
            InputError: the example's prompt is not empty.
        """
        if example.prompt:
            raise InputError(
                f"protocol 'text_logprob' scores plain texts, and example {example.id!r} is a "
                f"question: leave it out of the protocols, task plain_text is asked so without it"
            )

    def context(self, example: Example) -> str:
        """Return an empty string: the text is scored without anything in front of it."""
        return ""

    def prompt(self, model: TransformerBridge, example: Example, *, chat: bool) -> str:
        """Return an empty string, with or without `chat`."""
        return ""

    def turns(self, example: Example) -> list[Turn]:
        """Return no turns: there is no question."""
        return []

    def continuations(self, example: Example) -> list[str]:
        """Return the text as the only continuation."""
        return [example.answer]

    def requests(self, model: TransformerBridge, example: Example, *, chat: bool) -> list[Scored]:
        """Return requests that score the text in windows of at most the model's context length."""
        ids = prepared(model).tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        return list(split_windows(empty_context_ids(model), ids, model.cfg.n_ctx))

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Score the text by its log-likelihood, in nats per byte.

        Details: `nats`, the log-likelihood of the whole text in nats.
        """
        nats = sum(score.logprob for score in scores)
        return make_measurement(nats / len(example.answer.encode()), scores, {"nats": nats})


def split_windows(prefix: tuple[int, ...], ids: Sequence[int], longest: int) -> Iterator[Scored]:
    """Yield requests of at most `longest` tokens that together score every token once.

    The first request begins with `prefix`, the token that stands for an empty context. Each later
    request scores at most `longest - 1` tokens; its context is the tokens before them, at least one
    and as many as fit. These are the windows of lm-eval's `get_rolling_token_windows` with
    `context_len=1` for a model that reads `longest - 1` tokens.
    """
    first = longest - len(prefix)
    yield Scored(prefix, tuple(ids[:first]))
    n_new = longest - 1
    for start in range(first, len(ids), n_new):
        end = min(start + n_new, len(ids))
        yield Scored(tuple(ids[end - longest : start]), tuple(ids[start:end]))

"""How likely a plain text is: the control for damage to the language model as such."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Score, Scored, empty_context_ids
from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.protocols.base import Answer, Unit, register
from layerroles.protocols.likelihood import LikelihoodProtocol, make_measurement
from layerroles.protocols.turns import Turn
from layerroles.tasks import Example


@register("text_logprob")
@dataclass(frozen=True)
class TextLogprob(LikelihoodProtocol):
    """How likely a whole text is, in nats per UTF-8 byte (0 at best).

    As lm-eval's `loglikelihood_rolling`, divided by bytes, so that models with different tokenizers
    can be compared. Takes examples without a prompt, whose answer is the text. A text is read as it
    is, in a chat too.

    Example:
        >>> from layerroles.protocols import TextLogprob
        >>> TextLogprob().name, TextLogprob().unit
        ('text_logprob', 'nats per byte')
    """

    unit: ClassVar[Unit] = "nats per byte"

    def check(self, example: Example) -> None:
        """A text without a question is needed.

        Raises:
            InputError: there is a question.
        """
        if example.prompt:
            raise InputError(
                f"protocol 'text_logprob' scores plain texts, and example {example.id!r} is a "
                f"question: leave it out of the protocols, task plain_text is asked so without it"
            )

    def chance(self, examples: Sequence[Example]) -> float | None:
        """There is no such thing as guessing here."""
        return None

    def context(self, example: Example) -> str:
        """Nothing."""
        return ""

    def prompt(self, model: TransformerBridge, example: Example, *, chat: bool) -> str:
        """Nothing, in a chat too."""
        return ""

    def turns(self, example: Example) -> list[Turn]:
        """Nobody says anything."""
        return []

    def continuations(self, example: Example) -> list[str]:
        """The text."""
        return [example.answer]

    def requests(self, model: TransformerBridge, example: Example, *, chat: bool) -> list[Scored]:
        """The text in windows that the model's context holds."""
        ids = prepared(model).tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        return list(split_windows(empty_context_ids(model), ids, model.cfg.n_ctx))

    def judge(self, example: Example, scores: list[Score]) -> Answer:
        """Nats per byte; details: `nats` of the whole text."""
        nats = sum(score.logprob for score in scores)
        return make_measurement(nats / len(example.answer.encode()), scores, {"nats": nats})


def split_windows(prefix: tuple[int, ...], ids: Sequence[int], longest: int) -> Iterator[Scored]:
    """Every token scored once, after as much of the text as fits, in requests of `longest` tokens.

    The first window begins with `prefix`; each of the others predicts what is new in it after one
    token or more of what was. These are the windows of lm-eval's `get_rolling_token_windows` with
    `context_len=1` for a model that reads `longest - 1` tokens.
    """
    first = longest - len(prefix)
    yield Scored(prefix, tuple(ids[:first]))
    n_new = longest - 1
    for start in range(first, len(ids), n_new):
        end = min(start + n_new, len(ids))
        yield Scored(tuple(ids[end - longest : start]), tuple(ids[start:end]))

"""Wrap a model under a condition as an lm-eval model, to be passed to lm-eval's own functions.

    lm = AblatedLM(model, condition)
    lm_eval.simple_evaluate(lm, tasks=["arc_easy"], num_fewshot=5, limit=100)

To ask an lm-eval task under many conditions, `task("lm_eval:NAME")` in a sweep is far faster: it
shares work between conditions.
"""

from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, as_condition
from layerroles.engine import Engine, Scored, empty_context_ids, encode_scored, encode_written
from layerroles.errors import InputError
from layerroles.harness.task_loading import NOT_INSTALLED, read_generation_options
from layerroles.models import chat_text, encode, prepared

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    raise InputError(NOT_INSTALLED) from error


class AblatedLM(TemplateLM):  # type: ignore[misc]
    """An lm-eval model that answers requests under a condition.

    Args:
        model: a model from `load` or `prepare`.
        condition: the condition to apply; by default none (`INTACT`).
        engine: by default `Engine(model)`; pass one to share it between conditions of a model.
        max_length: maximum tokens of a request; longer requests are cut at their start. By default,
            and at most, the model's context length.

    Example:
        lm = lr.AblatedLM(model, lr.Condition({lr.Site(2): lr.Skip()}))
        lm.tok_encode("silver fence")  # lm_eval.simple_evaluate(lm, tasks=["arc_easy"]) asks it
    """

    backend = "causal"

    def __init__(
        self,
        model: TransformerBridge,
        condition: Condition = INTACT,
        *,
        engine: Engine | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        condition = as_condition(condition)
        condition.check(model)
        self.model = model
        self.condition = condition
        self.engine = engine or Engine(model)
        self.tokenizer = prepared(model).tokenizer
        self.max_length = min(max_length or model.cfg.n_ctx, model.cfg.n_ctx)

    @property
    def eot_token_id(self) -> int:
        """The id of the token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The id of the token that is used as the context if a request has none."""
        return empty_context_ids(self.model)[0]

    @property
    def tokenizer_name(self) -> str:
        """The model's name with "__" for "/", as part of a key in lm-eval's cache of requests."""
        return prepared(self.model).name.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return token ids; by default the tokenizer decides which special tokens are added."""
        if add_special_tokens is None:
            return encode(self.model, string)
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return messages as one text in the model's chat template.

        Raises:
            InputError: the tokenizer has no chat template.
        """
        return chat_text(self.model, chat_history, add_generation_prompt=add_generation_prompt)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood, is greedy) for each request's continuation.

        The log-likelihood is in nats; the continuation is greedy if greedy decoding writes it.
        """
        pairs = [(instance.args[0], instance.args[1]) for instance in requests]
        return self._score(encode_scored(self.model, pairs, cut=self.max_length))

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        scored = [Scored(tuple(context), tuple(rest)) for _, context, rest in requests]
        return self._score(scored)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-likelihood of each whole text, in nats.

        A text that is too long for one pass is read in windows; each token is scored once, and a
        window may begin with tokens that were scored before.
        """
        windows: list[Scored] = []
        counts = []
        for (text,) in (instance.args for instance in requests):
            rolling = get_rolling_token_windows(
                token_list=encode(self.model, text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            text_windows = [make_disjoint_window(window) for window in rolling]
            windows += [Scored(tuple(context), tuple(rest)) for context, rest in text_windows]
            counts.append(len(text_windows))
        scores = iter(self._score(windows))
        return [sum(next(scores)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text that is greedily generated after each context.

        Raises:
            InputError: a request asks for sampling or beam search.
        """
        contexts = [
            (context, read_generation_options(options, f"request {place}"))
            for place, (context, options) in enumerate(instance.args for instance in requests)
        ]
        (writings,) = self.engine.write(
            encode_written(self.model, contexts, cut=self.max_length), [self.condition]
        )
        return [writing.text for writing in writings]

    def _score(self, requests: list[Scored]) -> list[tuple[float, bool]]:
        (scores,) = self.engine.score(requests, [self.condition])
        return [(score.logprob, score.is_greedy) for score in scores]

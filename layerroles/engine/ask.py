"""Ask a model, intact or under conditions: the front of the engine."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, resolve
from layerroles.engine.hooked import Hooked
from layerroles.engine.plain import Plain
from layerroles.engine.replay import can_replay
from layerroles.engine.requests import Options, Score, Scored, Writing, Written, scored, written
from layerroles.errors import InputError
from layerroles.models import check_sites, prepared

log = logging.getLogger(__name__)

ExecutorName = Literal["auto", "hooked", "plain"]


@dataclass(frozen=True)
class LogLikelihoods:
    """Answers to `loglikelihood` requests; axes are conditions and requests, in the order given.

    Attributes:
        logprob: sums over the continuation's tokens, in nats; NaN where a logit was not finite.
        is_greedy: whether greedy decoding would have written the continuation.
        n_tokens: tokens of each continuation.
        changed: whether the condition's edits changed anything for the request.
    """

    logprob: Float[np.ndarray, "condition request"]
    is_greedy: Bool[np.ndarray, "condition request"]
    n_tokens: Int[np.ndarray, " request"]
    changed: Bool[np.ndarray, "condition request"]


class Engine:
    r"""Answers requests under conditions, in lm-eval's words.

    Args:
        model: from `load` or `prepare`.
        executor: `"plain"` is the reference, one condition and one request at a time;
            `"hooked"` gives the same answers from less work; `"auto"` takes that one where the
            model allows it.
        batch_size: rows that the reference runs together.

    Raises:
        InputError: an executor that is not known, or that this model does not allow.

    Example:
        engine = Engine(model)
        engine.loglikelihood([("The capital of France is", " Paris")], each_layer(model, Skip()))
        engine.generate_until([("1, 2, 3,", {"until": ["\n"], "max_gen_toks": 8})])
    """

    def __init__(
        self,
        model: TransformerBridge,
        *,
        executor: ExecutorName = "auto",
        batch_size: int = 16,
    ) -> None:
        if executor not in ("auto", "hooked", "plain"):
            raise InputError(f"unknown executor {executor!r}: known are auto, hooked, plain")
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} is not a number above 0")
        name = prepared(model).name
        self.model = model
        self.batch_size = batch_size
        self.executor: Literal["hooked", "plain"] = "plain"
        if executor != "plain":
            if can_replay(model):
                self.executor = "hooked"
            elif executor == "hooked":
                raise InputError(f"model {name!r} cannot be read from a recorded stream: use plain")
            else:
                log.warning("model %r cannot be read from a recorded stream: plain engine", name)

    def loglikelihood(
        self, requests: Sequence[tuple[str, str]], conditions: Sequence[Condition] = (INTACT,)
    ) -> LogLikelihoods:
        """How likely each continuation is after its context, under each condition.

        Args:
            requests: pairs of context and continuation.
            conditions: by default the intact model only.

        Raises:
            InputError: an empty continuation, a request longer than the model's context, or a
                site that the model lacks.
        """
        scores = self.score(scored(self.model, requests), conditions)
        shape = (len(conditions), len(requests))

        def table(values: list[list[object]], kind: type) -> np.ndarray:
            return np.array(values, dtype=kind).reshape(shape)

        return LogLikelihoods(
            logprob=table([[one.logprob for one in row] for row in scores], float),
            is_greedy=table([[one.is_greedy for one in row] for row in scores], bool),
            n_tokens=np.array([one.n_tokens for one in scores[0]] if scores else [], dtype=int),
            changed=table([[one.changed for one in row] for row in scores], bool),
        )

    def generate_until(
        self, requests: Sequence[tuple[str, Options]], conditions: Sequence[Condition] = (INTACT,)
    ) -> list[list[str]]:
        """What the model writes greedily after each context: `[condition][request]`.

        Args:
            requests: pairs of context and options: `until` (strings before which the text is
                cut) and `max_gen_toks` (256 by default).
            conditions: by default the intact model only.

        Raises:
            InputError: an unknown option, a request longer than the model's context, or a site
                that the model lacks.
        """
        writings = self.write(written(self.model, requests), conditions)
        return [[one.text for one in row] for row in writings]

    def score(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> list[list[Score]]:
        """Score encoded requests: `[condition][request]`."""
        longest = max((len(r.context) + len(r.continuation) for r in requests), default=0)
        return self._executor(conditions, longest).score(requests, conditions)

    def write(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> list[list[Writing]]:
        """Generate for encoded requests: `[condition][request]`."""
        longest = max((len(r.context) + r.max_gen_toks for r in requests), default=0)
        return self._executor(conditions, longest).write(requests, conditions)

    def _executor(self, conditions: Sequence[Condition], longest: int) -> Hooked | Plain:
        for condition in conditions:
            check_sites(self.model, tuple(condition.edits))
        references = resolve(self.model, list(conditions))
        # A sliding window counts columns, pads between stages among them.
        window = getattr(self.model.original_model.config, "sliding_window", None)
        if self.executor == "hooked" and (window is None or longest <= window):
            return Hooked(self.model, references)
        return Plain(self.model, references, batch_size=self.batch_size)

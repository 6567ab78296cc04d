"""Ask a model, intact or under conditions: the front of the engine."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, References, resolve
from layerroles.engine.fused import Fused
from layerroles.engine.hooked import Hooked
from layerroles.engine.memory import budget, keep_pages
from layerroles.engine.plain import Plain
from layerroles.engine.plan import Plan
from layerroles.engine.replay import can_replay
from layerroles.engine.requests import Options, Score, Scored, Writing, Written, scored, written
from layerroles.engine.trust import (
    UNFORESEEN,
    Executor,
    Kind,
    disagreement,
    kind,
    telling,
    told,
)
from layerroles.engine.twin import Twin
from layerroles.errors import InputError
from layerroles.models import check_sites, prepared

log = logging.getLogger(__name__)

ExecutorName = Literal["auto", "fused", "hooked", "plain"]
Answer = TypeVar("Answer", Score, Writing)

# From the fastest to the reference.
_NAMES: tuple[ExecutorName, ...] = ("fused", "hooked", "plain")


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
        executor: `"plain"` is the reference, one condition and one request at a time; `"hooked"`
            gives the same answers from less work, through TransformerLens's own blocks; `"fused"`
            computes a whole sweep at once on transformers' own modules. `"auto"` takes, for each
            kind of condition, the fastest that gives what the reference gives on some of the
            requests.
        batch_size: rows that the reference runs together.
        memory: that a computation may take besides the weights, in bytes or as `"8GB"`; by default
            half of what is free. It decides how much is computed together, not what comes out (but
            for rounding).

    Attributes:
        used: the executors that have answered so far; a sweep begins it anew.

    Raises:
        InputError: an executor that is not known, or that this model does not allow.

    Example:
        engine = Engine(model)
        engine.loglikelihood([("The capital of France is", " Paris")], each_layer(model, Skip()))
        engine.generate_until([("1, 2, 3,", {"until": ["\n"], "max_gen_toks": 8})])
        print(engine.plan([("The capital of France is", " Paris")], each_layer(model, Skip())))
    """

    def __init__(
        self,
        model: TransformerBridge,
        *,
        executor: ExecutorName = "auto",
        batch_size: int = 16,
        memory: str | int | None = None,
    ) -> None:
        if executor != "auto" and executor not in _NAMES:
            raise InputError(f"unknown executor {executor!r}: known are auto, {', '.join(_NAMES)}")
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} is not a number above 0")
        self._name = prepared(model).name
        self.model = model
        self.executor = executor
        self.batch_size = batch_size
        self.used: set[str] = set()
        self._budget = budget(memory, next(model.parameters()).device)
        self._twin: Twin | None = None
        self._answers_for: dict[tuple[str, Kind], bool] = {}

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
        encoded = scored(self.model, requests)
        scores = self.score(encoded, conditions)
        shape = (len(conditions), len(requests))

        def table(values: list[list[object]], kind: type) -> np.ndarray:
            return np.array(values, dtype=kind).reshape(shape)

        return LogLikelihoods(
            logprob=table([[one.logprob for one in row] for row in scores], float),
            is_greedy=table([[one.is_greedy for one in row] for row in scores], bool),
            n_tokens=np.array([len(one.continuation) for one in encoded], dtype=int),
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

    def plan(
        self,
        requests: Sequence[tuple[str, str]] | Sequence[tuple[str, Options]],
        conditions: Sequence[Condition] = (INTACT,),
    ) -> Plan:
        """What would be computed, and how long it would take at the most; nothing is run.

        Args:
            requests: as for `loglikelihood` or for `generate_until`.
            conditions: by default the intact model only.

        Raises:
            InputError: as for these, or a model that cannot be run fused.
        """
        self._check(conditions)
        pairs = [(first, second) for first, second in requests if isinstance(second, str)]
        asked = [(first, second) for first, second in requests if not isinstance(second, str)]
        if pairs and asked:
            raise InputError("a plan is for likelihoods or for generation, not for both at once")
        if not pairs and not asked:
            raise InputError("there is nothing to plan: no requests")
        encoded = scored(self.model, pairs) if pairs else written(self.model, asked)
        reason = self._why_not("fused", 0)
        if reason is not None:
            raise InputError(
                f"model {self._name!r} cannot be run fused ({reason}): there is no plan"
            )
        return self._fused({}).plan(encoded, conditions)

    def score(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> list[list[Score]]:
        """Score encoded requests: `[condition][request]`."""
        found = dict(self.score_each(requests, conditions))
        return [found[place] for place in range(len(conditions))]

    def write(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> list[list[Writing]]:
        """Generate for encoded requests: `[condition][request]`."""
        found = dict(self.write_each(requests, conditions))
        return [found[place] for place in range(len(conditions))]

    def score_each(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Score]]]:
        """Score encoded requests; each condition's place with its scores, as they are ready."""
        longest = max((len(r.context) + len(r.continuation) for r in requests), default=0)
        for executor, places in self._shared_out(requests, conditions, longest):
            for place, scores in executor.score(requests, [conditions[place] for place in places]):
                yield places[place], scores

    def write_each(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, list[Writing]]]:
        """Generate for encoded requests; as `score_each`."""
        longest = max((len(r.context) + r.max_gen_toks for r in requests), default=0)
        for executor, places in self._shared_out(requests, conditions, longest):
            for place, texts in executor.write(requests, [conditions[place] for place in places]):
                yield places[place], texts

    def _check(self, conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            check_sites(self.model, tuple(condition.edits))

    def _shared_out(
        self,
        requests: Sequence[Scored] | Sequence[Written],
        conditions: Sequence[Condition],
        longest: int,
    ) -> Iterator[tuple[Executor, list[int]]]:
        """The executors that answer, with the places of the conditions that each answers for."""
        self._check(conditions)
        if not requests:
            yield Plain(self.model, {}), list(range(len(conditions)))
            return
        references = resolve(self.model, list(conditions))
        plain = Plain(self.model, references, batch_size=self.batch_size)
        left = list(range(len(conditions)))
        for name in _NAMES if self.executor == "auto" else (self.executor,):
            if not left:
                break
            executor = self._executor(name, references, longest)
            if executor is None:
                continue
            mine = left
            if not isinstance(executor, Plain) and self.executor == "auto":
                some = [conditions[place] for place in left]
                agreed = self._agreed(executor, plain, requests, some)
                mine = [place for place in left if kind(conditions[place]) in agreed]
            left = [place for place in left if place not in set(mine)]
            if mine:
                self.used.add(name)
                yield executor, mine

    def _executor(
        self, name: ExecutorName, references: References, longest: int
    ) -> Fused | Hooked | Plain | None:
        """The executor of a name; None if this model or these requests don't allow it.

        Raises:
            InputError: it is not allowed, and was asked for.
        """
        if name == "plain":
            return Plain(self.model, references, batch_size=self.batch_size)
        reason = self._why_not(name, longest)
        if reason is None:
            if name == "hooked":
                return Hooked(self.model, references)
            return self._fused(references)
        if self.executor == name:
            raise InputError(f"model {self._name!r} cannot be run {name}: {reason}; use auto")
        log.warning("model %r is not run %s: %s", self._name, name, reason)
        return None

    def _why_not(self, name: ExecutorName, longest: int) -> str | None:
        # A sliding window counts columns, and packed rows and stages have others than a text alone.
        window = getattr(self.model.original_model.config, "sliding_window", None)
        if window is not None and longest > window:
            return f"requests of {longest} tokens do not fit into its sliding window of {window}"
        try:
            if name == "hooked":
                return None if can_replay(self.model) else "it cannot go on from a recorded stream"
            self._fused({})
        except torch.OutOfMemoryError:
            raise
        except UNFORESEEN as error:
            return told(error)
        return None

    def _fused(self, references: References) -> Fused:
        if self._twin is None:
            if torch.device(self.model.cfg.device or "cpu").type == "cpu":
                keep_pages()
            self._twin = Twin(self.model)
        return Fused(self._twin, references, self._budget)

    def _agreed(
        self,
        executor: Fused | Hooked,
        plain: Plain,
        requests: Sequence[Scored] | Sequence[Written],
        conditions: Sequence[Condition],
    ) -> set[Kind]:
        """The kinds of these conditions for which an executor does what the reference does."""
        kinds: dict[Kind, list[Condition]] = {}
        for condition in conditions:
            kinds.setdefault(kind(condition), []).append(condition)
        dtype = self.model.cfg.dtype
        agreed = set()
        for one, some in kinds.items():
            key = executor.name, (*one, isinstance(requests[0], Written))
            if key not in self._answers_for:
                tried = telling(some, dtype)
                reason = disagreement(executor, plain, requests, tried, dtype)
                if reason is not None:
                    log.warning("%s is not run %s: %s", tried.name, executor.name, reason)
                self._answers_for[key] = reason is None
            if self._answers_for[key]:
                agreed.add(one)
        return agreed

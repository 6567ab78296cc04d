"""The public class `Engine`: compute likelihoods and texts of the intact and of ablated models."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, as_conditions
from layerroles.engine.executor_choice import ExecutorName, Executors
from layerroles.engine.planning.memory import (
    Budget,
    Shape,
    memory_budget,
    out_of_memory,
    peak_bytes,
)
from layerroles.engine.planning.pass_cost import Speed
from layerroles.engine.planning.plan import Computed, Plan, make_plan
from layerroles.engine.planning.plan_cost import add_work
from layerroles.engine.requests import (
    Options,
    Requests,
    Score,
    Scored,
    Spans,
    Writing,
    Written,
    check_pairs,
    collect_answers,
    encode_scored,
    encode_written,
    max_length,
)
from layerroles.errors import InputError
from layerroles.models import check_weights, prepared


@dataclass(frozen=True, repr=False)
class LogLikelihoods:
    """Answers to `loglikelihood` requests; axes are conditions and requests, in the order given.

    Attributes:
        logprob: log-likelihoods of the continuations, in nats (summed over tokens); NaN where a
            logit was not finite.
        is_greedy: whether greedy decoding would have written the continuation.
        n_tokens: number of tokens of each continuation.
        changed: whether the condition's edits changed anything for the request.
    """

    logprob: Float[np.ndarray, "condition request"]
    is_greedy: Bool[np.ndarray, "condition request"]
    n_tokens: Int[np.ndarray, " request"]
    changed: Bool[np.ndarray, "condition request"]

    def __repr__(self) -> str:
        n_conditions, n_requests = self.logprob.shape
        n_greedy = int(self.is_greedy.sum())
        return (
            f"LogLikelihoods: {n_conditions} conditions x {n_requests} requests; .logprob in nats, "
            f".is_greedy ({n_greedy} of {self.is_greedy.size}), .n_tokens, .changed"
        )


class Engine:
    r"""Answers lm-eval's requests (`loglikelihood`, `generate_until`) under conditions.

    Args:
        model: from `load` or `prepare`.
        executor: `"plain"` is the reference implementation: it runs one condition after the other.
            `"hooked"` gives the same answers with less work, with TransformerLens's own blocks.
            `"fused"` computes all conditions together, on transformers' own modules. `"auto"` uses,
            for each kind of condition, the fastest executor whose answers agree with those of
            `"plain"` on a few of the requests.
        batch_size: number of requests that `"plain"` runs together.
        memory: memory that `"fused"` may use in addition to the weights, in bytes or as `"8GB"`; by
            default half of the free memory. It determines how much is computed together, and
            changes results only by rounding. If memory runs out nevertheless, half as much is
            computed together, and the answers computed so far are kept.

    Attributes:
        options: the constructor's arguments, except the model.
        used: names of the executors that have answered so far; a sweep resets it.

    Raises:
        InputError: an unknown executor, or an invalid `batch_size` or `memory`.

    Example:
        engine = lr.Engine(model)
        conditions = lr.each_layer(model, lr.Skip())
        asked = [("silver fence church money silver", " fence")]
        engine.loglikelihood(asked, conditions).logprob  # [condition, request], nats
        until = {"until": ["."], "max_gen_toks": 2}
        engine.generate_until([("silver fence", until)], conditions)  # [condition][request], text
        engine.used  # the executors that answered
    """

    def __init__(
        self,
        model: TransformerBridge,
        *,
        executor: ExecutorName = "auto",
        batch_size: int = 16,
        memory: str | int | None = None,
    ) -> None:
        prepared(model)
        self.model = model
        self.options: dict[str, Any] = {
            "executor": executor,
            "batch_size": batch_size,
            "memory": memory,
        }
        budget = memory_budget(memory, next(model.parameters()).device)
        self._executors = Executors(model, executor, batch_size, budget)
        self.used = self._executors.used

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"Engine({prepared(self.model).name}, {options})"

    @property
    def halved(self) -> int:
        """How often the amount computed together was halved because memory ran out."""
        return self._executors.halved

    @contextmanager
    def report_steps(self, on_step: Callable[[Computed], None]) -> Iterator[None]:
        """Inside the `with` block, call `on_step` after every pass of the fused executor.

        It is also called before the first pass of a computation. It gets a `Computed`: how many
        tokens have been read and generated so far.
        """
        self._executors.on_step = on_step
        try:
            yield
        finally:
            self._executors.on_step = None

    def peak(self) -> int:
        """Return the peak memory in bytes, of the model's GPU or of this process; 0 if unknown."""
        return peak_bytes(next(self.model.parameters()).device)

    def loglikelihood(
        self,
        requests: Iterable[tuple[str, str]],
        conditions: Iterable[Condition] = (INTACT,),
        *,
        evidence: Spans | None = None,
    ) -> LogLikelihoods:
        """Return the log-likelihood of each continuation after its context, under each condition.

        Args:
            requests: pairs of context and continuation; as in lm-eval, whitespace at the end of a
                context moves to the continuation.
            conditions: by default the intact model only.
            evidence: for each request, character spans `[start, end)` of its context; conditions
                with `at="evidence"` act on the tokens in these spans.

        Raises:
            InputError: an item that is not a request or not a condition, an empty continuation, a
                request longer than the model's context window, or an error of `answer_each`.
        """
        conditions = as_conditions(conditions)
        encoded = encode_scored(self.model, requests, evidence)
        scores = self.score(encoded, conditions)
        shape = (len(conditions), len(encoded))

        def to_array(values: list[list[object]], dtype: type) -> np.ndarray:
            return np.array(values, dtype=dtype).reshape(shape)

        return LogLikelihoods(
            logprob=to_array([[score.logprob for score in row] for row in scores], float),
            is_greedy=to_array([[score.is_greedy for score in row] for row in scores], bool),
            n_tokens=np.array([len(request.continuation) for request in encoded], dtype=int),
            changed=to_array([[score.changed for score in row] for row in scores], bool),
        )

    def generate_until(
        self,
        requests: Iterable[tuple[str, Options]],
        conditions: Iterable[Condition] = (INTACT,),
        *,
        evidence: Spans | None = None,
    ) -> list[list[str]]:
        """Return the texts generated greedily after each context: `[condition][request]`.

        Args:
            requests: pairs of context and options: `until` (strings before which the text is
                cut) and `max_gen_toks` (256 by default).
            conditions: by default the intact model only.
            evidence: for each request, character spans `[start, end)` of its context; conditions
                with `at="evidence"` act on the tokens in these spans.

        Raises:
            InputError: an item that is not a request or not a condition, an unknown option, a
                request longer than the model's context window, or an error of `answer_each`.
        """
        conditions = as_conditions(conditions)
        writings = self.write(encode_written(self.model, requests, evidence), conditions)
        return [[writing.text for writing in row] for row in writings]

    def plan(
        self,
        requests: Iterable[tuple[str, str | Options]],
        conditions: Iterable[Condition] = (INTACT,),
    ) -> Plan:
        """Return a plan: the passes, memory and time that requests would take; computes no answers.

        The time assumes that each text has `max_gen_toks` tokens; most texts end earlier.

        Args:
            requests: as for `loglikelihood` or `generate_until`; a mixture of both is planned as
                one computation, as in a sweep.
            conditions: by default the intact model only.

        Raises:
            InputError: no requests; an invalid request or condition, or a request longer than the
                context window; or the fused executor cannot run the model under these conditions.
        """
        requests = check_pairs(requests)
        scored = [(context, second) for context, second in requests if isinstance(second, str)]
        written = [(context, second) for context, second in requests if not isinstance(second, str)]
        if not requests:
            raise InputError("there is nothing to plan: no requests")
        encoded: Requests = [
            *encode_scored(self.model, scored),
            *encode_written(self.model, written),
        ]
        plan = self.planned(encoded, as_conditions(conditions))
        return replace(plan, speed=self.measured_speed())

    def planned(
        self,
        requests: Requests,
        conditions: Sequence[Condition],
        *,
        budget: Budget | None = None,
        speed: Speed | None = None,
        generated: float = 1.0,
    ) -> Plan:
        """Return the plan for encoded requests, for this machine or another.

        Args:
            requests: the encoded requests.
            conditions: the conditions under which they are asked.
            budget: the memory budget; by default the engine's own.
            speed: speed of the device; None leaves the expected time unknown.
            generated: expected number of generated tokens as a share of `max_gen_toks`.

        Raises:
            InputError: a condition that cannot be applied to the model, or an error of `shape`.
        """
        self._check(conditions)
        shape = self.shape(conditions, longest=max(map(max_length, requests), default=0))
        plan = make_plan(requests, conditions, shape, budget or self._executors.budget)
        return add_work(plan, requests, conditions, shape, speed=speed, generated=generated)

    def shape(self, conditions: Sequence[Condition] = (), *, longest: int = 0) -> Shape:
        """Return the sizes of the model that determine memory and time.

        Args:
            conditions: conditions that the fused executor must support.
            longest: number of tokens of the longest request, including the most that it generates.

        Raises:
            InputError: the fused executor cannot run the model under these conditions or with
                requests of that length, or the engine's executor is `"plain"` or `"hooked"`.
        """
        wanted = self.options["executor"]
        if wanted not in ("auto", "fused"):
            raise InputError(f"executor={wanted!r}: only what is run fused is planned; use auto")
        reason = self._executors.refusal("fused", longest)
        for condition in conditions:
            reason = reason or self._executors.make_fused({}).refusal(condition)
        if reason is not None:
            raise InputError(
                f"model {prepared(self.model).name!r} cannot be run fused ({reason}): there is no "
                f"plan"
            )
        return self._executors.make_fused({}).twin.shape

    def measured_speed(self) -> Speed | None:
        """Return this device's speed, measured with the model's sizes and dtype.

        Returns None if the model has no weights, or if the fused executor cannot run it.
        """
        if not prepared(self.model).has_weights or self._executors.refusal("fused") is not None:
            return None
        return self._executors.make_fused({}).twin.speed

    def score(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> list[list[Score]]:
        """Return the scores of encoded requests: `[condition][request]`."""
        return collect_answers(self.answer_each([requests], conditions))

    def write(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> list[list[Writing]]:
        """Return the generated texts of encoded requests: `[condition][request]`."""
        return collect_answers(self.answer_each([requests], conditions))

    def answer_each(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """Answer several lists of encoded requests under every condition.

        A prefix that occurs in several lists is read only once by the fused executor. Yields
        triples as soon as they are ready: the index of a list, the index of a condition, and the
        answers to the list's requests (a `Score` or a `Writing` each).

        Raises:
            InputError: a model without weights, a condition that cannot be applied to it, evidence
                that is needed and not given, an `executor` that cannot run the model on these
                requests, or too little memory even with next to nothing computed together.
        """
        check_weights(self.model)
        self._check(conditions)
        for list_index, requests in enumerate(asked):
            if not requests:
                yield from ((list_index, n, []) for n in range(len(conditions)))
        lists = [list_index for list_index, requests in enumerate(asked) if requests]
        if not lists:
            return
        non_empty = [asked[list_index] for list_index in lists]
        _check_evidence(non_empty, conditions)
        remaining, yielded = list(range(len(conditions))), set[tuple[int, int]]()
        while remaining:
            chosen = [conditions[n] for n in remaining]
            try:
                for list_place, condition_place, answers in self._executors.answer(
                    non_empty, chosen
                ):
                    answered = lists[list_place], remaining[condition_place]
                    if answered not in yielded:
                        yielded.add(answered)
                        yield *answered, answers
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Not in the handler: there, the error's traceback would keep tensors alive.
            self._executors.take_less(non_empty, chosen)
            remaining = [
                n for n in remaining if any((list_index, n) not in yielded for list_index in lists)
            ]

    def _check(self, conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            condition.check(self.model)


def _check_evidence(asked: Sequence[Requests], conditions: Sequence[Condition]) -> None:
    condition = next((one for one in conditions if one.at == "evidence"), None)
    if condition is None:
        return
    for requests in asked:
        for index, request in enumerate(requests):
            if not request.evidence:
                raise InputError(
                    f"{condition.name}: request {index} does not say where its evidence is, give "
                    f"it as evidence=[[(start, end)], ...], character spans of each context (it "
                    f"takes a fast tokenizer to find their tokens)"
                )

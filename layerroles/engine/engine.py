"""Ask a model, intact or under conditions: the front of the engine."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, as_conditions
from layerroles.engine.executors import ExecutorName, Executors, answered, length
from layerroles.engine.planning.cost import Speed
from layerroles.engine.planning.memory import Budget, Shape, budget, out_of_memory, peak
from layerroles.engine.planning.plan import Plan, Requests, add_work, make_plan
from layerroles.engine.requests import (
    Options,
    Score,
    Scored,
    Spans,
    Writing,
    Written,
    as_pairs,
    scored,
    written,
)
from layerroles.errors import InputError
from layerroles.models import check_weights, prepared


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        n_conditions, n_requests = self.logprob.shape
        n_greedy = int(self.is_greedy.sum())
        return (
            f"LogLikelihoods: {n_conditions} conditions x {n_requests} requests; .logprob in nats, "
            f".is_greedy ({n_greedy} of {self.is_greedy.size}), .n_tokens, .changed"
        )


class Engine:
    r"""Answers requests under conditions, in lm-eval's words.

    Args:
        model: from `load` or `prepare`.
        executor: `"plain"` is the reference, one condition after the other; `"hooked"` gives the
            same answers from less work, through TransformerLens's own blocks; `"fused"`
            computes a whole sweep at once on transformers' own modules. `"auto"` takes, for each
            kind of condition, the fastest that gives what the reference gives on some of the
            requests.
        batch_size: rows that the reference runs together.
        memory: that `"fused"` may use in addition to the weights, in bytes or as `"8GB"`; by
            default half of what is free. It decides how much is computed together, and changes
            results only by rounding. If memory runs out all the same, half as much is computed
            together, and the answers so far are kept.

    Attributes:
        options: the constructor's arguments, except the model.
        used: the executors that have answered so far; a sweep resets it.

    Raises:
        InputError: an executor that is not known, or that this model does not allow.

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
        most = budget(memory, next(model.parameters()).device)
        self._executors = Executors(model, executor, batch_size, most)
        self.used = self._executors.used

    def __repr__(self) -> str:
        how = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"Engine({prepared(self.model).name}, {how})"

    @property
    def halved(self) -> int:
        """How often what is computed together was halved, since memory gave out."""
        return self._executors.halved

    def peak(self) -> int:
        """The most bytes that were held at once: on the model's GPU, or by this process."""
        return peak(next(self.model.parameters()).device)

    def loglikelihood(
        self,
        requests: Iterable[tuple[str, str]],
        conditions: Iterable[Condition] = (INTACT,),
        *,
        evidence: Spans | None = None,
    ) -> LogLikelihoods:
        """How likely each continuation is after its context, under each condition.

        Args:
            requests: pairs of context and continuation.
            conditions: by default the intact model only.
            evidence: for each request, character spans `[start, end)` of its context; conditions
                with `at="evidence"` act on their tokens.

        Raises:
            InputError: what is no request or no condition, an empty continuation, a request longer
                than the model's context, a site that the model lacks, or evidence that is needed
                and not given.
        """
        conditions = as_conditions(conditions)
        encoded = scored(self.model, requests, evidence)
        scores = self.score(encoded, conditions)
        shape = (len(conditions), len(encoded))

        def table(values: list[list[object]], kind: type) -> np.ndarray:
            return np.array(values, dtype=kind).reshape(shape)

        return LogLikelihoods(
            logprob=table([[one.logprob for one in row] for row in scores], float),
            is_greedy=table([[one.is_greedy for one in row] for row in scores], bool),
            n_tokens=np.array([len(one.continuation) for one in encoded], dtype=int),
            changed=table([[one.changed for one in row] for row in scores], bool),
        )

    def generate_until(
        self,
        requests: Iterable[tuple[str, Options]],
        conditions: Iterable[Condition] = (INTACT,),
        *,
        evidence: Spans | None = None,
    ) -> list[list[str]]:
        """What the model writes greedily after each context: `[condition][request]`.

        Args:
            requests: pairs of context and options: `until` (strings before which the text is
                cut) and `max_gen_toks` (256 by default).
            conditions: by default the intact model only.
            evidence: as for `loglikelihood`.

        Raises:
            InputError: what is no request or no condition, an unknown option, a request longer
                than the model's context, a site that the model lacks, or evidence that is needed
                and not given.
        """
        conditions = as_conditions(conditions)
        writings = self.write(written(self.model, requests, evidence), conditions)
        return [[one.text for one in row] for row in writings]

    def plan(
        self,
        requests: Iterable[tuple[str, str | Options]],
        conditions: Iterable[Condition] = (INTACT,),
    ) -> Plan:
        """What would be computed, and how long it would take at the most; nothing is run.

        Args:
            requests: as for `loglikelihood` or for `generate_until`; some of each are planned as a
                sweep asks them, together.
            conditions: by default the intact model only.

        Raises:
            InputError: as for these, or what would not be run fused.
        """
        requests = as_pairs(requests)
        pairs = [(first, second) for first, second in requests if isinstance(second, str)]
        asked = [(first, second) for first, second in requests if not isinstance(second, str)]
        if not requests:
            raise InputError("there is nothing to plan: no requests")
        encoded: Requests = [*scored(self.model, pairs), *written(self.model, asked)]
        plan = self.planned(encoded, as_conditions(conditions))
        return replace(plan, speed=self._speed())

    def planned(
        self,
        requests: Requests,
        conditions: Sequence[Condition],
        *,
        budget: Budget | None = None,
        speed: Speed | None = None,
        generated: float = 1.0,
    ) -> Plan:
        """A plan for encoded requests, perhaps for another machine.

        Args:
            requests: what is asked.
            conditions: under which it is asked.
            budget: that a computation may take; by default the engine's own.
            speed: of the device, for the time that is expected.
            generated: share of the tokens that may be written that is written.

        Raises:
            InputError: as `plan`.
        """
        self._check(conditions)
        shape = self.shape(conditions, longest=max(map(length, requests), default=0))
        plan = make_plan(requests, conditions, shape, budget or self._executors.budget)
        return add_work(plan, requests, conditions, shape, speed=speed, generated=generated)

    def shape(self, conditions: Sequence[Condition] = (), *, longest: int = 0) -> Shape:
        """The sizes of the model that determine memory and time.

        Raises:
            InputError: the model cannot be run fused, or not under these conditions, or not with
                requests of so many tokens as the longest, or is asked to be run otherwise.
        """
        wanted = self.options["executor"]
        if wanted not in ("auto", "fused"):
            raise InputError(f"executor={wanted!r}: only what is run fused is planned; use auto")
        reason = self._executors.why_not("fused", longest)
        for condition in conditions:
            reason = reason or self._executors.why_not_under(condition)
        if reason is not None:
            raise InputError(
                f"model {prepared(self.model).name!r} cannot be run fused ({reason}): there is no "
                f"plan"
            )
        return self._executors.fused({}).twin.shape

    def _speed(self) -> Speed | None:
        """Of the device at hand; None where there are no weights to be fast with."""
        if not prepared(self.model).has_weights or self._executors.why_not("fused") is not None:
            return None
        return self._executors.fused({}).twin.speed

    def score(
        self, requests: Sequence[Scored], conditions: Sequence[Condition]
    ) -> list[list[Score]]:
        """Score encoded requests: `[condition][request]`."""
        return self._answers(requests, conditions)

    def write(
        self, requests: Sequence[Written], conditions: Sequence[Condition]
    ) -> list[list[Writing]]:
        """Generate for encoded requests: `[condition][request]`."""
        return self._answers(requests, conditions)

    def answer_each(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """Answer several lists of encoded requests, reading once what they have in common.

        Yields a list's place, a condition's place and the answers (scores or writings, as the list
        asks), as they are ready.
        """
        check_weights(self.model)
        self._check(conditions)
        for which, each in enumerate(asked):
            if not each:
                yield from ((which, place, []) for place in range(len(conditions)))
        lists = [which for which, each in enumerate(asked) if each]
        if not lists:
            return
        some = [asked[which] for which in lists]
        _check_evidence(some, conditions)
        left, yielded = list(range(len(conditions))), set[tuple[int, int]]()
        while left:
            try:
                for which, place, answers in self._answered(some, [conditions[at] for at in left]):
                    one = lists[which], left[place]
                    if one not in yielded:
                        yielded.add(one)
                        yield *one, answers
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # Outside of the handler, which would keep what was computed.
            self._executors.take_less()
            left = [
                place for place in left if any((which, place) not in yielded for which in lists)
            ]

    def _answered(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """`answer_each` of lists that ask something, as long as there is memory."""
        for executor, places in self._executors.shared_out(asked, conditions):
            mine = [conditions[place] for place in places]
            for which, place, answers in answered(executor, asked, mine):
                yield which, places[place], answers

    def _answers(self, requests: Requests, conditions: Sequence[Condition]) -> list[list[Any]]:
        found = {place: each for _, place, each in self.answer_each([requests], conditions)}
        return [found[place] for place in range(len(conditions))]

    def _check(self, conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            condition.check(self.model)


def _check_evidence(asked: Sequence[Requests], conditions: Sequence[Condition]) -> None:
    needed = next((one for one in conditions if one.at == "evidence"), None)
    if needed is None:
        return
    for requests in asked:
        for index, request in enumerate(requests):
            if not request.evidence:
                raise InputError(
                    f"{needed.name}: request {index} does not say where its evidence is, give it "
                    f"as evidence=[[(start, end)], ...], character spans of each context (it takes "
                    f"a fast tokenizer to find their tokens)"
                )

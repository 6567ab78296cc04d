"""Choose the executor for each kind of condition: the fastest that agrees with the reference.

An executor is a way to run the model: `fused`, `hooked`, or `plain`, which is the reference.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Condition, References, resolve_references
from layerroles.engine.executor_interface import Executor
from layerroles.engine.executor_trial import (
    ConditionKind,
    choose_condition,
    condition_kind,
    describe_failure,
    does_not_fit,
    find_disagreement,
)
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.transformers_twin import WHOLE_LENGTH, Twin
from layerroles.engine.hooked.replay import can_replay
from layerroles.engine.hooked.replay_executor import MAX_TOKENS, Hooked
from layerroles.engine.planning.memory import Budget, empty_cache, keep_pages
from layerroles.engine.planning.plan import Computed, make_plan
from layerroles.engine.reference_executor import Plain
from layerroles.engine.requests import Requests, Written, max_length
from layerroles.errors import InputError
from layerroles.models import (
    depends_on_length,
    hook_ids,
    prepared,
    text_config,
    weights_stamp,
)
from layerroles.registry import describe_unknown

log = logging.getLogger(__name__)

ExecutorName = Literal["auto", "fused", "hooked", "plain"]

# From the fastest to the reference.
_NAMES: tuple[ExecutorName, ...] = ("fused", "hooked", "plain")
_NOT_RUN = "%s is not run %s: %s"
# Lower bounds if memory runs out repeatedly: of the budget, in bytes, and of the tokens that
# `hooked` reads together.
_LEAST, _FEWEST_TOKENS = 2**16, 64


def check_executor(name: str) -> None:
    """Check that an executor is known.

    Raises:
        InputError: `name` is neither `"auto"` nor the name of an executor.
    """
    if name != "auto" and name not in _NAMES:
        raise InputError(describe_unknown("executor", name, ["auto", *_NAMES]))


class Executors:
    """The executors of a model, and the kinds of conditions that each has been verified for.

    Args:
        model: from `load` or `prepare`.
        wanted: the name of the only executor that may answer, or `"auto"`.
        batch_size: number of requests that the reference runs together.
        budget: the memory budget.

    Attributes:
        used: names of the executors that have answered so far.
        halved: how often the amount computed together was halved because memory ran out.
        on_step: called with a `Computed` (the progress) before the first pass of the fused executor
            and after every pass; or None.

    Raises:
        InputError: an unknown executor, or a batch size that is not a whole number above 0.
    """

    def __init__(
        self, model: TransformerBridge, wanted: ExecutorName, batch_size: int, budget: Budget
    ) -> None:
        check_executor(wanted)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size={batch_size!r} is not a whole number above 0")
        self.used: set[str] = set()
        self.halved = 0
        self.on_step: Callable[[Computed], None] | None = None
        self._name = prepared(model).name
        self._model, self._wanted = model, wanted
        self._rows, self._budget = batch_size, budget
        self._twin: Twin | None = None
        self._stamp: int | None = None
        self._hooks: frozenset[int] | None = None
        # By executor and kind of condition, whether it agreed with the reference.
        self._agreements: dict[tuple[str, ConditionKind], bool] = {}
        self._logged: set[tuple[str, str]] = set()

    @property
    def budget(self) -> Budget:
        """The memory budget, halved as often as memory has run out."""
        return self._budget.halve(self.halved)

    @property
    def _batch_size(self) -> int:
        return max(1, self._rows >> self.halved)

    def take_less(self, asked: Sequence[Requests], conditions: Sequence[Condition]) -> None:
        """Halve the amount that is computed together from now on, because memory ran out.

        Args:
            asked: the lists of requests that were being answered.
            conditions: the conditions under which they were asked.

        Raises:
            InputError: the amount is at its minimum already.
        """
        if not self.halved and self._twin is not None:
            requests = [request for listed in asked for request in listed]
            plan = make_plan(requests, conditions, self._twin.shape, self._budget)
            self._budget = self._budget.limit_to_useful(self._twin.shape, plan.row_bytes)
        alone = self._wanted == "plain" and self._batch_size == 1
        if alone or self._budget.halve(self.halved + 1).total < _LEAST:
            raise InputError(
                f"memory gave out for model {self._name!r} even with next to nothing computed "
                f"together: ask for shorter texts, or use a machine with more memory"
            )
        self.halved += 1
        for device in {parameter.device for parameter in self._model.parameters()}:
            empty_cache(device)
        log.warning(
            "memory gave out: half as much is computed together from now on (%d MB)",
            self.budget.total >> 20,
        )

    def answer(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """Answer non-empty lists of requests under every condition.

        With `"auto"`, each condition is run by the fastest executor that agrees with the reference
        in a trial. Yields the same triples as `Executor.answer`: list index, condition index and
        answers.

        Raises:
            InputError: the requested executor cannot run the model on these requests.
        """
        for executor, indices in self._choose(asked, conditions):
            self.used.add(executor.name)
            if isinstance(executor, Fused):
                executor.on_step = self.on_step
            chosen = [conditions[index] for index in indices]
            for list_index, place, answers in executor.answer(asked, chosen):
                yield list_index, indices[place], answers

    def _choose(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[Executor, list[int]]]:
        """Yield pairs of an executor to use and the indices of the conditions that it runs."""
        self._forget()
        requests = [request for listed in asked for request in listed]
        longest = max(map(max_length, requests))
        # `hooked` pads all contexts to the longest one; what follows a context starts after that.
        widest = max(
            max(len(request.context) for request in listed)
            + max(max_length(request) - len(request.context) for request in listed)
            for listed in asked
        )
        references = resolve_references(self._model, list(conditions))
        reference = Plain(self._model, references, batch_size=self._batch_size)
        remaining = list(range(len(conditions)))
        for name in _NAMES if self._wanted == "auto" else (self._wanted,):
            if not remaining:
                break
            executor: Executor | None = reference
            if name != "plain":
                columns = widest if name == "hooked" else longest
                executor = self._make(name, references, columns)
            if executor is None:
                continue
            indices = remaining
            if executor is not reference and self._wanted == "auto":
                indices = [n for n in remaining if self._accepts(executor, conditions[n])]
                accepted = [conditions[n] for n in indices]
                agreed = self._agreed_kinds(executor, reference, requests, accepted)
                indices = [n for n in indices if condition_kind(conditions[n]) in agreed]
            remaining = [n for n in remaining if n not in set(indices)]
            if indices:
                yield executor, indices

    def _forget(self) -> None:
        """Discard the twin (see `make_fused`) and trial results if weights or hooks changed."""
        weights = weights_stamp(self._model) if prepared(self._model).has_weights else None
        now = weights, hook_ids(self._model)
        if now != (self._stamp, self._hooks):
            self._stamp, self._hooks = now
            self._twin = None
            self._agreements.clear()

    def _make(
        self, name: ExecutorName, references: References, longest: int
    ) -> Fused | Hooked | None:
        """Return an executor by its name; None if it cannot run this model or these requests.

        `longest` is as in `refusal`.

        Raises:
            InputError: the user asked for this executor, which cannot run the model or requests.
        """
        reason = self.refusal(name, longest)
        if reason is None:
            if name == "fused":
                return self.make_fused(references)
            tokens = max(_FEWEST_TOKENS, MAX_TOKENS >> self.halved)
            return Hooked(self._model, references, max_tokens=tokens)
        if self._wanted == name:
            raise InputError(f"model {self._name!r} cannot be run {name}: {reason}; use auto")
        self._log_once(f"model {self._name!r}", name, reason)
        return None

    def _accepts(self, executor: Executor, condition: Condition) -> bool:
        """Return whether an executor supports a condition; logs the reason if it does not."""
        reason = executor.refusal(condition)
        if reason is not None:
            self._log_once(condition.name, executor.name, reason)
        return reason is None

    def _log_once(self, what: str, name: str, reason: str) -> None:
        """Log why the executor `name` does not run `what` (a model or a condition).

        Each reason is logged once for an executor, even if it holds for several conditions.
        """
        if (name, reason) not in self._logged:
            self._logged.add((name, reason))
            # Not every executor is expected to run models made of TransformerLens's own modules,
            # such as planted ones (see `plants`).
            expected = hasattr(self._model.original_model, "config")
            log.log(logging.WARNING if expected else logging.INFO, _NOT_RUN, what, name, reason)

    def refusal(self, name: ExecutorName, longest: int = 0) -> str | None:
        """Return why an executor cannot run the model on `longest` tokens, or None if it can.

        `longest` is the number of tokens of the longest request; for `"hooked"`, of the longest
        row of a padded batch.
        """
        self._forget()
        assert self._hooks is not None  # set by `_forget`
        if self._hooks - prepared(self._model).initial_hooks:
            return "there are hooks on it"
        try:
            config = text_config(self._model.original_model)
            if name == "fused":
                limit, beside = self.make_fused({}).twin.max_exact_tokens, ""
            else:  # the model's own window counts the columns of a batch, pads included
                limit, beside = getattr(config, "sliding_window", None), " side by side (padded)"
            if limit and longest > limit:
                return (
                    f"requests of {longest} tokens{beside} do not fit into its sliding window of "
                    f"{limit}"
                )
            if name == "fused":
                return None
            if depends_on_length(config):
                return WHOLE_LENGTH
            if not prepared(self._model).checks.caches:
                return "it keeps no keys and values between passes"
            return None if can_replay(self._model) else "it cannot go on from a recorded stream"
        except Exception as error:
            if not does_not_fit(error):
                raise
            return describe_failure(error)

    def make_fused(self, references: References) -> Fused:
        """Return a fused executor; `references` are from `resolve_references`.

        Its twin, a second model of transformers' own modules that shares the weights, is kept for
        the next call.
        """
        if self._twin is None:
            on_cpu = torch.device(self._model.cfg.device or "cpu").type == "cpu"
            if on_cpu and prepared(self._model).has_weights:
                keep_pages()
            self._twin = Twin(self._model)
        return Fused(self._twin, references, self.budget)

    def _agreed_kinds(
        self,
        executor: Executor,
        reference: Plain,
        requests: Requests,
        conditions: Sequence[Condition],
    ) -> set[ConditionKind]:
        """Return the kinds of these conditions for which an executor agrees with the reference."""
        by_kind: dict[ConditionKind, list[Condition]] = {}
        for condition in conditions:
            by_kind.setdefault(condition_kind(condition), []).append(condition)
        dtype = self._model.cfg.dtype
        writes = any(isinstance(request, Written) for request in requests)
        agreed = set()
        for kind, alike in by_kind.items():
            # A trial with several requests also covers a single one, but not the other way round.
            key = executor.name, (*kind, writes, len(requests) > 1)
            if self._agreements.get((executor.name, (*kind, writes, True))):
                self._agreements.setdefault(key, True)
            if key not in self._agreements:
                tried = choose_condition(alike, dtype)
                reason = find_disagreement(executor, reference, requests, tried, dtype)
                if reason is not None:
                    log.warning(_NOT_RUN, tried.name, executor.name, reason)
                self._agreements[key] = reason is None
            if self._agreements[key]:
                agreed.add(kind)
        return agreed

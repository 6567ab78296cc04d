"""Which executor answers for which conditions: the fastest that gives what the reference gives."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Condition, References, resolve
from layerroles.engine.agreement import (
    Executor,
    Kind,
    choose_condition,
    describe_failure,
    disagreement,
    does_not_fit,
    kind,
)
from layerroles.engine.fused.edits import refusal
from layerroles.engine.fused.executor import Fused
from layerroles.engine.fused.model import WHOLE_LENGTH, Twin, reads_by_length
from layerroles.engine.hooked.executor import MAX_TOKENS, Hooked
from layerroles.engine.hooked.replay import can_replay
from layerroles.engine.plain import Plain
from layerroles.engine.planning.memory import Budget, keep_pages
from layerroles.engine.planning.plan import Requests
from layerroles.engine.requests import Scored, Written
from layerroles.errors import InputError
from layerroles.models import hook_ids, prepared, stamp, text_config

log = logging.getLogger(__name__)

ExecutorName = Literal["auto", "fused", "hooked", "plain"]

# From the fastest to the reference.
_NAMES: tuple[ExecutorName, ...] = ("fused", "hooked", "plain")
_NOT_RUN = "%s is not run %s: %s"
# Less than this is not tried when memory gives out: a budget in bytes, tokens read together.
_LEAST, _FEWEST_TOKENS = 2**16, 64


def check_executor(name: str) -> None:
    """Check that an executor is known.

    Raises:
        InputError: it is not.
    """
    if name != "auto" and name not in _NAMES:
        raise InputError(f"unknown executor {name!r}: known are auto, {', '.join(_NAMES)}")


class Executors:
    """The executors of a model, and the kinds of conditions that each has been verified for.

    Args:
        model: from `load` or `prepare`.
        wanted: the only one that may answer, or `"auto"`.
        batch_size: rows that the reference runs together.
        budget: of memory.

    Attributes:
        used: those that have answered so far.
        halved: how often what is computed together was halved since memory gave out.

    Raises:
        InputError: an executor that is not known, or no rows.
    """

    def __init__(
        self, model: TransformerBridge, wanted: ExecutorName, batch_size: int, budget: Budget
    ) -> None:
        check_executor(wanted)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size={batch_size!r} is not a whole number above 0")
        self.used: set[str] = set()
        self._name = prepared(model).name
        self._model, self._wanted = model, wanted
        self.halved = 0
        self._rows, self._budget = batch_size, budget
        self._twin: Twin | None = None
        self._stamp: int | None = None
        self._hooks: frozenset[int] | None = None
        self._answers_for: dict[tuple[str, Kind], bool] = {}
        self._logged: set[tuple[str, str]] = set()

    @property
    def budget(self) -> Budget:
        """The memory budget after the back-offs so far."""
        return self._budget.halved(self.halved)

    @property
    def _batch_size(self) -> int:
        return max(1, self._rows >> self.halved)

    def take_less(self) -> None:
        """Halve how much is computed together from now on.

        Raises:
            InputError: it is at its minimum already.
        """
        if not self.halved and self._twin is not None:
            self._budget = self._budget.at_work(self._twin.shape)
        alone = self._wanted == "plain" and self._batch_size == 1
        if alone or self._budget.halved(self.halved + 1).total < _LEAST:
            raise InputError(
                f"memory gave out for model {self._name!r} even with next to nothing computed "
                f"together: ask for shorter texts, or use a machine with more memory"
            )
        self.halved += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning(
            "memory gave out: half as much is computed together from now on (%d MB)",
            self.budget.total >> 20,
        )

    def shared_out(
        self, asked: Sequence[Requests], conditions: Sequence[Condition]
    ) -> Iterator[tuple[Executor, list[int]]]:
        """Yield the executors to use, with the indices of the conditions that each answers."""
        self._forget()
        requests = [request for each in asked for request in each]
        longest = max(map(length, requests))
        # In stages, contexts are padded to the longest one, and what follows begins after that.
        widest = max(
            max(len(one.context) for one in each)
            + max(length(one) - len(one.context) for one in each)
            for each in asked
            if each
        )
        references = resolve(self._model, list(conditions))
        plain = Plain(self._model, references, batch_size=self._batch_size)
        left = list(range(len(conditions)))
        for name in _NAMES if self._wanted == "auto" else (self._wanted,):
            if not left:
                break
            n_columns = widest if name == "hooked" else longest
            executor = self._made(name, references, n_columns)
            if executor is None:
                continue
            mine = left
            if not isinstance(executor, Plain) and self._wanted == "auto":
                if isinstance(executor, Fused):
                    mine = [place for place in left if self._fusible(conditions[place])]
                some = [conditions[place] for place in mine]
                agreed = self._agreed(executor, plain, requests, some)
                mine = [place for place in mine if kind(conditions[place]) in agreed]
            left = [place for place in left if place not in set(mine)]
            if mine:
                self.used.add(name)
                yield executor, mine

    def _forget(self) -> None:
        """Discard cached results if the model's weights or hooks have changed."""
        weights = stamp(self._model) if prepared(self._model).has_weights else None
        now = weights, hook_ids(self._model)
        if now != (self._stamp, self._hooks):
            self._stamp, self._hooks = now
            self._twin = None
            self._answers_for.clear()

    def _made(
        self, name: ExecutorName, references: References, longest: int
    ) -> Fused | Hooked | Plain | None:
        """The executor of a name; None if this model or these requests don't allow it.

        Raises:
            InputError: it is not allowed, and was asked for.
        """
        if name == "plain":
            return Plain(self._model, references, batch_size=self._batch_size)
        reason = self.why_not(name, longest)
        if reason is None:
            if name == "hooked":
                tokens = max(_FEWEST_TOKENS, MAX_TOKENS >> self.halved)
                return Hooked(self._model, references, max_tokens=tokens)
            return self.fused(references)
        if self._wanted == name:
            raise InputError(f"model {self._name!r} cannot be run {name}: {reason}; use auto")
        self._log_once(f"model {self._name!r}", name, reason)
        return None

    def _log_once(self, what: str, name: str, reason: str) -> None:
        """Log once why an executor does not run something."""
        if (name, reason) not in self._logged:
            self._logged.add((name, reason))
            # Nobody expects it of TransformerLens's own modules, of which planted models are made.
            expected = hasattr(self._model.original_model, "config")
            log.log(logging.WARNING if expected else logging.INFO, _NOT_RUN, what, name, reason)

    def _fusible(self, condition: Condition) -> bool:
        reason = self.why_not_under(condition)
        if reason is not None:
            self._log_once(condition.name, "fused", reason)
        return reason is None

    def why_not(self, name: ExecutorName, longest: int = 0) -> str | None:
        """Why the model cannot be run so, with requests of so many tokens; None if it can."""
        self._forget()
        assert self._hooks is not None  # they were just looked for
        if self._hooks - prepared(self._model).hooks:
            return "there are hooks on it"
        try:
            # It counts columns, and packed rows and stages have others than a text alone.
            window = getattr(text_config(self._model.original_model), "sliding_window", None)
            if window and longest > window:
                beside = " side by side (padded)" if name == "hooked" else ""
                return (
                    f"requests of {longest} tokens{beside} do not fit into its sliding window of "
                    f"{window}"
                )
            if name == "hooked" and reads_by_length(text_config(self._model.original_model)):
                return WHOLE_LENGTH
            if name == "hooked" and not prepared(self._model).checks.caches:
                return "it keeps no keys and values between passes"
            if name == "hooked":
                return None if can_replay(self._model) else "it cannot go on from a recorded stream"
            self.fused({})
        except Exception as error:
            if not does_not_fit(error):
                raise
            return describe_failure(error)
        return None

    def why_not_under(self, condition: Condition) -> str | None:
        """Why a model that can be run fused cannot be under a condition; None if it can."""
        return refusal(self.fused({}).twin, condition)

    def fused(self, references: References) -> Fused:
        """The fused executor; its twin of the model is cached."""
        if self._twin is None:
            on_cpu = torch.device(self._model.cfg.device or "cpu").type == "cpu"
            if on_cpu and prepared(self._model).has_weights:
                keep_pages()
            self._twin = Twin(self._model)
        return Fused(self._twin, references, self.budget)

    def _agreed(
        self,
        executor: Fused | Hooked,
        plain: Plain,
        requests: Requests,
        conditions: Sequence[Condition],
    ) -> set[Kind]:
        """The kinds of these conditions for which an executor agrees with the reference."""
        kinds: dict[Kind, list[Condition]] = {}
        for condition in conditions:
            kinds.setdefault(kind(condition), []).append(condition)
        dtype = self._model.cfg.dtype
        writes = any(isinstance(request, Written) for request in requests)
        agreed = set()
        for one, some in kinds.items():
            # A trial with one request does not cover several together; the converse holds.
            key = executor.name, (*one, writes, len(requests) > 1)
            if self._answers_for.get((executor.name, (*one, writes, True))):
                self._answers_for.setdefault(key, True)
            if key not in self._answers_for:
                tried = choose_condition(some, dtype)
                reason = disagreement(executor, plain, requests, tried, dtype)
                if reason is not None:
                    log.warning(_NOT_RUN, tried.name, executor.name, reason)
                self._answers_for[key] = reason is None
            if self._answers_for[key]:
                agreed.add(one)
        return agreed


def answered(
    executor: Executor, asked: Sequence[Requests], conditions: Sequence[Condition]
) -> Iterator[tuple[int, int, list[Any]]]:
    """Yield an executor's answers, with the indices of their list and condition."""
    if isinstance(executor, Fused):
        yield from executor.answer(asked, conditions)
        return
    for which, requests in enumerate(asked):  # each of one verb
        verb: Any = executor.write if isinstance(requests[0], Written) else executor.score
        for place, answers in verb(requests, conditions):
            yield which, place, answers


def length(request: Scored | Written) -> int:
    """The most tokens that a request may have, generated ones included."""
    if isinstance(request, Written):
        return len(request.context) + request.max_gen_toks
    return len(request.context) + len(request.continuation)

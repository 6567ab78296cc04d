"""The interface of probes: measurements on a model while it reads the examples of tasks.

The model may be intact, or ablated as a condition says, for example to see what a skipped layer
changes downstream. Probes measure at the answering position (see `answering_position`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, ablated, as_condition
from layerroles.errors import InputError
from layerroles.models import check_weights, prepared
from layerroles.probes.answering_position import Batch, make_batches
from layerroles.registry import Registry
from layerroles.tasks import Task, as_tasks


class Probe(ABC):
    """Base class of probes: measurements on a model, made example by example.

    A subclass is a frozen dataclass that implements `rows(model, batch)`; `measure` calls it for
    batches of examples and returns a tidy pandas frame.

    Class attributes:
        needs: what an example must have to be measured, such as "evidence"; the error names it if
            no example has it. Empty if every example can be measured.

    Example:
        from dataclasses import dataclass

        @lr.probes.register("length")
        @dataclass(frozen=True)
        class Length(lr.probes.Probe):
            "Count the tokens of a prompt; `rows` yields example ids with the values of columns."

            def rows(self, model, batch):
                for example, attended in zip(batch.examples, batch.attended, strict=True):
                    yield example.id, {"n_tokens": int(attended.sum())}

        Length().measure(model, tasks, limit=4)
    """

    needs: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The registered name, such as `logit_lens`."""
        return PROBES.name_of(type(self))

    def measure(
        self,
        model: TransformerBridge,
        tasks: Sequence[Task],
        *,
        limit: int = 32,
        seed: int = 0,
        condition: Condition | None = None,
    ) -> pd.DataFrame:
        """Measure on the first `limit` examples of each task.

        Args:
            model: from `load` or `prepare`.
            tasks: the tasks whose examples are read.
            limit: the number of examples of each task.
            seed: the seed that orders each task's examples.
            condition: the condition under which to measure; None for the intact model.

        Returns:
            A tidy frame that begins with the columns probe, model, condition (`intact`, or the
            condition's name), task, family, example.

        Raises:
            InputError: no task, a limit below 1, a prompt longer than the model's context, a model
                that the probe or the condition does not fit, or no example that has what the probe
                needs.
        """
        tasks = as_tasks(tasks)
        if limit < 1 or not tasks:
            raise InputError(f"a probe needs tasks and a limit of 1 or more, not limit={limit}")
        check_weights(model)
        self.check(model)
        condition = INTACT if condition is None else as_condition(condition)
        self.check_condition(condition)
        rows = [
            {
                "probe": self.name,
                "model": prepared(model).name,
                "condition": condition.name,
                "task": task.label,
                "family": task.family,
                "example": example,
                **values,
            }
            for task in tasks
            for batch in make_batches(model, task.examples(limit, seed))
            for example, values in self._rows_under(model, batch, condition)
        ]
        if self.needs and not rows:
            labels = ", ".join(task.label for task in tasks)
            raise InputError(
                f"probe {self.name!r} needs examples with {self.needs}, and none of {labels} has "
                f"any: choose other tasks"
            )
        return pd.DataFrame(rows)

    def _rows_under(
        self, model: TransformerBridge, batch: "Batch", condition: Condition
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the probe's rows, with the condition applied in every forward pass."""
        with (
            nullcontext()
            if condition.is_intact
            else ablated(model, condition, prompts=batch.prompts)
        ):
            yield from self.rows(model, batch)

    def check_condition(self, condition: Condition) -> None:  # noqa: B027  # most fit every one
        """Check that the probe can measure under a condition.

        Raises:
            InputError: the condition does something that the probe cannot account for; by default,
                never raised.
        """

    def check(self, model: TransformerBridge) -> None:  # noqa: B027  # most fit every model
        """Check that the probe can measure a model.

        Raises:
            InputError: the probe cannot measure the model; by default, never raised.
        """

    @abstractmethod
    def rows(
        self, model: TransformerBridge, batch: "Batch"
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (example id, dict of the probe's own columns), any number of rows per example."""


PROBES: Registry[Probe] = Registry("probe", Probe)
register = PROBES.register

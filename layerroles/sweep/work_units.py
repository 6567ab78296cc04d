"""Units of work, whose answers are computed and stored together, and calls of the engine."""

from dataclasses import dataclass

from layerroles.ablations import Condition
from layerroles.engine import Requests
from layerroles.sweep.task_protocol_cells import SweepCell
from layerroles.tasks import Example


@dataclass(frozen=True)
class Unit:
    """Questions whose answers are computed and stored together: cells x conditions x examples.

    Which work is in a unit depends only on the manifest and on the rows already stored.

    Attributes:
        cells: the cells; all are of one task.
        conditions: the conditions under which every cell is asked.
        examples: the examples that are asked.
        round: the round of the sweep, from 0; -1 if the sweep does not ask in rounds.
    """

    cells: tuple[SweepCell, ...]
    conditions: tuple[Condition, ...]
    examples: tuple[Example, ...]
    round: int = -1

    @property
    def n_rows(self) -> int:
        """The number of rows: cells x conditions x examples."""
        return len(self.cells) * len(self.conditions) * len(self.examples)


@dataclass(frozen=True)
class EngineCall:
    """The arguments of one call of the engine.

    Attributes:
        name: the task's label, or `noise floor`.
        requests: a list of encoded requests for each cell.
        conditions: the conditions under which all requests are asked.
    """

    name: str
    requests: tuple[Requests, ...]
    conditions: tuple[Condition, ...]

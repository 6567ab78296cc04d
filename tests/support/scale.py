"""An ablation that users would write: multiply a write by a factor."""

from dataclasses import dataclass

from torch import Tensor

import layerroles as lr


@lr.ablation("test-scale")
@dataclass(frozen=True)
class Scale(lr.Ablation):
    """Multiply the site's write by `factor`."""

    factor: float = 0.5

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return self.factor * write

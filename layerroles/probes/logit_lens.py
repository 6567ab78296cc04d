"""The logit lens: what the model would say if it stopped after each block.

The stream at the answering position is read through the model's own final norm and unembedding, as
it is (nostalgebraist 2020, "interpreting GPT: the logit lens"). Early streams are read badly: the
model never meant them to be unembedded. `TunedLens` maps them first.

Example:
    lens = LogitLens(top=3).measure(model, tasks, limit=32)
    table = LogitLens(top=1).read(model, ["The capital of France is Paris"])
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from layerroles.errors import InputError
from layerroles.probes.base import register
from layerroles.probes.depths import Place
from layerroles.probes.lens import Lens


@register("logit_lens")
@dataclass(frozen=True)
class LogitLens(Lens):
    """Read the stream over depth as if it were the last; for the columns, see `Lens`.

    Attributes:
        sublayers: whether the stream between attention and MLP is read too.
        top: the number of likeliest tokens to return at each depth.

    Raises:
        InputError: `top` is no whole number, or `sublayers` neither true nor false.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        lens.groupby(["task", "layer"])["rank"].median()
    """

    sublayers: bool = False
    top: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.top, int):
            raise InputError(f"top={self.top!r} is not a whole number")
        if self.sublayers not in (True, False):  # 0 and 1 come from the command line
            raise InputError(f"sublayers={self.sublayers!r} is neither 1 nor 0")

    def translated(
        self, stream: Float[Tensor, "row d_model"], place: Place
    ) -> Float[Tensor, "row d_model"]:
        """The stream as it is."""
        return stream

"""Decision: at which depth the model chooses among the options, and whether it chooses right.

A lens reads out the stream at each depth as if it were the last block's output (see `lens`). This
probe restricts a lens to the options of a multiple-choice question (after Shi et al. 2026, arXiv
2605.07271): at each depth, it compares only the options' tokens that follow the answering position
(see `answering_position`), not the rest of the vocabulary. The *choice* at a depth is the likeliest
option, and

    margin = log p(right option) - max over other options of log p(option)

in nats. The margin does not depend on the rest of the vocabulary, and is positive where the right
option is the choice.

The *decisive* phase begins at the first depth from which on the choice is the final one; all depths
before it are the *silent* phase, in which options may lead by chance. The paper defines the phases
of a whole network, by the mean margin of right options. Here they are defined for each example, by
its final choice, right or wrong.

Example:
    frame = Decision().measure(model, [lr.task("facts")])
    depth_intervals(decision_depths(frame))
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.probes.answering_position import Batch
from layerroles.probes.base import Probe, register
from layerroles.probes.emergence import find_lasting_layer
from layerroles.probes.lens import Lens, LogitLens
from layerroles.probes.streams import record_streams


@register("decision")
@dataclass(frozen=True)
class Decision(Probe):
    """Measure the right option's margin over the best other option, by depth.

    Columns: layer (-1 is the embedding, l is after block l), part (`block`, or `attn` for the
    stream between attention and MLP), margin (nats; positive where the right option is likeliest),
    lead (nats; margin of the final choice, the likeliest option at the last depth, over the best
    other option), phase (`decisive` if the likeliest option is the final choice at this depth and
    all later ones, so that `lead` is not negative; else `silent`), right (whether the final choice
    is the right option), options (how many are compared). Options with the same next token count as
    one. Examples with fewer than two options are left out.

    Attributes:
        lens: the lens that reads the stream.

    Raises:
        InputError: `lens` is not a lens.

    Example:
        decision = lr.probes.Decision().measure(model, tasks, limit=8)
        decision.groupby(["task", "layer"])["margin"].mean()
    """

    needs: ClassVar[str] = "several choices"

    lens: Lens = field(default_factory=LogitLens)

    def __post_init__(self) -> None:
        if not isinstance(self.lens, Lens):
            raise InputError(f"lens={self.lens!r} is no lens: give LogitLens() or a TunedLens")

    def check(self, model: TransformerBridge) -> None:
        """Check that the lens fits a model."""
        self.lens.check(model)

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a row for each depth and each example with two options or more."""
        streams, hooks = record_streams(model, self.lens.sublayers, slice(-1, None))
        batch.run(model, hooks)
        options = [
            (answer, *others) for answer, others in zip(batch.answers, batch.others, strict=True)
        ]
        readings = [
            (place, [logits[row, list(ids)].float() for row, ids in enumerate(options)])
            for place, logits in self.lens.readings(model, streams)
        ]
        places = [place for place, _ in readings]
        for row, example in enumerate(batch.examples):
            if len(options[row]) == 1:
                continue
            by_depth = torch.stack([logits[row] for _, logits in readings]).cpu()
            choice = by_depth.argmax(-1)
            decided = find_lasting_layer(
                (choice == choice[-1])[None].numpy(), range(len(readings))
            )[0]
            margins, leads = (
                _margins_over_others(by_depth, option) for option in (0, int(choice[-1]))
            )
            for depth, place in enumerate(places):
                yield (
                    example.id,
                    {
                        **place._asdict(),
                        "margin": margins[depth],
                        "lead": leads[depth],
                        "phase": "decisive" if depth >= decided else "silent",
                        "right": int(choice[-1]) == 0,
                        "options": len(options[row]),
                    },
                )


def _margins_over_others(logits: Float[Tensor, "depth option"], option: int) -> list[float]:
    """Return, at each depth, an option's logit minus the largest of the others."""
    others = logits.clone()
    others[:, option] = -torch.inf
    margins: list[float] = (logits[:, option] - others.max(-1).values).tolist()
    return margins

"""The protocol of an lm-eval task: its own requests, and its own filters and metrics as the score.

lm-eval makes `Instance`s of a document; the engine answers them; they go back to lm-eval with the
answers in them, to be filtered and scored. What a condition changes is the answers alone.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from layerroles.chat import chat_text
from layerroles.engine import Engine, scored, written
from layerroles.models import prepared
from layerroles.protocols.base import Asked, Protocol, Unit
from layerroles.protocols.instances import AskedChoices, AskedTexts
from layerroles.tasks import Example, LmEval, Task
from layerroles.tasks.harness import generation_options, metric_of, rules

# Metrics that are 1 or 0 for a document.
_RIGHT_OR_WRONG = (
    *("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "contains"),
    *("prompt_level_strict_acc", "prompt_level_loose_acc"),
)


@dataclass(frozen=True)
class Harness(Protocol):
    """Ask an lm-eval task as lm-eval does, and let it score the answers.

    Example:
        arc = lr.task("lm_eval:arc_easy")
        arc.protocol  # Harness(arc): a sweep asks the task by it
    """

    task: LmEval

    @property
    def name(self) -> str:
        """`generation`, `letter` where choices are letters, or `continuation`."""
        if self.task.output_type == "generate_until":
            return "generation"
        name, member = next(iter(self.task.members.items()))
        if self.task.output_type == "multiple_choice" and not member.multiple_input:
            doc = self.task.documents[name][0]
            choices = [str(choice).strip() for choice in member.doc_to_choice(doc)]
            if all(len(choice) == 1 and choice.isalpha() for choice in choices):
                return "letter"
        return "continuation"

    @property
    def label(self) -> str:
        """The name: the task tells everything else."""
        return self.name

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        """`accuracy` where the metric is 1 or 0 for each document."""
        metric = metric_of(self.task, next(iter(self.task.members.values())))
        if metric in _RIGHT_OR_WRONG:
            return "accuracy"
        return "nats" if metric == "perplexity" else "score"

    def noted(self) -> dict[str, Any]:
        """How lm-eval aggregates each metric (None: by a function of the task's), and its rules."""
        from lm_eval.api.registry import AGGREGATION_REGISTRY

        names = {function: name for name, function in AGGREGATION_REGISTRY.items()}
        members = self.task.members.values()
        aggregation = {
            metric: names.get(function)
            for member in members
            for metric, function in member.aggregation().items()
        }
        return {"aggregation": aggregation, "rules": rules(members)}

    def check(self, example: Example) -> None:
        """Every example of the task can be asked."""

    def context(self, example: Example) -> str:
        """What the model reads, shots included."""
        return example.prompt

    def prompt(self, model: TransformerBridge, example: Example, *, chat: bool) -> str:
        """The context; in a chat as lm-eval itself puts it into the template."""
        if not chat:
            return self.context(example)
        text: str = self._instances(model, [example], chat=True)[0][0].arguments[0]
        return text

    def chance(self, examples: Sequence[Example]) -> float | None:
        """As the task states it, or one over the number of choices; None where text is written."""
        if self.task.chance is not None:
            return self.task.chance
        if self.unit != "accuracy" or self.task.output_type == "generate_until":
            return None
        if self.task.output_type == "loglikelihood":
            return 0.0
        shares = [self.task.share_right(example) for example in examples]
        known = [share for share in shares if share is not None]
        return sum(known) / len(known) if len(known) == len(shares) else None

    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> Asked:
        """Let lm-eval build the requests, and encode them."""
        instances = self._instances(engine.model, examples, chat=chat)
        flat = [one.arguments for each in instances for one in each]
        if self.task.output_type == "generate_until":
            whose = f"task {self.task.label!r}"
            asked = [(text, generation_options(options, whose)) for text, options in flat]
            texts = written(engine.model, asked, cut=engine.model.cfg.n_ctx)
            return AskedTexts(self.task, self.unit, examples, instances, texts)
        scores = scored(engine.model, flat, cut=engine.model.cfg.n_ctx)
        return AskedChoices(self.task, self.unit, examples, instances, scores)

    def _instances(
        self, model: TransformerBridge, examples: Sequence[Example], *, chat: bool
    ) -> list[list[Any]]:
        """lm-eval's requests for these examples, in their order."""
        ids = [example.id for example in examples]
        if chat:
            template = functools.partial(chat_text, model)
            key = f"{prepared(model).name}\n{prepared(model).tokenizer.chat_template}"
            found = self.task.instances(ids, template, key)
        else:
            found = self.task.instances(ids)
        return [found[id] for id in ids]

"""The protocol of an lm-eval task: lm-eval makes the requests and scores the answers.

lm-eval builds `Instance`s from a document, the engine answers them, and lm-eval filters and scores
the answers (`instance_scoring`). A condition changes nothing but the answers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Engine, encode_scored, encode_written
from layerroles.harness.instance_scoring import AskedChoices, AskedTexts
from layerroles.harness.task_loading import choose_metric, hash_rules, read_generation_options
from layerroles.harness.tasks import LmEval
from layerroles.models import chat_text, prepared
from layerroles.protocols import Asked, Protocol, Unit
from layerroles.tasks import Example, Task

# Metrics that are 1 or 0 for a document.
_RIGHT_OR_WRONG = (
    *("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "contains"),
    *("prompt_level_strict_acc", "prompt_level_loose_acc"),
)


@dataclass(frozen=True)
class Harness(Protocol):
    """The protocol that asks an lm-eval task as lm-eval does; lm-eval scores the answers.

    Example:
        arc = lr.task("lm_eval:arc_easy")
        arc.protocol  # Harness(arc): a sweep asks the task by it
    """

    task: LmEval

    @property
    def name(self) -> str:
        """The protocol's name, by the type of the task's requests.

        `generation` if answers are generated, `letter` if choices are single letters, else
        `continuation`.
        """
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
        """The protocol's name, without parameters: the task sets everything else."""
        return self.name

    @property
    def unit(self) -> Unit:  # type: ignore[override]
        """The unit of a score, by the task's metric.

        `accuracy` if the metric is 1 or 0 for a document, `nats` for `perplexity`, else `score`.
        """
        metric = choose_metric(self.task, next(iter(self.task.members.values())))
        if metric in _RIGHT_OR_WRONG:
            return "accuracy"
        return "nats" if metric == "perplexity" else "score"

    def noted(self) -> dict[str, Any]:
        """Return what a run's manifest stores: `aggregation`, and `rules`, a hash of the settings.

        `aggregation` maps each metric to the name of lm-eval's aggregation function, or None if the
        task defines its own.
        """
        from lm_eval.api.registry import AGGREGATION_REGISTRY

        names = {function: name for name, function in AGGREGATION_REGISTRY.items()}
        members = self.task.members.values()
        aggregation = {
            metric: names.get(function)
            for member in members
            for metric, function in member.aggregation().items()
        }
        return {"aggregation": aggregation, "rules": hash_rules(members)}

    def check(self, example: Example) -> None:
        """Accept every example of the task."""

    def context(self, example: Example) -> str:
        """Return the example's prompt, which includes its shots."""
        return example.prompt

    def prompt(self, model: TransformerBridge, example: Example, *, chat: bool) -> str:
        """Return the context; with `chat`, in the chat template as lm-eval itself applies it."""
        if not chat:
            return self.context(example)
        text: str = self._instances(model, [example], chat=True)[0][0].arguments[0]
        return text

    def chance(self, examples: Sequence[Example]) -> float | None:
        """Return the mean score of guessing: the task's `chance`, if that is set.

        If it is not set, the score is the mean over examples of the share of choices that are
        right; 0 for tasks that score a given text; and None if answers are generated, if the unit
        is not `accuracy`, or if the share of right choices is unknown for some example.
        """
        if self.task.chance is not None:
            return self.task.chance
        if self.unit != "accuracy" or self.task.output_type == "generate_until":
            return None
        if self.task.output_type == "loglikelihood":
            return 0.0
        shares = [self.task.share_right(example) for example in examples]
        known = [share for share in shares if share is not None]
        return sum(known) / len(known) if len(known) == len(shares) else None

    def chooses(self, examples: Sequence[Example]) -> bool:
        """Return whether lm-eval compares choices, exactly one right, and `chance` is not set."""
        return (
            self.task.chance is None
            and self.unit == "accuracy"
            and self.task.output_type == "multiple_choice"
            and all(
                example.answer in example.choices
                and self.task.share_right(example) == 1 / len(example.choices)
                for example in examples
            )
        )

    def prepare(
        self, engine: Engine, task: Task, examples: Sequence[Example], *, chat: bool = False
    ) -> Asked:
        """Let lm-eval build the requests; return them encoded, for scoring or for generation."""
        instances = self._instances(engine.model, examples, chat=chat)
        flat = [
            instance.arguments for example_instances in instances for instance in example_instances
        ]
        if self.task.output_type == "generate_until":
            whose = f"task {self.task.label!r}"
            prompts = [(text, read_generation_options(options, whose)) for text, options in flat]
            texts = encode_written(engine.model, prompts, cut=engine.model.cfg.n_ctx)
            return AskedTexts(self.task, self.unit, examples, instances, texts)
        scores = encode_scored(engine.model, flat, cut=engine.model.cfg.n_ctx)
        return AskedChoices(self.task, self.unit, examples, instances, scores)

    def _instances(
        self, model: TransformerBridge, examples: Sequence[Example], *, chat: bool
    ) -> list[list[Any]]:
        """Return lm-eval's requests (`Instance`s), one list for each of `examples`."""
        ids = [example.id for example in examples]
        if chat:
            template = functools.partial(chat_text, model)
            key = f"{prepared(model).name}\n{prepared(model).tokenizer.chat_template}"
            by_id = self.task.instances(ids, template, key)
        else:
            by_id = self.task.instances(ids)
        return [by_id[id] for id in ids]

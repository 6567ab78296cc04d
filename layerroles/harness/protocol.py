"""The protocol of an lm-eval task: lm-eval makes the requests and scores the answers.

lm-eval builds `Instance`s from a document, the engine answers them, and lm-eval filters and scores
the answers. A condition changes nothing but the answers.
"""

import functools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine import Engine, Score, Scored, Writing, Written, encode_scored, encode_written
from layerroles.errors import InputError
from layerroles.harness.task_loading import (
    choose_metric,
    hash_rules,
    read_generation_options,
    score_document,
)
from layerroles.harness.tasks import LmEval
from layerroles.models import chat_text, prepared
from layerroles.private_apis import set_instances
from layerroles.protocols import (
    Answer,
    Asked,
    Protocol,
    Reply,
    Unit,
    make_details,
    opens_thinking,
    outcome,
    split_thinking,
)
from layerroles.tasks import Example, Grade, Task, has_answer_length

# Metrics that are 1 or 0 for a document.
_RIGHT_OR_WRONG = (
    *("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "contains"),
    *("prompt_level_strict_acc", "prompt_level_loose_acc"),
)
# What lm-eval's regular-expression filters return if nothing matches.
_NOTHING = "[invalid]"
_STRICT, _FLEXIBLE = "strict-match", "flexible-extract"
_SHUFFLES = 10
# The form of a response is judged only if the right answer has at most this many words.
_LONGEST_FORMED = 8


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


@dataclass(frozen=True)
class AskedInstances(Asked):
    """Requests made from lm-eval's `Instance`s; lm-eval scores the answers."""

    task: LmEval
    unit: Unit
    examples: Sequence[Example]
    instances: list[list[Any]]

    def read(self, pairs: Sequence[Any]) -> Iterator[tuple[list[Any], dict[str, dict[str, Any]]]]:
        """Yield for each example a pair: the engine's answers to its requests, and its metrics.

        The metrics are {filter: {metric: value}}, computed by lm-eval.

        Args:
            pairs: for each request, a pair: the response in lm-eval's form and the engine's answer.
        """
        remaining = iter(pairs)
        answers: list[list[Any]] = []
        by_member: dict[str, list[Any]] = {}
        for example, instances in zip(self.examples, self.instances, strict=True):
            example_responses = [next(remaining) for _ in instances]
            for instance, (response, _) in zip(instances, example_responses, strict=True):
                instance.resps, instance.filtered_resps = [response], {}
            answers.append([answer for _, answer in example_responses])
            by_member.setdefault(self.task.member_name(example), []).extend(instances)
        for name, instances in by_member.items():
            member = self.task.members[name]
            set_instances(member, instances)
            member.apply_filters()
        for example, instances, example_responses in zip(
            self.examples, self.instances, answers, strict=True
        ):
            yield example_responses, score_document(self.task.member(example), instances)

    def score(self, example: Example, metrics: dict[str, dict[str, Any]]) -> tuple[float, str]:
        """Return (score of an example, name of the filter that extracted the answer).

        The score is the value of the task's metric under that filter; `metrics` is
        {filter: {metric: value}}.

        Raises:
            InputError: the value is missing or not a number.
        """
        name = self.task.filter
        if not name:
            name = _FLEXIBLE if _FLEXIBLE in metrics else next(iter(metrics))
        metric = choose_metric(self.task, self.task.member(example))
        value = metrics.get(name, {}).get(metric)
        if isinstance(value, list | tuple) or value is None:
            usable = [
                key for key, numbers in metrics[next(iter(metrics))].items() if _is_number(numbers)
            ]
            raise InputError(
                f"task {self.task.label!r}: metric {metric!r} under filter {name!r} gives "
                f"no number for a document: give metric=, one of {', '.join(usable) or 'none'}, "
                f"and filter=, one of {', '.join(metrics)}"
            )
        return float(value), name


@dataclass(frozen=True)
class AskedChoices(AskedInstances):
    """Likelihood requests of lm-eval, scored by its metrics."""

    requests: list[Scored]

    apart: ClassVar[bool] = True

    def judge(self, results: Sequence[Score]) -> list[Answer]:
        """Return an `Answer` for each example, given the scores of all requests.

        lm-eval's metrics compute the `score`.
        """
        responses = [((score.logprob, score.is_greedy), score) for score in results]
        return [
            self._answer(example, scores, metrics)
            for example, (scores, metrics) in zip(self.examples, self.read(responses), strict=True)
        ]

    def _answer(
        self, example: Example, scores: list[Score], metrics: dict[str, dict[str, Any]]
    ) -> Answer:
        finite = all(score.finite for score in scores)
        value, _ = self.score(example, metrics)
        right = value == 1 if finite and self.unit == "accuracy" else None
        logprobs = [score.logprob for score in scores]
        return Answer(
            score=value if finite else float("nan"),
            correct=right,
            strict=None,
            outcome="" if right is None else "correct" if right else "wrong",
            response=self._chosen(example, logprobs) if finite else "",
            status="ok" if finite else "not finite",
            changed=any(score.changed for score in scores),
            n_tokens=sum(score.n_tokens for score in scores),
            details={"logprobs": logprobs, **_flatten_metrics(metrics)} if finite else {},
        )

    def _chosen(self, example: Example, logprobs: Sequence[float]) -> str:
        """Return the choice that counts as the model's answer under the task's metric.

        Empty if there are no choices, or if the choice cannot be known: the metric is another than
        those below, or the task scores by its own code.
        """
        member, choices = self.task.member(example), example.choices
        if self.task.output_type != "multiple_choice" or callable(member.config.process_results):
            return ""
        given, alone = np.array(logprobs[: len(choices)]), logprobs[len(choices) :]
        match choose_metric(self.task, member):
            case "acc" | "f1" | "mcc":
                compared = given
            case "acc_norm":
                compared = given / [len(choice) for choice in choices]
            case "acc_bytes":
                compared = given / [len(choice.encode()) for choice in choices]
            case "acc_mutual_info":
                compared = given - alone
            case _:
                return ""
        return choices[int(compared.argmax())]


@dataclass(frozen=True)
class AskedTexts(AskedInstances):
    """Generation requests of lm-eval, scored by its filters and metrics."""

    requests: list[Written]

    apart: ClassVar[bool] = False

    def judge(self, results: Sequence[Writing]) -> list[Answer]:
        """Return an `Answer` for each example, given the text generated for each.

        lm-eval's filters and metrics compute the `score`.
        """
        prompts = (instances[0].arguments[0] for instances in self.instances)
        replies = [
            split_thinking(writing.text, opened=opens_thinking(prompt))
            for writing, prompt in zip(results, prompts, strict=True)
        ]
        # Neither the thinking nor the white space after it is part of the answer.
        texts = [reply.answer.lstrip() if reply.closed else reply.answer for reply in replies]
        answers = self.read(list(zip(texts, results, strict=True)))
        return [
            self._answer(example, instances, writing, reply, metrics)
            for example, instances, writing, reply, (_, metrics) in zip(
                self.examples, self.instances, results, replies, answers, strict=True
            )
        ]

    def shuffled(self, results: Sequence[Writing]) -> float | None:
        """Estimate chance: the mean score if each example gets the response to another example.

        The other example is of the same lm-eval task, if that task has more than one example here.
        Return None if no score is finite.
        """
        groups = group_places([self.task.member_name(example) for example in self.examples])
        scores: list[float] = []
        for shift in range(1, min(_SHUFFLES + 1, max(map(len, groups)))):
            source = {
                place: places[(at + shift) % len(places)]
                for places in groups
                for at, place in enumerate(places)
            }
            answers = self.judge([results[source[place]] for place in range(len(results))])
            scores += [
                answer.score for place, answer in enumerate(answers) if source[place] != place
            ]
        finite = [score for score in scores if not math.isnan(score)]
        return statistics.fmean(finite) if finite else None

    def _form(self, example: Example, reply: Reply) -> bool | None:
        """Return whether the first line of the reply is as short as an answer.

        Return None if the right answer has more than 8 words, so that its form cannot be judged.
        """
        if len(example.answer.split()) > _LONGEST_FORMED:
            return None
        return has_answer_length(reply.answer.strip().split("\n", 1)[0], example)

    def _answer(
        self,
        example: Example,
        instances: list[Any],
        writing: Writing,
        reply: Reply,
        metrics: dict[str, dict[str, Any]],
    ) -> Answer:
        value, name = self.score(example, metrics)
        binary = self.unit == "accuracy"
        responses = instances[0].filtered_resps
        metric = choose_metric(self.task, self.task.member(example))
        strict, form = None, self._form(example, reply)
        if _STRICT in metrics:
            form = responses[_STRICT] != _NOTHING
            strict = bool(metrics[_STRICT].get(metric) == 1) if binary else None
        answered = bool(reply.answer.strip()) and responses[name] != _NOTHING
        right = value == 1 if binary else None
        grade = Grade(strict=bool(strict), flexible=bool(right), answered=answered)
        fine = writing.finite
        kind = outcome(reply.answer, grade, ended=writing.ended) if fine and binary else ""
        return Answer(
            score=value if fine else float("nan"),
            correct=right if fine else None,
            strict=strict if fine else None,
            outcome="truncated" if reply.closed is False and kind else kind,
            response=reply.answer,
            status="ok" if fine else "not finite",
            changed=writing.changed,
            n_tokens=writing.n_tokens,
            form=form if fine else None,
            thought=reply.closed,
            details={**make_details(writing.text, reply), **_flatten_metrics(metrics)}
            if fine
            else {},
        )


def group_places(names: Sequence[str]) -> list[list[int]]:
    """Group the indices of equal names; all names that occur once form one group.

    >>> group_places(["anatomy", "law", "anatomy", "virology"])
    [[0, 2], [1, 3]]
    """
    counts = Counter(names)
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name if counts[name] > 1 else "", []).append(place)
    return list(groups.values())


def _flatten_metrics(metrics: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a document's metrics by lm-eval's flat names, such as `acc,none`.

    Metrics that JSON cannot represent are left out.
    """
    flat = {
        f"{metric},{name}": _to_json(value)
        for name, values in metrics.items()
        for metric, value in values.items()
    }
    return {key: value for key, value in flat.items() if value is not None}


def _to_json(value: Any) -> Any:
    """Return a metric as a JSON-compatible value; None if that is not possible."""
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        value = value.tolist()
    return value if isinstance(value, str | int | float | list) else None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)

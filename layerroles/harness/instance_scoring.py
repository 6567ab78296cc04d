"""Requests made from lm-eval's `Instance`s, and answers scored by lm-eval's filters and metrics."""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from layerroles.engine import Score, Scored, Writing, Written
from layerroles.errors import InputError
from layerroles.harness.task_loading import (
    choose_metric,
    score_document,
)
from layerroles.harness.tasks import LmEval
from layerroles.private_apis import set_instances
from layerroles.protocols import (
    Answer,
    Asked,
    Reply,
    Unit,
    make_details,
    opens_thinking,
    outcome,
    split_thinking,
)
from layerroles.tasks import Example, Grade, has_answer_length

# What lm-eval's regular-expression filters return if nothing matches.
_NOTHING = "[invalid]"
_STRICT, _FLEXIBLE = "strict-match", "flexible-extract"
_SHUFFLES = 10
# The form of a response is judged only if the right answer has at most this many words.
_LONGEST_FORMED = 8


@dataclass(frozen=True)
class AskedInstances(Asked):
    """Requests made from lm-eval's `Instance`s; lm-eval scores the answers.

    Attributes:
        task: the task.
        unit: the unit of the scores.
        examples: the examples that are asked.
        instances: lm-eval's instances, a list per example, in the order of `examples`.
    """

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
            example_pairs = [next(remaining) for _ in instances]
            for instance, (response, _) in zip(instances, example_pairs, strict=True):
                instance.resps, instance.filtered_resps = [response], {}
            answers.append([answer for _, answer in example_pairs])
            by_member.setdefault(self.task.member_name(example), []).extend(instances)
        for name, instances in by_member.items():
            member = self.task.members[name]
            set_instances(member, instances)
            member.apply_filters()
        for example, instances, example_answers in zip(
            self.examples, self.instances, answers, strict=True
        ):
            yield example_answers, score_document(self.task.member(example), instances)

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

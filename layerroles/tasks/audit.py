"""Audit a task: find choices that give answers away, duplicates, and dependent questions.

A protocol that compares choices measures skill only if the right choice cannot be found without
understanding the question. The audit applies strategies that ignore the question's meaning, such as
picking the longest choice. Chance is the mean of 1/k, where k is a question's number of choices. If
t choices tie for a strategy's highest score, and the right one is among them, the question counts
as 1/t right. `strategy_significance` computes the p values.

Example:
    >>> import layerroles as lr
    >>> from layerroles.tasks import audit_task
    >>> found = audit_task(lr.task("kv_retrieval"), limit=200)
    >>> found.n, bool(found.frame["flagged"].any()), found.duplicates
    (200, False, 0)
"""

import dataclasses
import json
import reprlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from layerroles.errors import InputError
from layerroles.invisible_characters import visible
from layerroles.notebook_display import html_block, html_list, html_paragraph
from layerroles.tasks.base import Example, Task
from layerroles.tasks.choice_strategies import strategies
from layerroles.tasks.guessing import best_guess
from layerroles.tasks.strategy_significance import strategy_frame

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


@dataclass(frozen=True, eq=False)
class Audit:
    """Statistics of a task's questions, computed without asking a model.

    Questions of one cluster, such as those with the same template, are not independent. With m
    questions in each cluster and an intraclass correlation r of a model's scores, n questions are
    worth n / (1 + (m - 1) r) independent ones. The questions alone do not determine r, so the
    number of clusters and the share of the largest are given.

    Attributes:
        task: the task's label.
        n: number of questions examined.
        frame: a row per strategy: strategy, n (number of distinct questions to which it applies),
            share (the share of these that it gets right), chance (mean of 1/k), excess (share minus
            chance), p (one-sided), p_adjusted (Holm) and flagged (p_adjusted below .05). Empty if
            no question has choices.
        picks: maps each strategy's name to a phrase that says what it picks.
        duplicates: number of questions with the same prompt as an earlier one.
        contradictions: number of prompts shared by questions that have different answers.
        clusters: number of different values of `Example.cluster`; 0 if no question has one.
        largest_cluster: the largest cluster's share of all questions; 0 without clusters.
        distinct_answers: number of different answers divided by number of questions.
        top_answer: the most frequent answer.
        top_answer_share: the share of questions with that answer.
        guess: the name of the best strategy to guess a generated answer (see `guessing`); empty for
            tasks with a protocol of their own (plain texts, lm-eval's tasks).
        guess_score: the share of questions that `guess` gets right by the task's flexible grading;
            None if `guess` is empty.
        lengths: a row per unit (characters, words, and tokens if a model was given): min, median
            and max length of prompts with their shots (worked examples, here with solutions).
        context: the model's context length in tokens; None without a model.
        too_long: number of questions whose prompt, in tokens, and `max_gen_toks` together exceed
            `context`; None without a model.

    Example:
        >>> import layerroles as lr
        >>> lr.tasks.audit_task(lr.task("word_problems"), limit=100).duplicates
        0
    """

    task: str
    n: int
    frame: pd.DataFrame
    picks: dict[str, str]
    duplicates: int
    contradictions: int
    clusters: int
    largest_cluster: float
    distinct_answers: float
    top_answer: str
    top_answer_share: float
    guess: str
    guess_score: float | None
    lengths: pd.DataFrame
    context: int | None = None
    too_long: int | None = None

    @property
    def sentences(self) -> tuple[str, ...]:
        """The statistics in words: on the choices, then the questions, then the prompt lengths."""
        return (*self._describe_choices(), *self._describe_questions(), *self._describe_lengths())

    def to_dict(self) -> dict[str, object]:
        """Return all fields except `picks`, and the sentences, as JSON-compatible values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["picks"]
        for name in ("frame", "lengths"):
            fields[name] = json.loads(fields[name].to_json(orient="records", double_precision=15))
        return {**fields, "sentences": list(self.sentences)}

    def _describe_choices(self) -> list[str]:
        if self.frame.empty:
            return [
                "No question has choices: only protocols that write or score a text can ask it."
            ]
        flagged = self.frame[self.frame["flagged"]]
        if flagged.empty:
            best = self.frame.iloc[0]
            return [
                f"No strategy is shown to beat chance; the best of {len(self.frame)}, always "
                f"picking {self.picks[best['strategy']]}, is right in {best['share']:.0%} of "
                f"questions (chance {best['chance']:.0%})."
            ]
        asked = [
            f"the {row['n']:,} distinct questions to which this applies"
            if row["n"] < self.n
            else "questions"
            for _, row in flagged.iterrows()
        ]
        return [
            f"Always picking {self.picks[row['strategy']]} is right in {row['share']:.0%} of "
            f"{questions} (chance {row['chance']:.0%}): a likelihood protocol with that "
            f"preference would count as skill."
            for questions, (_, row) in zip(asked, flagged.iterrows(), strict=True)
        ]

    def _describe_questions(self) -> list[str]:
        sentences = [
            f"{self.duplicates:,} of {self.n:,} questions repeat a prompt; {self.contradictions:,} "
            f"prompts are asked with different answers.",
            self._describe_clusters(),
        ]
        if self.guess:
            sentences.append(
                f"Where the answer is written, the best guess ({self.guess}) is right in "
                f"{self.guess_score:.0%}: chance under generation."
            )
        sentences.append(
            f"Different answers are {self.distinct_answers:.0%} as many as questions; the most "
            f"frequent, {_SHORT.repr(self.top_answer)}, answers {self.top_answer_share:.0%}."
        )
        return sentences

    def _describe_clusters(self) -> str:
        if not self.clusters:
            return "No question names a cluster (a template, a set of shots) that it shares."
        size = self.n / self.clusters
        alike = " and ".join(
            f"{self.n / (1 + (size - 1) * r):,.0f} (correlation {r} within a cluster)"
            for r in (0.1, 0.3)
        )
        return (
            f"{self.clusters:,} clusters, the largest has {self.largest_cluster:.0%} of questions; "
            f"those of one cluster are not independent. They show as much as {alike}."
        )

    def _describe_lengths(self) -> list[str]:
        spans = [
            f"{_format_range(row['min'], row['max'])} {row['unit']}"
            for _, row in self.lengths.iterrows()
        ]
        sentences = [f"Prompts with their shots: {', '.join(spans)}."]
        if self.context is not None:
            sentences.append(
                f"{self.too_long:,} of {self.n:,} do not fit into the model's context of "
                f"{self.context:,} tokens with their answers."
            )
        return sentences

    def __repr__(self) -> str:
        below = "\n".join(f"- {sentence}" for sentence in self.sentences)
        return visible(f"{self._headline()}\n{below}\nNext: audit.frame has every strategy.")

    def _repr_html_(self) -> str:
        table = self.frame.round(3).to_html(index=False, border=0) if len(self.frame) else ""
        return html_block(html_paragraph(self._headline()), table, html_list(self.sentences))

    def _headline(self) -> str:
        return f"Audit of {self.task}, {self.n:,} questions:"


def audit_task(
    task: Task, *, limit: int = 2000, seed: int = 0, model: "TransformerBridge | None" = None
) -> Audit:
    """Audit a task's questions with strategies that ignore the questions' meaning.

    Args:
        task: the task to audit.
        limit: number of questions; 2,000 are enough to find an excess of .05 over a chance of .25.
        seed: the seed that selects the questions.
        model: the model whose tokenizer counts tokens and whose context length is compared with
            prompts; it needs no weights (`lr.load(name, device="meta")`). Without a model, tokens
            are not counted.

    Raises:
        InputError: a limit below 1, or a task without questions.

    Example:
        >>> import layerroles as lr
        >>> found = lr.tasks.audit_task(lr.task("copying"), limit=100)
        >>> float(found.frame["share"].max()) < 0.5
        True
    """
    if limit < 1:
        raise InputError(f"limit={limit} asks for nothing: give 1 or more")
    examples = task.examples(limit, seed)
    if not examples:
        raise InputError(f"task {task.label!r} has no example")
    answers = Counter(example.answer for example in examples)
    asked: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        if example.prompt:  # plain texts have no prompt
            asked[example.prompt].add(example.answer)
    clusters = Counter(example.cluster for example in examples if example.cluster)
    (top_answer, top_count), *_ = answers.most_common(1)
    lengths = _measure_lengths(examples, model)
    guess = None
    if task.protocol is None:
        guess = best_guess(
            task,
            examples,
            seed,
            lambda asked_example, text: float(task.grade(text, asked_example).flexible),
        )
    n_ctx = None if model is None else int(model.cfg.n_ctx)
    over = None
    if n_ctx is not None:
        over = sum(length + task.max_gen_toks > n_ctx for length in lengths["tokens"])
    return Audit(
        task=task.label,
        n=len(examples),
        frame=strategy_frame(examples),
        picks={strategy.name: strategy.picks for strategy in strategies()},
        duplicates=sum(example.prompt != "" for example in examples) - len(asked),
        contradictions=sum(len(given) > 1 for given in asked.values()),
        clusters=len(clusters),
        largest_cluster=max(clusters.values(), default=0) / len(examples),
        distinct_answers=len(answers) / len(examples),
        top_answer=top_answer,
        top_answer_share=top_count / len(examples),
        guess="" if guess is None else guess.strategy,
        guess_score=None if guess is None else guess.mean,
        lengths=_summarize_lengths(lengths),
        context=n_ctx,
        too_long=over,
    )


def _format_range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _measure_lengths(
    examples: Sequence[Example], model: "TransformerBridge | None"
) -> dict[str, list[int]]:
    texts = [example.context(worked=True) for example in examples]
    lengths = {
        "characters": [len(text) for text in texts],
        "words": [len(text.split()) for text in texts],
    }
    if model is not None:
        from layerroles.models import encode  # loads torch: only needed with a model

        lengths["tokens"] = [len(encode(model, text)) for text in texts]
    return lengths


def _summarize_lengths(lengths: dict[str, list[int]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "unit": unit,
                "min": min(counts),
                "median": float(np.median(counts)),
                "max": max(counts),
            }
            for unit, counts in lengths.items()
        ]
    )

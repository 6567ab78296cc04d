"""Which answers are right, and how far ways of answering are apart."""

import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def compared(
    rows: list[dict[str, Any]],
    found: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Each way's accuracies, and how far each two ways are apart.

    Two are compared under the conditions that both were asked under, and under those that all were;
    two loops, if they differ in their batch size or in the star.
    """
    chosen = {
        label: {name: choices(rows, answers, [name]) for name in answers["answers"]}
        for label, answers in found.items()
    }
    right = {
        label: {name: graded(rows, each) for name, each in by_name.items()}
        for label, by_name in chosen.items()
    }
    means = {
        label: {name: statistics.fmean(each) for name, each in by_name.items()}
        for label, by_name in right.items()
    }
    asked = set.intersection(*map(set, chosen.values()))
    told = []
    for one, two in combinations(chosen, 2):
        if _in_both(one, two):
            continue
        both = chosen[one].keys() & chosen[two].keys()
        for names in (asked, both) if both > asked else (asked,):
            apart = [abs(means[one][name] - means[two][name]) for name in names]
            same = [same_share(chosen[one][name], chosen[two][name]) for name in names]
            pairs = [
                pair
                for name in names
                for pair in zip(right[one][name], right[two][name], strict=True)
            ]
            told.append(
                {
                    "between": [one, two],
                    "conditions": len(apart),
                    "largest": max(apart),
                    "mean": statistics.fmean(apart),
                    "same": statistics.fmean(same),
                    "first_right": pairs.count((True, False)),
                    "second_right": pairs.count((False, True)),
                }
            )
    examples = len(right["engine"]["intact"])
    return {"examples": examples, "accuracies": means, "pairs": told}


def _in_both(one: str, two: str) -> bool:
    """Whether two loops differ in their batch size and in the star."""
    (mine, starred), (other, too) = ((way.rstrip("*"), way.endswith("*")) for way in (one, two))
    return "lm-eval" in mine and "lm-eval" in other and mine != other and starred != too


def graded(rows: list[dict[str, Any]], given: list[object]) -> list[bool]:
    """Which questions are answered rightly: the choice is `right`, the text begins as `answer`.

    An answer is a regular expression.
    """
    if rows[0]["kind"] != "loglikelihood":
        pairs = zip(rows, map(str, given), strict=True)
        return [re.match(row["answer"], text.strip()) is not None for row, text in pairs]
    right: dict[str, list[bool]] = {}
    for row in rows:
        right.setdefault(row["context"], []).append(row["right"])
    return [each[int(str(choice))] for each, choice in zip(right.values(), given, strict=True)]


def choices(
    rows: list[dict[str, Any]], found: dict[str, Any], conditions: list[str]
) -> list[object]:
    """What was chosen for each question, or written, under these conditions."""
    chosen: list[object] = []
    for name in conditions:
        answers = found["answers"][name]
        if rows[0]["kind"] != "loglikelihood":
            chosen += answers
            continue
        questions: dict[str, list[float]] = {}
        for row, (logprob, _) in zip(rows, answers, strict=True):
            questions.setdefault(row["context"], []).append(logprob)
        chosen += [max(range(len(each)), key=each.__getitem__) for each in questions.values()]
    return chosen


def same_share(one: Sequence[object], two: Sequence[object]) -> float:
    """Of the answers, the share that is the same."""
    return statistics.fmean(x == y for x, y in zip(one, two, strict=True))

"""The conditions of a sweep: each once, and none lost without a word."""

import logging

import pytest

import layerroles as lr
from layerroles.sweep.manifest_conditions import distinct_conditions


def test_a_condition_under_two_names_is_asked_once_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = lr.Condition({lr.Site(3): lr.Skip()}, name="first")
    second = lr.Condition({lr.Site(3): lr.Skip()}, name="second")
    other = lr.Condition({lr.Site(4): lr.Skip()}, name="other")
    with caplog.at_level(logging.WARNING, logger="layerroles"):
        assert distinct_conditions([first, other, first]) == [first, other]
        assert caplog.messages == []
        kept = distinct_conditions([first, other, second])
    assert [condition.name for condition in kept] == ["first", "other"]
    assert caplog.messages == [
        "conditions 'first' and 'second' are the same; only 'first' is asked"
    ]


def test_one_name_for_two_conditions_is_refused() -> None:
    two = [lr.Condition({lr.Site(layer): lr.Skip()}, name="mine") for layer in (3, 4)]
    with pytest.raises(lr.InputError, match="two different conditions are called 'mine'"):
        distinct_conditions(two)

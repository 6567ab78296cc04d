"""The tests run with the package's types and shapes checked at each call."""

import dataclasses

import numpy as np
import pytest
from jaxtyping import Float
from numpy import ndarray

from layerroles.stats import paired_binary
from layerroles.tasks.answer_extraction import first_paragraph
from tests.support.type_checks import checked


def test_a_wrong_type_is_found() -> None:
    with pytest.raises(TypeError, match="violates type hint"):
        first_paragraph(3)  # type: ignore[arg-type]


def test_a_wrong_shape_is_found() -> None:
    with pytest.raises(TypeError, match="size of dimension example is 4"):
        paired_binary(np.zeros(3), np.zeros(4))


@checked(typechecker=None)
def _first(x: Float[ndarray, " n"], of: int) -> Float[ndarray, " n"]:
    return x[:of]


def test_a_name_is_one_size_in_a_call_and_in_what_it_returns() -> None:
    assert len(_first(np.zeros(3), 3)) == 3
    assert len(_first(np.zeros(4), 4)) == 4  # of another call: another size
    with pytest.raises(TypeError, match="size of dimension n is 2"):
        _first(np.zeros(3), 2)


def test_a_name_that_only_type_checkers_know_leaves_the_others_checked() -> None:
    @checked(typechecker=None)
    def count(of: "Unknown", n: int) -> int:  # type: ignore[name-defined]  # noqa: F821
        return n

    assert count("anything", 1) == 1
    with pytest.raises(TypeError, match="parameter n='one'"):
        count("anything", "one")


def test_what_a_dataclass_is_given_is_checked() -> None:
    @checked(typechecker=None)
    @dataclasses.dataclass
    class Named:
        name: str

    assert Named("a").name == "a"
    with pytest.raises(TypeError, match="parameter name=1"):
        Named(1)  # type: ignore[arg-type]

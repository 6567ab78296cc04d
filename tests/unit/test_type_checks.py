"""The tests run with the package's types and shapes checked at each call."""

import dataclasses
import pkgutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np
import pytest
from jaxtyping import Float
from numpy import ndarray

import layerroles
from layerroles.stats import paired_binary
from layerroles.tasks.grade_retrieval import first_paragraph
from tests.support.type_checks import make_checker


def test_a_wrong_type_is_found() -> None:
    with pytest.raises(TypeError, match="violates type hint"):
        first_paragraph(3)  # type: ignore[arg-type]


def test_a_wrong_shape_is_found() -> None:
    with pytest.raises(TypeError, match="size of dimension example is 4"):
        paired_binary(np.zeros(3), np.zeros(4))


@make_checker(typechecker=None)
def _first(x: Float[ndarray, " n"], of: int) -> Float[ndarray, " n"]:
    return x[:of]


def test_a_name_is_one_size_in_a_call_and_in_what_it_returns() -> None:
    assert len(_first(np.zeros(3), 3)) == 3
    assert len(_first(np.zeros(4), 4)) == 4  # of another call: another size
    with pytest.raises(TypeError, match="size of dimension n is 2"):
        _first(np.zeros(3), 2)


def test_a_name_that_only_type_checkers_know_leaves_the_others_checked() -> None:
    @make_checker(typechecker=None)
    def count(of: "Unknown", n: int) -> int:  # type: ignore[name-defined]  # noqa: F821
        return n

    assert count("anything", 1) == 1
    with pytest.raises(TypeError, match="parameter n='one'"):
        count("anything", "one")


@make_checker(typechecker=None)
def _pairs(x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> Iterator[tuple[float, float]]:
    yield from zip(x, y, strict=True)


@make_checker(typechecker=None)
def _read_in_two(x: Float[ndarray, " n"]) -> int:
    return sum(len(list(_pairs(part, part))) for part in (x[:2], x[2:]))


def test_a_generator_is_checked_when_it_is_called_and_in_sizes_of_its_own() -> None:
    with pytest.raises(TypeError, match="size of dimension n is 4"):
        _pairs(np.zeros(3), np.zeros(4))
    assert _read_in_two(np.zeros(5)) == 5


def test_each_function_that_another_makes_is_checked_and_keeps_its_own_names() -> None:
    def make_adder(n: int) -> Callable[[int], int]:
        @make_checker(typechecker=None)
        def add(x: int, *, twice: bool = False) -> int:
            return x + n * (1 + twice)

        return add

    for n in (1, 2):
        assert make_adder(n)(3) == 3 + n
        assert make_adder(n)(3, twice=True) == 3 + 2 * n
        with pytest.raises(TypeError, match="parameter x='one'"):
            make_adder(n)("one")  # type: ignore[arg-type]


def test_what_a_dataclass_is_given_is_checked() -> None:
    @make_checker(typechecker=None)
    @dataclasses.dataclass
    class Named:
        name: str

    assert Named("a").name == "a"
    with pytest.raises(TypeError, match="parameter name=1"):
        Named(1)  # type: ignore[arg-type]


def test_every_module_of_the_package_is_loaded_under_the_checks() -> None:
    """One that pytest takes for a test, by its name, it would load without them."""
    names = [module.name for module in pkgutil.walk_packages(layerroles.__path__, "layerroles.")]
    loaders = {name: type(find_spec(name).loader) for name in names}  # type: ignore[union-attr]
    assert len(loaders) > 200
    unchecked = {
        name: loader
        for name, loader in loaders.items()
        if loader.__module__.partition(".")[0] not in ("beartype", "jaxtyping")
    }
    assert not unchecked

"""The tests run with the package's types and shapes checked at each call."""

import numpy as np
import pytest

from layerroles.stats import paired_binary
from layerroles.tasks.answer_extraction import first_paragraph


def test_a_wrong_type_is_found() -> None:
    with pytest.raises(TypeError, match="violates type hint"):
        first_paragraph(3)  # type: ignore[arg-type]


def test_a_wrong_shape_is_found() -> None:
    with pytest.raises(TypeError, match="Type-check error"):
        paired_binary(np.zeros(3), np.zeros(4))

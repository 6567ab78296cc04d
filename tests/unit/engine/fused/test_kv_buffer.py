"""Rows that grow and become fewer in memory taken once are what new tensors would be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerroles.engine.fused import kv_buffer
from layerroles.engine.fused.kv_buffer import KVBuffer

STEPS = st.lists(
    st.one_of(st.integers(1, 3), st.lists(st.booleans(), min_size=8, max_size=8)), max_size=6
)


@given(st.integers(0, 8), st.integers(0, 4), STEPS, st.sampled_from([1, 20, 2**22]))
def test_as_new_tensors_would_be(
    n_rows: int, n: int, steps: list[int | list[bool]], at_once: int
) -> None:
    before, kv_buffer.AT_ONCE = kv_buffer.AT_ONCE, at_once
    try:
        most = n + sum(step for step in steps if isinstance(step, int))
        mine = KVBuffer(torch.zeros(1), n_rows, 2, n, 3, most=most)
        assert not mine.rows.any()
        plain = torch.randn(n_rows, 2, n, 3)
        mine.rows[:] = plain
        where = mine.rows.untyped_storage().data_ptr()
        for step in steps:
            if isinstance(step, int):
                mine.widen(step)
                plain = torch.nn.functional.pad(plain, (0, 0, 0, step))
            else:
                rows = torch.tensor(step[: len(plain)]).nonzero()[:, 0]
                mine.keep(rows)
                plain = plain[rows]
            assert torch.equal(mine.rows, plain)
            assert mine.rows.is_contiguous()
            assert mine.rows.untyped_storage().data_ptr() == where
    finally:
        kv_buffer.AT_ONCE = before


def test_more_than_was_planned_is_refused() -> None:
    mine = KVBuffer(torch.zeros(1), 2, 1, 1, 1, most=2)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        mine.widen(2)

"""What is left of label arrays, against loops over positions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from fxprune.labels import filtered, varying

LIVE = {"some": [0, 2, 3], "all": [0, 1, 2, 3, 4, 5], "one": [4], "none": []}


@pytest.mark.parametrize("left", LIVE)
@pytest.mark.parametrize("shape", [(6,), (1, 6, 1), (6, 1), (1, 1, 6), (1, 12, 1)])
def test_of_one_line_what_lives_is_left_in_order(shape: tuple[int, ...], left: str) -> None:
    array = (np.arange(max(shape)) * 5 % 6).reshape(shape)  # units out of order, and twice in a line of 12
    live = np.isin(np.arange(6), LIVE[left])
    (dim,) = varying(array)
    result = filtered(array, live, [dim])
    assert result is not None
    expected = [unit for unit in array.ravel().tolist() if live[unit]]
    assert result.shape == tuple(len(expected) if d == dim else 1 for d in range(len(shape)))
    assert result.ravel().tolist() == expected
    assert result.dtype == array.dtype


@pytest.mark.parametrize("order", [(0, 2), (2, 0)])
def test_of_two_lines_rows_that_lose_alike_are_left(order: tuple[int, int]) -> None:
    array = np.arange(12).reshape(3, 1, 4)
    rows, columns = [0, 2], [1, 3]
    live = np.zeros(12, bool)
    live[[array[r, 0, c] for r, c in product(rows, columns)]] = True
    result = filtered(array, live, order)
    assert result is not None
    assert result.tolist() == array[np.ix_(rows, [0], columns)].tolist()


@pytest.mark.parametrize(("shape", "dims"), [((), ()), ((1, 1), ()), ((3, 1, 2), (0, 2)), ((0, 2), (1,))])
def test_dimensions_vary_where_there_are_two_positions(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    assert varying(np.zeros(shape, np.int64)) == dims

"""Ridge regression of a layer: the textbook's solution, by inputs or by rows, and judged on unseen rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fxprune.recovery import least_squares
from fxprune.recovery.least_squares import Regression


def data(
    n: int, inputs: int, outputs: int, *, groups: int = 1, noise: float = 0.1
) -> tuple[Tensor, Tensor, Tensor]:
    matrix = torch.randn(groups, outputs, inputs)
    x = torch.randn(groups, n, inputs) + 3
    return x, x @ matrix.mT + 5 + noise * torch.randn(groups, n, outputs), matrix


def regression(x: Tensor, outputs: int, *, centred: bool = True, constant: float = 0.0) -> Regression:
    start = torch.zeros(len(x), outputs, x.shape[2], dtype=torch.float64)
    return Regression(start, torch.full_like(start[:, :, 0], constant), centred, x.shape[1])


def textbook(x: Tensor, y: Tensor, ridge: float) -> np.ndarray:
    """numpy, centred, one group; the ridge relative to the mean variance."""
    a, b = x[0].double().numpy(), y[0].double().numpy()
    a, b = a - a.mean(0), b - b.mean(0)
    gram = a.T @ a / len(a)
    return np.linalg.solve(gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram)), a.T @ b / len(a)).T


@pytest.mark.parametrize("pieces", [1, 7])
def test_many_rows_give_the_textbook_solution(pieces: int) -> None:
    x, y, _ = data(600, 8, 3)
    fitting = regression(x, 3)
    for part in zip(x.chunk(pieces, 1), y.chunk(pieces, 1), strict=True):
        fitting.add(*part)
    fitting.hold_out(*data(50, 8, 3)[:2])
    matrix, offset = fitting._by_inputs()(1e-2)
    assert np.allclose(matrix[0].numpy(), textbook(x, y, 1e-2), atol=1e-5)
    assert torch.allclose((x.double() @ matrix.mT).mean(1) + offset, y.double().mean(1), atol=1e-5)


def test_few_rows_give_the_same_by_rows_as_by_inputs() -> None:
    x, y, _ = data(20, 30, 3)
    few = regression(x, 3)
    assert few.by_rows
    few.add(x, y)
    matrix, offset = few._by_rows()(1e-2)
    many = regression(x, 3)
    many.expected = 100
    many.add(x, y)
    assert not many.by_rows
    other, another = many._by_inputs()(1e-2)
    assert torch.allclose(matrix, other, atol=1e-4)
    assert torch.allclose(offset, another, atol=1e-3)


def test_too_many_inputs_are_solved_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "LARGEST", 16)
    x, y, matrix = data(400, 17, 3, noise=0.0)
    fitting = regression(x, 3)
    assert fitting.by_rows
    assert fitting.most == 16
    fitting.add(x[:, :200], y[:, :200])
    fitting.hold_out(x[:, 200:], y[:, 200:])
    fit = fitting.fit()
    assert fit.better
    assert torch.allclose(fit.matrix, matrix.double(), atol=0.1)


def test_groups_are_solved_one_by_one() -> None:
    x, y, matrix = data(500, 4, 2, groups=3, noise=0.0)
    fitting = regression(x, 2)
    fitting.add(x, y)
    fitting.hold_out(x, y)
    fit = fitting.fit()
    alone = [regression(x[g : g + 1], 2) for g in range(3)]
    for g, one in enumerate(alone):
        one.add(x[g : g + 1], y[g : g + 1])
        one.hold_out(x[g : g + 1], y[g : g + 1])
        assert torch.allclose(one.fit().matrix[0], fit.matrix[g], atol=1e-6)
    assert torch.allclose(fit.matrix, matrix.double(), atol=0.1)


def test_without_a_bias_nothing_is_centred() -> None:
    x, _, matrix = data(500, 4, 2)
    fitting = regression(x, 2, centred=False, constant=2.0)
    y = x @ matrix.mT + 2
    fitting.add(x, y)
    fitting.hold_out(x, y)
    fit = fitting.fit()
    assert torch.equal(fit.offset, fitting.constant)
    assert fit.after < 0.05
    assert fit.before > 1


def test_what_does_not_hold_on_unseen_rows_is_not_taken() -> None:
    x, y, _ = data(40, 8, 3)
    fitting = regression(x, 3)
    fitting.add(x, torch.randn_like(y) * 100)  # nothing to learn
    fitting.hold_out(x, torch.zeros_like(y))  # and the slice is right
    fit = fitting.fit()
    assert not fit.better
    assert torch.equal(fit.matrix, fitting.start)


def test_dead_inputs_change_nothing() -> None:
    x, y, _ = data(100, 4, 2)
    fitting = regression(x, 2)
    fitting.add(torch.zeros_like(x), y)
    fitting.hold_out(torch.zeros_like(x), y)
    fit = fitting.fit()
    assert torch.equal(fit.matrix, fitting.start)
    assert fit.better  # the bias alone

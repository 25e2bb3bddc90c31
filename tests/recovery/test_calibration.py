"""Calibration batches in the shapes in which people have them, and clear words where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fxprune.errors import FxpruneError
from fxprune.graph.trace import Trace, trace
from fxprune.recovery.calibration import gathered

X, Y = torch.arange(120.0).reshape(40, 3), torch.arange(40)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, x: Tensor, mask: Tensor, *, loud: bool = False) -> Tensor:
        return self.a(x) * mask * (2 if loud else 1)


@pytest.fixture(scope="module")
def one() -> Trace:
    return trace(nn.Linear(3, 2), torch.randn(2, 3))


@pytest.fixture(scope="module")
def named() -> Trace:
    return trace(Both(), {"x": torch.randn(2, 3), "mask": torch.ones(2, 1), "loud": True})


WAYS = {
    "a tensor": X,
    "an array": X.numpy(),
    "a list of tensors": list(X.split(10)),
    "pairs with labels": list(zip(X.split(10), Y.split(10), strict=True)),
    "a loader": DataLoader(TensorDataset(X, Y), batch_size=8),
    "a generator": (x for x in X.split(10)),
    "arrays with labels": [(X.numpy(), Y.numpy())],
}


@pytest.mark.parametrize("way", WAYS)
def test_batches_come_in_many_shapes(one: Trace, way: str) -> None:
    data = gathered(one, WAYS[way], 1000)  # type: ignore[arg-type]
    assert torch.equal(torch.cat([c[0] for c in data.chunks()]), X)  # type: ignore[misc]


def test_no_more_is_read_than_asked_for(one: Trace) -> None:
    batches = iter(X.split(10))
    data = gathered(one, batches, 15)
    assert data.samples == 15
    assert torch.equal(next(batches), X[20:30])


def test_mappings_go_by_name_and_flags_stay(named: Trace) -> None:
    batches = [{"x": x, "mask": torch.ones(len(x), 1), "labels": None, "loud": True} for x in X.split(10)]
    data = gathered(named, batches, 1000)
    assert data.samples == 40
    assert [type(leaf) for leaf in data.chunks()[0]].count(bool) == 1


def test_positional_arguments_come_in_a_tuple() -> None:
    traced = trace(Both(), (torch.randn(2, 3), torch.ones(2, 1)))
    data = gathered(traced, [(X, torch.ones(40, 1), Y)], 1000)
    assert [tuple(leaf.shape[1:]) for leaf in data.chunks()[0]] == [(3,), (1,)]  # type: ignore[attr-defined]


def test_a_fixed_batch_makes_calls_of_that_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x.reshape(4, 3)) + torch.zeros(4, 4)

    traced = trace(Fixed(), torch.randn(4, 3))
    assert not traced.dynamic_batch
    assert [len(c[0]) for c in gathered(traced, X[:18], 1000).chunks()] == [4, 4, 4, 4]  # type: ignore[arg-type]
    with pytest.raises(FxpruneError, match="at least 8"):
        gathered(traced, X[:7], 1000)


def test_no_call_has_one_sample_alone(one: Trace) -> None:
    assert [len(c[0]) for c in gathered(one, X[:33], 1000).chunks()] == [4] * 8  # type: ignore[arg-type]
    assert [len(c[0]) for c in gathered(one, X[:5], 1000).chunks()] == [2, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([torch.randn(4, 5)], r"holds \[4, 5\] where the example has \[2, 3\]"),
        ([torch.randn(4, 3).double()], "float64 where the example is of torch.float32"),
        ([np.zeros((4, 3), np.uint8)], "uint8 where"),
        ([{"x": X}], "a mapping with x"),
        (["text"], "holds str"),
        ([X[:1]], "1 calibration samples are too few"),
        ([], "0 calibration samples are too few"),
    ],
)
def test_what_does_not_fit_is_said(one: Trace, data: list[object], message: str) -> None:
    with pytest.raises(FxpruneError, match=message):
        gathered(one, data, 1000)


def test_a_missing_name_is_said(named: Trace) -> None:
    with pytest.raises(FxpruneError, match="traced on x, mask, loud"):
        gathered(named, [{"x": X}], 1000)
    with pytest.raises(FxpruneError, match="a Tensor"):
        gathered(named, X, 1000)

"""Results without numbers: those that are had the short way lie as those that torch works out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fxprune.graph.empty_results import SHORT

aten = torch.ops.aten


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


IMAGE = empty(2, 6, 4, 5)
LAST = IMAGE.contiguous(memory_format=torch.channels_last)
CALLS: dict[str, tuple[Callable[..., torch.Tensor], tuple[object, ...]]] = {
    "relu": (aten.relu.default, (IMAGE,)),
    "relu, channels last": (aten.relu.default, (LAST,)),
    "relu, turned": (aten.relu.default, (empty(3, 5).t(),)),
    "gelu": (aten.gelu.default, (IMAGE,)),
    "roll": (aten.roll.default, (IMAGE, [1, 2], [2, 3])),
    "roll, turned": (aten.roll.default, (empty(3, 5).t(), [1], [0])),
    "sigmoid": (aten.sigmoid.default, (IMAGE,)),
    "sigmoid of integers": (aten.sigmoid.default, (empty(3, dtype=torch.int64),)),
    "mean": (aten.mean.dim, (IMAGE, [-1, -2])),
    "mean, kept": (aten.mean.dim, (IMAGE, [3, 2], True)),
    "mean, channels last": (aten.mean.dim, (LAST, [2])),
    "mean of everything": (aten.mean.dim, (IMAGE, None)),
    "sum": (aten.add.Tensor, (IMAGE, IMAGE)),
    "sum of kinds": (aten.add.Tensor, (IMAGE, empty(2, 6, 4, 5, dtype=torch.float64))),
    "sum with a number": (aten.add.Tensor, (IMAGE, 2)),
    "sum with a row": (aten.add.Tensor, (IMAGE, empty(5))),
    "sum that grows": (aten.add.Tensor, (empty(2, 1, 4, 5), IMAGE)),
    "sum of a part": (aten.add.Tensor, (empty(2, 6, 4, 1), IMAGE)),
    "sum of equals, channels last": (aten.add.Tensor, (LAST, LAST)),
    "sum with a gap": (aten.add.Tensor, (IMAGE[:, :3], IMAGE[:, :3])),
    "product with scales, channels last": (aten.mul.Tensor, (empty(6, 1, 1), LAST)),
    "product with a part, channels last": (aten.mul.Tensor, (empty(6, 4, 5), LAST)),
    "sum, channels last": (aten.add.Tensor, (IMAGE, LAST)),
    "product with gates": (aten.mul.Tensor, (IMAGE, empty(2, 6, 1, 1))),
    "product of columns": (aten.mul.Tensor, (empty(6, 1), empty(1, 5))),
    "product of integers and a scalar": (aten.mul.Tensor, (empty(6, 2, dtype=torch.int64), 0.5)),
    "joined": (aten.cat.default, ([IMAGE, empty(2, 3, 4, 5), IMAGE], 1)),
    "joined from behind": (aten.cat.default, ([IMAGE, empty(2, 6, 4, 1)], -1)),
    "joined, one empty": (aten.cat.default, ([IMAGE, empty(0)], 1)),
    "joined, channels last": (aten.cat.default, ([LAST, LAST], 1)),
    "joined, kinds": (aten.cat.default, ([IMAGE, IMAGE.double()], 1)),
    "linear": (aten.addmm.default, (empty(3), empty(7, 5), empty(3, 5).t())),
    "linear, one bias": (aten.addmm.default, (empty(1), empty(7, 5), empty(3, 5).t())),
    "linear, straight": (aten.addmm.default, (empty(3), empty(7, 5), empty(5, 3))),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_short_way_ends_where_the_long_one_does(name: str) -> None:
    call, operands = CALLS[name]
    wanted, got = call(*operands), SHORT[call._schema.name](*operands)
    assert isinstance(got, torch.Tensor)
    assert (got.shape, got.stride(), got.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)
    assert got.is_meta


@pytest.mark.parametrize(
    ("call", "operands"),
    [
        (aten.add.Tensor, (IMAGE, empty(2, 5, 4, 5))),
        (aten.mul.Tensor, (IMAGE, empty(2, 6, 4, 3))),
        (aten.mul.Tensor, (empty(1, 2, 6, 4, 3), IMAGE)),
        (aten.mean.dim, (IMAGE, [4])),
        (aten.mean.dim, (IMAGE, [1, -3])),
        (aten.cat.default, ([IMAGE, empty(2, 3, 4, 4)], 1)),
        (aten.cat.default, ([IMAGE, IMAGE], 4)),
        (aten.addmm.default, (empty(3), empty(7, 5), empty(3, 4).t())),
        (aten.addmm.default, (empty(2), empty(7, 5), empty(3, 5).t())),
    ],
)
def test_what_does_not_fit_is_refused_as_by_torch(
    call: torch._ops.OpOverload, operands: tuple[object, ...]
) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        SHORT[call._schema.name](*operands)

"""Layers as linear maps: rows of inputs times the matrix are rows of outputs, whatever the kind of layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.graph.trace import trace
from fxprune.recovery.layers import Layer, layer_of


class Call(nn.Module):
    """One call with a weight and perhaps a bias."""

    def __init__(self, call: Callable[..., Tensor], weight: tuple[int, ...], bias: int = 0) -> None:
        super().__init__()
        self.call = call
        self.weight = nn.Parameter(torch.randn(weight))
        self.bias = nn.Parameter(torch.randn(bias)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.weight) if self.bias is None else self.call(x, self.weight, self.bias)


LAYERS = {
    "linear": (nn.Linear(5, 7), (6, 5)),
    "linear on tokens": (nn.Linear(5, 7, bias=False), (3, 4, 5)),
    "conv1d": (nn.Conv1d(3, 4, 3, 2, 1), (2, 3, 11)),
    "conv2d": (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 5)),
    "stride": (nn.Conv2d(3, 4, (3, 2), (2, 1), (0, 1), bias=False), (2, 3, 7, 6)),
    "dilation": (nn.Conv2d(3, 4, 3, 1, 2, 2), (2, 3, 6, 7)),
    "groups": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 5, 5)),
    "same padding of an even kernel": (nn.Conv2d(3, 4, (2, 4), padding="same"), (2, 3, 5, 6)),
    "valid": (nn.Conv2d(3, 4, 3, padding="valid"), (2, 3, 5, 6)),
    "conv3d": (nn.Conv3d(2, 3, (2, 3, 1), padding=(1, 0, 2)), (2, 2, 4, 4, 3)),
    "transposed": (nn.ConvTranspose2d(3, 4, (2, 3), (2, 3)), (2, 3, 4, 5)),
    "addmm": (Call(lambda x, w, b: torch.addmm(b, x, w), (5, 7), 7), (6, 5)),
    "mm": (Call(torch.mm, (5, 7)), (6, 5)),
    "matmul": (Call(torch.matmul, (5, 7)), (2, 3, 5)),
}


def found(model: nn.Module, x: Tensor) -> list[Layer | str]:
    traced = trace(model, x)
    tensors = {
        str(n.target): traced.tensor(str(n.target)) for n in traced.graph.graph.nodes if n.op == "get_attr"
    }
    layers = (layer_of(node, tensors) for node in traced.graph.graph.nodes)
    return [layer for layer in layers if layer is not None]


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_the_matrix_are_the_outputs(name: str) -> None:
    model, shape = LAYERS[name]
    x = torch.randn(shape)
    (layer,) = found(model, x)
    assert isinstance(layer, Layer)
    y = model(x).detach()
    inputs, outputs = layer.rows(x, y, 1_000_000, torch.Generator())
    weight = model.weight.detach()
    made = inputs @ layer.matrix(weight).mT
    if getattr(model, "bias", None) is not None:
        bias = model.bias.detach()
        made += bias.repeat_interleave(made.shape[0] * made.shape[2] // len(bias)).view(made.shape[0], 1, -1)
    assert torch.allclose(made, outputs, atol=1e-5)
    assert outputs.numel() == y.numel()
    assert torch.equal(layer.folded(layer.matrix(weight), weight), weight)


@pytest.mark.parametrize("name", ["linear on tokens", "conv2d", "groups", "transposed"])
def test_some_of_the_rows_are_rows(name: str) -> None:
    model, shape = LAYERS[name]
    x = torch.randn(shape)
    (layer,) = found(model, x)
    assert isinstance(layer, Layer)
    every = layer.rows(x, model(x).detach(), 1_000_000, torch.Generator())
    some = layer.rows(x, model(x).detach(), 4, torch.Generator().manual_seed(1))
    assert 4 <= some[0].shape[1] < every[0].shape[1]
    for one, other in zip(some, every, strict=True):
        apart = torch.cdist(one.contiguous(), other.contiguous()).amin(2)
        assert float(apart.max()) < 1e-2  # the distance of equals is a root of rounding


def test_an_offset_over_all_taps_is_one_bias_a_channel() -> None:
    (layer,) = found(nn.ConvTranspose2d(3, 2, 2, 2), torch.randn(2, 3, 4, 4))
    assert isinstance(layer, Layer)
    assert layer.offset(torch.tensor([[1.0, 1, 1, 1, 2, 2, 2, 4]])).tolist() == [1.0, 2.5]


REFUSED = {
    "its weight is complex": (nn.Linear(5, 7, dtype=torch.complex64), (6, 5)),
    "its weight is computed": (Call(lambda x, w: F.linear(x, w * 2), (7, 5)), (6, 5)),
    "its bias is computed": (Call(lambda x, w, b: F.linear(x, w, b * 2), (7, 5), 7), (6, 5)),
    "the windows of this transposed convolution overlap": (nn.ConvTranspose2d(3, 4, 3, 2), (2, 3, 4, 4)),
    "it is a product of another form": (
        Call(lambda x, w, b: torch.addmm(b, x, w, alpha=2), (5, 7), 7),
        (6, 5),
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_solved_for_says_why(why: str) -> None:
    model, shape = REFUSED[why]
    x = torch.randn(shape, dtype=next(model.parameters()).dtype)
    assert found(model, x) == [why]


def test_products_of_activations_are_no_layers() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.mT

    assert found(Square(), torch.randn(2, 3, 3)) == []

"""Kernels that lose a border: every convolution, as a module and as a graph, through files and in recorded models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.coupling.cost import measure
from fxprune.errors import PlanError, VerificationError
from fxprune.plans import Crop, Plan
from fxprune.slimming.crop import why_whole, with_crops

# float64: the same sums in another order
EXACT = 1e-12


class Around(nn.Module):
    """A convolution between two others; without ReLU, which may be dead for some random weights."""

    def __init__(self, conv: nn.modules.conv._ConvNd) -> None:
        super().__init__()
        make = type(conv)
        self.first = make(1, conv.in_channels, 1)
        self.conv = conv
        self.last = make(conv.out_channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.conv(torch.tanh(self.first(x)))))  # type: ignore[no-any-return]


CONVOLUTIONS = [
    nn.Conv1d(2, 3, 5, padding=2, stride=2),
    nn.Conv2d(4, 4, (3, 5), padding=(0, 1), dilation=2, groups=2),
    nn.Conv2d(2, 3, 3, padding="same"),
    nn.Conv2d(2, 3, 3, padding="valid", bias=False),
    nn.Conv2d(2, 3, 5, padding=2),
    nn.Conv3d(2, 4, 3, padding=(1, 0, 2)),
]


def borders(trace: fxprune.Trace, *, both: bool = False) -> Crop:
    """One point less at the start of the first dimension and one at the end of the last, or at all ends."""
    kernel = tuple(trace.tensor("conv.weight").shape[2:])
    before, after = [int(both)] * len(kernel), [int(both)] * len(kernel)
    before[0] = after[-1] = 1
    return Crop("conv.weight", kernel, tuple(before), tuple(after))


def some(trace: fxprune.Trace) -> Plan:
    """A plan that also takes channels where the convolution leaves a choice."""
    return fxprune.plan(trace, fxprune.Budget(channels=0.7), align=1)


@pytest.mark.parametrize("kind", ["module", "graph"])
@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_any_border_of_any_convolution(conv: nn.modules.conv._ConvNd, kind: str) -> None:
    """What is cropped equals what is zero there, costs what was predicted, and survives another trace."""
    rank = conv.weight.ndim - 2
    trace = fxprune.trace(Around(conv).eval(), torch.randn(2, 1, *[13] * rank))
    for crop in (borders(trace), borders(trace, both=True)):
        if min(crop.cropped) < 1:
            continue
        plan = with_crops(trace, some(trace), [crop])
        small = fxprune.slim(trace, plan, kind=kind)  # type: ignore[arg-type]
        proof = fxprune.verify(trace, plan, small)
        assert proof.error < EXACT
        assert proof.effect > 1e-3  # the borders were not empty
        assert small.get_parameter("conv.weight").shape[2:] == crop.cropped
        assert measure(small, trace.args) == plan.predicted
        again = fxprune.trace(small, trace.args)
        assert fxprune.couple(again)
        assert measure(fxprune.slim(again, some(again)), trace.args).params < plan.predicted.params


def test_even_borders_stay_the_users_class() -> None:
    trace = fxprune.trace(Around(nn.Conv2d(2, 3, 5, padding=2)), torch.zeros(1, 1, 9, 9))
    plan = with_crops(trace, some(trace), [borders(trace, both=True)])
    small = fxprune.slim(trace, plan)
    assert type(small.conv) is nn.Conv2d
    assert small.conv.padding == (1, 1)
    assert not any("pad" in str(n.target) for n in fxprune.slim(trace, plan, kind="graph").graph.nodes)  # type: ignore[union-attr]


def test_a_wrong_crop_is_noticed() -> None:
    trace = fxprune.trace(Around(nn.Conv2d(2, 3, 3, padding=1)), torch.randn(1, 1, 9, 9))
    plan = with_crops(trace, some(trace), [borders(trace)])
    small = fxprune.slim(trace, plan)
    assert small.conv.border == (1, 0, 0, 1)
    small.conv.border = (0, 1, 1, 0)
    with pytest.raises(VerificationError, match="differs"):
        fxprune.verify(trace, plan, small)


@pytest.mark.parametrize("kind", ["module", "graph"])
def test_files_and_onnx(kind: str, tmp_path: Path) -> None:
    x = torch.randn(2, 1, 9, 9)
    net = Around(nn.Conv2d(2, 3, 3, padding=1))
    trace = fxprune.trace(net, x)
    plan = with_crops(trace, some(trace), [borders(trace)])
    small = fxprune.slim(trace, Plan.from_json(plan.to_json()), kind=kind).eval()  # type: ignore[arg-type]
    fxprune.save(small, plan, tmp_path / "slim.safetensors")
    loaded = fxprune.load(Around(nn.Conv2d(2, 3, 3, padding=1)), tmp_path / "slim.safetensors", x).eval()
    assert torch.equal(loaded(x), small(x))
    # Raises where onnxruntime computes something else.
    fxprune.export_onnx(loaded, x, tmp_path / "slim.onnx")


def test_training_goes_on() -> None:
    trace = fxprune.trace(Around(nn.Conv2d(2, 3, 3, padding=1)), torch.randn(2, 1, 9, 9))
    small = fxprune.slim(trace, with_crops(trace, some(trace), [borders(trace)])).train()
    small(torch.randn(2, 1, 9, 9)).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


class Steered(Around):
    """Its code hangs on data, so it has to be recorded."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if float(y.sum()) > 1e9 else y + 1


def test_recorded_models() -> None:
    trace = fxprune.trace(Steered(nn.Conv2d(2, 3, 3, padding=1)), torch.randn(2, 1, 9, 9))
    assert trace.kind == "recorded"
    plan = with_crops(trace, some(trace), [borders(trace)])
    assert fxprune.verify(trace, plan, fxprune.slim(trace, plan)).error < EXACT


class Scaled(nn.Conv2d):
    """A convolution that does something of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, 2 * self.weight, self.bias)


class Read(Around):
    """Its kernel is looked at elsewhere, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.conv.weight.square().mean()


def test_what_cannot_be_cropped() -> None:
    x = torch.randn(2, 1, 9, 9)
    for net, match in (
        (Around(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")), "that pads with zeros"),
        (Around(Scaled(2, 3, 3, padding=1)), "not the weight of a convolution module"),
        (Read(nn.Conv2d(2, 3, 3, padding=1)), r"also read by 'square' \(.*test_crop.py:\d+"),
    ):
        trace = fxprune.trace(net, x)
        with pytest.raises(PlanError, match=match):
            with_crops(trace, some(trace), [borders(trace)])
    tied = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    tied[2].weight = tied[0].weight
    trace = fxprune.trace(tied, torch.randn(1, 2, 9, 9))
    assert "tied" in why_whole(trace, "0.weight")
    trace = fxprune.trace(Around(nn.Conv2d(2, 3, 3, padding=1)), x)
    for crop, match in (
        (Crop("conv.weight", (5, 5), (1, 0), (0, 0)), r"is \(3, 3\), not \(5, 5\)"),
        (Crop("conv.weight", (3, 3), (2, 0), (1, 0)), "nothing would be left"),
        (Crop("conv.weight", (3, 3), (-1, 0), (0, 0)), "nothing would be left"),
        (Crop("conv.bias", (3, 3), (1, 0), (0, 0)), "not the weight of a convolution"),
        (Crop("nowhere.weight", (3, 3), (1, 0), (0, 0)), "not the weight of a convolution"),
    ):
        with pytest.raises(PlanError, match=match):
            with_crops(trace, some(trace), [crop])
    once = Crop("conv.weight", (3, 3), (1, 0), (0, 0))
    with pytest.raises(PlanError, match="twice"):
        with_crops(trace, some(trace), [once, once])

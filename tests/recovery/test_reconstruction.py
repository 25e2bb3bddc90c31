"""What a unit's removal costs, against removing it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.recovery.reconstruction import RIDGE, Reconstruction


def left_after(x: Tensor, y: Tensor, weight: Tensor, gone: Tensor) -> float:
    """Squared error, relative to the variance, of the best map (with a ridge towards the weight) without some inputs."""
    x, y = (t.double() - t.double().mean(0) for t in (x, y))
    moments = x.T @ x / len(x)
    whole = float((weight.double() @ moments * weight.double()).sum())
    damped = moments + RIDGE * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    stays = ~gone
    # Min over W' of tr (W - W') damped (W - W')^T with W' zero where inputs are gone.
    solved = torch.zeros_like(weight, dtype=torch.float64)
    solved[:, stays] = torch.linalg.solve(damped[stays][:, stays], (weight.double() @ damped)[:, stays].T).T
    off = weight.double() - solved
    return float((off @ damped * off).sum()) / whole


@pytest.mark.parametrize("outputs", [1, 4])
def test_a_linear_layer(outputs: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, outputs)).eval()
    data = torch.randn(400, 5)
    trace = fxprune.trace(net, data[:2])
    x = net[1](net[0](data))
    wanted = [left_after(x, net(data), net[2].weight, torch.arange(6) == unit) for unit in range(6)]
    costs = Reconstruction(trace, data).units[analyse(trace).coupling.axes["2.weight", 1]]
    assert costs == pytest.approx(wanted, rel=1e-4)


def test_a_convolution_and_two_readers() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3), nn.Linear(4 * 36, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.a(x).relu()
            return self.b(x), self.c(x.flatten(1))

    net, data = Net().eval(), torch.randn(300, 2, 8, 8)
    trace = fxprune.trace(net, data[:2])
    x = net.a(data).relu()
    patches = F.unfold(x, 3).transpose(1, 2).reshape(-1, 36)
    flat = x.flatten(1)
    wanted = [
        left_after(
            patches,
            net.b(x).flatten(2).transpose(1, 2).reshape(-1, 3),
            net.b.weight.flatten(1),
            torch.arange(36) // 9 == unit,
        )
        + left_after(flat, net.c(flat), net.c.weight, torch.arange(144) // 36 == unit)
        for unit in range(4)
    ]
    costs = Reconstruction(trace, data).units[analyse(trace).coupling.axes["b.weight", 1]]
    assert costs == pytest.approx(wanted, rel=2e-2)  # patches are drawn


def test_a_unit_that_is_there_twice_costs_nothing_and_one_unread_has_no_score() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = net[0].weight[0], net[0].bias[0]
    data = torch.randn(400, 5)
    trace = fxprune.trace(net, data[:2])
    units = Reconstruction(trace, data).units
    axes = analyse(trace).coupling.axes
    first = units[axes["2.weight", 1]]
    assert first[:2].max() < 0.5 * first[2:].min()  # the ridge wants both
    assert np.isnan(units[axes["2.weight", 0]]).all()


def test_a_plan_by_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 4, 1),
    )
    trace, data = fxprune.trace(net.eval(), torch.zeros(2, 3, 8, 8)), torch.randn(64, 3, 8, 8)
    plan = fxprune.plan(trace, fxprune.Budget(macs=0.5), criterion=Reconstruction(trace, data), align=1)
    assert len(plan.kept["0.weight", 0]) == 8
    assert fxprune.verify(trace, plan, fxprune.slim(trace, plan))

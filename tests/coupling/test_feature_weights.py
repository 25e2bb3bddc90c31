"""Weights made from features: trackers, dynamic filters, cost volumes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxprune


class Net(nn.Module):
    """Widths 8, 6 and 5; ``made`` makes weights of features."""

    def __init__(self, middle: Callable[[Net, torch.Tensor], torch.Tensor], volume: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.made = nn.Linear(8, 54)
        self.c = nn.Conv3d(12, 5, 1) if volume else nn.Conv2d(6, 5, 1)
        self.d = nn.Conv3d(5, 4, 1) if volume else nn.Conv2d(5, 4, 1)
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.d(F.relu(self.c(self.middle(self, F.relu(self.a(x))))))


def correlated(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Each channel of each sample with its own kernel."""
    n, c = kernel.shape[:2]
    flat = x.reshape(1, n * c, *x.shape[2:])
    result = F.conv2d(flat, kernel.reshape(n * c, 1, *kernel.shape[2:]), groups=n * c)
    return result.reshape(n, c, *result.shape[2:])


def tracked(net: Net, y: torch.Tensor) -> torch.Tensor:
    return correlated(net.b(y), net.other(y[:, :, 2:5, 2:5]))


def filtered(net: Net, y: torch.Tensor) -> torch.Tensor:
    return correlated(net.b(y), net.made(y.mean((2, 3))).view(len(y), 6, 3, 3))


def volume(net: Net, y: torch.Tensor) -> torch.Tensor:
    """Two views side by side, at every shift."""
    left, right = net.b(y), net.other(y)
    made = left.new_zeros(len(y), 2 * left.shape[1], 3, 8, 8)
    for k in range(3):
        made[:, : left.shape[1], k, :, k:] = left[..., k:]
        made[:, left.shape[1] :, k, :, k:] = right[..., : 8 - k]
    return made


def volume_of_slices(net: Net, y: torch.Tensor) -> torch.Tensor:
    left, right = net.b(y), net.other(y)
    shifted = [
        torch.cat([F.pad(left[..., k:], (k, 0)), F.pad(right[..., : 8 - k], (k, 0))], 1) for k in range(3)
    ]
    return torch.stack(shifted, 2)


NETS = {
    "tracker": tracked,
    "dynamic filter": filtered,
    "volume": volume,
    "volume of slices": volume_of_slices,
}


@pytest.mark.parametrize("name", NETS)
def test_slim_is_right(name: str) -> None:
    torch.manual_seed(0)
    net = Net(NETS[name], name.startswith("volume")).eval()
    trace = fxprune.trace(net, torch.randn(2, 3, 8, 8))
    assert trace.kind == "export"
    groups = fxprune.couple(trace)
    group_of = {member: group for group in groups for member in group.members}
    assert {m for m in [("a.weight", 0), ("b.weight", 0), ("c.weight", 0)] if group_of[m].pinned} == set()
    if name == "tracker":  # a channel meets its own kernel only
        assert group_of["b.weight", 0] is group_of["other.weight", 0]
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), criterion="random", align=1)
    assert {("a.weight", 0), ("b.weight", 0)} <= set(plan.kept)
    slim = fxprune.slim(trace, plan)
    fxprune.verify(trace, plan, slim)
    for samples in (1, 3):
        x = torch.randn(samples, 3, 8, 8)
        assert slim(x).shape == net(x).shape

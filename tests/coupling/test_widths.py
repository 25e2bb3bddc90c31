"""Values that hang on a width: counts, positions, degrees of freedom, axes that vanish at one, groups of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.errors import PlanError
from fxprune.planning.plan import remove

EXACT = 1e-9
"""A few layers in float64."""


class Between(nn.Module):
    """Something done to twelve channels between two layers."""

    def __init__(self, work: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.make, self.read, self.work = nn.Linear(7, 12), nn.Linear(12, 3), work

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.work(self.make(x)))


def traced(work: Callable[[torch.Tensor], torch.Tensor]) -> fxprune.Trace:
    torch.manual_seed(0)
    return fxprune.trace(Between(work).double().eval(), torch.randn(2, 7, dtype=torch.float64))


COUNTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ones": lambda x: x - x.sum(1, keepdim=True) / torch.ones_like(x).sum(1, keepdim=True),
    "scaled ones": lambda x: x - x.sum(1, keepdim=True) / (2 * torch.ones_like(x) - 1).sum(1, keepdim=True),
    "full": lambda x: x * torch.full_like(x, 0.5).sum(-1, keepdim=True),
    "positions": lambda x: x * torch.ones_like(x).cumsum(1),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_no_sums(name: str) -> None:
    """Zeros would not be counted: what depends on the number of channels is a statistic over them."""
    trace = traced(COUNTS[name])
    (group,) = [g for g in fxprune.couple(trace) if ("make.weight", 0) in g.members]
    assert group.pinned or not group.exact
    if not group.pinned:
        plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
        assert fxprune.verify(trace, plan, fxprune.slim(trace, plan)).error < EXACT


SUMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: x + x.sum(1, keepdim=True),
    "product with ones": lambda x: x * torch.ones_like(x),
    # The graph keeps the number of the dense model; the model's own code would count anew.
    "ones of a size": lambda x: x / x.new_ones(x.shape[1]).sum(),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_stay_exact(name: str) -> None:
    trace = traced(SUMS[name])
    (group,) = [g for g in fxprune.couple(trace) if ("make.weight", 0) in g.members]
    assert group.exact and not group.pinned
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    assert fxprune.verify(trace, plan, fxprune.slim(trace, plan)).error < EXACT


def test_an_unbiased_spread_keeps_two() -> None:
    trace = traced(lambda x: x / (1 + x.std(1, keepdim=True)))
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.01), align=1)
    assert len(plan.kept["make.weight", 0]) == 2
    assert fxprune.verify(trace, plan, fxprune.slim(trace, plan)).error < EXACT
    with pytest.raises(PlanError, match="std"):
        remove(trace, {("make.weight", 0): range(11)})
    biased = traced(lambda x: x / (1 + x.std(1, keepdim=True, correction=0)))
    assert len(fxprune.plan(biased, fxprune.Budget(channels=0.01), align=1).kept["make.weight", 0]) == 1


@pytest.mark.parametrize(
    "squeeze", [lambda x: x.squeeze(), lambda x: x.squeeze(1), lambda x: x.squeeze((1, 2))]
)
def test_a_squeezed_axis_keeps_two(squeeze: Callable[[torch.Tensor], torch.Tensor]) -> None:
    trace = traced(lambda x: squeeze(x[..., None]).unflatten(0, (-1, 1)).flatten(1))
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.01), align=1)
    assert len(plan.kept["make.weight", 0]) == 2
    assert fxprune.verify(trace, plan, fxprune.slim(trace, plan)).error < EXACT


class FilterPerSample(nn.Module):
    """Every sample brings its own depthwise filters: groups are samples times channels."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.filters, self.read = nn.Conv2d(3, 12, 1), nn.Linear(12, 108), nn.Conv2d(12, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        x = self.make(x)
        kernels = self.filters(x.mean((2, 3))).view(n * 12, 1, 3, 3)
        merged = F.conv2d(x.reshape(1, n * 12, 6, 6), kernels, padding=1, groups=n * 12)
        return self.read(merged.view(n, 12, 6, 6))


def test_groups_follow_the_batch() -> None:
    torch.manual_seed(0)
    model, x = FilterPerSample().double().eval(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    trace = fxprune.trace(model, x)
    assert trace.dynamic_batch
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    slim = fxprune.slim(trace, plan, kind="graph")
    assert fxprune.verify(trace, plan, slim).error < EXACT
    more = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    alone = torch.cat([slim(more[k : k + 1]) for k in range(5)])
    assert torch.allclose(slim(more), alone, atol=1e-12)

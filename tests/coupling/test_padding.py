"""Padding that code writes down: what counts it before a layer makes anything of it must find all of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Pin


def pins_of(trace: fxprune.Trace, name: str) -> list[Pin | None]:
    """What holds each row of a weight."""
    coupling = analyse(trace).coupling
    held = {int(u): g.pinned for g in coupling.groups for u in g.units}
    return [held[int(u)] for u in coupling.axes[name, 0]]


class Padded(nn.Module):
    """Two rows of zeros beside what is made, ranked with it, and then one filter for each row."""

    def __init__(self, *, counted: bool) -> None:
        super().__init__()
        self.make, self.each, self.read = nn.Conv1d(4, 6, 1), nn.Conv1d(8, 8, 3, groups=8), nn.Linear(24, 3)
        self.counted = counted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.make(x)
        z = y.new_zeros(len(y), 8, 5)
        z[:, : y.shape[1]] = y
        z = z.log_softmax(1) if self.counted else z.sigmoid()
        return self.read(self.each(z).flatten(1))


@pytest.mark.parametrize("counted", [True, False])
def test_padding_stays_where_it_is_counted_before_a_layer_makes_something_of_it(counted: bool) -> None:
    torch.manual_seed(0)
    trace = fxprune.trace(Padded(counted=counted).double().eval(), torch.randn(2, 4, 5).double())
    pins = pins_of(trace, "each.weight")
    assert [p is not None for p in pins] == [False] * 6 + [counted] * 2
    assert all(p.reason == "padding that is counted, and that no layer makes" for p in pins if p is not None)
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    fxprune.verify(trace, plan, fxprune.slim(trace, plan))


def test_zeros_that_meet_channels_first_do_not_hold_them() -> None:
    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.read = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.read(F.softmax(x.new_zeros(len(x), 6) + self.make(x), 1))

    trace = fxprune.trace(Added().double().eval(), torch.randn(2, 4).double())
    assert pins_of(trace, "make.weight") == [None] * 6
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    assert len(plan.kept["make.weight", 0]) == 3
    fxprune.verify(trace, plan, fxprune.slim(trace, plan))


def test_more_reasons_than_units() -> None:
    """Tables by what holds units are as long as the reasons, of which there may be more (random net 3752)."""

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make, self.read = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.make(x)
            return self.read(sum(torch.fft.fft(y).real for _ in range(20)))

    trace = fxprune.trace(Held().double().eval(), torch.randn(2, 3).double())
    assert all(p is not None for p in pins_of(trace, "make.weight") + pins_of(trace, "read.weight"))

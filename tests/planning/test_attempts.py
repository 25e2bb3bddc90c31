"""Choices that the graph refuses, or that miss the budget, are made again in another way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.planning.atoms import Mode


class Between(nn.Module):
    """Channels of one layer, rearranged, read by another."""

    def __init__(self, made: int, read: int, rearrange: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(3, made, 3, padding=1), nn.Conv1d(read, 3, 1)
        self.rearrange = rearrange

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.rearrange(self.first(x)))
        return y


def swapped(x: Tensor, rows: int) -> Tensor:
    return x.unflatten(1, (rows, -1)).transpose(1, 2).flatten(1, 2)


NETS: dict[str, tuple[int, int, Callable[[Tensor], Tensor]]] = {
    "two shuffles that cross": (12, 12, lambda x: swapped(swapped(x, 3), 2)),
    "every second of five rows": (20, 12, lambda x: x.unflatten(1, (5, 4))[:, ::2].flatten(1, 2)),
    "three levels, permuted": (
        24,
        24,
        lambda x: x.unflatten(1, (2, 3, 4)).permute(0, 3, 1, 2, 4).flatten(1, 3),
    ),
    "rows and cells rolled": (20, 20, lambda x: x.unflatten(1, (4, 5)).roll((1, 2), (1, 2)).flatten(1, 2)),
    "every third cell": (24, 8, lambda x: x.unflatten(1, (4, 6))[:, :, ::3].flatten(1, 2)),
}


@pytest.mark.parametrize("name", NETS)
def test_layouts_that_cross_have_a_plan_that_is_right(name: str) -> None:
    torch.manual_seed(0)
    trace = fxprune.trace(Between(*NETS[name]).double().eval(), torch.randn(2, 3, 8, dtype=torch.float64))
    modes: tuple[Mode, ...] = ("auto", "whole", "inside")
    for seed, blocks in enumerate(modes * 2):
        made = fxprune.plan(
            trace, fxprune.Budget(macs=0.5), criterion="random", blocks=blocks, align=1, seed=seed
        )
        assert made.predicted.macs <= 0.505 * made.dense.macs
        assert made.predicted.macs < made.dense.macs
        fxprune.verify(trace, made, fxprune.slim(trace, made))


class Uneven(nn.Module):
    """Grouped convolutions over a concatenation of unequal parts, with a shuffle between: rows drag one another along."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(3, 40, 3, padding=1)
        self.eight, self.norm = nn.Conv2d(64, 96, 3, padding=1, groups=8), nn.GroupNorm(4, 96)
        self.four = nn.Conv2d(96, 64, 3, padding=1, groups=4)
        self.two, self.head = nn.Conv2d(64, 48, 1, groups=2), nn.Conv2d(48, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.eight(torch.cat([self.left(x), self.right(x)], 1))).relu()
        y: Tensor = self.head(self.two(self.four(swapped(x, 4)).relu()).relu())
        return y


def test_a_budget_that_rows_miss_is_met_inside_them() -> None:
    torch.manual_seed(0)
    made = fxprune.plan(fxprune.trace(Uneven().eval(), torch.randn(1, 3, 8, 8)), fxprune.Budget(macs=0.5))
    assert made.predicted.macs <= 0.505 * made.dense.macs


def test_only_a_groups_own_name_selects_that_group() -> None:
    torch.manual_seed(0)

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 6))
            self.a, self.z = nn.Linear(4, 6), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.z(torch.nn.functional.linear(self.a(x).relu(), self.w).relu())
            return y

    trace = fxprune.trace(Bare(), torch.randn(2, 4))
    assert "w" in [group.name for group in fxprune.couple(trace)]
    made = fxprune.plan(trace, fxprune.Budget(channels=0.5), only=["w"], align=1)
    assert len(made.kept["w", 0]) < 8
    assert ("w", 1) not in made.kept

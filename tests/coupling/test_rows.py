"""Rows of a view: they may keep different cells, and what works across them asks that they do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.planning.plan import remove

Forward = Callable[[torch.Tensor], torch.Tensor]

EXACT = 1e-9
"""Two or three layers in float64."""


class Rows(nn.Module):
    """Twelve channels in three rows of four, something done to them, and a layer that reads all that comes out."""

    def __init__(self, work: Forward, *, rows: int = 3, cells: int = 4) -> None:
        super().__init__()
        self.make = nn.Linear(5, rows * cells)
        self.sizes, self.work = (rows, cells), work
        width = work(torch.zeros(2, rows, cells)).flatten(1).shape[1]
        self.read = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.work(self.make(x).unflatten(1, self.sizes)).flatten(1))


ACROSS: dict[str, Forward] = {
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: x.log_softmax(1),
    "running sum": lambda x: x.cumsum(1),
    "layer norm of columns": lambda x: F.layer_norm(x.transpose(1, 2), (3,)),
    "rms norm of columns": lambda x: F.rms_norm(x.transpose(1, 2), (3,)),
    "group norm of columns": lambda x: F.group_norm(x.transpose(1, 2).flatten(1), 4),
    "mean": lambda x: x.mean(1),
    "log-sum-exp": lambda x: x.logsumexp(1),
    "spread": lambda x: x.std(1),
    "stacked branches": lambda x: torch.stack([x[:, 0], x[:, 1].tanh(), x[:, 2].exp()], 2).softmax(2),
    "norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "cosine similarity": lambda x: F.cosine_similarity(x, x.roll(1, 1), dim=1),
}

WITHIN: dict[str, Forward] = {
    "roll": lambda x: x.roll(1, 2),
    "roll by more": lambda x: x.roll(-3, 2),
    "flip": lambda x: x.flip(2),
    "every second": lambda x: x[:, :, ::2],
    "all but the first": lambda x: x[:, :, 1:],
    "the middle, turned": lambda x: x[:, :, 1:3].transpose(1, 2),
    "picked": lambda x: x[:, :, [2, 0, 3]],
    "picked twice": lambda x: x.index_select(2, torch.tensor([1, 1, 0, 3])),
    "rows turned round": lambda x: x[:, [2, 0, 1]],
    "rows and cells": lambda x: x[:, ::2].roll(1, 2),
    "cosine similarity of rows": lambda x: F.cosine_similarity(x, x.flip(2), dim=2),
    "softmax of rows": lambda x: x.softmax(2),
}


def proved(model: nn.Module, x: torch.Tensor, *, fractions: tuple[float, ...] = (0.4, 0.7)) -> int:
    """Prune at random in every mode of blocks, prove both kinds of slim; how many plans lost something."""
    trace = fxprune.trace(model.double().eval(), x.double())
    done = 0
    for seed, (blocks, fraction) in enumerate(product(("auto", "whole", "inside"), fractions)):
        budget = fxprune.Budget(channels=fraction)
        plan = fxprune.plan(trace, budget, criterion="random", align=1, blocks=blocks, seed=seed)
        for kind in ("auto", "graph"):
            proof = fxprune.verify(trace, plan, fxprune.slim(trace, plan, kind=kind))
            assert proof.error < EXACT
        done += plan.predicted.params < plan.dense.params
    return done


@pytest.mark.parametrize("name", ACROSS)
def test_across_rows(name: str) -> None:
    """Whatever row they lie in, the columns that stay are the same ones."""
    torch.manual_seed(0)
    model = Rows(ACROSS[name])
    assert proved(model, torch.randn(3, 5))


@pytest.mark.parametrize("name", WITHIN)
def test_within_rows(name: str) -> None:
    torch.manual_seed(0)
    assert proved(Rows(WITHIN[name]), torch.randn(3, 5))


def test_rows_keep_different_cells() -> None:
    """Nothing asks for equal columns here, so nothing is tied: the gather serves each row by itself."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.float64)
    trace = fxprune.trace(Rows(WITHIN["roll"]).double(), x)
    keep = {("make.weight", 0): [2, 3, 4, 5, 8, 10]}  # removed: cells that leave 2, 3 / 0, 1 / 0, 2
    plan = remove(trace, keep)
    assert plan.kept["make.weight", 0] == (0, 1, 6, 7, 9, 11)
    slim = fxprune.slim(trace, plan)
    assert fxprune.verify(trace, plan, slim).error < EXACT
    assert slim(x[:1]).shape == (1, 3)  # any batch


class TwoViews(nn.Module):
    """The same channels as three rows of four and as two rows of six."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.make(x).unflatten(1, (3, 4)).softmax(2).flatten(1)
        return self.read(x.unflatten(1, (2, 6)).softmax(2).flatten(1))


class TwoNorms(nn.Module):
    """Eight groups of two, then four of four."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Conv1d(3, 16, 3), nn.Conv1d(16, 3, 1)
        self.fine, self.coarse = nn.GroupNorm(8, 16), nn.GroupNorm(4, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.coarse(self.fine(self.make(x)).relu()))


class NormAndGroups(nn.Module):
    """Groups of a norm that are not those of the transposed convolution behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.norm = nn.Conv1d(3, 16, 3), nn.GroupNorm(8, 16)
        self.up, self.read = nn.ConvTranspose1d(16, 4, 3, groups=2), nn.Conv1d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.up(self.norm(self.make(x))))


@pytest.mark.parametrize("build", [TwoViews, TwoNorms, NormAndGroups])
def test_two_layouts_of_the_same_channels(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5) if build is TwoViews else torch.randn(2, 3, 9)
    assert proved(build(), x, fractions=(0.4, 0.5, 0.75))


class Table(nn.Module):
    """Positions by channels from a vector: positions are data, channels are not."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.table, self.read = nn.Linear(6, 12), nn.Linear(24, 48), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.make(x) + self.table(x.flatten(1)).unflatten(1, (4, 12)))


class TwoFrames(nn.Module):
    """Every group of the transposed convolution sees all channels of one frame."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.up, self.read = (
            nn.Conv2d(3, 12, 1),
            nn.ConvTranspose2d(24, 8, 3, groups=2),
            nn.Conv2d(8, 3, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.make(x)
        return self.read(self.up(torch.cat([x, x], 1)))


@pytest.mark.parametrize(
    ("build", "shape", "axis", "rows"),
    [(Table, (2, 4, 6), ("table.weight", 0), 4), (TwoFrames, (2, 3, 5, 5), ("up.weight", 0), 2)],
)
def test_rows_that_are_data(
    build: type[nn.Module], shape: tuple[int, ...], axis: tuple[str, int], rows: int
) -> None:
    """Every row stays and loses the same columns as what it meets."""
    torch.manual_seed(0)
    model, x = build().double(), torch.randn(shape, dtype=torch.float64)
    assert proved(model, x)
    plan = fxprune.plan(fxprune.trace(model, x), fxprune.Budget(channels=0.5), align=1)
    left = torch.zeros(rows * 12, dtype=torch.bool)
    left[list(plan.kept[axis])] = True
    made = torch.zeros(12, dtype=torch.bool)
    made[list(plan.kept["make.weight", 0])] = True
    assert (left.reshape(rows, 12) == made).all()


class OneGroup(nn.Module):
    """A group norm over rows whose single group is one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.norm, self.read = nn.Linear(5, 12), nn.GroupNorm(1, 3), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.norm(self.make(x).unflatten(1, (3, 4))).flatten(1))


class TurnedProduct(nn.Module):
    """A flattened grid is split into pieces of a single row each."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.mix = nn.Linear(5, 20), nn.Parameter(torch.randn(10, 10) * 0.4)
        self.one, self.two = nn.Linear(10, 3), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.make(x).unflatten(1, (10, 2)).transpose(1, 2) @ self.mix
        one, two = x.flatten(1).split(10, 1)
        return self.one(one) + self.two(two)


@pytest.mark.parametrize("build", [OneGroup, TurnedProduct])
def test_layouts_of_one_row(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert proved(build(), torch.randn(2, 5))


SINGLE: dict[str, Forward] = {
    "index_select": lambda x: x.index_select(1, torch.tensor([6])),
    "index": lambda x: x[:, [6]],
    "slice": lambda x: x[:, 6:7],
    "slice with a step": lambda x: x[:, 6::6],
    "narrow": lambda x: x.narrow(1, 6, 1),
    "select": lambda x: x.select(1, 6)[:, None],
    "split": lambda x: x.split([6, 1, 5], 1)[1],
    "turned and picked": lambda x: x.flip(1).index_select(1, torch.tensor([5])),
    "cell of a row": lambda x: x.unflatten(1, (3, 4))[:, 1, 2:3],
}


class Picked(nn.Module):
    """One of twelve channels is read by number, all of them by a layer."""

    def __init__(self, pick: Forward) -> None:
        super().__init__()
        self.make, self.read, self.pick = nn.Linear(5, 12), nn.Linear(12, 3), pick

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.make(x)
        return self.read(x.tanh()) * self.pick(x)


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_position_stays_the_one_that_was_picked(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, dtype=torch.float64)
    model = Picked(SINGLE[name]).double()
    trace = fxprune.trace(model, x)
    gone = [0, 5, 11]  # one of every row of four
    plan = remove(trace, {("make.weight", 0): gone})
    assert sorted(set(range(12)) - set(plan.kept["make.weight", 0])) == gone
    for kind in ("auto", "graph"):
        slim = fxprune.slim(trace, plan, kind=kind)
        assert fxprune.verify(trace, plan, slim).error < EXACT


class Shares(nn.Module):
    """Shares of the rows, read by both factors of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.z = nn.Linear(6, 8), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.a(x).unflatten(-1, (2, 4)).softmax(-2).flatten(-2)
        return self.z((shares @ shares.mT).mean(1))


def test_a_softmax_over_nothing_does_not_outlast_its_product() -> None:
    """A column that goes whole has no softmax in the oracle of the graph: not a number times zero is none either."""
    torch.manual_seed(0)
    trace = fxprune.trace(Shares().double().eval(), torch.randn(2, 5, 6).double())
    plan = remove(trace, {("a.weight", 0): [1, 5]})
    proof = fxprune.verify(trace, plan, fxprune.slim(trace, plan))
    assert proof.error < EXACT
    assert proof.judged == {"graph": 1.0, "masks": 1.0}

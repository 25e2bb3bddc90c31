"""Plans that the user's own class can hold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.errors import PlanError, SliceError


class Halves(nn.Module):
    """A block that splits its channels in two, as YOLO's do: one half goes on, and is joined with what becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 1)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(48, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.first(x).relu().chunk(2, 1))
        parts.append(parts[-1] + self.inner(parts[-1]))
        return self.last(torch.cat(parts, 1)).mean((2, 3))


class Heads(nn.Module):
    """Attention that folds by a number of heads, of which it holds the width as a number."""

    def __init__(self, heads: int = 4, dim: int = 32) -> None:
        super().__init__()
        self.heads, self.inner = heads, dim
        self.qkv, self.out, self.head = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Linear(dim, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, self.inner)
        return self.head(self.out(y).mean(1))


class Literal(nn.Module):
    """Code with a width as a number, beside a layer that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x).relu().view(-1, 4, 8).flip(2).reshape(-1, 32)
        return self.c(self.b(y).relu())


class Coincidence(nn.Module):
    """A number that equals a width, and means something else."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 16
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        y = y.reshape(y.shape[0], y.shape[1], -1).reshape(y.shape)
        return self.b(y * self.turns).mean((2, 3))


CASES = {
    "halves": (Halves, (2, 3, 8, 8)),
    "heads": (Heads, (2, 6, 32)),
    "three heads": (lambda: Heads(3, 36), (2, 6, 36)),
    "a number": (Literal, (4, 8)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("params", [0.7, 0.4])
def test_the_class_is_kept(name: str, params: float) -> None:
    torch.manual_seed(0)
    make, shape = CASES[name]
    net, x = make(), torch.randn(shape)
    trace = fxprune.trace(net, x)
    plan = fxprune.plan(trace, fxprune.Budget(params=params), keep_class=True)
    slim = fxprune.slim(trace, plan)
    assert type(slim) is type(net)
    assert plan.predicted.params < plan.dense.params
    fxprune.verify(trace, plan, slim)
    slim(x).sum().backward()
    assert all(p.grad is not None for p in slim.parameters())
    # Another batch and, where the code allows it, another size.
    assert slim(torch.randn(5, *shape[1:])).shape == (5, net(x).shape[1])


def test_without_it_a_graph_comes_out_and_the_advice_names_the_option() -> None:
    torch.manual_seed(0)
    net = Halves()
    with torch.no_grad():
        net.first.weight[:12] *= 1e-3
    trace = fxprune.trace(net, torch.randn(2, 3, 8, 8))
    plan = fxprune.plan(trace, fxprune.Budget(params=0.6), align=1)
    assert isinstance(fxprune.slim(trace, plan), torch.fx.GraphModule)
    with pytest.raises(SliceError, match="keep_class=True"):
        fxprune.slim(trace, plan, kind="module")
    kept = fxprune.plan(trace, fxprune.Budget(params=0.6), align=1, keep_class=True)
    rows = kept.kept["first.weight", 0]
    assert [r for r in rows if r < 16] == [r - 16 for r in rows if r >= 16]
    assert any("slices" in note for note in kept.notes)


def test_heads_go_whole_and_their_number_follows() -> None:
    torch.manual_seed(0)
    net = Heads()
    trace = fxprune.trace(net, torch.randn(2, 6, 32))
    plan = fxprune.plan(trace, fxprune.Budget(params=0.6), keep_class=True)
    slim = fxprune.slim(trace, plan)
    assert isinstance(slim, Heads)
    assert slim.inner == slim.out.in_features == 8 * slim.heads < 32
    assert net.heads == 4


def test_scores_and_patterns_mean_the_same_units() -> None:
    torch.manual_seed(0)
    net = Halves()
    trace = fxprune.trace(net, torch.randn(2, 3, 8, 8))
    with torch.no_grad():
        net.inner.weight[3] *= 1e-4
        net.first.weight[[3, 19]] *= 1e-4
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.97), align=1, keep_class=True, criterion="l2")
    assert set(range(32)) - set(plan.kept["first.weight", 0]) == {3, 19}
    with pytest.raises(PlanError, match="nothing in this model may go"):
        fxprune.plan(trace, fxprune.Budget(params=0.5), keep_class=True, protect=["*"])


def test_numbers_that_only_look_like_a_width_stay() -> None:
    torch.manual_seed(0)
    net = Coincidence()
    trace = fxprune.trace(net, torch.randn(2, 3, 8, 8))
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), keep_class=True)
    slim = fxprune.slim(trace, plan)
    assert isinstance(slim, Coincidence)
    assert slim.turns == 16
    assert slim.a.out_channels == 8
    fxprune.verify(trace, plan, slim)

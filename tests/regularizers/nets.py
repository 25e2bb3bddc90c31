"""Small models and handmade groups for the tests of the methods."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import nn

import fxprune
from fxprune.coupling.groups import Block, Group, Pin
from fxprune.plans import Axis
from fxprune.testing.methods import Residual


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def group(
    name: str,
    units: np.ndarray,
    axes: dict[Axis, np.ndarray],
    *,
    producers: tuple[Axis, ...] = (),
    consumers: tuple[Axis, ...] = (),
    pinned: bool = False,
    blocks: tuple[Block, ...] = (),
) -> Group:
    """A group made by hand; indices may be given flat."""
    indices = {a: i.reshape(len(units), -1) for a, i in axes.items()}
    return Group(name, units, indices, producers, consumers, True, Pin("test") if pinned else None, blocks)


def linear_chain(*widths: int, bias: bool = True) -> tuple[nn.Sequential, tuple[Group, ...]]:
    """Linear layers with a ReLU between; the hidden layers' groups by hand."""
    layers: list[nn.Module] = []
    groups, start = [], 0
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Linear(a, b, bias=bias), nn.ReLU()]
        if i + 2 < len(widths):
            axes = {(f"{2 * i}.weight", 0): np.arange(b)}
            if bias:
                axes[f"{2 * i}.bias", 0] = np.arange(b)
            axes[f"{2 * i + 2}.weight", 1] = np.arange(b)
            made = group(
                f"{2 * i}",
                np.arange(start, start + b),
                axes,
                producers=((f"{2 * i}.weight", 0),),
                consumers=((f"{2 * i + 2}.weight", 1),),
            )
            groups.append(made)
            start += b
    return nn.Sequential(*layers[:-1]), tuple(groups)


class Concat(nn.Module):
    """Dense connections: every layer reads all earlier ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 5, 1)
        self.c = nn.Conv2d(11, 7, 3, padding=1, groups=1)
        self.bn = nn.BatchNorm2d(18)
        self.head = nn.Linear(18, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        c = torch.relu(self.c(torch.cat([a, b], 1)))
        return self.head(torch.relu(self.bn(torch.cat([a, b, c], 1))).mean((2, 3)))


class Attention(nn.Module):
    """One attention layer with four heads and one MLP, pre-normalised."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(5, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, n, -1))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


NETS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, (2, 3, 8, 8)),
    "concat": (Concat, (2, 3, 8, 8)),
    "attention": (Attention, (2, 6, 5)),
}


Traced = tuple[nn.Module, fxprune.Trace, tuple[Group, ...], torch.Tensor]


@cache
def _traced(name: str, slot: int) -> Traced:
    kind, shape = NETS[name]
    net = kind().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    trace = fxprune.trace(net, x)
    # What layer norm sees cannot be zeroed instead of removed.
    return net, trace, tuple(g for g in fxprune.couple(trace) if g.exact), x


@cache
def _weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    """Initial weights with live statistics."""
    kind, shape = NETS[name]
    torch.manual_seed(seed)
    net = kind().double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    net.train()(torch.randn(shape, dtype=torch.float64))
    return {key: value.clone() for key, value in net.state_dict().items()}


def traced(name: str, seed: int = 0, slot: int = 0) -> Traced:
    """A float64 net in training mode, its trace, its exact groups and an input.

    Traces are made once: nets of one slot are one object, whose weights are set anew.
    """
    net, trace, groups, x = _traced(name, slot)
    net.load_state_dict(_weights(name, seed))
    net.zero_grad()
    torch.manual_seed(seed)
    return net.train(), trace, groups, x

"""Sizes that only the data know: what depends on them stays, the rest goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Group
from fxprune.coupling.sizes import one_of_each

Tail = Callable[["Net", torch.Tensor], object]


class Net(nn.Module):
    """Convolutions of widths 8, 6 and 4 around some code that looks at data."""

    def __init__(self, tail: Tail, number: int = 2) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.c, self.rows = nn.Conv2d(6, 4, 1), nn.Linear(6, 4)
        self.register_buffer("number", torch.tensor([number]))
        self.register_buffer("stride", torch.tensor([8.0, 16.0]))
        self.tail = tail

    def forward(self, x: torch.Tensor) -> object:
        return self.tail(self, F.relu(self.b(F.relu(self.a(x)))))

    def read(self, low: int = 0, high: int = 6) -> int:
        """A number from a buffer, of which torch.export knows nothing but its bounds."""
        n = self.number.item()
        torch._check(low <= n)
        torch._check(n < high)
        assert not isinstance(n, float)
        return n


def pixels(y: torch.Tensor) -> torch.Tensor:
    return y.permute(0, 2, 3, 1).flatten(0, 2)


def chosen(y: torch.Tensor) -> torch.Tensor:
    return pixels(y)[pixels(y).sum(1) > 0]


def places(y: torch.Tensor) -> torch.Tensor:
    return (pixels(y).sum(1) > 0).nonzero()[:, 0]


def halved(net: Net, y: torch.Tensor) -> torch.Tensor:
    n = net.read(1, 5)
    first, second = torch.split(y, [n, 6 - n], 1)
    return net.c(torch.cat([second, first], 1))


def padded_channels(net: Net, y: torch.Tensor) -> torch.Tensor:
    n = net.read(0, 3)
    return net.c(F.pad(y[:, :4], (0, 0, 0, 0, n, 2 - n)))


def folded(net: Net, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    n = net.read(1, 7)
    torch._check(6 % n == 0)
    return net.c(y), y.view(y.shape[0], n, 6 // n, 8, 8).sum((1, 2))


FOLLOWED: dict[str, Tail] = {
    "filled with a number from a buffer": lambda m, y: m.c(y) * y.new_full((1,), m.stride[0].item()),
    "full, a tensor's value": lambda m, y: m.c(y) * torch.full((1,), m.stride[0]),
    "times a number": lambda m, y: m.c(y * m.stride[0].item()),
    "arange to a tensor's value": lambda m, y: m.c(y) + torch.arange(m.number[0]).sum(),
    "image size from a buffer": lambda m, y: m.c(F.interpolate(y, size=(m.read(1, 9), 4))),
    "pixels padded": lambda m, y: m.c(F.pad(y, (0, m.read(), 0, 0))),
    "pixels rolled": lambda m, y: m.c(y.roll(m.read(), 2)),
    "expanded": lambda m, y: m.rows(y.mean((2, 3))[:, None].expand(-1, m.read(), -1)),
    "where the output is positive": lambda m, y: (m.c(y) > 0).nonzero(),
    "rows under a mask": lambda m, y: m.rows(chosen(y)),
    "rows under a mask, normalised": lambda m, y: m.rows(F.layer_norm(chosen(y), (6,))),
    "rows under a mask and the others": lambda m, y: m.rows(torch.cat([chosen(y), -chosen(-y)])),
    "rows put back": lambda m, y: m.rows(torch.zeros_like(pixels(y)).index_put((places(y),), pixels(y)[places(y)])),
    "rows added up": lambda m, y: m.rows(pixels(y).new_zeros(9, 6).index_add(0, places(y) % 9, chosen(y))),
}  # fmt: skip

PINNED: dict[str, tuple[Tail, str]] = {
    "a channel": (lambda m, y: (m.c(y), y[:, m.read()]), "select"),
    "the first channels": (lambda m, y: (m.c(y), y[:, : m.read()].sum(1)), "slice_1"),
    "two channels": (lambda m, y: (m.c(y), y.narrow(1, m.read(0, 4), 2).sum(1)), "narrow"),
    "channels rolled": (lambda m, y: m.c(y.roll(m.read(), 1)), "roll"),
    "halves of channels": (halved, "split_with_sizes"),
    "channels folded": (folded, "view"),
    "channels repeated": (lambda m, y: (m.c(y), y.mean((2, 3)).repeat(1, m.read()).sum(1)), "repeat"),
    "the largest channels": (lambda m, y: (m.c(y), y.mean((2, 3)).topk(m.read(1, 6), 1)[0]), "topk"),
    "channels and rows flattened": (lambda m, y: (m.c(y), chosen(y).flatten().sum()), "flatten_2"),
    "channels by a mask": (
        lambda m, y: (m.c(y), y[:, (y.mean((0, 2, 3)) > 0).nonzero()[:, 0]].sum(1)),
        "nonzero",
    ),
    "distinct values": (lambda m, y: (m.c(y), y.mean((2, 3)).round().unique().mean()), "_unique2"),
}

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def groups_of(net: nn.Module) -> tuple[fxprune.Trace, dict[str, Group]]:
    trace = fxprune.trace(net.eval(), X)
    assert trace.kind == "export", trace.why_static
    return trace, {group.name: group for group in fxprune.couple(trace)}


def assert_halves(trace: fxprune.Trace) -> None:
    """Half of what is free goes, and what is left is right by both oracles."""
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.6))
    fxprune.verify(trace, plan, fxprune.slim(trace, plan))


@pytest.mark.parametrize("name", FOLLOWED)
def test_sizes_along_other_axes_hold_no_channel(name: str) -> None:
    trace, groups = groups_of(Net(FOLLOWED[name]))
    assert {name for name, group in groups.items() if not group.pinned} == {"a", "b"}
    assert_halves(trace)


@pytest.mark.parametrize("name", PINNED)
def test_channels_that_such_a_number_picks_stay_and_say_so(name: str) -> None:
    tail, node = PINNED[name]
    trace, groups = groups_of(Net(tail))
    assert {name for name, group in groups.items() if not group.pinned} == {"a"}
    pin = groups["b"].pinned
    assert pin is not None
    assert pin.node == node
    assert pin.source.startswith("test_sizes.py:")
    assert pin.kind == ("contract" if node in ("nonzero", "_unique2") else "size")
    assert_halves(trace)


def test_padded_by_such_a_number_only_what_is_padded_stays() -> None:
    trace, groups = groups_of(Net(padded_channels, 1))
    assert {name: group.width for name, group in groups.items() if not group.pinned} == {"a": 8, "b#2": 2}
    assert_halves(trace)


def test_later_layers_name_the_first_operator() -> None:
    _, groups = groups_of(Net(lambda m, y: m.c(y.roll(m.read(), 1))))
    pin = groups["c:1"].pinned
    assert pin is not None
    assert "the result of 'roll'" in pin.reason
    assert "depends on data" in pin.reason
    assert pin.kind == "size"


def test_the_remedy_is_told() -> None:
    trace, _ = groups_of(Net(lambda m, y: m.c(y.roll(m.read(), 1))))
    assert "a plain number" in str(fxprune.explain(trace, "b.weight", dim=0))


def test_one_position_is_counted_where_the_data_decide_how_many_there_are() -> None:
    dense = 3 * 8 * 9 * 64 + 8 * 6 * 9 * 64
    for tail in (
        lambda m, y: m.rows(chosen(y)),
        lambda m, y: m.rows(torch.cat([chosen(y), chosen(-y)])),
    ):
        trace, _ = groups_of(Net(tail))
        assert analyse(trace).coupling.cost.dense.macs == dense + 6 * 4 // trace.batch
    assert one_of_each(24, [torch.zeros(4, 6)]) == 24

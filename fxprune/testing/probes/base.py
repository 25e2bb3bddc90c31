"""What a probe is, and the frames that hold the one operator it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

Tensor = torch.Tensor
Op = Callable[[Tensor], Tensor]
Example = Tensor | tuple[object, ...] | dict[str, object]
Member = nn.Module | tuple[int, ...] | Tensor
"""A part of a network: a module, the shape of a parameter, a buffer."""

Build = Callable[[], tuple[nn.Module, Example]]
Verdict = Literal["exact", "blocks", "inexact", "pinned"]

WIDTH = 12


@dataclass(frozen=True)
class Probe:
    """A network, the axis whose channels are to go, and the expected outcome.

    Attributes:
        name: What stands between the two layers.
        build: The network and its example inputs.
        verdict: ``"exact"``: any subset of the free channels goes and zeroed equals slim;
            ``"blocks"``: subsets that leave a layout rectangular go, exactly, all others are
            refused; ``"inexact"``: they go, and others notice through statistics; ``"pinned"``:
            no channel may go.
        free: Channels of the axis that may go.
        units: Units these channels form: fewer where some are tied with one another.
        why: Part of the reason for which others may not go (a pin, or a refused plan).
        axis: Tensor and dimension.
        zero: The independent check holds too: with the removed slices of all parameters zeroed the
            dense model gives the same.  It does not where values that are not zero in zero are
            summed over without a parameter that reads them.
    """

    name: str
    build: Build
    verdict: Verdict = "exact"
    free: int = WIDTH
    units: int = WIDTH
    why: str = ""
    axis: tuple[str, int] = ("first.weight", 0)
    zero: bool = True


# --- frames ------------------------------------------------------------------------------------


class Sandwich(nn.Module):
    """A convolution, an operator, another layer that reads dimension 1."""

    def __init__(
        self, op: Op, width: int = WIDTH, second: Callable[[int], nn.Module] | None = None, dims: int = 2
    ):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.first = conv(3, width, 3, padding=1)
        self.op = op
        with torch.no_grad():
            channels = op(torch.zeros(2, width, *(8,) * dims)).shape[1]
        self.second = second(channels) if second is not None else conv(channels, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.op(self.first(x)))


class Tokens(nn.Module):
    """A linear layer, an operator over ``[batch, tokens, features]``, a linear layer."""

    def __init__(self, op: Op, width: int = WIDTH):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.op = op
        with torch.no_grad():
            self.second = nn.Linear(op(torch.zeros(2, 4, width)).shape[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.op(self.first(x)))


class Named(nn.Module):
    """``op(module, *inputs)`` over modules, parameters (by shape) and buffers of its own."""

    def __init__(self, op: Callable[..., Tensor], **members: Member):
        super().__init__()
        self.run = op
        for name, member in members.items():
            if isinstance(member, nn.Module):
                self.add_module(name, member)
            elif isinstance(member, torch.Tensor):
                self.register_buffer(name, member)
            else:
                self.register_parameter(name, nn.Parameter(torch.randn(member)))

    def forward(self, *inputs: object, **named: object) -> Tensor:
        return self.run(self, *inputs, **named)

    if TYPE_CHECKING:  # members have the names and types that a row of the table gives them

        def __getattr__(self, name: str) -> Any: ...


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def conv(op: Op, *, width: int = WIDTH, second: Callable[[int], nn.Module] | None = None) -> Build:
    return lambda: (Sandwich(op, width, second), image())


def layer(
    make: Callable[[], nn.Module], *, width: int = WIDTH, second: Callable[[int], nn.Module] | None = None
) -> Build:
    return lambda: (Sandwich(make(), width, second), image())


def rank(op: Op, dims: int) -> Build:
    return lambda: (Sandwich(op, dims=dims), torch.randn(2, 3, *(8,) * dims))


def tokens(make: Callable[[], Op], width: int = WIDTH) -> Build:
    return lambda: (Tokens(make(), width), torch.randn(2, 4, 6))


def whole(
    op: Callable[..., Tensor], members: Callable[[], dict[str, Member]], *inputs: Callable[[], object]
) -> Build:
    return lambda: (Named(op, **members()), tuple(make() for make in inputs or (image,)))


# --- operators in several tables ---


def shuffle_sizes(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)


def pair(**members: Callable[[], Member]) -> Callable[[], dict[str, Member]]:
    return lambda: {
        "first": nn.Conv2d(3, WIDTH, 3, padding=1),
        "second": nn.Conv2d(WIDTH, 5, 1),
        **{k: v() for k, v in members.items()},
    }


def written(x: Tensor, to: slice = slice(4), at: slice = slice(4, 8)) -> Tensor:
    x = x.clone()
    x[:, to] = x[:, at].relu()
    return x

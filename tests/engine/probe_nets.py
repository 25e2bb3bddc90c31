"""One-op probes: small networks with one interesting operator between two layers.

``PROBES`` is a table: what the network is, from which axis arbitrary channels are to be removed, and
what must come of it.  ``test_probes.py`` asserts every row, and ``python tools/probes.py`` prints them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d, roi_align

Tensor = torch.Tensor
Op = Callable[[Tensor], Tensor]
Example = Tensor | tuple[object, ...] | dict[str, object]
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

    def __init__(self, op: Callable[..., Tensor], **members: nn.Module | tuple[int, ...] | Tensor):
        super().__init__()
        self.run = op
        for name, member in members.items():
            if isinstance(member, nn.Module):
                self.add_module(name, member)
            elif isinstance(member, torch.Tensor):
                self.register_buffer(name, member)
            else:
                self.register_parameter(name, nn.Parameter(torch.randn(member)))

    def forward(self, *inputs, **named):
        return self.run(self, *inputs, **named)


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
    op: Callable[..., Tensor], members: Callable[[], dict[str, object]], *inputs: Callable[[], object]
) -> Build:
    return lambda: (Named(op, **members()), tuple(make() for make in inputs or (image,)))


# --- operators ---------------------------------------------------------------------------------


def shuffle_fixed(x: Tensor) -> Tensor:
    return x.view(2, 3, 4, 8, 8).transpose(1, 2).contiguous().view(2, 12, 8, 8)


def shuffle_sizes(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_open(x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    return x.view(n, 3, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)


def swapped(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def uneven(x: Tensor) -> Tensor:
    a, b, c = x.split([2, 7, 3], 1)
    return torch.cat([c, a.relu(), b], 1)


def uneven_chunk(x: Tensor) -> Tensor:
    a, b, c = x.chunk(3, 1)  # 5, 5 and 3 of 13
    return torch.cat([c, b, a], 1)


def reversed_rows(x: Tensor) -> Tensor:
    return torch.stack(x.unflatten(1, (3, 4)).unbind(1)[::-1], 1).flatten(1, 2)


def reversed_channels(x: Tensor) -> Tensor:
    return torch.stack(x.unbind(1)[::-1], 1)


def maxout(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.maximum(a, b)


def split_attention(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    parts = x.view(n, 2, c // 2, h, w)
    gate = parts.sum(1).mean((2, 3)).view(n, 1, c // 2, 1, 1)
    return (parts * torch.softmax(gate * parts.mean((3, 4), keepdim=True), 1)).sum(1)


def windows(x: Tensor) -> Tensor:
    """Shifted windows of 4 by 4 pixels and back, as Swin cuts them."""
    x = x.permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
    n, h, w, c = x.shape
    x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    x = torch.tanh(x)
    x = x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
    return x.roll((2, 2), (1, 2)).permute(0, 3, 1, 2)


def standard(w: Tensor) -> Tensor:
    return (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)


def standardised(m: nn.Module, x: Tensor) -> Tensor:
    return m.second(F.conv2d(x, standard(m.first.weight), m.first.bias, padding=1).relu())


def standardised_next(m: nn.Module, x: Tensor) -> Tensor:
    return F.conv2d(m.first(x).relu(), standard(m.second.weight), m.second.bias)


def standardised_flat(m: nn.Module, x: Tensor) -> Tensor:
    """As timm does it: batch norm over filters that are laid flat, kernel and channels along one axis."""
    w = m.second.weight
    w = F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True).reshape_as(w)
    return F.conv2d(m.first(x).relu(), w, m.second.bias)


def by_output(m: nn.Module, x: Tensor) -> Tensor:
    """Each filter divided by its own largest entry: output channels do not see one another."""
    w = m.first.weight
    x = F.conv2d(x, w / w.abs().amax((1, 2, 3), keepdim=True), m.first.bias, padding=1)
    return m.second(x.relu())


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v


class Heads(nn.Module):
    """Heads are laid into the batch, and a depthwise convolution runs over the tokens of each (MViT pools so)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Conv1d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        heads = x.view(n, tokens, 3, width // 3).permute(0, 2, 3, 1)
        pooled = self.pool(heads.reshape(n * 3, width // 3, tokens))
        return pooled.view(n, 3, width // 3, tokens).permute(0, 3, 1, 2).flatten(2)


class GroupedQuery(nn.Module):
    """Attention of 4 query heads over 2 key and value heads, 8 wide; rotary positions on request."""

    def __init__(self, *, rotary: bool, fused: bool, heads: int = 4, shared: int = 2, width: int = 8):
        super().__init__()
        self.heads, self.shared, self.width, self.rotary, self.fused = heads, shared, width, rotary, fused
        self.q = nn.Linear(16, heads * width, bias=False)
        self.k = nn.Linear(16, shared * width, bias=False)
        self.v = nn.Linear(16, shared * width, bias=False)
        self.o = nn.Linear(heads * width, 16, bias=False)
        angle = torch.arange(5.0)[:, None] * 10.0 ** -torch.linspace(0, 1, width // 2)
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin(), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (
            f(x).view(n, t, h, self.width).transpose(1, 2)
            for f, h in ((self.q, self.heads), (self.k, self.shared), (self.v, self.shared))
        )
        if self.rotary:
            q, k = self.turn(q), self.turn(k)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            repeat = self.heads // self.shared
            k = (
                k[:, :, None]
                .expand(n, self.shared, repeat, t, self.width)
                .reshape(n, self.heads, t, self.width)
            )
            y = F.scaled_dot_product_attention(q, k, v.repeat_interleave(repeat, 1), is_causal=True)
        return self.o(y.transpose(1, 2).reshape(n, t, -1))


def multihead(batch_first: bool) -> Build:
    def op(m: nn.Module, x: Tensor) -> Tensor:
        x = m.first(x)
        return m.second(m.attention(x, x, x, need_weights=False)[0])

    return whole(
        op,
        lambda: {
            "first": nn.Linear(6, 16),
            "attention": nn.MultiheadAttention(16, 4, batch_first=batch_first),
            "second": nn.Linear(16, 5),
        },
        lambda: torch.randn(2, 4, 6),
    )


def tied_decoder(m: nn.Module, x: Tensor) -> Tensor:
    """An auto-encoder that decodes with its encoder's weight."""
    return F.linear(torch.relu(m.first(x)), m.first.weight.t())


def flat(m: nn.Module, x: Tensor) -> Tensor:
    x = m.middle(m.first(x).relu().flatten(1))
    return m.second(x.unflatten(1, (7, 4, 4)))


def squeeze_excite(m: nn.Module, x: Tensor) -> Tensor:
    gate = m.up(torch.relu(m.down(x.mean((2, 3), keepdim=True))))
    return x * gate.sigmoid()


def class_token(m: nn.Module, x: Tensor) -> Tensor:
    x = m.first(x).flatten(2).transpose(1, 2)
    x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.position
    return m.second(m.scale * x)[:, 0]


def reused(m: nn.Module, x: Tensor) -> Tensor:
    x = m.first(x)
    return m.second(m.mix(torch.relu(m.mix(x))))


def shared_norm(m: nn.Module, x: Tensor) -> Tensor:
    return m.second(m.norm(m.first(x)).relu() + m.norm(m.other(x)))


def nested(m: nn.Module, x: list[object]) -> Tensor:
    left, right = x
    return m.second(torch.relu(m.first(left) + m.other(right["picture"])))


def by_name(m: nn.Module, *, left: Tensor, right: Tensor) -> Tensor:
    return m.second(torch.relu(m.first(left) + m.other(right)))


def recurrent(m: nn.Module, x: Tensor) -> Tensor:
    x = m.first(x)
    start = x.new_zeros(1, len(x), m.second.in_features)
    return m.second(m.rnn(x, (start, start) if isinstance(m.rnn, nn.LSTM) else start)[0])


def recurrence(make: Callable[..., nn.Module]) -> Build:
    """A recurrent layer of 8 units between two linear layers."""
    return whole(
        recurrent,
        lambda: {"first": nn.Linear(6, 12), "rnn": make(12, 8, batch_first=True), "second": nn.Linear(8, 5)},
        lambda: torch.randn(2, 3, 6),
    )


def one_weight() -> tuple[nn.Module, Example]:
    """Two layers that share a parameter, which has a name in each."""

    def op(m: nn.Module, x: Tensor) -> Tensor:
        return m.second(torch.relu(m.first(x)) + m.other(x.flip(3)))

    model = Named(op, **pair(other=lambda: nn.Conv2d(3, WIDTH, 3, padding=1))())
    model.other.weight = model.first.weight
    return model, image()


def pair(**members: object) -> Callable[[], dict[str, object]]:
    return lambda: {
        "first": nn.Conv2d(3, WIDTH, 3, padding=1),
        "second": nn.Conv2d(WIDTH, 5, 1),
        **{k: v() for k, v in members.items()},
    }


def written(x: Tensor, to: slice = slice(4), at: slice = slice(4, 8)) -> Tensor:
    x = x.clone()
    x[:, to] = x[:, at].relu()
    return x


def scaled_in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, ::3] *= 2
    return x


def half_in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 6:].relu_()
    return x


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(nn.Conv2d(12, 7, 3))


def made_regions(m: nn.Module, x: Tensor) -> Tensor:
    x = m.first(x)
    corners = m.corners(x.mean((2, 3))).sigmoid() * 3
    boxes = torch.cat([corners.new_zeros(len(corners), 1), corners[:, :2], corners[:, 2:] + 4], 1)
    return m.last(roi_align(x, boxes, 3))


def two_readers(m: nn.Module, x: Tensor) -> Tensor:
    a, b = m.first(x).chunk(2, 1)
    return m.second(m.left(a.relu()) + m.right(b))


PERMUTATION = (3, 7, 0, 11, 1, 9, 10, 2, 5, 4, 6, 8)

MOVEMENT = (
    Probe("identity", conv(lambda x: x)),
    Probe("relu", conv(torch.relu)),
    Probe("sigmoid: a dead channel is not zero", conv(torch.sigmoid)),
    Probe("channel shuffle, hard-coded sizes", conv(shuffle_fixed), "blocks", why="rectangular"),
    Probe("channel shuffle, sizes of the input", conv(shuffle_sizes), "blocks", why="rectangular"),
    Probe("channel shuffle, -1", conv(shuffle_open), "blocks", why="rectangular"),
    Probe("nn.ChannelShuffle", layer(lambda: nn.ChannelShuffle(3)), "blocks", why="rectangular"),
    Probe("x[:, ::2]", conv(lambda x: x[:, ::2])),
    Probe("x[:, 1::3]", conv(lambda x: x[:, 1::3])),
    Probe("x[:, :4]", conv(lambda x: x[:, :4])),
    Probe("x[:, 4:]", conv(lambda x: x[:, 4:])),
    Probe("x[:, -5:-1]", conv(lambda x: x[:, -5:-1])),
    Probe("narrow", conv(lambda x: x.narrow(1, 3, 6))),
    Probe("two overlapping slices", conv(lambda x: torch.cat([x[:, :8], x[:, 4:]], 1))),
    Probe("one half gates the other", conv(lambda x: x[:, :6] * x[:, 6:].sigmoid()), units=6),
    Probe(
        "one channel gates all",
        conv(lambda x: x * x[:, :1].sigmoid()),
        free=11,
        units=11,
        why="single position",
    ),
    Probe("flip", conv(lambda x: x.flip(1))),
    Probe("flip of everything", conv(lambda x: x.flip(1, 2, 3))),
    Probe("roll", conv(lambda x: x.roll(5, 1))),
    Probe("roll by two in two dimensions", conv(lambda x: x.roll((2, -3), (1, 3)))),
    Probe("index permutation, list", conv(lambda x: x[:, list(PERMUTATION)])),
    Probe(
        "index permutation, buffer",
        layer(lambda: Named(lambda m, x: x[:, m.index], index=torch.tensor(PERMUTATION))),
    ),
    Probe(
        "index_select",
        layer(lambda: Named(lambda m, x: x.index_select(1, m.index), index=torch.tensor(PERMUTATION))),
    ),
    Probe("index with repetition", conv(lambda x: x[:, [0, 0, 5, 3, 3, 3]])),
    Probe("chunk, swapped cat", conv(swapped)),
    Probe("split, swapped cat, uneven", conv(uneven)),
    Probe("chunk into uneven parts", conv(uneven_chunk, width=13), free=13, units=13),
    Probe("tensor_split", conv(lambda x: torch.cat(x.tensor_split([2, 5], 1)[::-1], 1))),
    Probe("pixel_shuffle", conv(lambda x: F.pixel_shuffle(x, 2)), units=3),
    Probe("pixel_unshuffle", conv(lambda x: F.pixel_unshuffle(x, 2))),
    Probe(
        "pixel_shuffle by views",
        conv(
            lambda x: (
                x.view(x.shape[0], 3, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(x.shape[0], 3, 16, 16)
            )
        ),
        units=3,
    ),
    Probe("unfold", conv(lambda x: F.unfold(x, 2, stride=2).unflatten(2, (4, 4)))),
    Probe("fold", conv(lambda x: F.fold(x.flatten(2), (16, 16), 2, stride=2)), units=3),
    Probe("F.pad on channels", conv(lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)))),
    Probe("F.pad on channels with ones", conv(lambda x: F.pad(x, (0, 0, 0, 0, 1, 4), value=1.0))),
    Probe("F.pad that cuts channels", conv(lambda x: F.pad(x, (0, 0, 0, 0, -2, -3)))),
    Probe("F.pad that cuts and pads", conv(lambda x: F.pad(x, (1, 1, 0, 0, -2, 3)))),
    Probe(
        "padded shortcut",
        whole(
            lambda m, x: m.second(F.pad(m.first(x)[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + m.wide(x)),
            lambda: {
                "first": nn.Conv2d(3, 8, 1),
                "wide": nn.Conv2d(3, 16, 3, 2, 1),
                "second": nn.Conv2d(16, 5, 1),
            },
        ),
        free=8,
        units=8,
    ),
    Probe("cat(x, x)", conv(lambda x: torch.cat([x, x], 1))),
    Probe("cat(x, relu(-x), flip)", conv(lambda x: torch.cat([x, torch.relu(-x), x.flip(1)], 1))),
    Probe(
        "cat with the input",
        whole(
            lambda m, x: m.second(torch.cat([m.first(x), x], 1)),
            lambda: {"first": nn.Conv2d(3, 12, 1), "second": nn.Conv2d(15, 5, 1)},
        ),
    ),
    Probe("repeat", conv(lambda x: x.repeat(1, 2, 1, 1))),
    Probe("tile", conv(lambda x: x.tile(1, 3, 1, 2))),
    Probe("repeat_interleave", conv(lambda x: x.repeat_interleave(2, 1))),
    Probe("expand + flatten", conv(lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2))),
    Probe("stack + flatten, outer", conv(lambda x: torch.stack([x, -x], 1).flatten(1, 2))),
    Probe("stack + flatten, inner", conv(lambda x: torch.stack([x, -x], 2).flatten(1, 2))),
    Probe(
        "stack of halves + flatten, outer",
        conv(lambda x: torch.stack(x.chunk(2, 1), 1).flatten(1, 2)),
        "blocks",
        why="row of a layout",
    ),
    Probe(
        "stack of halves + flatten, inner",
        conv(lambda x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2)),
        "blocks",
        why="rectangular",
    ),
    Probe("unbind + reversed stack of rows", conv(reversed_rows), "blocks", why="rectangular"),
    Probe("unbind + reversed stack of channels", conv(reversed_channels), "pinned", 0, 0, "single position"),
    Probe("view that mixes channels and rows", conv(lambda x: x.reshape(x.shape[0], 8, 12, 8)), units=4),
    Probe("sum with its mirror image", conv(lambda x: x + x.flip(1)), units=6),
    Probe("sum with itself rolled", conv(lambda x: x + x.roll(4, 1)), units=4),
    Probe("index by a range", conv(lambda x: x[:, torch.arange(11, -1, -1)])),
    Probe(
        "index by a mask",
        layer(lambda: Named(lambda m, x: x[:, m.mask], mask=torch.arange(12) % 3 != 1)),
        "pinned",
        0,
        0,
    ),
    Probe(
        "index of two axes",
        conv(lambda x: x[:, [[0, 1, 2], [5, 4, 3]]].flatten(1, 2)),
        "pinned",
        0,
        0,
        "looked up",
    ),
    Probe(
        "two readers of two halves",
        whole(
            two_readers,
            pair(
                left=lambda: nn.Conv2d(6, 4, 1),
                right=lambda: nn.Conv2d(6, 4, 1),
                second=lambda: nn.Conv2d(4, 5, 1),
            ),
        ),
    ),
    Probe(
        "in-place write into every second channel",
        conv(lambda x: written(x, slice(None, None, 2), slice(1, None, 2))),
        "pinned",
        0,
        0,
        "in place",
    ),
    Probe("in-place scale of every third channel", conv(scaled_in_place), "pinned", 0, 0, "in place"),
    Probe("in-place activation of a half", conv(half_in_place)),
    Probe(
        "in-place fill of some channels",
        conv(lambda x: x.clone().index_fill_(1, torch.tensor([1, 2]), 0.0)),
        "pinned",
        0,
        0,
    ),
    Probe("permute there and back", conv(lambda x: torch.tanh(x.permute(2, 0, 3, 1)).permute(1, 3, 0, 2))),
    Probe("windows", conv(windows)),
    Probe(
        "one batch and width in one size",
        conv(lambda x: torch.tanh(x.reshape(x.shape[0] * x.shape[1], 64)).view(x.shape)),
    ),
)

REDUCTION = (
    Probe(
        "radix view + sum",
        conv(lambda x: x.view(x.shape[0], 2, 6, 8, 8).sum(1)),
        "blocks",
        why="same positions",
    ),
    Probe(
        "radix view + sum, hard-coded",
        conv(lambda x: x.view(2, 2, 6, 8, 8).sum(1)),
        "blocks",
        why="same positions",
    ),
    Probe(
        "inner view + sum", conv(lambda x: x.view(x.shape[0], 6, 2, 8, 8).sum(2)), "blocks", why="rectangular"
    ),
    Probe(
        "view and back",
        conv(lambda x: torch.tanh(x.view(x.shape[0], 3, 4, 8, 8)).flatten(1, 2)),
        "blocks",
        why="rectangular",
    ),
    Probe(
        "view + sum of rows and columns",
        conv(lambda x: x.view(x.shape[0], 3, 4, 8, 8).sum((1, 2))[:, None]),
        "blocks",
        why="rectangular",
    ),
    Probe(
        "view of three levels and back",
        conv(lambda x: torch.tanh(x.view(x.shape[0], 2, 3, 2, 8, 8)).flatten(1, 3)),
        "blocks",
        why="rectangular",
    ),
    Probe("split attention", conv(split_attention), "inexact", why="same positions"),
    Probe("GLU", conv(lambda x: F.glu(x, 1)), units=6),
    Probe("maxout of halves", conv(maxout), units=6),
    Probe(
        "maxout by view", conv(lambda x: x.view(x.shape[0], 6, 2, 8, 8).amax(2)), "inexact", why="rectangular"
    ),
    Probe("channel-sum gate", conv(lambda x: x * x.sum(1, keepdim=True).sigmoid())),
    Probe("channel-norm gate", conv(lambda x: x * x.norm(dim=1, keepdim=True))),
    Probe("channel-mean gate", conv(lambda x: x * x.mean(1, keepdim=True).sigmoid()), "inexact"),
    Probe("softmax over channels", conv(lambda x: x.softmax(1)), "inexact"),
    Probe("sum of sigmoids", conv(lambda x: x * x.sigmoid().sum(1, keepdim=True)), zero=False),
    Probe("sort over channels", conv(lambda x: x.sort(1)[0]), "pinned", 0, 0, "orders positions"),
    Probe("top channels", conv(lambda x: x.topk(4, 1)[0]), "pinned", 0, 0, "orders positions"),
    Probe(
        "einsum with a weight",
        layer(lambda: Named(lambda m, x: torch.einsum("nchw,dc->ndhw", x, m.w), w=(7, 12))),
    ),
    Probe("einsum of two", conv(lambda x: torch.einsum("nchw,ncij->nhwij", x, x.tanh()).flatten(3))),
    Probe(
        "gram matrix of channels",
        conv(
            lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).flatten(1),
            second=lambda n: nn.Linear(n, 5),
        ),
    ),
    Probe(
        "outer product of channels",
        conv(
            lambda x: (x.mean((2, 3))[:, :, None] * x.amax((2, 3))[:, None]).flatten(1),
            second=lambda n: nn.Linear(n, 5),
        ),
    ),
    Probe(
        "smallest magnitude of channels",
        conv(lambda x: x * x.norm(p=-float("inf"), dim=1, keepdim=True)),
        "inexact",
    ),
    Probe("largest magnitude of channels", conv(lambda x: x * x.norm(p=float("inf"), dim=1, keepdim=True))),
    Probe("mean written by hand", conv(lambda x: x * (x.sum(1, keepdim=True) / x.shape[1]).sigmoid())),
    Probe("code that asks for the width", conv(lambda x: x.relu() if x.shape[1] == 12 else x)),
    Probe(
        "position of the largest channel",
        conv(lambda x: x * x.max(1, keepdim=True)[1].float()),
        "pinned",
        0,
        0,
    ),
    Probe(
        "a transform without rule", conv(lambda x: torch.fft.hfft(x, 12, dim=1)), "pinned", 0, 0, "no rule"
    ),
    Probe("cosine similarity", conv(lambda x: x * F.cosine_similarity(x, x.relu(), 1)[:, None])),
    Probe(
        "Fourier transform over channels",
        conv(lambda x: torch.fft.rfft(x, dim=1).real),
        "pinned",
        0,
        0,
        "Fourier transform runs along this axis",
    ),
    Probe("Fourier transform over pixels", conv(lambda x: torch.fft.rfft2(x).abs())),
    Probe("filter in the frequency domain", conv(lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5j))),
    Probe(
        "complex weights",
        layer(
            lambda: Named(
                lambda m, x: torch.fft.irfft2(
                    torch.einsum("nchw,dc->ndhw", torch.fft.rfft2(x), torch.view_as_complex(m.w))
                ),
                w=(7, 12, 2),
            )
        ),
    ),
    Probe("ellipsis", tokens(lambda: Named(lambda m, x: torch.einsum("...c,cd->...d", x, m.w), w=(12, 8)))),
    Probe("tensordot", tokens(lambda: Named(lambda m, x: torch.tensordot(x, m.w, 1), w=(12, 8)))),
    Probe("unpooling", conv(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2))),
    Probe("differences of neighbours", conv(lambda x: x.diff(dim=2))),
    Probe("running maximum over pixels", conv(lambda x: x.cummax(3)[0])),
    Probe("quarter turn", conv(lambda x: x.rot90(1, (2, 3)))),
    Probe("median of pixels", conv(lambda x: x * x.flatten(2).quantile(0.5, 2)[:, :, None, None])),
    Probe("diagonal of pixels", conv(lambda x: x.diagonal(dim1=2, dim2=3)[..., None])),
    Probe(
        "weight plus identity",
        tokens(lambda: Named(lambda m, x: x @ (m.w + torch.eye(12)), w=(12, 12))),
        free=12,
        units=12,
    ),
    Probe(
        "sums by an index of tokens",
        tokens(lambda: Named(lambda m, x: x.index_add(1, m.i, x), i=torch.tensor([0, 0, 2, 1]))),
    ),
    Probe(
        "deformable convolution",
        whole(
            lambda m, x: m.second(m.deform(m.first(x), m.offset(x), m.mask(x).sigmoid())),
            lambda: {
                "first": nn.Conv2d(3, 12, 3, padding=1),
                "offset": nn.Conv2d(3, 18, 1),
                "mask": nn.Conv2d(3, 9, 1),
                "deform": DeformConv2d(12, 7, 3, padding=1),
                "second": nn.Conv2d(7, 5, 1),
            },
        ),
    ),
    Probe(
        "one filter for every channel, expanded",
        layer(
            lambda: Named(
                lambda m, x: F.conv2d(x, m.k.expand(x.shape[1], -1, -1, -1), groups=x.shape[1]),
                k=torch.rand(1, 1, 3, 3),
            )
        ),
    ),
    Probe(
        "one filter for every channel, repeated",
        layer(
            lambda: Named(
                lambda m, x: F.conv2d(x, m.k.repeat(12, 1, 1, 1), groups=12), k=torch.rand(1, 1, 3, 3)
            )
        ),
    ),
    Probe(
        "one gate for all channels",
        conv(lambda x: x * x.mean(1, keepdim=True).expand(-1, 12, -1, -1)),
        "inexact",
    ),
    Probe(
        "tokens picked by number",
        tokens(
            lambda: Named(
                lambda m, x: x.gather(1, m.i.view(1, 2, 1).expand(len(x), -1, 12)), i=torch.tensor([2, 0])
            )
        ),
    ),
    Probe("cumsum over channels", conv(lambda x: x.cumsum(1))),
)

FACTORS = (
    Probe("product with a constant", layer(lambda: Named(lambda m, x: x * m.c, c=torch.randn(12, 1, 1)))),
    Probe("product with a literal constant", conv(lambda x: x * torch.arange(1.0, 13.0).view(1, 12, 1, 1))),
    Probe("product with a constant made on the spot", conv(lambda x: x * torch.full((12, 1, 1), 0.5))),
    Probe("product with a parameter", layer(lambda: Named(lambda m, x: x * m.c, c=(1, 12, 1, 1)))),
    Probe(
        "product with the input's width",
        whole(
            lambda m, x: m.second(m.first(x) * x),
            lambda: {"first": nn.Conv2d(3, 3, 1), "second": nn.Conv2d(3, 5, 1)},
        ),
        "pinned",
        0,
        0,
        "model input",
    ),
    Probe(
        "output of full width",
        whole(lambda m, x: m.first(x), lambda: {"first": nn.Conv2d(3, 12, 1)}),
        "pinned",
        0,
        0,
        "model's output",
    ),
    Probe(
        "flatten, linear, unflatten",
        whole(
            flat,
            lambda: {
                "first": nn.Conv2d(3, 12, 3, 2, 1),
                "middle": nn.Linear(192, 112),
                "second": nn.Conv2d(7, 5, 1),
            },
        ),
    ),
    Probe(
        "unflatten after linear",
        whole(
            flat,
            lambda: {
                "first": nn.Conv2d(3, 12, 3, 2, 1),
                "middle": nn.Linear(192, 112),
                "second": nn.Conv2d(7, 5, 1),
            },
        ),
        free=112,
        units=7,
        axis=("middle.weight", 0),
    ),
    Probe(
        "grouped convolution",
        layer(lambda: nn.Conv2d(12, 12, 3, padding=1, groups=3)),
        "blocks",
        why="rectangular",
    ),
    Probe(
        "grouped convolution, its output",
        layer(lambda: nn.Conv2d(12, 12, 3, padding=1, groups=3)),
        "blocks",
        why="rectangular",
        axis=("op.weight", 0),
    ),
    Probe(
        "grouped convolution, shuffled",
        layer(
            lambda: nn.Sequential(
                nn.Conv2d(12, 12, 3, padding=1, groups=3), Named(lambda m, x: shuffle_sizes(x))
            )
        ),
        "blocks",
        why="rectangular",
        axis=("op.0.weight", 0),
    ),
    Probe(
        "grouped convolution, two channels gate all, shuffled",
        layer(
            lambda: nn.Sequential(
                nn.Conv2d(12, 12, 3, padding=1, groups=3),
                Named(lambda m, x: shuffle_sizes(x * x[:, 2:3].sigmoid() * x[:, 7:8].sigmoid())),
            )
        ),
        "blocks",
        8,
        8,
        "rectangular",
        axis=("op.0.weight", 0),
    ),
    Probe("depthwise convolution", layer(lambda: nn.Conv2d(12, 12, 3, padding=1, groups=12))),
    Probe("depth multiplier", layer(lambda: nn.Conv2d(12, 24, 3, padding=1, groups=12))),
    Probe(
        "depth multiplier, its output",
        layer(lambda: nn.Conv2d(12, 24, 3, padding=1, groups=12)),
        "blocks",
        24,
        24,
        "rectangular",
        axis=("op.weight", 0),
    ),
    Probe("depthwise convolution of every head", tokens(Heads), "blocks", why="rectangular"),
    Probe(
        "two inputs a group",
        layer(lambda: nn.Conv2d(12, 6, 3, padding=1, groups=6)),
        "blocks",
        why="rectangular",
    ),
    Probe("conv_transpose", layer(lambda: nn.ConvTranspose2d(12, 10, 2, 2))),
    Probe(
        "conv_transpose, its output",
        layer(lambda: nn.ConvTranspose2d(12, 10, 2, 2)),
        free=10,
        units=10,
        axis=("op.weight", 1),
    ),
    Probe(
        "conv_transpose, grouped",
        layer(lambda: nn.ConvTranspose2d(12, 9, 2, 2, groups=3)),
        "blocks",
        why="rectangular",
    ),
    Probe(
        "conv_transpose, grouped, its output",
        layer(lambda: nn.ConvTranspose2d(12, 9, 2, 2, groups=3)),
        "exact",
        3,
        3,
        axis=("op.weight", 1),
    ),
    Probe(
        "conv_transpose, grouped, joined",
        layer(
            lambda: nn.Sequential(
                nn.ConvTranspose2d(12, 9, 2, 2, groups=3, bias=False),
                Named(lambda m, x: torch.cat([x, -x], 1)),
            )
        ),
        "exact",
        3,
        3,
        axis=("op.0.weight", 1),
    ),
    Probe("conv_transpose, depthwise", layer(lambda: nn.ConvTranspose2d(12, 12, 2, 2, groups=12))),
    Probe("1-D", rank(lambda x: F.max_pool1d(x.relu(), 2), 1)),
    Probe("3-D", rank(lambda x: F.avg_pool3d(x.relu(), 2), 3)),
    Probe("PReLU per channel", layer(lambda: nn.PReLU(12))),
    Probe("PReLU, one slope", layer(lambda: nn.PReLU())),
    Probe("dropout of channels", layer(lambda: nn.Dropout2d(0.5))),
    Probe("upsampling", conv(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"))),
    Probe(
        "region pooling",
        conv(lambda x: roi_align(x, [torch.tensor([[0.0, 1, 5, 6]]), torch.tensor([[2.0, 0, 7, 7]])], 3)),
    ),
    Probe(
        "regions that a layer makes",
        whole(
            made_regions,
            lambda: {"first": nn.Conv2d(3, 12, 3), "corners": nn.Linear(12, 4), "last": nn.Conv2d(12, 5, 1)},
        ),
        "pinned",
        free=0,
        units=0,
        why="coordinates",
        axis=("corners.weight", 0),
    ),
    Probe("adaptive pooling", conv(lambda x: F.adaptive_avg_pool2d(x, 2))),
    Probe(
        "where with a mask",
        layer(lambda: Named(lambda m, x: torch.where(m.mask, x, -x), mask=torch.rand(12, 8, 8) > 0.5)),
    ),
)

NORMS = (
    Probe("batch norm", layer(lambda: nn.BatchNorm2d(12))),
    Probe("batch norm without affine", layer(lambda: nn.BatchNorm2d(12, affine=False))),
    Probe("instance norm", layer(lambda: nn.InstanceNorm2d(12, affine=True))),
    Probe(
        "instance norm with statistics",
        layer(lambda: nn.InstanceNorm2d(12, affine=True, track_running_stats=True)),
    ),
    Probe("layer norm", tokens(lambda: nn.LayerNorm(12)), "inexact"),
    Probe("layer norm over the picture", layer(lambda: nn.LayerNorm([8, 8]))),
    Probe("layer norm over channels and picture", layer(lambda: nn.LayerNorm([12, 8, 8])), "inexact"),
    Probe("rms norm", tokens(lambda: nn.RMSNorm(12)), "inexact"),
    Probe("group norm", layer(lambda: nn.GroupNorm(3, 12)), "inexact", why="rectangular"),
    Probe("group norm, one group", layer(lambda: nn.GroupNorm(1, 12)), "inexact"),
    Probe("group norm, a group a channel", layer(lambda: nn.GroupNorm(12, 12))),
    Probe("local response norm", layer(lambda: nn.LocalResponseNorm(3)), "pinned", 0, 0),
    Probe("normalised over channels", conv(lambda x: F.normalize(x, dim=1))),
    Probe(
        "squeeze-excite",
        layer(lambda: Named(squeeze_excite, down=nn.Conv2d(12, 4, 1), up=nn.Conv2d(4, 12, 1))),
    ),
    Probe(
        "squeeze-excite, inside",
        layer(lambda: Named(squeeze_excite, down=nn.Conv2d(12, 4, 1), up=nn.Conv2d(4, 12, 1))),
        free=4,
        units=4,
        axis=("op.down.weight", 0),
    ),
    Probe(
        "weight norm",
        layer(lambda: parametrizations.weight_norm(nn.Conv2d(12, 7, 3))),
    ),
    Probe(
        "weight norm, its output",
        layer(lambda: parametrizations.weight_norm(nn.Conv2d(12, 7, 3))),
        free=7,
        units=7,
        axis=("op.parametrizations.weight.original1", 0),
    ),
    Probe("old weight norm", layer(old_weight_norm)),
    Probe(
        "spectral norm of a linear layer",
        tokens(lambda: parametrizations.spectral_norm(nn.Linear(12, 7))),
    ),
    Probe("spectral norm", layer(lambda: parametrizations.spectral_norm(nn.Conv2d(12, 7, 3)))),
    Probe(
        "spectral norm, its output",
        layer(lambda: parametrizations.spectral_norm(nn.Conv2d(12, 7, 3))),
        free=7,
        units=7,
        axis=("op.parametrizations.weight.original", 0),
    ),
    Probe("weight standardisation, its output", whole(standardised, pair())),
    Probe("weight standardisation, its input", whole(standardised_next, pair()), "inexact"),
    Probe("weight standardisation by batch norm", whole(standardised_flat, pair()), "inexact"),
    Probe("filters divided by their largest entry", whole(by_output, pair())),
)

SHARING = (
    Probe(
        "tied weights", whole(tied_decoder, lambda: {"first": nn.Linear(6, 12)}, lambda: torch.randn(2, 6))
    ),
    Probe("module used twice", whole(reused, pair(mix=lambda: nn.Conv2d(12, 12, 1)))),
    Probe(
        "norm used twice",
        whole(shared_norm, pair(norm=lambda: nn.BatchNorm2d(12), other=lambda: nn.Conv2d(3, 12, 1))),
    ),
    Probe(
        "functional call on parameters",
        whole(
            lambda m, x: F.conv2d(F.conv2d(x, m.first, m.b), m.c),
            lambda: {"first": (12, 3, 1, 1), "b": (12,), "c": (5, 12, 1, 1)},
        ),
        axis=("first", 0),
    ),
    Probe(
        "low-rank addition to a weight",
        whole(
            lambda m, x: m.second(F.linear(x, m.first.weight + m.up @ m.down, m.first.bias).relu()),
            lambda: {"first": nn.Linear(6, 12), "up": (12, 2), "down": (2, 6), "second": nn.Linear(12, 5)},
            lambda: torch.randn(2, 6),
        ),
    ),
    Probe(
        "rank of a low-rank addition",
        whole(
            lambda m, x: m.second(F.linear(x, m.first.weight + m.up @ m.down, m.first.bias).relu()),
            lambda: {"first": nn.Linear(6, 12), "up": (12, 3), "down": (3, 6), "second": nn.Linear(12, 5)},
            lambda: torch.randn(2, 6),
        ),
        free=3,
        units=3,
        axis=("up", 1),
    ),
    Probe(
        "nested inputs",
        whole(
            nested,
            pair(other=lambda: nn.Conv2d(3, 12, 3, padding=1)),
            lambda: [image(), {"picture": image()}],
        ),
    ),
    Probe(
        "inputs by name",
        lambda: (
            Named(by_name, **pair(other=lambda: nn.Conv2d(3, 12, 3, padding=1))()),
            {"left": image(), "right": image()},
        ),
    ),
    Probe("LSTM, what it reads", recurrence(nn.LSTM)),
    Probe("LSTM, hidden units", recurrence(nn.LSTM), free=32, units=8, axis=("rnn.weight_hh_l0", 0)),
    Probe("GRU, hidden units", recurrence(nn.GRU), free=24, units=8, axis=("rnn.weight_ih_l0", 0)),
    Probe(
        "embedding",
        whole(
            lambda m, x: m.second(m.first(x).relu()),
            lambda: {"first": nn.Embedding(9, 12), "second": nn.Linear(12, 5)},
            lambda: torch.randint(9, (2, 4)),
        ),
        axis=("first.weight", 1),
    ),
    Probe(
        "embedding, its rows",
        whole(
            lambda m, x: m.second(m.first(x).relu()),
            lambda: {"first": nn.Embedding(9, 12), "second": nn.Linear(12, 5)},
            lambda: torch.randint(9, (2, 4)),
        ),
        "pinned",
        0,
        0,
        "looked up",
        axis=("first.weight", 0),
    ),
    Probe(
        "class token, position, layer scale",
        whole(
            class_token,
            lambda: {
                "first": nn.Conv2d(3, 12, 4, 4),
                "token": (1, 1, 12),
                "position": (1, 5, 12),
                "scale": (12,),
                "second": nn.Linear(12, 5),
            },
        ),
    ),
    Probe("in-place write into a part", conv(written), units=8),
    Probe("one weight under two names", one_weight),
    Probe(
        "position table longer than the input",
        tokens(lambda: Named(lambda m, x: x + m.table[: x.shape[1]], table=(7, 12))),
        "pinned",
        0,
        0,
        axis=("op.table", 0),
    ),
)


ATTENTION = (
    Probe(
        "grouped-query attention, queries",
        lambda: (GroupedQuery(rotary=False, fused=False), torch.randn(2, 5, 16)),
        "blocks",
        32,
        16,
        "rectangular",
        axis=("q.weight", 0),
    ),
    Probe(
        "grouped-query attention, values",
        lambda: (GroupedQuery(rotary=False, fused=True), torch.randn(2, 5, 16)),
        "blocks",
        16,
        16,
        "rectangular",
        axis=("v.weight", 0),
    ),
    Probe(
        "grouped-query attention, rotary",
        lambda: (GroupedQuery(rotary=True, fused=False), torch.randn(2, 5, 16)),
        "blocks",
        32,
        8,
        "rectangular",
        axis=("q.weight", 0),
    ),
    Probe(
        "grouped-query attention, rotary, fused",
        lambda: (GroupedQuery(rotary=True, fused=True), torch.randn(2, 5, 16)),
        "blocks",
        32,
        8,
        "rectangular",
        axis=("q.weight", 0),
    ),
    Probe("multi-head attention, batch first", multihead(True), "exact", 16, 16),
    Probe("multi-head attention, batch second", multihead(False), "exact", 16, 16),
    Probe(
        "multi-head attention, heads",
        multihead(True),
        "blocks",
        48,
        32,
        "rectangular",
        axis=("attention.in_proj_weight", 0),
    ),
)

PROBES = (*MOVEMENT, *REDUCTION, *FACTORS, *NORMS, *SHARING, *ATTENTION)

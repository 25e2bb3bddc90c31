"""Probes of what moves, picks, joins and writes channels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from fxprune.testing.probes.base import (
    Named,
    Probe,
    Tensor,
    conv,
    layer,
    pair,
    shuffle_sizes,
    whole,
    written,
)


def shuffle_fixed(x: Tensor) -> Tensor:
    return x.view(2, 3, 4, 8, 8).transpose(1, 2).contiguous().view(2, 12, 8, 8)


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


def windows(x: Tensor) -> Tensor:
    """Shifted windows of 4 by 4 pixels and back, as Swin cuts them."""
    x = x.permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
    n, h, w, c = x.shape
    x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
    x = torch.tanh(x)
    x = x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
    return x.roll((2, 2), (1, 2)).permute(0, 3, 1, 2)


def scaled_in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, ::3] *= 2
    return x


def half_in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 6:].relu_()
    return x


def two_readers(m: Named, x: Tensor) -> Tensor:
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

"""Probes of shared parts, inputs of all kinds, recurrence and attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from fxprune.testing.probes.base import (
    WIDTH,
    Build,
    Example,
    Named,
    Probe,
    Tensor,
    conv,
    image,
    pair,
    tokens,
    whole,
    written,
)


class GroupedQuery(nn.Module):
    """Attention of 4 query heads over 2 key and value heads, 8 wide; rotary positions on request."""

    cos: Tensor
    sin: Tensor

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
    def op(m: Named, x: Tensor) -> Tensor:
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


def tied_decoder(m: Named, x: Tensor) -> Tensor:
    """An auto-encoder that decodes with its encoder's weight."""
    return F.linear(torch.relu(m.first(x)), m.first.weight.t())


def class_token(m: Named, x: Tensor) -> Tensor:
    x = m.first(x).flatten(2).transpose(1, 2)
    x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], 1) + m.position
    return m.second(m.scale * x)[:, 0]


def counted_padding(m: Named, x: Tensor) -> Tensor:
    x = F.pad(m.first(x), (0, 0, 0, 0, 0, 3))
    return m.second(x * torch.ones_like(x).cumsum(1))


def padding_for_depthwise(m: Named, x: Tensor) -> Tensor:
    x = F.pad(m.first(x), (0, 0, 0, 0, 0, 3))
    return m.second(m.each(x * torch.ones_like(x).cumsum(1)))


def padding_counted_late(m: Named, x: Tensor) -> Tensor:
    x = F.pad(m.first(x), (0, 0, 0, 0, 0, 3))
    return m.second(x) + m.third(x * torch.ones_like(x).cumsum(1))


def reused(m: Named, x: Tensor) -> Tensor:
    x = m.first(x)
    return m.second(m.mix(torch.relu(m.mix(x))))


def shared_norm(m: Named, x: Tensor) -> Tensor:
    return m.second(m.norm(m.first(x)).relu() + m.norm(m.other(x)))


def nested(m: Named, x: tuple[Tensor, dict[str, Tensor]]) -> Tensor:
    left, right = x
    return m.second(torch.relu(m.first(left) + m.other(right["picture"])))


def by_name(m: Named, *, left: Tensor, right: Tensor) -> Tensor:
    return m.second(torch.relu(m.first(left) + m.other(right)))


def recurrent(m: Named, x: Tensor) -> Tensor:
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

    def op(m: Named, x: Tensor) -> Tensor:
        return m.second(torch.relu(m.first(x)) + m.other(x.flip(3)))

    model = Named(op, **pair(other=lambda: nn.Conv2d(3, WIDTH, 3, padding=1))())
    model.other.weight = model.first.weight
    return model, image()


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
        "bags of embeddings",
        whole(
            lambda m, x: m.second(m.first(x).relu()),
            lambda: {"first": nn.EmbeddingBag(9, 12, mode="sum"), "second": nn.Linear(12, 5)},
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
    Probe(
        "padding counted before a layer reads it",
        whole(
            counted_padding,
            lambda: {"first": nn.Conv2d(3, 12, 3), "second": nn.Conv2d(15, 5, 1)},
        ),
        "inexact",
        why="padding",
        axis=("second.weight", 1),
    ),
    Probe(
        "padding counted before a depthwise layer reads it",
        whole(
            padding_for_depthwise,
            lambda: {
                "first": nn.Conv2d(3, 12, 3),
                "each": nn.Conv2d(15, 15, 1, groups=15),
                "second": nn.Conv2d(15, 5, 1),
            },
        ),
        "inexact",
        why="padding",
        axis=("second.weight", 1),
    ),
    Probe(
        "padding counted after a layer reads it",
        whole(
            padding_counted_late,
            lambda: {
                "first": nn.Conv2d(3, 12, 3),
                "second": nn.Conv2d(15, 5, 1),
                "third": nn.Conv2d(15, 5, 1),
            },
        ),
        "inexact",
        why="padding",
        axis=("second.weight", 1),
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

"""Probes of what reduces over channels, or gates and mixes them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from fxprune.testing.probes.base import Named, Probe, Tensor, conv, layer, tokens, whole


def maxout(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.maximum(a, b)


def split_attention(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    parts = x.view(n, 2, c // 2, h, w)
    gate = parts.sum(1).mean((2, 3)).view(n, 1, c // 2, 1, 1)
    return (parts * torch.softmax(gate * parts.mean((3, 4), keepdim=True), 1)).sum(1)


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
    Probe("unpooling", conv(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), (2, 2)))),
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

"""Probes of weights that are made of others, and of norms."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision.ops import roi_align

from fxprune.testing.probes.base import (
    Named,
    Probe,
    Tensor,
    conv,
    layer,
    pair,
    rank,
    shuffle_sizes,
    tokens,
    whole,
)


def standard(w: Tensor) -> Tensor:
    return (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)


def standardised(m: Named, x: Tensor) -> Tensor:
    return m.second(F.conv2d(x, standard(m.first.weight), m.first.bias, padding=1).relu())


def standardised_next(m: Named, x: Tensor) -> Tensor:
    return F.conv2d(m.first(x).relu(), standard(m.second.weight), m.second.bias)


def standardised_flat(m: Named, x: Tensor) -> Tensor:
    """As timm does it: batch norm over filters that are laid flat, kernel and channels along one axis."""
    w = m.second.weight
    w = F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True).reshape_as(w)
    return F.conv2d(m.first(x).relu(), w, m.second.bias)


def by_output(m: Named, x: Tensor) -> Tensor:
    """Each filter divided by its own largest entry: output channels do not see one another."""
    w = m.first.weight
    x = F.conv2d(x, w / w.abs().amax((1, 2, 3), keepdim=True), m.first.bias, padding=1)
    return m.second(x.relu())


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


def flat(m: Named, x: Tensor) -> Tensor:
    x = m.middle(m.first(x).relu().flatten(1))
    return m.second(x.unflatten(1, (7, 4, 4)))


def squeeze_excite(m: Named, x: Tensor) -> Tensor:
    gate = m.up(torch.relu(m.down(x.mean((2, 3), keepdim=True))))
    return x * gate.sigmoid()


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.nn.utils.weight_norm(nn.Conv2d(12, 7, 3))


def made_regions(m: Named, x: Tensor) -> Tensor:
    x = m.first(x)
    corners = m.corners(x.mean((2, 3))).sigmoid() * 3
    boxes = torch.cat([corners.new_zeros(len(corners), 1), corners[:, :2], corners[:, 2:] + 4], 1)
    return m.last(roi_align(x, boxes, 3))


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
    Probe("PReLU, one slope", layer(nn.PReLU)),
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

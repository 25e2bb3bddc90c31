"""Samples of pooling, resampling and regions."""

from __future__ import annotations

import torch

from fxprune.testing.samples.base import Operand, Sample
from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import given as x
from fxprune.testing.samples.base import parameter as p

WINDOW = (
    a("max_pool1d", p(2, 3, 6), [2], free="01"),
    a("max_pool1d_with_indices", p(2, 3, 6), [2], free="01"),
    a("avg_pool1d", p(2, 3, 6), [2], free="01"),
    a("adaptive_avg_pool1d", p(2, 3, 6), [2], free="01"),
    a("adaptive_max_pool1d", p(2, 3, 6), [2], free="01"),
    a("upsample_nearest1d", p(2, 3, 6), [12], free="01"),
    a("_upsample_nearest_exact1d", p(2, 3, 6), [12], free="01"),
    a("upsample_linear1d", p(2, 3, 6), [12], False, free="01"),
    a("reflection_pad1d", p(2, 3, 6), [1, 1], free="01"),
    a("replication_pad1d", p(2, 3, 6), [1, 1], free="01"),
    a("max_pool2d", p(2, 3, 6, 6), [2, 2], free="01"),
    a("max_pool2d_with_indices", p(2, 3, 6, 6), [2, 2], free="01"),
    a("avg_pool2d", p(2, 3, 6, 6), [2, 2], free="01"),
    a("adaptive_avg_pool2d", p(3, 6, 6), [2, 2], free="0"),
    a("_adaptive_avg_pool2d", p(2, 3, 6, 6), [2, 2], free="01"),
    a("adaptive_max_pool2d", p(2, 3, 6, 6), [2, 2], free="01"),
    *(a(f"{n}2d", p(2, 3, 4, 4), [8, 8], free="01") for n in ("upsample_nearest", "_upsample_nearest_exact")),
    a("upsample_bilinear2d", p(2, 3, 4, 4), [8, 8], False, free="01"),
    a("upsample_bicubic2d", p(2, 3, 4, 4), [8, 8], False, free="01"),
    a("_upsample_bilinear2d_aa", p(2, 3, 4, 4), [8, 8], False, free="01"),
    a("_upsample_bicubic2d_aa", p(2, 3, 4, 4), [8, 8], False, free="01"),
    a("reflection_pad2d", p(2, 3, 4, 4), [1, 1, 1, 1], free="01"),
    a("replication_pad2d", p(2, 3, 4, 4), [1, 1, 1, 1], free="01"),
    a("grid_sampler", p(2, 3, 4, 4), x(2, 5, 5, 2), 0, 0, False, free="1"),
    a("grid_sampler_2d", p(2, 3, 4, 4), x(2, 5, 5, 2), 0, 0, False, free="1"),
    a("tril", p(2, 4, 4), free="0"),
    a("triu", p(2, 4, 4), free="0"),
    a("linalg_inv", p(2, 4, 4), free="0"),
    a("inverse", p(2, 4, 4), free="0"),
    a("max_pool3d", p(2, 3, 4, 4, 4), [2, 2, 2], free="01"),
    a("max_pool3d_with_indices", p(2, 3, 4, 4, 4), [2, 2, 2], free="01"),
    a("avg_pool3d", p(2, 3, 4, 4, 4), [2, 2, 2], free="01"),
    a("adaptive_avg_pool3d", p(2, 3, 4, 4, 4), [2, 2, 2], free="01"),
    a("_adaptive_avg_pool3d", p(2, 3, 4, 4, 4), [2, 2, 2], free="01"),
    a("adaptive_max_pool3d", p(2, 3, 4, 4, 4), [2, 2, 2], free="01"),
    a("upsample_nearest3d", p(2, 3, 2, 2, 2), [4, 4, 4], free="01"),
    a("_upsample_nearest_exact3d", p(2, 3, 2, 2, 2), [4, 4, 4], free="01"),
    a("upsample_trilinear3d", p(2, 3, 2, 2, 2), [4, 4, 4], False, free="01"),
    a("reflection_pad3d", p(2, 3, 3, 3, 3), [1, 1, 1, 1, 1, 1], free="01"),
    a("replication_pad3d", p(2, 3, 3, 3, 3), [1, 1, 1, 1, 1, 1], free="01"),
    a("grid_sampler_3d", p(2, 3, 3, 3, 3), x(2, 2, 2, 2, 3), 0, 0, False, free="1"),
    Sample(
        "torchvision.roi_align.default",
        (
            p(2, 3, 6, 6),
            Operand(
                lambda: torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]], dtype=torch.float64),
                labelled=False,
            ),
            1.0,
            2,
            2,
            2,
            False,
        ),
        "1",
    ),
    Sample(
        "torchvision.roi_pool.default",
        (
            p(2, 3, 6, 6),
            Operand(
                lambda: torch.tensor([[0.0, 0, 0, 4, 4], [1, 1, 1, 5, 5]], dtype=torch.float64),
                labelled=False,
            ),
            1.0,
            2,
            2,
        ),
        "1",
    ),
)

"""Samples of what works along whole lines: sorting, transforms, solvers."""

from __future__ import annotations

import torch

from fxprune.testing.samples.base import (
    Operand,
)
from fxprune.testing.samples.base import (
    aten as a,
)
from fxprune.testing.samples.base import (
    buffer as b,
)
from fxprune.testing.samples.base import (
    complex_parameter as z,
)
from fxprune.testing.samples.base import (
    parameter as p,
)
from fxprune.testing.samples.base import (
    positive as q,
)


def _pooled() -> torch.Tensor:
    """Where the largest of four pixels was found, different in every channel."""
    return torch.nn.functional.max_pool2d(torch.randn(2, 3, 4, 4), 2, return_indices=True)[1]


def _pooled_3d() -> torch.Tensor:
    return torch.nn.functional.max_pool3d(torch.randn(2, 3, 4, 4, 4), 2, return_indices=True)[1]


LINES = (
    *(a(f"fft_{n}", p(2, 3, 6), free="01") for n in ("fft", "ifft", "rfft", "irfft")),
    a("fft_fft", p(4, 3), None, 0, free="1"),
    *(a(f"fft_{n}", p(2, 3, 4, 6), free="01") for n in ("fft2", "ifft2", "rfft2", "irfft2")),
    a("fft_rfft2", p(2, 3, 4, 6), [4, 6], [0, 2], free="13"),
    *(a(f"fft_{n}", p(2, 3, 4), [4], free="01") for n in ("fftn", "ifftn", "rfftn", "irfftn")),
    a("fft_fftn", p(2, 3), free="-"),
    a("_fft_c2c", z(2, 3, 4), [2], 0, True, free="01"),
    a("_fft_r2c", p(2, 3, 4), [1], 0, True, free="02"),
    a("_fft_c2r", z(2, 3, 4), [2], 0, 6, free="01"),
    *(a(f"fft_{n}", p(2, 3, 4), [2], free="01") for n in ("fftshift", "ifftshift")),
    *(a(n, z(2, 3), free="01") for n in ("real", "imag", "conj", "_conj", "resolve_conj", "resolve_neg")),
    a("view_as_real", z(2, 3), free="01"),
    a("view_as_complex", p(4, 3, 2), free="01"),
    a("complex", p(2, 3), p(3), free="01 0"),
    a("polar", q(2, 3), p(2, 3), free="01 01"),
    a("einsum", "...c,...dc->...d", [z(2, 3), z(4, 3)], free="01 01"),
    a("rot90", p(2, 3, 4, 4), 1, [2, 3], free="01"),
    *(a(n, p(2, 3, 4), 1, free="02") for n in ("cummax", "cummin", "logcumsumexp")),
    a("trapezoid.dx", p(2, 3, 4), dx=0.5, dim=1, free="02"),
    a("trapezoid.x", p(3, 3), q(3), free="0 -"),
    a("trapz.dx", p(2, 3), dx=2.0, free="0"),
    a("msort", p(3, 4), free="1"),
    a("diff", p(2, 5), 2, free="0"),
    a("diff", p(2, 5, 3), 1, 1, p(2, 1, 3), free="02 02"),
    a("diagonal", p(3, 4, 5), 1, 0, 2, free="1"),
    a("linalg_diagonal", p(3, 4, 4), free="0"),
    a("diag_embed", p(3, 4), 0, 0, 2, free="0"),
    a("quantile.scalar", p(2, 3, 4), 0.3, 1, free="02"),
    a("quantile", p(2, 3, 4), q(2), -1, True, free="01 -"),
    a("quantile.scalar", p(2, 3), 0.3, free="-"),
    a("nanquantile.scalar", p(2, 3, 4), 0.3, 0, True, free="12"),
    a("meshgrid.indexing", [p(3), p(4), p(2)], indexing="xy", free="0 0 0"),
    a("meshgrid", [p(3), p(4)], free="0 0"),
    a("gather", p(3, 4), 1, b([0, 1], [1, 2], [3, 3]), free="0 0"),
    a("gather", p(3, 4, 5), 1, b([[0, 1, 2, 3, 3]], [[1, 1, 1, 1, 2]]), free="- -"),
    a("take_along_dim", p(3, 4, 5), b([[1], [0]]), 1, free="02 -"),
    a("take_along_dim", p(2, 3), b([1, 0, 4]), free="- -"),
    a("scatter.src", p(2, 4), 1, b([0, 1], [1, 2]), p(2, 2), free="0 0 0"),
    a("scatter.value", p(4, 2), 0, b([3, 1]), 0.5, free="1 1"),
    a("scatter_add", p(2, 4), 1, b([0, 1], [1, 2]), p(2, 2), free="0 0 0"),
    a("scatter_add", p(4, 2), 1, b([0, 1], [1, 0]), p(4, 2), free="- - -"),
    a("scatter_reduce.two", p(2, 4), 1, b([0, 1], [1, 2]), p(2, 2), "amax", free="0 0 0"),
    a("index_add", p(4, 3), 0, b(2, 0), p(2, 3), free="1 - 1"),
    a("index_copy", p(4, 3), 1, b(2, 0), p(4, 2), free="0 - 0"),
    a("index_fill.int_Scalar", p(4, 3), 1, b(2, 0), 0.5, free="0 -"),
    a("max_unpool2d", p(2, 3, 2, 2), Operand(_pooled), [4, 4], free="01 01"),
    a("max_unpool3d", p(2, 3, 2, 2, 2), Operand(_pooled_3d), [4, 4, 4], [2, 2, 2], [0, 0, 0], free="01 01"),
)

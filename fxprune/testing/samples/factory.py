"""Samples of what makes tensors out of numbers."""

from __future__ import annotations

from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import parameter as p

FACTORY = (
    *(a(n, [2, 3], free="") for n in ("zeros", "ones")),
    a("full", [2, 3], 1.5, free=""),
    a("empty.memory_format", [2, 3], free="", chance=True),
    *(a(n, [2, 3], free="", chance=True) for n in ("rand", "randn")),
    *(a(n, p(4), [2, 3], free="0") for n in ("new_zeros", "new_ones")),
    a("new_full", p(4), [2, 3], 2.0, free="0"),
    a("new_empty", p(4), [2, 3], free="0", chance=True),
    a("arange", 5, free=""),
    a("linspace", 0.0, 1.0, 5, free=""),
    a("scalar_tensor", 2.0, free=""),
    a("eye", 3, free=""),
    a("eye.m", 3, 4, free=""),
    a("hann_window", 4, free=""),
)

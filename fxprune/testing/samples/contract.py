"""Samples of convolutions, products and look-ups."""

from __future__ import annotations

from fxprune.testing.samples.base import Operand, Sample
from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import buffer as b
from fxprune.testing.samples.base import given as x
from fxprune.testing.samples.base import parameter as p

# The results that say where the values were found are read by the lone call, which pins all columns.
BAGS = ((0, "- - -"), (2, "- - -"))


def deformed(
    x: Operand, weight: Operand, bias: Operand, groups: int, offset_groups: int, *, free: str
) -> Sample:
    """A deformable convolution of 3 by 3 taps over five by five pixels, padded by one."""
    n = offset_groups * 9
    offset_and_mask = (p(2, 2 * n, 5, 5), p(2, n, 5, 5))
    return Sample(
        "torchvision.deform_conv2d.default",
        (x, weight, *offset_and_mask, bias, 1, 1, 1, 1, 1, 1, groups, offset_groups, True),
        free,
    )


CONTRACT = (
    a("conv1d", p(2, 3, 9), p(4, 3, 3), p(4), free="01 01 0"),
    a("conv2d", p(2, 3, 5, 5), p(4, 3, 3, 3), p(4), [2, 2], [1, 1], free="01 01 0"),
    a("conv2d", p(3, 5, 5), p(4, 3, 3, 3), None, free="0 01"),
    a("conv2d", p(2, 6, 5, 5), p(6, 3, 1, 1), p(6), [1, 1], [0, 0], [1, 1], 2, free="01 01 0"),
    a("conv2d", p(2, 4, 5, 5), p(8, 1, 3, 3), None, [1, 1], [1, 1], [1, 1], 4, free="01 0"),
    a("conv2d", p(2, 4, 5, 5), p(4, 1, 3, 3), p(4), [1, 1], [1, 1], [1, 1], 4, free="01 0 0"),
    a("conv2d.padding", p(2, 3, 5, 5), p(4, 3, 3, 3), None, [1, 1], "same", free="01 01"),
    a("conv3d", p(2, 3, 4, 4, 4), p(4, 3, 2, 2, 2), p(4), free="01 01 0"),
    a("conv_transpose1d", p(2, 3, 5), p(3, 4, 3), p(4), free="01 01 0"),
    a("conv_transpose2d.input", p(2, 3, 5, 5), p(3, 4, 2, 2), p(4), [2, 2], free="01 01 0"),
    a(
        "conv_transpose2d.input",
        p(2, 6, 5, 5),
        p(6, 2, 2, 2),
        p(4),
        [2, 2],
        [0, 0],
        [0, 0],
        2,
        free="01 01 0",
    ),
    a("conv_transpose3d.input", p(2, 3, 3, 3, 3), p(3, 4, 2, 2, 2), None, free="01 01"),
    a(
        "convolution",
        p(2, 3, 5, 5),
        p(4, 3, 3, 3),
        p(4),
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        free="01 01 0",
    ),
    a(
        "convolution",
        p(2, 3, 5, 5),
        p(3, 4, 3, 3),
        p(4),
        [1, 1],
        [0, 0],
        [1, 1],
        True,
        [0, 0],
        1,
        free="01 01 0",
    ),
    a(
        "_convolution",
        p(2, 3, 5, 5),
        p(4, 3, 3, 3),
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        False,
        False,
        True,
        True,
        free="01 01",
    ),
    a("linear", p(2, 5, 3), p(4, 3), p(4), free="012 01 0"),
    a("linear", p(5, 3), p(3), free="01 0"),
    a("linear", x(5, 3), p(4, 3), p(4), free="0 0"),
    a("linalg_matmul", p(2, 3), p(3, 4), free="01 01"),
    a("inner", p(2, 5, 3), p(4, 3), free="012 01"),
    a("inner", p(3, 3), p(3, 3), free="01 01"),
    a("ger", p(3), p(4), free="0 0"),
    a("matmul", p(2, 3, 4), p(2, 4, 5), free="012 012"),
    a("matmul", p(3, 4), p(2, 4, 5), free="01 012"),
    a("matmul", p(4), p(4, 5), free="0 01"),
    a("matmul", p(2, 3, 4), p(4), free="012 0"),
    a("dot", p(4), p(4), free="0 0"),
    a("vdot", p(4), p(4), free="0 0"),
    a("mm", p(3, 4), p(4, 5), free="01 01"),
    a("bmm", p(2, 3, 4), p(2, 4, 5), free="012 012"),
    a("mv", p(3, 4), p(4), free="01 0"),
    a("addmm", p(5), p(3, 4), p(4, 5), free="0 01 01"),
    a("baddbmm", p(2, 3, 5), p(2, 3, 4), p(2, 4, 5), free="012 012 012"),
    a("addmv", p(3), p(3, 4), p(4), free="0 01 0"),
    a("scaled_dot_product_attention", p(2, 3, 5, 4), p(2, 3, 6, 4), p(2, 3, 6, 7), free="0123 0123 0123"),
    a(
        "scaled_dot_product_attention",
        p(2, 3, 5, 4),
        p(2, 3, 6, 4),
        p(2, 3, 6, 7),
        p(5, 6),
        free="0123 0123 0123 01",
    ),
    a(
        "scaled_dot_product_attention",
        p(2, 6, 5, 4),
        p(2, 3, 5, 4),
        p(2, 3, 5, 7),
        None,
        0.0,
        False,
        enable_gqa=True,
        free="0123 0123 0123",
    ),
    a("einsum", "nc,dc->nd", [p(2, 3), p(4, 3)], free="01 01"),
    a("einsum", "bhid,bhjd->bhij", [p(2, 3, 4, 5), p(2, 3, 6, 5)], free="0123 0123"),
    a("einsum", "ij", [p(3, 4)], free="01"),
    a("einsum", "...c,dc->...d", [p(2, 3), p(4, 3)], free="01 01"),
    a("einsum", "b...c,...dc->b...d", [p(2, 5, 6, 3), p(6, 4, 3)], free="0123 012"),
    a("einsum", "...ii,ij->...j", [p(2, 3, 3), p(3, 4)], free="0 1"),
    a("tensordot", p(2, 3, 4), p(4, 5), [2], [0], free="012 01"),
    a("tensordot", p(2, 3, 4), p(4, 5, 3), [1, -1], [2, 0], free="012 012"),
    a("bilinear", p(2, 3), p(2, 4), p(5, 3, 4), p(5), free="01 01 012 0"),
    a("embedding", p(7, 4), b(1, 5, 0), free="1 -"),
    *(a("embedding_bag", p(7, 4), b(1, 5, 0), b(0, 2), False, mode, free=free) for mode, free in BAGS),
    a("_embedding_bag", p(7, 4), b(1, 5, 0), b(0, 2), False, 1, free="- - -"),
    deformed(p(2, 3, 5, 5), p(4, 3, 3, 3), p(4), 1, 1, free="1 01 - - 0"),
    deformed(p(2, 4, 5, 5), p(6, 2, 3, 3), p(6), 2, 1, free="1 01 - - 0"),
    deformed(p(2, 4, 5, 5), p(6, 4, 3, 3), p(6), 1, 2, free="1 01 - - 0"),
)

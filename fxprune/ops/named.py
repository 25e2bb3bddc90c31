"""Operators that other folders look for in a graph, or put into one, by their names."""

from __future__ import annotations

__all__ = [
    "ADD",
    "ATTENTION",
    "CONVOLUTION_LAYERS",
    "COPIES",
    "CROPPABLE",
    "FLATTEN",
    "HANDED_ON",
    "INDEX_SELECT",
    "LINEAR",
    "LOGITS",
    "MATRIX_LAYERS",
    "PAD",
    "PRODUCTS",
    "SCALINGS",
    "SUMS",
    "TRANSPOSED_LAYERS",
    "UNFLATTEN",
]

ADD = "aten::add"

SUMS = (ADD, "aten::sub")
"""Join two tensors so that one of them may be missing."""

COPIES = ("aten::contiguous", "aten::clone")
"""Hand on what they read."""

HANDED_ON = frozenset({"aten::alias", "aten::detach", "aten::lift_fresh"})
"""Hand on the very tensor that they read; whether they run hangs on whether gradients are recorded."""

CROPPABLE = frozenset({"aten::conv1d", "aten::conv2d", "aten::conv3d", "aten::convolution"})
"""Have kernels that may lose their borders."""

LINEAR = "aten::linear"

CONVOLUTION_LAYERS = ("aten::conv1d", "aten::conv2d", "aten::conv3d")

TRANSPOSED_LAYERS = ("aten::conv_transpose1d", "aten::conv_transpose2d", "aten::conv_transpose3d")

MATRIX_LAYERS = {
    "aten::addmm": ("mat1", "mat2", "self"),
    "aten::mm": ("self", "mat2", ""),
    "aten::matmul": ("self", "other", ""),
}
"""Products whose second factor may be a weight: names of the input, the weight and the bias."""

ATTENTION = "aten::scaled_dot_product_attention"

LOGITS = {"aten::matmul": ("self", "other")}
"""Products of rows with rows as code writes them that lays heads into a dimension of their own: names of both."""

SCALINGS = ("aten::mul",)
"""Multiply a tensor by another one."""

PRODUCTS = tuple(
    f"aten::{name}" for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "dot", "mv", "vdot")
)
"""Do nothing but multiply and add."""

PAD, INDEX_SELECT = "aten::pad", "aten::index_select"

FLATTEN, UNFLATTEN = ("aten::flatten", "using_ints"), ("aten::unflatten", "int")
"""Names and variants."""

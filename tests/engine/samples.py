"""Samples of every operator in the table of rules: small calls on which the laws of ``test_laws.py`` run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

INF = float("inf")


@dataclass(frozen=True)
class Operand:
    """A tensor of a sample: a parameter whose every dimension carries units, or an input without.

    Attributes:
        make: Makes its value.
        labelled: It is a parameter or buffer.
    """

    make: Callable[[], torch.Tensor]
    labelled: bool = True


@dataclass(frozen=True)
class Sample:
    """One call.

    Attributes:
        op: Operator with overload, as ``aten.conv2d.default``.
        args: Positional arguments; operands stand for tensors.
        free: Which dimensions of which labelled operands hold units that may go, as ``"01 0"``: dimensions
            0 and 1 of the first, 0 of the second operand; ``-`` for none.
        kwargs: Keyword arguments.
        chance: The result is random, so only shapes are compared.
    """

    op: str
    args: tuple[object, ...]
    free: str
    kwargs: tuple[tuple[str, object], ...] = ()
    chance: bool = False


def p(*shape: int) -> Operand:
    """A parameter with random entries."""
    return Operand(lambda: torch.randn(shape, dtype=torch.float64))


def q(*shape: int) -> Operand:
    """A parameter with entries in (0, 1)."""
    return Operand(lambda: torch.rand(shape, dtype=torch.float64) * 0.8 + 0.1)


def x(*shape: int) -> Operand:
    """An input of the model."""
    return Operand(lambda: torch.randn(shape, dtype=torch.float64), labelled=False)


def z(*shape: int) -> Operand:
    """A complex parameter."""
    return Operand(lambda: torch.randn(shape, dtype=torch.complex128))


def pooled() -> torch.Tensor:
    """Where the largest of four pixels was found, different in every channel."""
    return torch.nn.functional.max_pool2d(torch.randn(2, 3, 4, 4), 2, return_indices=True)[1]


def pooled_3d() -> torch.Tensor:
    return torch.nn.functional.max_pool3d(torch.randn(2, 3, 4, 4, 4), 2, return_indices=True)[1]


def b(*entries: object) -> Operand:
    """A buffer of integers (or booleans)."""
    return Operand(lambda: torch.tensor(entries))


def a(name: str, *args: object, free: str, chance: bool = False, **kwargs: object) -> Sample:
    """A sample of an ATen operator."""
    full = name if "." in name else f"{name}.default"
    return Sample(f"aten.{full}", args, free, tuple(kwargs.items()), chance)


# The results that say where the values were found are read by the lone call, which pins all columns.
BAGS = ((0, "- - -"), (2, "- - -"))


def deformed(
    x: Operand, weight: Operand, bias: Operand, groups: int, offset_groups: int, *, free: str
) -> Sample:
    """A deformable convolution of 3 by 3 taps over five by five pixels, padded by one."""
    n = offset_groups * 9
    made = (p(2, 2 * n, 5, 5), p(2, n, 5, 5))
    return Sample(
        "torchvision.deform_conv2d.default",
        (x, weight, *made, bias, 1, 1, 1, 1, 1, 1, groups, offset_groups, True),
        free,
    )


UNARY = (
    "relu",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "exp",
    "neg",
    "abs",
    "sqrt",
    "hardtanh",
    "leaky_relu",
    "elu",
    "softplus",
    "mish",
    "isnan",
)
TAGGED = (
    *(a(name, q(3, 4), free="01") for name in UNARY),
    a("add.Tensor", p(3, 4), p(4), free="01 0"),
    a("add.Tensor", p(3, 4), p(3, 1), free="01 0"),
    a("sub.Tensor", p(2, 3, 4), p(3, 4), free="012 01"),
    a("mul.Tensor", p(3, 1), p(1, 4), free="0 1"),
    a("mul.Tensor", p(3, 4), x(3, 4), free="-"),
    a("mul.Tensor", p(3, 4), x(3, 1), free="1"),
    a("div.Tensor", p(3, 4), p(), free="01 -"),
    a("pow.Tensor_Scalar", p(3, 4), 2, free="01"),
    a("clamp", p(3, 4), -1.0, 1.0, free="01"),
    a("max.other", p(3, 4), p(3, 4), free="01 01"),
    a("eq.Tensor", p(3, 4), p(3, 4), free="01 01"),
)

POINTWISE = (
    a("where.self", b([True, False, True]), p(2, 3), p(3), free="1 01 0"),
    a("masked_fill.Scalar", p(2, 3), b(True, False, True), 0.5, free="01 0"),
    a("copy", p(2, 3), p(2, 3), free="01 01"),
    a("_prelu_kernel", p(2, 3, 4), p(1, 3, 1), free="012 1"),
    a("hardswish", p(2, 3), free="01"),
    a("log_sigmoid", p(2, 3), free="01"),
    a("rsub.Scalar", p(2, 3), 1.0, free="01"),
    a("floor_divide", p(2, 3), q(2, 3), free="01 01"),
    a("rrelu", p(2, 3), 0.1, 0.3, False, free="01"),
    a("lerp.Scalar", p(2, 3), p(2, 3), 0.3, free="01 01"),
    a("addcmul", p(2, 3), p(2, 3), p(3), free="01 01 0"),
    a("addcdiv", p(2, 3), p(2, 3), q(3), free="01 01 0"),
    a("type_as", p(2, 3), p(2, 3), free="01 01"),
    a("expand_as", p(2, 1, 3), p(2, 4, 3), free="02 012"),
    a("dropout", p(2, 3), 0.5, False, free="01"),
    a("logit", q(2, 3), free="01"),
    a("maximum", p(2, 3), p(3), free="01 0"),
    a("minimum", p(2, 3), p(3), free="01 0"),
    a("glu", p(2, 6), 1, free="01"),
    a("glu", p(4, 3), 0, free="01"),
    a("prelu", p(2, 3, 4), p(3), free="012 0"),
    a("prelu", p(2, 3, 4), p(1), free="012 -"),
)

SAME = (
    a("alpha_dropout", p(2, 3), 0.5, False, free="01"),
    a("native_dropout", p(2, 3), 0.5, False, free="01"),
    a("feature_dropout", p(2, 3, 4), 0.5, False, free="012"),
    a("feature_alpha_dropout", p(2, 3, 4), 0.5, False, free="012"),
    *(
        a(n, p(2, 3), free="01")
        for n in ("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "lift_fresh")
    ),
    a("to.dtype", p(2, 3), torch.float64, free="01"),
    a("_to_copy", p(2, 3), dtype=torch.float64, free="01"),
    a("fill.Scalar", p(2, 3), 2.0, free="01"),
    a("zero", p(2, 3), free="01"),
    *(a(n, p(2, 3), free="01") for n in ("zeros_like", "ones_like")),
    a("full_like", p(2, 3), 3.0, free="01"),
    *(a(n, p(2, 3), free="01", chance=True) for n in ("empty_like", "rand_like", "randn_like")),
    a("bernoulli", q(2, 3), free="01", chance=True),
    a("uniform", p(2, 3), free="01", chance=True),
    a("normal.Tensor_float", p(2, 3), 1.0, free="01", chance=True),
    a("nan_to_num", p(2, 3), free="01"),
    a("float_power.Tensor_Scalar", q(2, 3), 2, free="01"),
    a("_autocast_to_reduced_precision", p(2, 3), False, False, torch.float16, torch.bfloat16, free="01"),
    a("_autocast_to_full_precision", p(2, 3), False, False, free="01"),
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

MOVEMENT = (
    a("view", p(2, 6, 3), [2, 18], free="012"),
    a("view", p(2, 6), [2, 3, -1], free="01"),
    a("_unsafe_view", p(2, 3, 4), [6, 4], free="012"),
    a("view_copy", p(2, 3, 4), [2, 12], free="012"),
    a("reshape", p(4, 6), [2, 2, 6], free="01"),
    a("unflatten.int", p(2, 6), 1, [3, 2], free="01"),
    a("flatten.using_ints", p(2, 3, 4), 1, free="012"),
    a("squeeze.dim", p(2, 1, 3), 1, free="02"),
    a("unsqueeze", p(2, 3), 1, free="01"),
    a("squeeze_copy.dim", p(2, 1, 3), 1, free="02"),
    a("view_as", p(2, 6), p(2, 6), free="01 01"),
    a("view_as", p(2, 6), p(2, 3, 2), free="01 012"),
    a("reshape_as", p(2, 3, 4), p(2, 12), free="012 01"),
    a("slice_scatter", p(2, 5), p(2, 2), 1, 0, 4, 2, free="0 0"),
    a("pad", p(2, 8), [-3, -2], free="01"),
    a("expand", p(3, 1, 4), [5, 3, 2, 4], free="02"),
    a("broadcast_to", p(1, 4), [3, 4], free="1"),
    a("permute", p(2, 3, 4), [2, 0, 1], free="012"),
    a("transpose.int", p(2, 3, 4), 1, -1, free="012"),
    a("swapaxes", p(2, 3, 4), 0, 2, free="012"),
    a("swapdims", p(2, 3, 4), 0, 1, free="012"),
    a("t", p(3, 4), free="01"),
    a("numpy_T", p(2, 3), free="01"),
    a("mT", p(2, 3, 4), free="012"),
    a("adjoint", p(2, 3, 4), free="012"),
    a("matrix_H", p(3, 4), free="01"),
    a("movedim.intlist", p(2, 3, 4), [0], [2], free="012"),
    a("slice.Tensor", p(2, 8), 1, 1, 7, 2, free="01"),
    a("slice.Tensor", p(2, 8), 1, -3, free="01"),
    a("slice.Tensor", p(2, 8), 1, 0, 9223372036854775807, free="01"),
    a("narrow", p(2, 8), 1, 2, 5, free="01"),
    a("select.int", p(3, 8), 0, 1, free="01"),
    a("split.Tensor", p(2, 7), 3, 1, free="01"),
    a("split_with_sizes", p(2, 7), [2, 5], 1, free="01"),
    a("chunk", p(2, 8), 3, 1, free="01"),
    a("unsafe_split.Tensor", p(2, 7), 3, 1, free="01"),
    a("unsafe_chunk", p(2, 8), 3, 1, free="01"),
    a("hsplit.int", p(2, 8, 3), 2, free="012"),
    a("hsplit.array", p(8), [3], free="0"),
    a("vsplit.int", p(6, 3), 2, free="01"),
    a("dsplit.array", p(2, 3, 8), [2, 5], free="012"),
    a("tensor_split.indices", p(2, 8), [2, 6], 1, free="01"),
    a("unbind.int", p(3, 4), 0, free="1"),
    a("flip", p(2, 5), [1], free="01"),
    a("flip", p(2, 5), [0, 1], free="01"),
    a("roll", p(2, 7), [3], [1], free="01"),
    a("roll", p(4, 7), [-3, 1], [1, 0], free="01"),
    a("repeat", p(2, 3), [2, 1, 2], free="01"),
    a("tile", p(2, 3), [3], free="01"),
    a("pixel_unshuffle", p(2, 3, 4, 4), 2, free="01"),
    a("im2col", p(2, 3, 4, 4), [2, 2], [1, 1], [0, 0], [2, 2], free="01"),
    a("repeat_interleave.self_int", p(2, 3), 2, 1, free="01"),
    a("repeat_interleave.self_Tensor", p(2, 3), b(1, 2, 1), 1, free="- -"),
    a("index_select", p(2, 5), 1, b(4, 0, 2, 2), free="01 -"),
    a("index.Tensor", p(2, 5), [None, b(4, 0, 2)], free="01 -"),
    a("index.Tensor", p(4, 5), [b([0, 1], [2, 3])], free="1 -"),
    a("index.Tensor", p(4, 5, 3), [b(0, 1), None, b(2, 0)], free="1 - -"),
    a("pixel_shuffle", p(2, 8, 3, 3), 2, free="01"),
    a("col2im", p(2, 8, 4), [4, 4], [2, 2], [1, 1], [0, 0], [2, 2], free="01"),
    a("channel_shuffle", p(2, 6, 3, 3), 3, free="0123"),
    a("unfold", p(2, 8), 1, 4, 2, free="0"),
    a("cat", [p(2, 3), p(2, 4), p(2, 1)], 1, free="01 01 0"),
    a("cat", [p(2, 3), x(2, 4)], 1, free="1"),
    a("concat", [p(2, 3), p(5, 3)], 0, free="01 01"),
    a("concatenate", [p(2, 3), p(2, 3)], -1, free="01 01"),
    a("stack", [p(2, 3), p(2, 3)], 1, free="01 01"),
    a("stack", [p(3), p(3), p(3)], 0, free="0 0 0"),
    a("pad", p(2, 3), [1, 2], free="01"),
    a("pad", p(2, 3, 4), [0, 0, -1, 2], free="012"),
    a("pad", p(2, 3, 4), [1, 1], "reflect", free="01"),
    a("constant_pad_nd", p(2, 3), [0, 0, 2, 1], 5.0, free="01"),
    a("slice_scatter", p(2, 5), p(2, 3), 1, 1, 4, free="01 01"),
    a("index_put", p(4, 3), [b(2, 0)], p(2, 3), free="1 - 1"),
    a("nonzero", p(3, 4), free="-"),
    a("masked_select", p(3), b(True, False, True), free="- -"),
    a("_unique2", p(4), free="-"),
    a("bincount", b(0, 2, 2), free="-"),
    a("bucketize.Tensor", p(4), b(-1, 0, 1), free="- -"),
    a("searchsorted.Tensor", b(-1, 0, 1), p(4), free="- -"),
    a("one_hot", b(0, 2, 1), 4, free="-"),
    a("item", p(), free="-"),
    a("_local_scalar_dense", p(), free="-"),
    Sample("torchvision.nms.default", (p(3, 4), p(3), 0.5), "- -"),
)

REDUCE = (
    a("sum.dim_IntList", p(2, 3, 4), [1], free="012"),
    a("sum.dim_IntList", p(2, 3, 4), [1, 2], True, free="012"),
    a("sum", p(2, 3), free="01"),
    a("linalg_vector_norm", p(2, 3), 2, [1], True, free="01"),
    a("linalg_vector_norm", p(2, 3), -INF, [1], free="01"),
    a("norm.ScalarOpt_dim", p(2, 3), 3, [1], free="01"),
    a("nansum", p(2, 3), [0], free="01"),
    a("mean.dim", p(2, 3, 4), [1], True, free="012"),
    a("mean", p(2, 3), free="01"),
    a("amax", p(2, 3), [1], free="01"),
    a("amin", p(2, 3), [1], True, free="01"),
    a("max.dim", p(2, 3), 1, free="0"),
    a("min.dim", p(2, 3), 1, free="0"),
    a("prod.dim_int", p(2, 3), 1, free="01"),
    a("var.correction", p(2, 5), [0], correction=0, free="01"),
    a("std.correction", p(4, 5), [1], correction=0, free="01"),
    a("var_mean.correction", p(4, 5), [1], correction=0, free="01"),
    a("std_mean.correction", p(4, 5), [0], correction=0, free="01"),
    a("logsumexp", p(2, 3), [1], free="01"),
    a("any.dim", b([True, False, True], [False, False, True]), 1, free="01"),
    a("all.dim", b([True, False, True], [False, False, True]), 1, free="01"),
    a("median.dim", p(2, 5), 1, free="0"),
    a("nanmean", p(2, 3), [1], free="01"),
    a("softmax.int", p(2, 3), 1, free="01"),
    a("_softmax", p(2, 3), 0, False, free="01"),
    a("log_softmax.int", p(2, 3), 1, free="01"),
    a("_log_softmax", p(2, 3), -1, False, free="01"),
    a("cumsum", p(2, 3), 1, free="01"),
    a("argmax", p(2, 3), 1, free="0"),
    a("argmin", p(2, 3), 0, free="1"),
    a("argmax", p(2, 3), free="-"),
    a("sort", p(2, 3), 1, free="0"),
    a("argsort", p(2, 3), 1, free="0"),
    a("topk", p(2, 5), 2, 1, free="0"),
    a("kthvalue", p(2, 5), 2, 1, free="0"),
    a("cumprod", p(2, 3), 1, free="0"),
    a("cosine_similarity", p(2, 3, 4), p(2, 3, 4), 1, free="012 012"),
)

NORMALISE = (
    a("batch_norm", p(4, 3, 2), p(3), p(3), p(3), q(3), False, 0.1, 1e-5, True, free="012 0 0 0 0"),
    a("batch_norm", p(4, 3), None, None, p(3), q(3), False, 0.1, 1e-5, True, free="01 0 0"),
    a("native_batch_norm", p(4, 3, 2), p(3), p(3), p(3), q(3), False, 0.1, 1e-5, free="012 0 0 0 0"),
    a(
        "_native_batch_norm_legit_no_training",
        p(4, 3, 2),
        p(3),
        p(3),
        p(3),
        q(3),
        0.1,
        1e-5,
        free="012 0 0 0 0",
    ),
    a("_native_batch_norm_legit.no_stats", p(4, 3, 2), p(3), p(3), True, 0.1, 1e-5, free="012 0 0"),
    a("_batch_norm_no_update", p(4, 3, 2), p(3), p(3), p(3), q(3), 0.1, 1e-5, free="012 0 0 0 0"),
    a("instance_norm", p(2, 3, 5), p(3), p(3), None, None, True, 0.1, 1e-5, True, free="012 0 0"),
    a("layer_norm", p(2, 5, 4), [4], p(4), p(4), free="012 0 0"),
    a("layer_norm", p(2, 5, 4), [5, 4], p(5, 4), None, free="012 01"),
    a("native_layer_norm", p(2, 5, 4), [4], p(4), p(4), 1e-5, free="012 0 0"),
    a("rms_norm", p(2, 5, 4), [4], p(4), free="012 0"),
    a("group_norm", p(2, 6, 4), 3, p(6), p(6), free="012 0 0"),
    a("group_norm", p(2, 3, 4), 3, p(3), p(3), free="012 0 0"),
    a("native_group_norm", p(2, 6, 4), p(6), p(6), 2, 6, 4, 2, 1e-5, free="012 0 0"),
    a("_weight_norm", p(3, 4, 2), p(3, 1, 1), 0, free="012 0"),
    a("_weight_norm_interface", p(3, 4), p(3, 1), 0, free="01 0"),
)

WINDOW = (
    a("max_pool1d", p(2, 3, 6), [2], free="01"),
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
    a("max_unpool2d", p(2, 3, 2, 2), Operand(pooled), [4, 4], free="01 01"),
    a("max_unpool3d", p(2, 3, 2, 2, 2), Operand(pooled_3d), [4, 4, 4], [2, 2, 2], [0, 0, 0], free="01 01"),
)

RECURRENT = (
    a(
        "lstm.input",
        *(p(5, 2, 3), [p(1, 2, 4), p(1, 2, 4)], [p(16, 3), p(16, 4), p(16), p(16)]),
        *(True, 1, 0.0, False, False, False),
        free="12 12 12 01 01 0 0",
    ),
    a(
        "lstm.input",
        *(p(2, 5, 3), [p(2, 2, 3), p(2, 2, 4)]),
        [p(16, 3), p(16, 3), p(3, 4), p(16, 3), p(16, 3), p(3, 4)],
        *(False, 1, 0.0, False, True, True),
        free="02 12 12 01 01 01 01 01 01",
    ),
    a(
        "gru.input",
        *(p(2, 5, 3), p(2, 2, 4), [p(12, 3), p(12, 4), p(12), p(12), p(12, 4), p(12, 4), p(12), p(12)]),
        *(True, 2, 0.0, False, False, True),
        free="02 12 01 01 0 0 01 01 0 0",
    ),
    a(
        "gru.input",
        *(x(5, 2, 3), p(1, 2, 4), [p(12, 3), p(12, 4)]),
        *(False, 1, 0.0, False, False, False),
        free="2 0 01",
    ),
    *(
        a(
            f"{n}.input",
            *(p(5, 2, 3), p(1, 2, 4), [p(4, 3), p(4, 4), p(4), p(4)]),
            *(True, 1, 0.0, False, False, False),
            free="12 12 01 01 0 0",
        )
        for n in ("rnn_tanh", "rnn_relu")
    ),
    a("lstm_cell", p(2, 3), [p(2, 4), p(2, 4)], p(16, 3), p(16, 4), p(16), p(16), free="01 01 01 01 01 0 0"),
    a("gru_cell", p(2, 3), p(2, 4), p(12, 3), p(12, 4), free="01 01 01 01"),
    *(
        a(n, p(2, 3), p(2, 4), p(4, 3), p(4, 4), p(4), p(4), free="01 01 01 01 0 0")
        for n in ("rnn_tanh_cell", "rnn_relu_cell")
    ),
)

# Dimensions of equal size: whatever is read the wrong way round fits, and only numbers tell.
SQUARE = (
    a("conv2d", p(2, 4, 5, 5), p(4, 4, 3, 3), p(4), free="01 01 0"),
    a("conv2d", p(2, 6, 4, 4), p(6, 2, 1, 1), None, [1, 1], [0, 0], [1, 1], 3, free="01 01"),
    a("conv_transpose2d.input", p(2, 4, 5, 5), p(4, 4, 3, 3), p(4), free="01 01 0"),
    a("linear", p(4, 4), p(4, 4), p(4), free="01 01 0"),
    a("matmul", p(4, 4), p(4, 4), free="01 01"),
    a("matmul", p(3, 3, 3), p(3, 3), free="012 01"),
    a("matmul", p(3, 3, 3, 3), p(3, 3, 3), free="0123 012"),
    a("bmm", p(3, 3, 3), p(3, 3, 3), free="012 012"),
    a("addmm", p(3, 3), p(3, 3), p(3, 3), free="01 01 01"),
    a("scaled_dot_product_attention", p(3, 3, 3, 3), p(3, 3, 3, 3), p(3, 3, 3, 3), free="0123 0123 0123"),
    a(
        "scaled_dot_product_attention",
        *(p(3, 3, 3, 3), p(3, 3, 3, 3), p(3, 3, 3, 3), p(3, 3)),
        free="0123 0123 0123 01",
    ),
    a("einsum", "ij,jk->ki", [p(3, 3), p(3, 3)], free="01 01"),
    a("einsum", "ji", [p(3, 3)], free="01"),
    a("bilinear", p(3, 3), p(3, 3), p(3, 3, 3), p(3), free="01 01 012 0"),
    a("view", p(3, 9), [3, 3, 3], free="01"),
    a("flatten.using_ints", p(3, 3, 3), 1, free="012"),
    a("expand", p(3, 3), [3, 3, 3], free="01"),
    a("permute", p(3, 3, 3), [1, 2, 0], free="012"),
    a("transpose.int", p(3, 3, 3), 0, 2, free="012"),
    a("movedim.intlist", p(3, 3, 3), [0], [2], free="012"),
    a("mT", p(3, 3, 3), free="012"),
    a("stack", [p(3, 3), p(3, 3), p(3, 3)], 1, free="01 01 01"),
    a("cat", [p(3, 3), p(3, 3)], 1, free="01 01"),
    a("sum.dim_IntList", p(4, 4, 4), [1], free="012"),
    a("mean.dim", p(4, 4, 4), [1], free="012"),
    a("softmax.int", p(4, 4), 1, free="01"),
    a("cumsum", p(4, 4), 1, free="01"),
    a("cosine_similarity", p(4, 4, 4), p(4, 4, 4), 1, free="012 012"),
    a("batch_norm", p(4, 4, 4), p(4), p(4), p(4), q(4), False, 0.1, 1e-5, True, free="012 0 0 0 0"),
    a("layer_norm", p(4, 4, 4), [4], p(4), p(4), free="012 0 0"),
    a("layer_norm", p(4, 4, 4), [4, 4], p(4, 4), p(4, 4), free="012 01 01"),
    a("group_norm", p(4, 4, 4), 2, p(4), p(4), free="012 0 0"),
    a("add.Tensor", p(3, 3, 3), p(3, 3), free="012 01"),
    a("floor_divide", p(3, 3), q(3), free="01 0"),
    a("where.self", b([True, False, True]), p(3, 3), p(3), free="1 01 0"),
    a(
        "lstm.input",
        *(p(4, 4, 4), [p(1, 4, 4), p(1, 4, 4)], [p(16, 4), p(16, 4), p(16), p(16)]),
        *(True, 1, 0.0, False, False, True),
        free="02 12 12 01 01 0 0",
    ),
    a("gru_cell", p(4, 4), p(4, 4), p(12, 4), p(12, 4), p(12), p(12), free="01 01 01 01 0 0"),
)

SAMPLES: tuple[Sample, ...] = (
    *TAGGED,
    *POINTWISE,
    *SAME,
    *CONTRACT,
    *MOVEMENT,
    *REDUCE,
    *NORMALISE,
    *WINDOW,
    *FACTORY,
    *LINES,
    *RECURRENT,
    *SQUARE,
)

# Operators that return no tensor, cannot run on a CPU, or exist only as in-place variants.
WITHOUT_SAMPLE = {
    "aten::ctc_loss": "only pins: a loss of classes",
    "aten::_ctc_loss": "only pins: a loss of classes",
    "torchvision::ps_roi_align": "only pins: channels are cells of a region",
    "torchvision::ps_roi_pool": "only pins: channels are cells of a region",
    "aten::_assert_async": "returns nothing",
    "aten::_assert_tensor_metadata": "returns nothing",
    "aten::_assert_scalar": "returns nothing",
    "aten::sym_constrain_range_for_size": "returns nothing",
    "aten::requires_grad": "in place only",
    "aten::cudnn_batch_norm": "needs a GPU",
    "aten::_batch_norm_with_update": "updates statistics: training only",
    "aten::tensor": "Python bindings turn it into a constant",
}

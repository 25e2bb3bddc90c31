"""Samples of what works on every entry by itself, or hands its operand on."""

from __future__ import annotations

import torch

from fxprune.testing.samples.base import Operand
from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import buffer as b
from fxprune.testing.samples.base import given as x
from fxprune.testing.samples.base import parameter as p
from fxprune.testing.samples.base import positive as q

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
    a("frexp.Tensor", p(2, 3), free="01"),
    a("isclose", p(2, 3), p(3), 0.5, free="01 0"),
    a("isreal", p(2, 3), free="01"),
    a("special_ndtr", p(2, 3), free="01"),
    a("broadcast_tensors", [p(2, 3), p(3), p(2, 1)], free="01 0 0"),
    a("broadcast_tensors", [p(3, 3), p(3)], free="01 0"),
    a("outer", p(3), p(4), free="0 0"),
    a("outer", p(3), p(3), free="0 0"),
    a("maximum", p(2, 3), p(3), free="01 0"),
    a("minimum", p(2, 3), p(3), free="01 0"),
    a("glu", p(2, 6), 1, free="01"),
    a("glu", p(4, 3), 0, free="01"),
    a("prelu", p(2, 3, 4), p(3), free="012 0"),
    a("prelu", p(2, 3, 4), p(1), free="012 -"),
)

# Second names, which torch does not tag.
UNARY_ALIASES = (
    *("absolute", "arccos", "arcsin", "arcsinh", "arctan", "arctanh", "fix", "negative", "special_digamma"),
    *(f"special_{n}" for n in ("erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0", "log1p")),
    *(f"special_{n}" for n in ("logit", "psi", "round", "sinc")),
)
BINARY_ALIASES = (
    *("divide.Tensor", "multiply.Tensor", "subtract.Tensor", "true_divide.Tensor", "arctan2"),
    *(f"{n}.Tensor" for n in ("greater", "greater_equal", "less", "less_equal", "not_equal")),
    *("special_gammainc", "special_gammaincc", "special_xlogy"),
)
ALIASED = (
    *(a(name, q(3, 4), free="01") for name in UNARY_ALIASES),
    *(a(name, q(3, 4), q(4), free="01 0") for name in BINARY_ALIASES),
    a("arccosh", Operand(lambda: torch.rand(3, 4, dtype=torch.float64) + 1.5), free="01"),
    a("special_polygamma", 1, q(3, 4), free="01"),
    a("special_multigammaln", Operand(lambda: torch.rand(3, 4, dtype=torch.float64) + 2), 2, free="01"),
    *(
        a(name, b([True, False, True], [False, False, True]), b(True, True, False), free="01 0")
        for name in ("__and__.Tensor", "__or__.Tensor", "__iand__.Tensor", "__ior__.Tensor")
    ),
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
    *(a(n, p(2, 3), free="01", chance=True) for n in ("exponential", "cauchy", "log_normal", "random")),
    a("geometric", p(2, 3), 0.5, free="01", chance=True),
    a("normal.Tensor_float", p(2, 3), 1.0, free="01", chance=True),
    a("nan_to_num", p(2, 3), free="01"),
    a("float_power.Tensor_Scalar", q(2, 3), 2, free="01"),
    a("_autocast_to_reduced_precision", p(2, 3), False, False, torch.float16, torch.bfloat16, free="01"),
    a("_autocast_to_full_precision", p(2, 3), False, False, free="01"),
)

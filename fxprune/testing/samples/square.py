"""Samples whose dimensions are equally long: a rule that confuses them fits all the same."""

from __future__ import annotations

from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import buffer as b
from fxprune.testing.samples.base import parameter as p
from fxprune.testing.samples.base import positive as q

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

"""Samples of sums, means and what else ends with fewer positions."""

from __future__ import annotations

from fxprune.testing.samples.base import aten as a
from fxprune.testing.samples.base import buffer as b
from fxprune.testing.samples.base import parameter as p

INF = float("inf")

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

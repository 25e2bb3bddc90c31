"""Operators that work on the last dimensions as a whole and on all others one by one (pooling, resampling)."""

from __future__ import annotations

from collections.abc import Callable

from fxprune import labels
from fxprune.ops.base import Call, Context, OpRule, Output, Value, solid

__all__ = ["RULES"]


def _window(count: int) -> Callable[[Context, Call], Output]:
    """Rule for an op whose window spans the last ``count`` dimensions of its first tensor."""

    def rule(ctx: Context, call: Call) -> Output:
        x = call.tensors()[0]
        first = x.rank - count
        rows = solid(ctx, x, first, "the op slides or resamples along this axis")
        ctx.pin(call.others(), "read as coordinates here")
        good = tuple(a.reshape(*a.shape, *(1,) * count) for a in rows.arrays)
        if isinstance(call.out, list):
            return [Value(shape, good, x.origin) for shape in call.out]
        return Value(call.out, good, x.origin)

    return rule


def _sampled(ctx: Context, call: Call) -> Output:
    """Sampling at coordinates: every picture has its own, so none of them may go."""
    x = call.tensor("input")
    ctx.pin([a for a in x.arrays if a.shape[0] > 1], "pictures pair up with coordinates")
    return _window(x.rank - 2)(ctx, call)


def _per_region(ctx: Context, call: Call) -> Output:
    """Region pooling: channels pass, the first axis becomes the regions."""
    x = call.tensors()[0]
    bad = [a for a in x.arrays if any(d != 1 for d in labels.varying(a))]
    if bad:
        ctx.pin(bad, "regions are cut from this axis")
    ctx.pin(call.others(), "read as coordinates here")
    good = tuple(a for a in x.arrays if labels.varying(a) == (1,))
    if isinstance(call.out, list):
        return [Value(shape, good) for shape in call.out]
    return Value(call.shape, good)


POOLS = (
    "max_pool{n}d",
    "avg_pool{n}d",
    "adaptive_avg_pool{n}d",
    "adaptive_max_pool{n}d",
)
ONE = (
    *(p.format(n=1) for p in POOLS),
    "max_pool1d_with_indices",
    *("upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_linear1d"),
    *("reflection_pad1d", "replication_pad1d"),
)
TWO = (
    *(p.format(n=2) for p in POOLS),
    *("_adaptive_avg_pool2d", "max_pool2d_with_indices"),
    *("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d"),
    *("tril", "triu", "linalg_inv", "inverse"),
)
THREE = (
    *(p.format(n=3) for p in POOLS),
    *(
        "_adaptive_avg_pool3d",
        "max_pool3d_with_indices",
        "upsample_nearest3d",
        "_upsample_nearest_exact3d",
        "upsample_trilinear3d",
    ),
    *("reflection_pad3d", "replication_pad3d"),
)

RULES = (
    OpRule(tuple(f"aten::{n}" for n in ONE), _window(1)),
    OpRule(tuple(f"aten::{n}" for n in TWO), _window(2)),
    OpRule(tuple(f"aten::{n}" for n in THREE), _window(3)),
    OpRule(("aten::grid_sampler", "aten::grid_sampler_2d", "aten::grid_sampler_3d"), _sampled),
    OpRule(("torchvision::roi_align", "torchvision::roi_pool"), _per_region),
)

"""Normalisation layers: a per-channel affine and statistics over some dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from fxprune import labels
from fxprune.ops.base import Call, Context, OpRule, Output, Rewrite, Value, across
from fxprune.ops.moving import live_groups
from fxprune.ops.reduce import reduced

__all__ = ["BATCH_NORMS", "RULES"]

PARAMETERS = ("weight", "bias", "running_mean", "running_var")


def _channelwise(ctx: Context, call: Call, x: Value, dim: int) -> Value:
    """Tie every per-channel vector of the call with dimension ``dim`` of the input."""
    vectors = [v for n in PARAMETERS if (v := call.optional(n)) is not None]
    rank = x.rank
    lifted = [
        Value(
            tuple(v.shape[0] if d == dim else 1 for d in range(rank)),
            tuple(labels.along(a.ravel(), dim, rank) for a in v.arrays),
        )
        for v in vectors
    ]
    return Value(x.shape, ctx.merge([x, *lifted], x.shape), x.origin)


def _results(ctx: Context, call: Call, value: Value, x: Value, dims: Iterable[int], *, keep: bool) -> Output:
    """Some variants also return statistics over ``dims`` of ``x``; they carry labels where somebody reads them."""
    if not isinstance(call.out, list):
        return value
    shapes = call.out[1:]
    if not any(k in call.used and prod(s) for k, s in enumerate(shapes, 1)):
        return [value, *map(Value, shapes)]
    moments = reduced(ctx, x, tuple(dims), exact=False, keep=keep, argument="input")
    return [value, *(moments if s == moments.shape else Value(s) for s in shapes)]


def _per_channel(ctx: Context, call: Call) -> Output:
    """Batch and instance norm: each channel has its own statistics, kept ones or those of the input."""
    x = call.tensor("input")
    first = 2 if call.op == "aten::instance_norm" else 0
    if call.optional("running_mean") is None or call.args.get("use_input_stats", call.args.get("training")):
        seen = [a for a in x.arrays if any(d != 1 and d >= first for d in labels.varying(a))]
        ctx.inexact(seen)
        across(ctx, seen, [d for d in range(first, x.rank) if d != 1])
    others = [d for d in range(x.rank) if d != 1]
    return _results(ctx, call, _channelwise(ctx, call, x, 1), x, others, keep=False)


def _layer_norm(ctx: Context, call: Call) -> Output:
    """Layer and rms norm: statistics run over the last dimensions."""
    x = call.tensor("input")
    count = len(call.integers("normalized_shape"))
    first = x.rank - count
    seen = [a for a in x.arrays if any(d >= first for d in labels.varying(a))]
    if seen:
        ctx.inexact(seen)
        across(ctx, seen, range(first, x.rank))
    vectors = []
    for name in ("weight", "bias"):
        value = call.optional(name)
        if value is not None:
            pad = (1,) * first
            vectors.append(
                Value((*pad, *value.shape), tuple(a.reshape(*pad, *a.shape) for a in value.arrays))
            )
    value = Value(x.shape, ctx.merge([x, *vectors], x.shape), x.origin)
    return _results(ctx, call, value, x, range(first, x.rank), keep=True)


def _resize_layer_norm(dense: Call, slim: Call) -> Rewrite:
    count = len(dense.integers("normalized_shape"))
    return Rewrite({"normalized_shape": list(slim.tensor("input").shape[-count:])})


def _group_norm(group_name: str) -> Callable[[Context, Call], Output]:
    def rule(ctx: Context, call: Call) -> Output:
        x = call.tensor("input")
        groups = call.integer(group_name)
        split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        parts = Value(split, tuple(labels.reshape(a, x.shape, split) for a in x.arrays))
        across(ctx, parts.arrays, range(2, len(split)))
        for array in x.arrays:
            axes = labels.varying(array)
            if (split[2] > 1 and 1 in axes) or any(d > 1 for d in axes):
                ctx.inexact([array])
        value = _channelwise(ctx, call, x, 1)
        return _results(ctx, call, value, parts, range(2, len(split)), keep=False)

    return rule


def _resize_group_norm(group_name: str) -> Callable[[Call, Call], Rewrite]:
    def resize(dense: Call, slim: Call) -> Rewrite:
        """The norm keeps its groups; those that died whole are gone."""
        x, y = dense.tensor("input"), slim.tensor("input")
        groups = dense.integer(group_name)
        if x.shape == y.shape:
            return Rewrite()
        count = live_groups(x, y, 1, x.shape[1] // groups)
        changed: dict[str, object] = {group_name: count}
        if "C" in dense.args:
            changed |= {"N": y.shape[0], "C": y.shape[1], "HxW": prod(y.shape[2:])}
        return Rewrite(changed)

    return resize


def _weight_norm(ctx: Context, call: Call) -> Output:
    """``g * v / ||v||``, the norm over every dimension but ``dim``."""
    v, g = call.tensor("v"), call.tensor("g")
    dim = call.integer("dim") % v.rank
    other = [a for a in v.arrays if any(d != dim for d in labels.varying(a))]
    if other:
        ctx.consume("v", other)
    shape = call.out[0] if isinstance(call.out, list) else call.out
    weight = Value(shape, ctx.merge([v, g], shape))
    return [weight, g] if isinstance(call.out, list) else weight


BATCH_NORMS = (
    "aten::batch_norm",
    "aten::native_batch_norm",
    "aten::_native_batch_norm_legit_no_training",
    "aten::_native_batch_norm_legit",
    "aten::cudnn_batch_norm",
    "aten::_batch_norm_with_update",
    "aten::_batch_norm_no_update",
)


def _along_channels(call: Call) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(PARAMETERS, (1,))


def _along_last(call: Call) -> dict[str, tuple[int, ...]]:
    rank = call.tensor("input").rank
    return dict.fromkeys(PARAMETERS, tuple(range(rank - len(call.integers("normalized_shape")), rank)))


RULES = (
    OpRule((*BATCH_NORMS, "aten::instance_norm"), _per_channel, aligned=_along_channels),
    OpRule(
        ("aten::layer_norm", "aten::native_layer_norm", "aten::rms_norm"),
        *(_layer_norm, _resize_layer_norm),
        aligned=_along_last,
    ),
    OpRule(
        ("aten::group_norm",),
        *(_group_norm("num_groups"), _resize_group_norm("num_groups")),
        aligned=_along_channels,
    ),
    OpRule(
        ("aten::native_group_norm",),
        *(_group_norm("group"), _resize_group_norm("group")),
        aligned=_along_channels,
    ),
    OpRule(("aten::_weight_norm", "aten::_weight_norm_interface"), _weight_norm),
)

"""What operators cost a runtime beside multiply-accumulates: sweeps over their result.

A sweep is one reading and writing of a float32 result by plain code.  Views sweep over nothing, nor does what a runtime fuses
into the layer before: batch norm, an activation that a convolution's kernel applies.  The numbers are rough, relative to an addition:
chains of single operators timed by hand in onnxruntime, transposes and norms as they fit whole transformers
(``tools/results/LATENCY_MODEL.md``); a measurement of the whole model corrects what they miss.

Beside that every operator that a runtime runs takes a while to be begun, however small it is: `operators`.
"""

from __future__ import annotations

__all__ = [
    "ATTENTION",
    "BATCH_NORM",
    "CHANNELWISE",
    "FUSED",
    "PAIRS",
    "PERMUTE",
    "RUNS",
    "SCORES",
    "TRANSPOSE",
    "operators",
    "sweeps",
]

ATTENTION = "aten::scaled_dot_product_attention"

TRANSPOSE, PERMUTE = "aten::transpose", "aten::permute"

RUNS = 1.0
"""Sweeps of a transpose that leaves the last dimension the last: whole runs of entries are copied."""

SCORES = 3.0
"""Sweeps over the scores of attention: what makes them writes them, a softmax."""

FUSED = frozenset(
    f"aten::{name}"
    for name in (
        "batch_norm",
        "relu",
        "relu_",
        "hardtanh",
        "hardtanh_",
        "relu6",
        "leaky_relu",
        "dropout",
        "identity",
    )
)
CHANNELWISE = {
    *FUSED,
    *(
        f"aten::{name}{way}"
        for name in ("sigmoid", "hardsigmoid", "silu", "hardswish", "tanh", "elu", "gelu", "softplus")
        for way in ("", "_")
    ),
    *("aten::contiguous", "aten::clone", "aten::detach", "aten::alias"),
    *("aten::max_pool2d", "aten::avg_pool2d", "aten::adaptive_avg_pool2d", "aten::adaptive_max_pool2d"),
}
"""Leave the channels of an image what they are, each by itself."""

PAIRS = {f"aten::{name}{way}" for name in ("add", "sub", "mul") for way in ("", "_")}
"""Join two images channel by channel."""

BATCH_NORM = "aten::batch_norm"

_VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        *(
            "view",
            "reshape",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "select",
            "expand",
            "detach",
            "alias",
        ),
        *(
            "contiguous",
            "chunk",
            "split",
            "split_with_sizes",
            "unbind",
            "slice",
            "t",
            "to",
            "_to_copy",
            "narrow",
        ),
    )
)
_SWEEPS = {
    **{
        f"aten::{name}": 1.5
        for name in ("layer_norm", "group_norm", "native_layer_norm", "instance_norm", "rms_norm")
    },
    **{f"aten::{name}": 2.0 for name in ("softmax", "log_softmax", "_softmax")},
    **{f"aten::{name}": 1.8 for name in ("gelu", "erf", "tanh")},
    **{f"aten::{name}": 1.0 for name in ("sigmoid", "sigmoid_")},
    **{f"aten::{name}": 0.6 for name in ("silu", "silu_")},
    **{f"aten::{name}": 1.5 for name in ("hardswish", "hardswish_")},
    **{f"aten::{name}": 2.5 for name in ("transpose", "permute", "movedim")},
    "aten::roll": 4.0,
    **{f"aten::{name}": 1.0 for name in ("cat", "stack")},
    "aten::pixel_shuffle": 2.5,
}
_NOTHING = frozenset(
    f"aten::{name}" for name in ("contiguous", "detach", "alias", "to", "_to_copy", "expand")
)
_SEVERAL = {ATTENTION: 8}


def sweeps(op: str) -> float:
    """Sweeps over the result of an operator.

    Args:
        op: Qualified name, as ``aten::gelu``.

    Example:
        >>> sweeps("aten::gelu"), sweeps("aten::view"), sweeps("aten::add")
        (1.8, 0.0, 1.0)
    """
    if op in FUSED or op in _VIEWS:
        return 0.0
    return _SWEEPS.get(op, 1.0)


def operators(op: str, rank: int) -> int:
    """Operators that a runtime runs for one of torch's.

    Args:
        op: Qualified name.
        rank: Dimensions of its result: a linear layer of more than two has reshapes around it.

    Example:
        >>> operators("aten::view", 3), operators("aten::relu", 4), operators("aten::linear", 3), operators("aten::linear", 2)
        (1, 0, 3, 1)
    """
    if op in FUSED or op in _NOTHING:
        return 0
    if op == "aten::linear":
        return 3 if rank > 2 else 1
    return _SEVERAL.get(op, 1)

"""What operators cost a runtime beside multiply-accumulates: sweeps over their result.

A sweep is one reading and writing of a float32 result by plain code.  Views cost nothing, nor does what a runtime fuses
into the layer before: batch norm, an activation that a convolution's kernel applies.  The numbers are rough, from chains of
single operators timed by hand in onnxruntime, relative to an addition: no tool makes them yet, and a measurement of the
whole model corrects what they miss.
"""

from __future__ import annotations

__all__ = ["sweeps"]

_FUSED = frozenset(
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
        f"aten::{name}": 2.0
        for name in ("layer_norm", "group_norm", "native_layer_norm", "instance_norm", "rms_norm")
    },
    **{f"aten::{name}": 1.8 for name in ("softmax", "log_softmax", "_softmax")},
    **{f"aten::{name}": 2.7 for name in ("gelu", "erf", "tanh")},
    **{f"aten::{name}": 1.2 for name in ("silu", "silu_", "sigmoid", "sigmoid_")},
    **{f"aten::{name}": 3.0 for name in ("hardswish", "hardswish_")},
    **{
        f"aten::{name}": 2.0
        for name in ("transpose", "permute", "movedim", "roll", "cat", "stack", "pixel_shuffle")
    },
}


def sweeps(op: str) -> float:
    """Sweeps over the result of an operator.

    Args:
        op: Qualified name, as ``aten::gelu``.

    Example:
        >>> sweeps("aten::gelu"), sweeps("aten::view"), sweeps("aten::add")
        (2.7, 0.0, 1.0)
    """
    if op in _FUSED or op in _VIEWS:
        return 0.0
    return _SWEEPS.get(op, 1.0)

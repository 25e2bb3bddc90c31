"""What operators cost a runtime beside multiply-accumulates: passes over their result.

A pass is one reading and writing of a float32 result by plain code.  Views cost nothing, nor does what a runtime fuses
into the layer before: batch norm, an activation that a convolution's kernel applies, a sum of two paths.  Measured with
onnxruntime (``python tools/runtime_facts.py``), relative to an addition.
"""

from __future__ import annotations

__all__ = ["passes"]

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
_PASSES = {
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


def passes(op: str) -> float:
    """Passes over the result of an operator.

    Args:
        op: Qualified name, as ``aten::gelu``.

    Example:
        >>> passes("aten::gelu"), passes("aten::view"), passes("aten::add")
        (2.7, 0.0, 1.0)
    """
    if op in _FUSED or op in _VIEWS:
        return 0.0
    return _PASSES.get(op, 1.0)

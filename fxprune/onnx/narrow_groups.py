"""Neighbouring narrow groups of a grouped convolution as one group: zeros between them, the blocked kernel for all.

onnxruntime keeps a grouped convolution in its layout of blocks only where every group reads and makes whole blocks of
channels; others run a slow kernel and are converted to and fro.  Groups of 8 channels, two by two, do twice the
multiply-accumulates several times as fast.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fxprune.onnx.graph_edits import constant, integer, replace_constant
from fxprune.targets import Target

__all__ = ["merge_narrow_groups"]


def merge_narrow_groups(model: ir.Model, target: Target) -> int:
    """Merge groups where that is faster on the target, in place.

    Args:
        model: An ONNX graph; weights are constants.
        target: Where it is to run.

    Returns:
        How many convolutions were changed.
    """
    return sum(_merged(node, target) for node in model.graph.all_nodes() if node.op_type == "Conv")


def _merged(node: ir.Node, target: Target) -> bool:
    groups = integer(node, "group", 1)
    weight = constant(node.inputs[1])
    if weight is None or groups == 1:
        return False
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    together = target.groups_together(groups, inputs, outputs)
    if together == 1:
        return False
    replace_constant(node, 1, _block_diagonal(weight, groups, together))
    node.attributes["group"] = ir.AttrInt64("group", groups // together)
    return True


def _block_diagonal(weight: np.ndarray, groups: int, together: int) -> np.ndarray:
    """Weights of merged groups: float[o, i, *kernel] to float[o, together * i, *kernel]."""
    outputs, inputs, *kernel = weight.shape
    parts = weight.reshape(groups // together, together, outputs // groups, inputs, *kernel)
    wide = np.zeros(
        (groups // together, together, outputs // groups, together, inputs, *kernel), weight.dtype
    )
    each = np.arange(together)
    # Advanced indices apart come first: [together, merged, outputs, inputs, *kernel].
    wide[:, each, :, each] = np.moveaxis(parts, 1, 0)
    return wide.reshape(outputs, together * inputs, *kernel)

"""Sums before a layer norm, written so that the runtime leaves the two apart.

onnxruntime fuses an addition and the layer norm that alone reads it (``SkipLayerNormalization``: every block of BERT, whose norms come
after the residual).  On a CPU the fused operator takes about ten times as long as the two
(``tools/results/RUNTIME.md``).  A ``Sum`` of two is the same addition, and is not fused.
"""

from __future__ import annotations

import onnx_ir as ir

from fxprune.targets import Target

__all__ = ["sums_before_norms"]


def sums_before_norms(model: ir.Model, target: Target) -> int:
    """Write additions that only a layer norm reads as ``Sum``, in place.

    Args:
        model: An ONNX graph.
        target: Where it is to run; nothing is done where nothing is known of it.

    Returns:
        How many additions were changed.
    """
    if target.facts.block == 1:
        return 0
    norms = [node for node in model.graph.all_nodes() if node.op_type == "LayerNormalization"]
    return sum(_apart(norm.inputs[0]) for norm in norms)


def _apart(total: ir.Value | None) -> bool:
    node = None if total is None else total.producer()
    if node is None or node.op_type != "Add" or node.domain or total is None:
        return False
    if (
        total.is_graph_output()
        or len(total.uses()) > 1
        or any(v is None or v.const_value is not None for v in node.inputs)
    ):
        return False
    node.op_type = "Sum"
    return True

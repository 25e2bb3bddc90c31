"""Rewrite rules for exported ONNX graphs: the same function in the operators the runtime runs best.

Each rule is exact up to float rounding, refuses with a reason, and stands in `RULES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase, RewriteRuleSet

__all__ = ["RULES", "rewrite"]


class _Ops(Protocol):
    """Makes nodes: ``op.Relu(x)``."""

    def __getattr__(self, name: str) -> Callable[..., ir.Value]: ...


class _SpatialMean(RewriteRuleClassBase):
    """``ReduceMean(x, axes=[2, 3])`` of an image batch is ``GlobalAveragePool(x)``.

    onnxruntime's convolutions keep images in a layout of blocks of channels.  GlobalAveragePool
    reads it, ReduceMean does not, so every squeeze-excite gate between two convolutions costs a
    conversion there and back.  Measured on one thread: EfficientNet-B0 1.02 times faster (32
    conversions become 16), MobileNetV3 and nets with one pooling at the end unchanged.

    Only four dimensions: of fewer, a mean over the last one is more often a normalisation, which
    the runtime fuses as it stands; onnxruntime's kernel is for float32.
    """

    def pattern(self, op: _Ops, x: ir.Value, axes: ir.Value) -> ir.Value:
        """The nodes to replace."""
        return op.ReduceMean(x, axes, _allow_other_attributes=True, _outputs=["mean"])

    def check(self, context: object, x: ir.Value, axes: ir.Value, mean: ir.Value) -> MatchResult:
        """Whether they mean what the rule says, or why not."""
        result = MatchResult()
        if x.shape is None or len(x.shape) != 4:
            return result.fail("not known to have four dimensions", x)
        if x.dtype != ir.DataType.FLOAT:
            return result.fail("not float32", x)
        constant = ir.convenience.get_const_tensor(axes)
        if constant is None or sorted(int(a) % 4 for a in constant.numpy().reshape(-1)) != [2, 3]:
            return result.fail("not over the two image dimensions", axes)
        return result

    def rewrite(self, op: _Ops, x: ir.Value, axes: ir.Value, mean: ir.Value) -> ir.Value:
        """The nodes to put in their place."""
        node = mean.producer()
        assert node is not None
        pooled = op.GlobalAveragePool(x)
        keeps = node.attributes.get("keepdims")
        if keeps is None or keeps.as_int():
            return pooled
        return op.Flatten(pooled, axis=1)


RULES: tuple[tuple[str, type[RewriteRuleClassBase]], ...] = (
    ("ReduceMean -> GlobalAveragePool", _SpatialMean),
)
"""Name and rule, applied in this order."""


def rewrite(model: ir.Model) -> tuple[str, ...]:
    """Apply all rules to a model in place.

    Returns:
        What was done, as ``"9 x ReduceMean -> GlobalAveragePool"``.
    """
    counts = Counter(
        {name: RewriteRuleSet([rule.rule()]).apply_to_model(model) for name, rule in RULES},
    )
    common_passes.RemoveUnusedNodesPass()(model)
    return tuple(f"{count} x {name}" for name, count in counts.items() if count)

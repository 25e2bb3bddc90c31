"""Passes over exported ONNX graphs: the same function as the target runs it best.

Each is exact up to float rounding, done only where the target's facts say that it is faster, named in the report,
and switchable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from fxprune.errors import ExportError
from fxprune.onnx.narrow_groups import merge_narrow_groups
from fxprune.onnx.norms import sums_before_norms
from fxprune.onnx.padding import pad_channels
from fxprune.onnx.rewrite_rules import linear_as_gemm, mean_as_pooling
from fxprune.support.words import near
from fxprune.targets import Target

__all__ = ["PASSES", "apply_passes", "check_passes"]

Pass = Callable[[ir.Model, Target], int]
"""Changes a graph in place for a target; gives the number of places."""

PASSES: Mapping[str, Pass] = {
    "pooling": mean_as_pooling,
    "gemm": linear_as_gemm,
    "padding": pad_channels,
    "groups": merge_narrow_groups,
    "norms": sums_before_norms,
}
"""By name, applied in this order."""


def check_passes(names: Sequence[str] | None) -> tuple[str, ...]:
    """Names of passes in the order in which they are applied; all of them for None.

    Raises:
        ExportError: There is no such pass.

    Example:
        >>> check_passes(["groups", "pooling"])
        ('pooling', 'groups')
    """
    wanted = set(PASSES if names is None else [names] if isinstance(names, str) else names)
    if odd := sorted(wanted - set(PASSES)):
        raise ExportError(
            f"there is no pass '{odd[0]}'",
            advice=f"{near(odd[0], PASSES, most=1)} choose from {', '.join(PASSES)}, or [] for none".strip(),
        )
    return tuple(name for name in PASSES if name in wanted)


def apply_passes(model: ir.Model, target: Target, names: Sequence[str]) -> dict[str, int]:
    """Apply passes to a graph in place.

    Returns:
        Places changed by pass, those only that found some.
    """
    counts = {name: PASSES[name](model, target) for name in names}
    common_passes.RemoveUnusedNodesPass()(model)
    return {name: count for name, count in counts.items() if count}

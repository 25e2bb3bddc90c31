"""What the walk does not take a rule's word for.

A number that only the data know moves positions nobody can follow; a result must have the shape that the
operator gives it.
"""

from __future__ import annotations

from math import prod

from fxprune.labels import varying
from fxprune.ops.base import Call, OpRule, Output, Value
from fxprune.ops.pointwise import pointwise
from fxprune.types import IntArray

__all__ = ["adrift", "flaw", "results"]

SETTLED = frozenset(
    {
        *(
            "size",
            "shape",
            "sizes",
            "output_size",
            "repeats",
            "scales",
            "scale_factors",
            "scales_h",
            "scales_w",
        ),
        *("kernel_size", "stride", "padding", "dilation", "output_padding", "input_size"),
        *("fill_value", "value", "eps", "momentum", "p", "min", "max", "other", "alpha"),
    }
)
"""Arguments in which such a number moves nothing but along the dimensions whose sizes it changes."""

DIMS = ("dim", "dims", "dimension", "dim1", "dim2", "dim0")


def results(output: Output) -> list[Value]:
    """What a rule returned, as a list."""
    held = output if isinstance(output, list) else [output]
    return [v for v in held if isinstance(v, Value)]


def adrift(call: Call, rule: OpRule) -> list[IntArray]:
    """Labels of the operands that a number may move which only the data know."""
    operands = call.tensors()
    if rule.fills or rule.couple is pointwise or not operands:
        return []
    made = call.out if isinstance(call.out, tuple) else ()
    # The number that stands for it may not be one that could be there.
    impossible = min(made, default=1) < 1 or (rule.regroups and prod(operands[0].shape) != prod(made))
    if not impossible and {name for name, _ in call.unsettled} <= SETTLED:
        return []
    named = [] if impossible else [n for n in DIMS if call.args.get(n) is not None]
    padded = {-1 - k // 2 for name, k in call.unsettled if name == "pad"}
    found: list[IntArray] = []
    for value in operands:
        dims = {d % max(value.rank, 1) for d in (*padded, *(d for n in named for d in call.integers(n)))}
        found.extend(a for a in value.arrays if not dims or dims & set(varying(a)))
    return found


def flaw(call: Call, output: Output) -> str:
    """What is wrong with the shape of a result or of its labels, or empty."""
    shapes = call.out if isinstance(call.out, list) else [call.out]
    held = output if isinstance(output, list) else [output]
    if output is not None and len(held) != len(shapes):
        return f"gives {len(held)} results where there are {len(shapes)}"
    for value, shape in zip(held, shapes, strict=False):
        if not isinstance(value, Value):
            continue
        if value.shape != shape:
            return f"gives a result of shape {value.shape} where it is {shape}"
        for array in value.arrays:
            if array.ndim != len(shape) or any(
                n not in (1, m) for n, m in zip(array.shape, shape, strict=True)
            ):
                return f"gives labels of shape {array.shape} for a result of shape {shape}"
    return ""

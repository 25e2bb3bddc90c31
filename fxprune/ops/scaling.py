"""How a positive factor on an operator's result can be moved into what it reads.

``relu(x) * m`` is ``relu(x * m)``, ``batch_norm(x, gamma, beta) * m`` is ``batch_norm(x, gamma * m, beta * m)``.
So a mask on the output of a branch ends in the parameters of its last affine operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fxprune.ops import contract, joining, normalise, picking, reordering, views, window
from fxprune.ops.pointwise import SAME

__all__ = ["Scaling", "scaling_of"]


@dataclass(frozen=True)
class Scaling:
    """Where a factor on the result goes.

    Attributes:
        into: ``"all"``: into every named argument that is there; ``"any"``: into one of them.
        arguments: Names in the operator's schema; none stands for the first tensor.
        needs: Arguments that must be there, or the result has a scale of its own.
    """

    into: Literal["all", "any"]
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


FIRST = Scaling("all")
AFFINE = Scaling("all", ("weight", "bias"), needs=("weight",))

# Of degree one for positive factors, in the first tensor.
HOMOGENEOUS = (
    *("relu", "leaky_relu", "prelu", "_prelu_kernel", "neg", "abs", "dropout", "div"),
    *("mean", "sum", "amax", "amin", "cumsum"),
)
# Handing on what they are given; those that fill with values of their own do not.
HANDING_ON = tuple(
    name
    for name in SAME
    if name.rpartition("::")[2]
    in ("contiguous", "clone", "alias", "detach", "to", "_to_copy", "feature_dropout")
)
NORMS = (
    *normalise.BATCH_NORMS[:1],
    "aten::instance_norm",
    "aten::layer_norm",
    "aten::group_norm",
    "aten::rms_norm",
)
WEIGHTED = tuple(
    name for rule in contract.RULES for name in rule.ops if name.startswith(("aten::conv", "aten::linear"))
)
_MOVEMENTS = (*views.RULES, *picking.RULES, *reordering.RULES, *joining.RULES)
MOVING = tuple(name for rule in _MOVEMENTS if rule.move is not None for name in rule.ops)
WINDOWS = tuple(name for rule in window.RULES for name in rule.ops if "pool" in name or "upsample" in name)

_TABLE: dict[str, Scaling] = {
    **{f"aten::{name}": FIRST for name in HOMOGENEOUS},
    **dict.fromkeys((*HANDING_ON, *MOVING, *WINDOWS), FIRST),
    **dict.fromkeys((*NORMS, *WEIGHTED), AFFINE),
    **dict.fromkeys(("aten::add", "aten::sub"), Scaling("all", ("self", "other"))),
    **dict.fromkeys(joining.CONCATENATIONS, Scaling("all", ("tensors",))),
    "aten::mul": Scaling("any", ("other", "self")),
    "aten::matmul": Scaling("any", ("other", "self")),
    "aten::bmm": Scaling("any", ("mat2", "self")),
    "aten::scaled_dot_product_attention": Scaling("all", ("value",)),
}


def scaling_of(name: str) -> Scaling | None:
    """Where a factor on the result of an operator goes, or None if nowhere.

    Args:
        name: Qualified name, as ``fxprune.ops.qualified_name`` gives it.

    Example:
        >>> scaling_of("aten::batch_norm").arguments, scaling_of("aten::gelu")
        (('weight', 'bias'), None)
    """
    return _TABLE.get(name)

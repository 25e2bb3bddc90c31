"""Second names of operators: what torch composes of exactly one other, and torch.export keeps under its own name."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ALIASES"]

_SAME: Mapping[str, str] = {
    **{f"arc{n}": f"a{n}" for n in ("cos", "cosh", "sin", "sinh", "tan", "tan2", "tanh")},
    "absolute": "abs",
    "divide": "div",
    "fix": "trunc",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "subtract": "sub",
    "true_divide": "div",
    "__and__": "bitwise_and",
    "__iand__": "bitwise_and",
    "__or__": "bitwise_or",
    "__ior__": "bitwise_or",
    **{
        f"special_{n}": n
        for n in ("digamma", "erf", "erfc", "erfinv", "exp2", "expm1", "i0", "log1p", "logit")
    },
    **{f"special_{n}": n for n in ("polygamma", "round", "sinc", "xlogy")},
    "special_expit": "sigmoid",
    "special_gammainc": "igamma",
    "special_gammaincc": "igammac",
    "special_gammaln": "lgamma",
    "special_multigammaln": "mvlgamma",
    "special_psi": "digamma",
    **{f"special_{n}": n for n in ("softmax", "log_softmax", "logsumexp")},
    "argwhere": "nonzero",
    "ger": "outer",
    "linalg_matmul": "matmul",
    "mH": "adjoint",
    "moveaxis": "movedim",
    "row_stack": "vstack",
    "trapz": "trapezoid",
}

ALIASES: Mapping[str, str] = {f"aten::{alias}": f"aten::{name}" for alias, name in _SAME.items()}
"""The name that rules go by; arguments are called the same, as far as a rule asks for one."""

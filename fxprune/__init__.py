"""fxprune: structural compression of PyTorch models, proved and measured."""

from fxprune.couple import couple
from fxprune.errors import (
    ExportError,
    FxpruneError,
    PlanError,
    RecipeError,
    SliceError,
    TraceError,
    UnsupportedOp,
    VerificationError,
)
from fxprune.plan import plan
from fxprune.slim import load, save, slim
from fxprune.trace import Trace, trace
from fxprune.types import Budget, Group, Plan
from fxprune.verify import verify

__all__ = [
    "Budget",
    "ExportError",
    "FxpruneError",
    "Group",
    "Plan",
    "PlanError",
    "RecipeError",
    "SliceError",
    "Trace",
    "TraceError",
    "UnsupportedOp",
    "VerificationError",
    "couple",
    "load",
    "plan",
    "save",
    "slim",
    "trace",
    "verify",
]

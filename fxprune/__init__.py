"""fxprune: structural compression of PyTorch models, proved and measured.

The stages, in order: ``trace``, ``couple``, ``plan``, ``slim``, ``verify``, ``export_onnx``, ``benchmark``;
``compress`` is all of them in one call.  Each has a page of documentation in its docstring.
"""

from fxprune import regularizers
from fxprune.bench import benchmark
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
from fxprune.export import export_onnx
from fxprune.inspect import dependency_graph, explain
from fxprune.pipeline import compress
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
    "benchmark",
    "compress",
    "couple",
    "dependency_graph",
    "explain",
    "export_onnx",
    "load",
    "plan",
    "regularizers",
    "save",
    "slim",
    "trace",
    "verify",
]

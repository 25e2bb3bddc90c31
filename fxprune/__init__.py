"""fxprune: structural compression of PyTorch models, proved and measured.

The stages, in order: ``trace``, ``couple``, ``plan``, ``slim``, ``verify``, ``export_onnx``, ``benchmark``;
``compress`` is all of them in one call.  Each has a page of documentation in its docstring.

A name is loaded when it is first used: torch takes seconds, and ``fxprune --help`` or a completion in the
shell must not wait for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; _HOMES says the same to Python
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

_NAMES: Mapping[str, str] = {
    "bench": "benchmark",
    "couple": "couple",
    "errors": "ExportError FxpruneError PlanError RecipeError SliceError TraceError UnsupportedOp VerificationError",
    "export": "export_onnx",
    "inspect": "dependency_graph explain",
    "pipeline": "compress",
    "plan": "plan",
    "slim": "load save slim",
    "trace": "Trace trace",
    "types": "Budget Group Plan",
    "verify": "verify",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


class _Package(ModuleType):
    """The package; some of its functions share their name with the module they live in."""

    def __getattr__(self, name: str) -> object:
        if name == "regularizers":
            return importlib.import_module("fxprune.regularizers")
        if name not in _HOMES:
            raise AttributeError(f"module 'fxprune' has no attribute '{name}'", name=name, obj=self)
        value: object = getattr(importlib.import_module(f"fxprune.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Importing fxprune.plan also sets the package's attribute "plan"; that name is the function's.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package

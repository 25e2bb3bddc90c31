"""fxprune: structural compression of PyTorch models, proved and measured.

The stages, in order: ``trace``, ``couple``, ``plan``, ``slim``, ``verify``, ``export_onnx``, ``benchmark``;
``compress`` is all of them in one call.  Each has a page of documentation in its docstring.

A name is loaded when it is first used: torch takes seconds, and ``fxprune --help`` or a completion in the
shell must not wait for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers and editors; _HOMES says the same to Python
    from fxprune import regularizers
    from fxprune.bench.benchmark import benchmark
    from fxprune.coupling.couple import couple
    from fxprune.coupling.groups import Group
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
    from fxprune.graph.trace import Trace, trace
    from fxprune.inspection.explain import dependency_graph, explain
    from fxprune.onnx.export import export_onnx
    from fxprune.pipeline import compress
    from fxprune.planning.plan import plan, remove
    from fxprune.planning.sensitivity import sensitivity
    from fxprune.plans import Budget, Plan
    from fxprune.proof.verify import verify
    from fxprune.recovery.recover import recover
    from fxprune.slimming.slim import load, save, slim

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
    "recover",
    "regularizers",
    "remove",
    "save",
    "sensitivity",
    "slim",
    "trace",
    "verify",
]

_NAMES: Mapping[str, str] = {
    "bench.benchmark": "benchmark",
    "coupling.couple": "couple",
    "errors": "ExportError FxpruneError PlanError RecipeError SliceError TraceError UnsupportedOp VerificationError",
    "onnx.export": "export_onnx",
    "inspection.explain": "dependency_graph explain",
    "pipeline": "compress",
    "planning.plan": "plan remove",
    "planning.sensitivity": "sensitivity",
    "slimming.slim": "load save slim",
    "graph.trace": "Trace trace",
    "coupling.groups": "Group",
    "plans": "Budget Plan",
    "proof.verify": "verify",
    "recovery.recover": "recover",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # a tenth of what fxprune --help takes

        return version("fxprune")
    if name == "regularizers":
        return importlib.import_module("fxprune.regularizers")
    if name not in _HOMES:
        raise AttributeError(f"module 'fxprune' has no attribute '{name}'")
    value: object = getattr(importlib.import_module(f"fxprune.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

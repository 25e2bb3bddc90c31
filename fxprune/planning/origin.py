"""How a plan was made, so that people can tell, and make it again."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

from fxprune.criteria.base import Criterion
from fxprune.planning.options import PlanOptions
from fxprune.plans import Budget
from fxprune.support.command import COMMAND
from fxprune.targets import Target

__all__ = ["origin"]


def origin(
    budget: Budget, criterion: str | Criterion, options: PlanOptions, target: Target, step: int
) -> dict[str, object]:
    """Plain values by name.

    Args:
        budget: What was asked for.
        criterion: Importance of units.
        options: How the budget was spent; those that differ from the defaults are named.
        target: Whose steps count.
        step: On which widths end.

    Example:
        >>> from fxprune import targets
        >>> made = origin(Budget(macs=0.5), "l1", PlanOptions(align=8), targets.get("onnxruntime-cpu-avx2"), 8)
        >>> made["budget"], made["criterion"], made["options"], made["steps"]
        ({'macs': 0.5}, 'l1', {'align': 8}, 8)
    """
    name = (
        criterion if isinstance(criterion, str) else str(getattr(criterion, "name", type(criterion).__name__))
    )
    simd = torch.backends.cpu.get_cpu_capability()
    made: dict[str, object] = {
        "budget": dict(budget.given),
        "criterion": name,
        "options": options.as_json(),
        "target": f"{target.name} ({simd}, of this machine)" if target.measurable else target.name,
        "steps": step,
        "versions": {"fxprune": _version(), "torch": str(torch.__version__)},
    }
    command = COMMAND.get()
    return {**made, "command": command} if command else made


def _version() -> str:
    try:
        return version("fxprune")
    except PackageNotFoundError:  # a folder on the path, never installed
        return "unknown"

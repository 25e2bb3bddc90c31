"""Plans that were written to files."""

from __future__ import annotations

from pathlib import Path

from fxprune.errors import PlanError
from fxprune.plans import Plan
from fxprune.support.reading import MIB, read_text, regular_file, shown

__all__ = ["read_plan"]

_LARGEST = 256 * MIB


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file, or in the metadata of a file that ``save`` wrote.

    Raises:
        PlanError: There is no file, or no plan in it.
    """
    advice = "pass a file written by fxprune plan or fxprune slim"
    target = regular_file(path, error=PlanError, advice=advice)
    if target.suffix == ".safetensors":
        from fxprune.support.tensors import read_tensors  # needs torch, and JSON does not

        text = read_tensors(target, error=PlanError, advice=advice).metadata.get("plan", "")
        if not text:
            raise PlanError(f"{shown(path)} holds weights and no plan", advice=advice)
    else:
        text = read_text(target, limit=_LARGEST, error=PlanError, advice=advice)
    try:
        return Plan.from_json(text)
    except PlanError as error:
        raise PlanError(f"{shown(path)}: {error.what}", tensor=error.tensor, advice=error.advice) from error

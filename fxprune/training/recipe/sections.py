"""What all sections of a recipe share: they are strict, and their numbers have bounds."""

from __future__ import annotations

from typing import Annotated

import annotated_types
from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["Count", "Kept", "NotNegative", "Positive", "Scalar", "Section", "Share", "Switch"]

Scalar = bool | int | float | str
Positive = Annotated[float, annotated_types.Gt(0)]
NotNegative = Annotated[float, annotated_types.Ge(0)]
Share = Annotated[float, annotated_types.Ge(0), annotated_types.Lt(1)]
Kept = Annotated[float, annotated_types.Gt(0), annotated_types.Le(1)]
Count = Annotated[int, annotated_types.Ge(1), annotated_types.Le(2**31)]


def _switch(value: object) -> object:
    """``true`` is all defaults, ``false`` is nothing."""
    return {True: {}, False: None}.get(value, value) if isinstance(value, bool) else value


Switch = BeforeValidator(_switch)


class Section(BaseModel):
    """Unknown keys are errors, and nothing changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

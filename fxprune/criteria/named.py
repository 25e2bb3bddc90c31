"""Criteria by name."""

from __future__ import annotations

from fxprune.criteria import CRITERIA, FROM_SAMPLES
from fxprune.criteria.base import Criterion
from fxprune.errors import FxpruneError, PlanError

__all__ = ["criterion_named"]


def criterion_named(name: str) -> Criterion:
    """The criterion of that name with default options, or one's own by ``my_module:MyCriterion``.

    Raises:
        PlanError: There is none.
    """
    for criterion in CRITERIA:
        if criterion.name == name:
            return criterion
    if ":" in name:
        return _own(name)
    if name in FROM_SAMPLES:
        raise PlanError(
            f"criterion '{name}' is made of what the model makes of samples",
            advice="plan with it: fxprune.plan(..., calibrate=inputs), or --calibrate on the command line",
        )
    known = ", ".join([*(c.name for c in CRITERIA), *FROM_SAMPLES])
    raise PlanError(
        f"there is no criterion {name!r}",
        advice=f"use one of: {known}; or name your own as my_module:MyCriterion",
    )


def _own(name: str) -> Criterion:
    """A criterion of the user's: an instance, or a class that needs no arguments."""
    from fxprune.models.loading import named_object

    try:
        named = named_object(name)
        criterion = named() if isinstance(named, type) else named
    except FxpruneError as error:
        raise PlanError(error.what, source=error.source, advice=error.advice) from error
    except TypeError as error:
        raise PlanError(
            f"{name} cannot be made: {error}", advice="name a class that needs no arguments"
        ) from error
    if not isinstance(criterion, Criterion):
        raise PlanError(
            f"{name} is no criterion",
            advice="give it name, needs, normalise and score, as fxprune.criteria.base says",
        )
    return criterion

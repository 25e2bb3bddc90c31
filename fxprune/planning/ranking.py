"""Criteria that are made of a model and samples of its inputs, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fxprune.criteria import FROM_SAMPLES, Criterion
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.planning.sensitivity import Tell, sensitivity
from fxprune.recovery.reconstruction import Reconstruction

__all__ = ["ranked"]

_Make = Callable[[Trace, Iterable[object], int, Tell | None], Criterion]

_MAKERS: Mapping[str, _Make] = {
    "reconstruction": lambda trace, data, seed, _tell: Reconstruction(
        trace, data, normalise="mean", seed=seed
    ),
    "sensitivity": lambda trace, data, seed, tell: sensitivity(
        trace, data, seed=seed, progress=tell
    ).criterion(),
}
assert set(_MAKERS) == set(FROM_SAMPLES)


def ranked(
    trace: Trace,
    criterion: str | Criterion,
    samples: Iterable[object] | None,
    *,
    seed: int = 0,
    progress: Tell | None = None,
) -> str | Criterion:
    """The criterion itself, or the one that is made of samples, where it is named so.

    Args:
        trace: A traced model.
        criterion: As for ``plan``.
        samples: Inputs without labels, as for ``fxprune.recover``.
        seed: Of everything random.
        progress: Told how far it is.

    Raises:
        PlanError: The criterion wants samples, and there are none.
    """
    if not isinstance(criterion, str) or criterion not in _MAKERS:
        return criterion
    if samples is None:
        raise PlanError(
            f"criterion '{criterion}' looks at what the model makes of samples, and there are none",
            advice="pass calibrate=: some hundred inputs without labels (--calibrate on the command line)",
        )
    return _MAKERS[criterion](trace, samples, seed, progress)

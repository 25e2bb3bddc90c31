"""The step on which widths end: the target's, or a finer one where that would halve a narrow model's layers and leave the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fxprune.labels import BoolArray, FloatArray

__all__ = ["fitting_step", "halves", "importance_kept", "steps_note"]

WORTH = 0.85
"""Share of the importance that a finer step keeps, below which a coarse one is left.

Measured on ResNet-20 and ResNet-56 with ``tools/bench_steps.py``: where steps of 16 keep less than this, recovered accuracy is three
to five points lower than with steps of 8; where steps of 8 keep more, steps of 4 are less than a point better, or worse, and slower.
"""

WORTH_SAYING = 0.01
"""Share of the importance that steps cost."""


def halves(step: int) -> list[int]:
    """A step, its half, its quarter, ... down to one.

    Example:
        >>> halves(16)
        [16, 8, 4, 2, 1]
    """
    steps = [step]
    while steps[-1] > 1:
        steps.append(steps[-1] // 2)
    return steps


def importance_kept(score: FloatArray, kept: BoolArray) -> float:
    """Share of the importance of all units that is kept.

    Args:
        score: float64[n_units], NaN where a unit has none.
        kept: bool[n_units].
    """
    scored = np.isfinite(score)
    total = score[scored].sum()
    return float(score[scored & kept].sum() / total) if total > 0 else 1.0


def fitting_step(kept: Mapping[int, float]) -> int:
    """The coarsest step that keeps nearly as much importance as the best one.

    Args:
        kept: Share of the importance that a plan for the budget keeps, by step.

    Example:
        >>> fitting_step({16: 0.71, 8: 0.80, 4: 0.93, 1: 0.91}), fitting_step({16: 0.80, 8: 0.81, 4: 0.81, 1: 0.82})
        (8, 16)
    """
    best = max(kept.values())
    return max(step for step, share in kept.items() if share >= WORTH * best)


def steps_note(kept: Mapping[int, float], step: int, asked: int) -> tuple[str, ...]:
    """What it cost to end widths on steps, in importance that is kept for the same budget.

    Args:
        kept: See ``fitting_step``.
        step: That widths end on.
        asked: The target's, or the user's.
    """
    if step == 1 or step not in kept:
        return ()
    if step < asked and asked in kept:
        return (
            f"widths end on steps of {step}: on steps of {asked} {_percent(kept[asked])} of the importance would be kept for this "
            f"budget, on these it is {_percent(kept[step])}, with any widths {_percent(kept[1])} (align={asked} or 1)",
        )
    if kept[1] - kept[step] < WORTH_SAYING:
        return ()
    return (
        f"widths that end on steps of {step} keep {_percent(kept[step])} of the importance, any widths would keep "
        f"{_percent(kept[1])} of it for the same budget (align=1), and be slower",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

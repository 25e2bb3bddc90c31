"""The smallest model that is still good enough: bisection over MACs, with recovery in the loop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.models.calls import evaluating
from fxprune.plans import Budget, Plan
from fxprune.recovery.calibration import kept
from fxprune.recovery.recover import run_recovery
from fxprune.slimming.slim import slim
from fxprune.support import plain
from fxprune.support.files import write_text
from fxprune.support.reading import read_text

__all__ = ["Trials", "check_floor", "smallest"]

CLOSE = 0.01
"""Share of the dense MACs at which the search ends."""

SMALLEST = 0.02
"""Share of the dense MACs below which nobody looks."""

_LARGEST_FILE = 1 << 20

Metric = Callable[[nn.Module], float]


@dataclass(eq=False)
class Trials:
    """What is known of some shares, in a file if there is one.

    Attributes:
        asked: What the trials are of; those of another search do not count.
        file: Where they are kept.
        values: How good the recovered model is, by share of the MACs.
    """

    asked: str
    file: Path | None
    values: dict[float, float]

    @staticmethod
    def of(asked: str, file: Path | None) -> Trials:
        """Those of a file that is there; none otherwise.

        Raises:
            PlanError: The file holds something else, or the trials of another search.
        """
        if file is None or not file.exists():
            return Trials(asked, file, {})
        advice = "name another file for the trials, or remove this one"
        text = read_text(file, limit=_LARGEST_FILE, error=PlanError, advice=advice)
        try:
            data = plain.fields(
                plain.parse(text, most=_LARGEST_FILE), "trials", {"format", "asked", "values"}
            )
            values = {float(k): float(v) for k, v in plain.fields(data["values"], "values").items()}
        except (ValueError, TypeError) as error:
            raise PlanError(f"{file} holds no trials: {error}", advice=advice) from error
        if data["format"] != "fxprune-trials" or data["asked"] != asked:
            raise PlanError(f"{file} holds the trials of another model or of other options", advice=advice)
        return Trials(asked, file, values)

    def add(self, share: float, value: float) -> None:
        """Remember a trial."""
        self.values[share] = value
        if self.file is not None:
            kept = {
                "format": "fxprune-trials",
                "asked": self.asked,
                "values": {repr(k): v for k, v in self.values.items()},
            }
            write_text(self.file, json.dumps(kept, indent=1))


def check_floor(accuracy: object, *, has_data: bool) -> float:
    """A floor that makes sense.

    Raises:
        PlanError: It is no number, or there are no samples to recover on.
    """
    if not isinstance(accuracy, (int, float)) or isinstance(accuracy, bool) or not np.isfinite(accuracy):
        raise PlanError(
            f"accuracy={accuracy!r} is no floor", advice="give the least that your metric may say, 0.9 say"
        )
    if not has_data:
        raise PlanError(
            "accuracy= looks for the smallest model that recovers to it, and there are no samples to recover on",
            advice="pass calibrate=: some hundred inputs without labels",
        )
    return float(accuracy)


def smallest(
    trace: Trace,
    floor: float,
    planned: Callable[[Budget], Plan],
    *,
    calibrate: Iterable[object],
    metric: Metric | None,
    file: Path | None,
    asked: str,
    tell: Callable[[int, int, str], None] | None = None,
) -> Plan:
    """Bisect over the share of MACs.

    Args:
        trace: The dense model.
        floor: Least that the metric may say of a recovered model.
        planned: A plan for a budget.
        calibrate: See ``fxprune.recover``.
        metric: Says how good a model is; None for one less the error of the outputs on calibration samples that were held
            out, relative to the spread of the dense ones.
        file: Keeps trials, so that a search that was stopped goes on.
        asked: Text of the options, for the file.
        tell: Is told how far it is.

    Raises:
        PlanError: The dense model is below the floor, or the file is of another search.
    """
    batches = kept(calibrate)
    trials = Trials.of(plain.digest([asked, floor, metric is not None, _fingerprint(trace)]), file)
    rounds, done = int(np.ceil(np.log2((1 - SMALLEST) / CLOSE))), 0

    def value_at(share: float) -> float:
        nonlocal done
        if share not in trials.values:
            if tell is not None:
                tell(done, rounds + 1, f"{100 * share:.1f} % of the MACs")
            trials.add(share, _value(trace, planned, share, batches, metric))
        done += 1
        return trials.values[share]

    dense = value_at(1.0)
    if dense < floor:
        raise PlanError(
            f"the dense model has {dense:.4g} itself, below accuracy={floor:g}",
            advice="lower the floor, or check the metric: more must be better",
        )
    low, high = SMALLEST, 1.0
    while high - low > CLOSE:
        middle = (low + high) / 2
        if value_at(middle) >= floor:
            high = middle
        else:
            low = middle
    plan, got = planned(Budget(macs=high)), trials.values[high]
    what = "the metric says" if metric is not None else "one less the error of the outputs is"
    missed = (
        f"{trials.values[low]:.4g} at {100 * low:.1f} %"
        if low in trials.values
        else "nothing smaller was tried"
    )
    note = f"accuracy={floor:g} after recovery: {what} {got:.4g} at {100 * high:.1f} % of the MACs ({missed}; dense {dense:.4g})"
    return replace(plan, notes=(*plan.notes, note))


def _value(
    trace: Trace,
    planned: Callable[[Budget], Plan],
    share: float,
    batches: Iterable[object],
    metric: Metric | None,
) -> float:
    if share == 1.0:
        return _said(metric, trace.model) if metric is not None else 1.0
    plan = planned(Budget(macs=share))
    small = slim(trace, plan)
    recovery = run_recovery(trace, plan, small, batches)
    return _said(metric, small) if metric is not None else 1 - recovery.after


def _said(metric: Metric, model: nn.Module) -> float:
    with evaluating(model), torch.no_grad():
        return float(metric(model))


def _fingerprint(trace: Trace) -> str:
    """Of names, shapes and values of all tensors."""
    made = hashlib.sha256()
    for name, tensor in trace.model.state_dict().items():
        if isinstance(tensor, Tensor):
            made.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            made.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return made.hexdigest()

"""How much of a model hangs on each group: what is off when a share of one group goes, and a criterion made of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from fxprune.coupling.couple import analyse
from fxprune.criteria.base import Criterion, Need, Normalise, View
from fxprune.criteria.score import score
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import FloatArray
from fxprune.planning.options import PlanOptions
from fxprune.planning.own_class import Given
from fxprune.planning.spend import spend
from fxprune.plans import Budget
from fxprune.recovery.calibration import kept
from fxprune.recovery.recover import GIB, run_recovery
from fxprune.resizing.resolve import keep_mask
from fxprune.slimming.slim import slim
from fxprune.support.briefly import brief

__all__ = ["Probe", "Sensitivity", "Tell", "sensitivity"]

SHARES = (0.25, 0.5, 0.75)
TIE = 1e-9
"""Of a score by which a unit's rank in its group breaks ties."""

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Probe:
    """One group, and what happens when a share of it goes.

    Attributes:
        group: Its name.
        units: How many it has.
        asked: Share of them that was to go.
        removed: Share that went: of whole units and blocks.
        macs: Share of the model's MACs that this saves.
        sliced: Error of the outputs relative to the spread of the dense ones, as the model is sliced.
        recovered: The same once the layers behind the cut are solved for.
    """

    group: str
    units: int
    asked: float
    removed: float
    macs: float
    sliced: float
    recovered: float


@brief
@dataclass(frozen=True, eq=False)
class Sensitivity:
    """A table of probes, and the criterion that follows from it.

    Attributes:
        probes: Group by group, in the order of the model, smaller shares first.
        samples: Samples that errors were measured on and recovery learnt from.
        seconds: Wall time.
        notes: Groups that were left out, and why.
    """

    probes: tuple[Probe, ...]
    samples: int
    seconds: float
    notes: tuple[str, ...] = ()
    _scores: FloatArray = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def groups(self) -> dict[str, list[Probe]]:
        """Probes by group."""
        found: dict[str, list[Probe]] = {}
        for probe in self.probes:
            found.setdefault(probe.group, []).append(probe)
        return found

    def criterion(self) -> Criterion:
        """Units ranked by what they cost: squared output error for each MAC that they save, along their group's curve."""
        return _ByCurve(self)

    def as_json(self) -> dict[str, object]:
        """Plain values, for JSON."""
        probes = [asdict(probe) for probe in self.probes]
        return {"probes": probes, "samples": self.samples, "seconds": self.seconds, "notes": list(self.notes)}


def sensitivity(
    trace: Trace,
    data: Iterable[object],
    *,
    shares: Sequence[float] = SHARES,
    criterion: str | Criterion = "l1",
    samples: int = 256,
    max_memory: int = 4 * GIB,
    seed: int = 0,
    progress: Tell | None = None,
) -> Sensitivity:
    """Prune one group at a time, recover, and measure how far the outputs are off.

    Each probe makes a slim model, so the whole takes about as long as as many recoveries: seconds for each group and share.

    Args:
        trace: A traced model; it is not changed.
        data: Batches as the model is called with, as for ``recover``; labels are not looked at.
        shares: Of a group's units, to remove.
        criterion: Which units of a group go first; one that needs no data of its own.
        samples: To use at most.
        max_memory: As for ``recover``.
        seed: Of everything random.
        progress: Told how far it is.

    Returns:
        Errors for each group and share, and a criterion to plan with.

    Raises:
        PlanError: No share lies between 0 and 1, or nothing may go.
        FxpruneError: As for ``recover``.

    Example:
        >>> import torch, fxprune
        >>> _ = torch.manual_seed(0)
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> t, x = fxprune.trace(net, torch.zeros(2, 6)), torch.randn(256, 6)
        >>> table = fxprune.sensitivity(t, x, shares=(0.5,))
        >>> [(p.group, p.units, p.removed, p.recovered < p.sliced) for p in table.probes]
        [('0', 32, 0.5, True), ('2', 16, 0.5, True)]
        >>> fxprune.plan(t, fxprune.Budget(macs=0.5), criterion=table.criterion()).predicted.macs
        378
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise PlanError(
            f"shares={tuple(shares)!r} are no shares to remove", advice="use (0.25, 0.5, 0.75), say"
        )
    began = time.monotonic()
    batches = kept(data)
    units = score(trace, criterion, seed=seed).units
    coupling = analyse(trace).coupling
    work = [
        (g, share)
        for g in coupling.groups
        if g.pinned is None and len(g.units) > 1
        for share in sorted(shares)
    ]
    probes, notes = list[Probe](), dict[str, str]()
    for k, (group, share) in enumerate(work):
        (progress or _silent)(k, len(work), group.name)
        if group.name in notes:
            continue
        options = PlanOptions(align=1, only=[group.name], seed=seed)
        try:
            plan = spend(trace, Budget(channels=1 - share), options, criterion=Given(units))
        except PlanError as error:
            notes[group.name] = f"{group.name}: {error.what}"
            continue
        gone = ~keep_mask(analyse(trace), plan)[group.units]
        if not gone.any():
            continue
        small = slim(trace, plan)
        made = run_recovery(trace, plan, small, batches, samples=samples, max_memory=max_memory, seed=seed)
        saved = 1 - plan.predicted.macs / max(plan.dense.macs, 1)
        probes.append(Probe(group.name, len(gone), share, float(gone.mean()), saved, made.before, made.after))
    (progress or _silent)(len(work), len(work), "")
    if not probes:
        raise PlanError(
            "there is no group of which a share could go",
            advice="; ".join(notes.values()) or "`fxprune inspect` lists groups and pins",
        )
    return Sensitivity(
        tuple(probes), made.samples + made.held_out, time.monotonic() - began, tuple(notes.values()), units
    )


def _silent(_done: int, _of: int, _what: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, eq=False)
class _ByCurve:
    """Squared error for each MAC along the curves of a table."""

    table: Sensitivity
    name = "sensitivity"
    needs = frozenset[Need]()
    normalise: Normalise = "none"

    def score(self, view: View) -> FloatArray:
        """Importance float64[n_units], NaN in groups without a curve."""
        base, curves = self.table._scores, self.table.groups
        if len(base) != view.coupling.n_units:
            raise PlanError(
                "the sensitivity table is of another model", advice="make it of the trace that is planned for"
            )
        units = np.full(len(base), np.nan)
        for group in view.coupling.groups:
            if group.name in curves and group.pinned is None:
                units[group.units] = _along(curves[group.name], base[group.units])
        return units


def _along(probes: Sequence[Probe], base: FloatArray) -> FloatArray:
    """Scores of a group's units: the slope of its curve where each stands in the order."""
    from scipy.optimize import isotonic_regression  # takes long to load, and only tables need it

    removed = np.array([0.0, *(p.removed for p in probes), 1.0])
    off = np.array([0.0, *(p.recovered**2 for p in probes)])
    off = np.maximum.accumulate(np.append(off, max(1.0, off[-1])))
    saved = np.array([0.0, *(p.macs for p in probes)])
    saved = np.maximum.accumulate(np.append(saved, saved[-1] / removed[-2]))
    steps = np.maximum(np.diff(saved), np.finfo(float).tiny)
    # What goes first must not cost more than what goes later, or the order within the group would not hold.
    slopes = isotonic_regression(np.diff(off) / steps, weights=steps).x
    rank = np.empty(len(base), np.int64)
    rank[np.argsort(base, kind="stable")] = np.arange(len(base))
    place = (rank + 0.5) / len(base)
    piece = np.clip(np.searchsorted(removed, place, side="right") - 1, 0, len(slopes) - 1)
    scores: FloatArray = slopes[piece] * (1 + TIE * rank) + np.finfo(float).tiny * rank
    return scores

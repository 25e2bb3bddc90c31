"""From scores and a budget to a keep mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fxprune.coupling.blocks import close
from fxprune.coupling.cost import CostModel, Terms
from fxprune.coupling.groups import Coupling
from fxprune.labels import BoolArray, FloatArray, IntArray
from fxprune.planning.alignment import Chains, make_chains
from fxprune.planning.atoms import Mode, make_atoms
from fxprune.planning.latency import LatencyModel
from fxprune.planning.problem import Problem, Width
from fxprune.planning.search import Meter, cut_chains
from fxprune.plans import Budget, Scope

__all__ = ["EXCESS", "MISS", "Options", "Solution", "solve"]

EXCESS = 0.005
"""Share of the dense quantity by which a plan may exceed the budget where it would otherwise miss it by..."""

MISS = 0.01
"""...more than this share: half of every width is 50.1 % of a model whose last biases must stay."""

THRIFT = 0.03
"""Power of time by which scores are divided where work is the budget: what takes ten times as long counts seven percent less.

Of nets whose layers score alike, as untrained ones, it decides; of trained ones it breaks near ties.
"""

SPREADS = 2.0
"""Spreads of its own scores by which a layer moves at most for every factor of ten: none goes as a whole because it is slow."""

TIME_THRIFT = 0.01
"""The same where time itself is the budget: with 0.03 a trained ResNet-56 at half its time lost accuracy to it."""

HALVINGS = 8
"""Trials for a budget where more goes than the search counts: within half a percent of the dense quantity."""


@dataclass(frozen=True, eq=False)
class Options:
    """How a budget is to be met; see ``fxprune.plan``.

    Attributes:
        scope: See ``PlanOptions``.
        blocks: ``"auto"``, ``"whole"`` or ``"inside"``.
        keep_at_least: Units that every group keeps.
        widths: Axes that should end on a step.
        ratios: float64[n_groups], share that a group keeps, NaN where the budget decides; None: nowhere.
        ties: Pairs of units that go together though the coupling does not ask for it.
        latency: The time of the model; None where it does not matter.
    """

    scope: Scope = "global"
    blocks: Mode = "auto"
    keep_at_least: int = 1
    widths: Sequence[Width] = ()
    ratios: FloatArray | None = None
    ties: Sequence[tuple[IntArray, IntArray]] = ()
    latency: LatencyModel | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """A keep mask and how it relates to the budget.

    Attributes:
        keep: bool[n_units], closed over blocks.
        value: What is left of the budgeted quantity.
        dense: The quantity when nothing goes.
        n_atoms: Sets of units that may go; 0 if nothing may.
        exhausted: Everything that may go is gone.
        by_choice: Something went because of the budget rather than of a ratio.
        held: bool[n_units], units that may go but that no layout lets go.
        notes: Constraints that could not be served.
    """

    keep: BoolArray
    value: int
    dense: int
    n_atoms: int
    exhausted: bool
    by_choice: bool
    held: BoolArray
    notes: tuple[str, ...]


def solve(
    coupling: Coupling, score: FloatArray, frozen: BoolArray, budget: Budget, options: Options
) -> Solution:
    """Choose the units that go.

    Args:
        coupling: Units, groups, blocks and cost.
        score: float64[n_units], NaN where a unit has none.
        frozen: bool[n_units], units that must stay; includes pinned and unscored ones.
        budget: Fraction to keep.
        options: How.
    """
    ratios = np.full(len(coupling.groups), np.nan) if options.ratios is None else options.ratios
    free = np.where(frozen, np.nan, score)
    atoms = make_atoms(coupling, free, frozen, mode=options.blocks, ties=options.ties)
    problem = Problem.of(coupling, atoms)
    streams = problem.streams(scope=options.scope, keep_at_least=options.keep_at_least, ratios=ratios)
    chains = make_chains(streams, problem.lanes(options.widths))
    model, terms = _spent_on(coupling, budget, options)
    meter, dense = problem.meter(model, terms, chains, ratios)
    if options.latency is not None and options.scope == "global":
        time, _ = problem.meter(options.latency.cost, options.latency.terms, chains, ratios)
        meter = replace(meter, chains=_by_time(chains, time, None if time.terms is terms else meter))

    def spent(fraction: float) -> _Spent:
        state = _nearest(meter, fraction, dense)
        keep = close(coupling.blocks, problem.keep(chains.atoms_kept(state)))
        counted = meter.value(state)
        if terms is None:
            return _Spent(state, keep, counted, counted)
        return _Spent(state, keep, counted, int(terms.values(model.counts(keep)).sum()))

    cut = spent(budget.fraction)
    if cut.value != cut.counted:
        assert cut.value < cut.counted, "closing can only take more than the search counts"
        cut = _less_at_once(spent, budget.fraction, dense, cut)
    state, keep, value = cut.state, cut.keep, cut.value
    exhausted = bool((state == chains.length).all())
    by_choice = bool(state.sum() > (chains.score == -np.inf).sum())
    held = (atoms.of_unit < 0) & ~frozen
    return Solution(keep, value, dense, len(atoms.score), exhausted, by_choice, held, atoms.notes)


def _spent_on(coupling: Coupling, budget: Budget, options: Options) -> tuple[CostModel, Terms | None]:
    """What the budget counts; None: channels."""
    if budget.quantity == "latency":
        assert options.latency is not None
        return options.latency.cost, options.latency.terms
    model = coupling.cost
    return model, {"params": model.params, "macs": model.macs}.get(budget.quantity)


def _by_time(chains: Chains, time: Meter, work: Meter | None) -> Chains:
    """Bundles ranked by score and, a little, by the time that they are worth.

    Scores of different layers are hardly comparable to the third digit, times are.  Where time is the budget, what saves more
    of it for each atom goes earlier; where work is, what takes longer for as much of it: narrow first layers, fully
    connected ones that wait for memory.
    """
    atoms = np.bincount(
        chains.chain_of_stream,
        chains.atoms_kept(np.zeros(len(chains.length), np.int64)) - chains.atoms_kept(chains.length),
        len(chains.length),
    )
    saved, share = time.saved(), atoms if work is None else work.saved()
    known = (saved > 0) & (share > 0)
    if not known.any():
        return chains
    rate = np.where(known, saved, 1) / np.where(known, share, 1)
    usual = np.median(rate[known])
    decades = np.log10(np.where(known, rate, usual) / usual)
    power = TIME_THRIFT if work is None else THRIFT
    most = SPREADS * _spread(chains)
    effect = decades * np.minimum(power * np.log(10), most)
    score = chains.score
    return replace(chains, score=np.where(score > 0, score * np.exp(-effect[chains.chain]), score))


def _spread(chains: Chains) -> FloatArray:
    """Deviation of the scores of each chain's bundles, relative to their mean: float64[n_chains]."""
    scored = (chains.score > 0) & np.isfinite(chains.score)  # what must stay is infinite
    score, chain = chains.score[scored], chains.chain[scored]
    count = np.maximum(np.bincount(chain, minlength=len(chains.length)), 1)
    mean = np.bincount(chain, score, len(chains.length)) / count
    square = np.bincount(chain, score**2, len(chains.length)) / count
    return np.sqrt(np.maximum(square - mean**2, 0)) / np.where(mean > 0, mean, 1)


@dataclass(frozen=True, eq=False)
class _Spent:
    """A cut, what it keeps, what the search counted and what is really left."""

    state: IntArray
    keep: BoolArray
    counted: int
    value: int


def _less_at_once(spent: Callable[[float], _Spent], fraction: float, dense: int, first: _Spent) -> _Spent:
    """The cut that really keeps the fraction, where more goes than the search counts.

    A row of a layout that is a column of another (or of its own, of all pairs of channels) takes that column along, and
    with it cells of rows that stay.
    """
    best, low, high = first, fraction, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        trial = spent(middle)
        if trial.value <= fraction * dense:
            best, low = trial, middle
        else:
            high = middle
    return best


def _nearest(meter: Meter, fraction: float, dense: int) -> IntArray:
    """The cut that comes closest from below, or from a little above where below is far."""
    # A hair is added because fractions like 0.3 are not exact: 0.3 of 10 channels are 3.
    target = int(fraction * dense * (1 + 1e-12))
    below = cut_chains(meter, target, dense)
    missing = target - meter.value(below)
    if missing > MISS * dense:
        above = cut_chains(meter, int(target + EXCESS * dense), dense)
        if abs(target - meter.value(above)) < missing:
            return above
    return below

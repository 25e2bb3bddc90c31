"""Attempts: a choice of units that the graph refuses, or that misses the budget, is made again in another way.

The planner knows layouts only as far as rules asked for them.  Whether what is left can be written down operator
by operator shows when the choice is carried through the graph, and of a recorded model when its own code runs on
it; what is refused there is a lesson: units that must stay, or units that must go together.  A choice that obeys all lessons is looked for, first in the way that was asked
for, then in others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fxprune.coupling.groups import Coupling
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import BoolArray, FloatArray, IntArray, varying
from fxprune.planning.atoms import Mode
from fxprune.planning.explicit import plan_units
from fxprune.planning.solve import EXCESS, Solution
from fxprune.planning.steps import halves
from fxprune.plans import Budget, Plan
from fxprune.resizing.resolve import CrossedError, EmptiedError
from fxprune.slimming.rehearsal import rehearse

__all__ = ["Attempts", "Lessons", "Made", "Way", "ways_to"]

EFFORT = 64
"""Most choices that are made again, in one way, because the graph refuses them."""


@dataclass(frozen=True)
class Way:
    """How widths shrink.

    Attributes:
        blocks: Whole rows of a layout, or inside each row.
        step: Step on which widths of convolutions end.
    """

    blocks: Mode
    step: int

    def __str__(self) -> str:
        return f"blocks='{self.blocks}', align={self.step}"


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a choice must obey beside the coupling.

    Attributes:
        stays: bool[n_units], units that must stay.
        ties: Pairs of units that go together.
        told: Nodes that asked for ties, in words.
    """

    stays: BoolArray
    ties: tuple[tuple[IntArray, IntArray], ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Made:
    """A plan and how it came about.

    Attributes:
        plan: The plan, without notes.
        solution: The choice behind it.
        way: In which it was made.
        notes: What the user should know about way and lessons.
    """

    plan: Plan
    solution: Solution
    way: Way
    notes: tuple[str, ...] = ()


def ways_to(coupling: Coupling, blocks: Mode, step: int, *, other_steps: bool) -> list[Way]:
    """Ways to shrink, the one asked for first; those that could make no difference are left out.

    Args:
        coupling: Has layouts, or has none.
        blocks: Asked for.
        step: Asked for, or the target's.
        other_steps: Whether smaller steps will do.

    Example:
        >>> from types import SimpleNamespace
        >>> [str(way) for way in ways_to(SimpleNamespace(blocks=()), "auto", 4, other_steps=True)]
        ["blocks='auto', align=4", "blocks='auto', align=2", "blocks='auto', align=1"]
    """
    modes: list[Mode] = [blocks]
    if coupling.blocks:
        modes += [mode for mode in ("auto", "inside", "whole") if mode != blocks]
    steps = halves(step) if other_steps else [step]
    return [Way(mode, size) for size in steps for mode in modes]


class Attempts:
    """One search.

    Args:
        trace: A traced model.
        budget: To be met.
        score: float64[n_units], NaN where a unit has none.
        choose: Makes a choice in a way, obeying lessons.
    """

    def __init__(
        self, trace: Trace, budget: Budget, score: FloatArray, choose: Callable[[Way, Lessons], Solution]
    ) -> None:
        self.trace = trace
        self.budget = budget
        self.score = score
        self.choose = choose
        self.tries = 0

    def run(self, ways: Sequence[Way], lessons: Lessons) -> Made:
        """The first plan that meets the budget, or the one that comes closest.

        Args:
            ways: In order of preference.
            lessons: What must stay to begin with.

        Raises:
            PlanError: The graph refuses every choice.
        """
        first: Solution | None = None
        late: list[tuple[Way, Solution]] = []
        errors: list[PlanError] = []
        best: Made | None = None
        for way in ways:
            solution = self.choose(way, lessons)
            first = first or solution
            if not self._meets(solution):
                late.append((way, solution))
                continue
            best = self._closer(best, self._try(way, solution, lessons, errors))
            if best is not None and self._meets(best.solution):
                break
        else:
            for way, solution in sorted(late, key=lambda pair: pair[1].value):
                if best is None or solution.value < best.solution.value:
                    best = self._closer(best, self._try(way, solution, lessons, errors))
        if best is None or first is None:
            raise errors[0]
        return self._with_reason(best, ways[0], first)

    def _try(self, way: Way, solution: Solution, lessons: Lessons, errors: list[PlanError]) -> Made | None:
        self.tries = EFFORT
        try:
            return self._realise(way, solution, lessons)
        except PlanError as error:
            errors.append(error)
            return None

    def _realise(self, way: Way, solution: Solution, lessons: Lessons) -> Made:
        """The plan of a choice, or of the next one that obeys what was learnt from its refusal."""
        try:
            plan = plan_units(self.trace, solution.keep)
            rehearse(self.trace, plan)
            return Made(plan, solution, way, _in_short(lessons.told))
        except (EmptiedError, CrossedError) as error:
            refusal = error
        best: Made | None = None
        for further in self._learn(refusal, lessons):
            if self.tries <= 0:
                break
            self.tries -= 1
            other = self.choose(way, further)
            # Lessons only narrow the choice: what is no better now will not become so.
            if not other.n_atoms or (best is not None and other.value >= best.solution.value):
                continue
            try:
                best = self._closer(best, self._realise(way, other, further))
            except PlanError:
                continue
            if best is not None and self._meets(best.solution):
                break
        if best is None:
            raise refusal
        return best

    def _learn(self, refusal: EmptiedError | CrossedError, lessons: Lessons) -> Iterator[Lessons]:
        """What may be asked of the next choice, the least first."""
        stays = lessons.stays.copy()
        if isinstance(refusal, EmptiedError):
            for units, count in refusal.needs:
                stays[_best(units, count, self.score, stays)] = True
            if (stays != lessons.stays).any():
                yield replace(lessons, stays=stays)
            return
        for slices, ties in _slices(refusal.arrays):
            told = f"'{refusal.node}' takes what goes in {slices} slices, each as one: {refusal.what}"
            if told not in lessons.told:
                yield Lessons(stays, (*lessons.ties, ties), (*lessons.told, told))
        for array in refusal.arrays:
            stays[array] = True
        if (stays != lessons.stays).any():
            told = f"what '{refusal.node}' reads stays whole: {refusal.what}"
            yield Lessons(stays, lessons.ties, (*lessons.told, told))

    def _meets(self, solution: Solution) -> bool:
        return solution.value <= (self.budget.fraction + EXCESS) * solution.dense

    def _closer(self, one: Made | None, other: Made | None) -> Made | None:
        """The plan with less left over the budget; the first of two equals."""
        if one is None or other is None:
            return one or other
        return other if not self._meets(one.solution) and other.solution.value < one.solution.value else one

    def _with_reason(self, best: Made, asked: Way, first: Solution) -> Made:
        if best.way == asked:
            return best
        reached = 100 * first.value / max(first.dense, 1)
        why = f"keeps {reached:.1f} % at least" if not self._meets(first) else "is refused by the graph"
        return replace(best, notes=(f"planned with {best.way}: {asked} {why}", *best.notes))


def _in_short(told: Sequence[str]) -> tuple[str, ...]:
    """The first two; a model repeats its blocks, and says the same of each."""
    return (*told[:2], f"and {len(told) - 2} more operators, alike") if len(told) > 3 else tuple(told)


def _best(units: IntArray, count: int, score: FloatArray, frozen: BoolArray) -> IntArray:
    """The highest units of those that may go, as many as make ``count`` together with those that stay."""
    units, times = np.unique(units, return_counts=True)
    free = units[~frozen[units] & ~np.isnan(score[units])]
    missing = max(count - int(times[frozen[units]].sum()), 1)
    return free[np.argsort(-score[free], kind="stable")[:missing]]


def _slices(arrays: Sequence[IntArray]) -> Iterator[tuple[int, tuple[IntArray, IntArray]]]:
    """Ties that leave a grid whole: all units with one index along a dimension, the finest slices first.

    A tensor without some slices of one dimension is a tensor again, and any view, transposition or selection of
    it can be written down.
    """
    pairs = [(array, d) for array in arrays if len(varying(array)) > 1 for d in varying(array)]
    for array, d in sorted(pairs, key=lambda pair: -pair[0].shape[pair[1]]):
        rows = np.moveaxis(array, d, 0).reshape(array.shape[d], -1)
        left, right = np.broadcast_arrays(rows[:, :1], rows)
        yield len(rows), (left.ravel(), right.ravel())

"""The planner on hand-made couplings: whatever is asked, laws hold and the budget is met from below."""

from __future__ import annotations

import itertools

import numpy as np
from couplings import couplings
from hypothesis import given, settings
from hypothesis import strategies as st

from fxprune.coupling.blocks import breach
from fxprune.coupling.groups import Coupling
from fxprune.labels import BoolArray
from fxprune.planning.alignment import good_widths
from fxprune.planning.problem import Width
from fxprune.planning.search import CLOSE_ENOUGH
from fxprune.planning.solve import EXCESS, Options, Solution, solve
from fxprune.plans import Budget

QUANTITIES = st.sampled_from(["macs", "params", "channels"])
FRACTIONS = st.sampled_from([0.05, 0.3, 0.5, 0.75, 0.9, 1.0])
OPTIONS = st.fixed_dictionaries(
    {
        "scope": st.sampled_from(["global", "local", "isomorphic"]),
        "blocks": st.sampled_from(["auto", "whole", "inside"]),
        "keep_at_least": st.sampled_from([1, 1, 2, 5]),
    }
)
STEPS = st.sampled_from([1, 2, 4, 8, 16])


def widths(coupling: Coupling, step: int) -> list[Width]:
    made = dict.fromkeys(axis for group in coupling.groups for axis in group.producers)
    return [Width(coupling.axes[axis], step) for axis in made] if step > 1 else []


def answer(coupling: Coupling, budget: Budget, options: dict, step: int = 1, seed: int = 0) -> Solution:
    score = np.random.default_rng(seed).exponential(size=coupling.n_units)
    free = Options(**options, widths=widths(coupling, step))
    return solve(coupling, score, coupling.pinned, budget, free)


def lawful(coupling: Coupling, keep: BoolArray) -> None:
    assert keep[coupling.pinned].all()
    for block in coupling.blocks:
        assert breach(block, keep) == "", block.node
    for axis, units in coupling.axes.items():
        assert keep[units].any(), axis


@settings(max_examples=150)
@given(couplings(), QUANTITIES, FRACTIONS, OPTIONS, STEPS, st.integers(0, 3))
def test_laws(
    coupling: Coupling, quantity: str, fraction: float, options: dict, step: int, seed: int
) -> None:
    solution = answer(coupling, Budget(**{quantity: fraction}), options, step, seed)
    keep = solution.keep
    lawful(coupling, keep)
    assert solution.value <= (fraction + EXCESS) * solution.dense + 1e-6 or solution.exhausted
    assert not (fraction == 1 and not keep.all())
    for group in coupling.groups:
        assert keep[group.units].sum() >= min(options["keep_at_least"], group.width), group.name
    for width in widths(coupling, step):
        assert good_widths(len(width.units), step)[keep[width.units].sum()], len(width.units)


@settings(max_examples=40)
@given(couplings(), QUANTITIES, OPTIONS, STEPS)
def test_a_smaller_budget_never_costs_more(
    coupling: Coupling, quantity: str, options: dict, step: int
) -> None:
    found = [
        answer(coupling, Budget(**{quantity: fraction}), options, step)
        for fraction in (0.2, 0.4, 0.45, 0.5, 0.7, 0.95)
    ]
    values = [solution.value for solution in found]
    slack = CLOSE_ENOUGH * found[0].dense
    assert all(a <= b + slack for a, b in itertools.pairwise(values)), values


@settings(max_examples=20)
@given(couplings(), OPTIONS, STEPS)
def test_same_question_same_answer(coupling: Coupling, options: dict, step: int) -> None:
    first, second = (answer(coupling, Budget(macs=0.5), options, step) for _ in range(2))
    assert np.array_equal(first.keep, second.keep)


@settings(max_examples=40)
@given(couplings(), QUANTITIES, FRACTIONS, OPTIONS, STEPS)
def test_nothing_that_still_fits_stays_removed(
    coupling: Coupling, quantity: str, fraction: float, options: dict, step: int
) -> None:
    """With any width allowed, no lone channel can be put back without breaking the budget."""
    solution = answer(coupling, Budget(**{quantity: fraction}), options)
    if coupling.blocks or quantity == "channels" or solution.value > fraction * solution.dense:
        return
    for unit in np.flatnonzero(~solution.keep):
        more = solution.keep.copy()
        more[unit] = True
        value = getattr(coupling.cost.cost(more), quantity)
        close_enough = fraction * solution.dense - solution.value <= CLOSE_ENOUGH * solution.dense
        assert value > fraction * solution.dense or close_enough

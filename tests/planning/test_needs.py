"""Operators that need several positions: plans leave them, masks that do not are refused."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.coupling.blocks import scarce
from fxprune.coupling.couple import analyse
from fxprune.coupling.walk import Walk
from fxprune.errors import PlanError
from fxprune.planning.plan import plan_units, remove
from fxprune.plans import Scope


def needy(rows: int, count: int) -> fxprune.Trace:
    """Twelve units between two layers, of which an operator needs ``count`` in each of ``rows`` rows."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 3))
    trace = fxprune.trace(net, torch.randn(2, 7))
    relu = next(n for n in trace.graph.graph.nodes if n.name == "relu")

    def need(walk: Walk) -> None:
        walk.node = relu
        walk.need(walk.axes["0.weight", 0].reshape(rows, -1), count)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(import_module("fxprune.coupling.couple"), "pin_steering", need)
        analyse(trace)
    return trace


@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_plan_leaves_what_an_operator_needs(count: int, scope: Scope) -> None:
    made = fxprune.plan(needy(1, count), fxprune.Budget(channels=0.05), scope=scope, align=1)
    assert len(made.kept["0.weight", 0]) == count


def test_rows_that_die_whole_need_nothing() -> None:
    trace = needy(4, 2)
    made = remove(trace, {("0.weight", 0): [0, 1, 2, 5, 8]})
    assert made.kept["0.weight", 0] == (3, 4, 6, 7, 9, 10, 11)
    with pytest.raises(PlanError, match="needs 2 positions or more") as error:
        remove(trace, {("0.weight", 0): [0, 1, 5]})
    assert error.value.node == "relu"


def test_the_best_units_stay_row_by_row() -> None:
    trace = needy(3, 3)
    made = fxprune.plan(trace, fxprune.Budget(channels=0.26), align=1)
    keep = np.zeros(analyse(trace).coupling.n_units, bool)
    keep[analyse(trace).coupling.axes["0.weight", 0][list(made.kept["0.weight", 0])]] = True
    assert not len(scarce(analyse(trace).coupling.at_least[0], keep))
    left = np.array(made.kept["0.weight", 0]).reshape(-1, 3)
    assert (left // 4 == left[:, :1] // 4).all()


def test_a_mask_with_fewer_is_refused() -> None:
    trace = needy(1, 2)
    keep = np.ones(analyse(trace).coupling.n_units, bool)
    keep[analyse(trace).coupling.axes["0.weight", 0][1:]] = False
    with pytest.raises(PlanError, match="needs 2 positions or more"):
        plan_units(trace, keep)

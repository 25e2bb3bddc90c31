"""One set of options: whoever spends a budget takes all of them, and the plan is the same."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune.errors import PlanError
from fxprune.planning.options import PlanOptions
from fxprune.planning.spend import spend
from fxprune.plans import Budget
from fxprune.regularizers import GroupLasso, Uniform
from fxprune.training.recipe.schema import PlanSection

NAMES = {f.name for f in dataclasses.fields(PlanOptions)}
BUDGET = Budget(macs=0.6)
OPTIONS = PlanOptions(align=1, protect="0", keep_at_least=5, seed=3)


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 1))


def traced() -> fxprune.Trace:
    torch.manual_seed(0)
    return fxprune.trace(Net().eval(), torch.randn(1, 3, 12, 12))


def test_nobody_lacks_an_option() -> None:
    for function in (fxprune.plan, fxprune.compress):
        assert set(inspect.signature(function).parameters) >= NAMES
    assert set(PlanSection.model_fields) >= NAMES - {"seed"}  # the recipe's own


@pytest.mark.parametrize(
    "wrong",
    [
        {"align": 0},
        {"align": True},
        {"keep_at_least": 0},
        {"scope": "all"},
        {"blocks": "rows"},
        {"target": "x"},
    ],
)
def test_what_makes_no_sense_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(PlanError):
        PlanOptions(**wrong)  # type: ignore[arg-type]


def test_a_plan_is_the_same_whoever_is_asked(tmp_path: Path) -> None:
    trace = traced()
    expected = spend(trace, BUDGET, OPTIONS, criterion="random")
    words = vars(OPTIONS)
    assert fxprune.plan(trace, BUDGET, criterion="random", **words) == expected
    assert ("0.weight", 0) not in expected.kept and len(expected.kept["2.weight", 0]) >= 5
    result = fxprune.compress(
        trace.model, trace.args, BUDGET, out=tmp_path, criterion="random", seconds=0.05, **words
    )
    assert result.plan.kept == expected.kept
    section = PlanSection(align=1, protect=("0",), keep_at_least=5)
    assert section.options(seed=3) == OPTIONS


def test_methods_spend_a_budget_under_the_same_options() -> None:
    trace = traced()
    groups = fxprune.couple(trace)
    free = GroupLasso(trace.model, groups, lam=0.1, solver="subgradient").plan(BUDGET, PlanOptions(align=1))
    held = GroupLasso(trace.model, groups, lam=0.1, solver="subgradient").plan(BUDGET, OPTIONS)
    assert ("0.weight", 0) in free.kept and ("0.weight", 0) not in held.kept
    drawn = Uniform(trace.model, groups, budget=BUDGET, seed=7).plan(options=OPTIONS)
    own = dataclasses.replace(OPTIONS, seed=7, scope="local")
    assert drawn == spend(trace, BUDGET, own, criterion="random")

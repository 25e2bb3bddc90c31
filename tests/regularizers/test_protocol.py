"""What the protocol promises, for every method of the table, several at once, and two of somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from regularizers.nets import traced
from torch import nn

import fxprune
from fxprune.errors import PlanError
from fxprune.plans import Budget, Plan
from fxprune.regularizers import GAL, SSR, Compose, GReg, Regularizer, Uniform
from fxprune.regularizers.registry import METHODS, MethodInfo, WrongOption, make_method, method_info

OWN = Path(__file__).with_name("own_methods.py")
ROUNDING = 1e-10  # float64: sums in another order

Chosen = Sequence[tuple[str, dict[str, object]]]

# As recipes write them; strong enough that a few steps decide something.
CHOSEN: dict[str, Chosen] = {
    "ssr": [("ssr", {"lam": 1.0, "period": 2})],
    "dwgl": [("dwgl", {"lam": 0.4, "everywhere": True})],
    "increg": [("increg", {"ratio": 0.4, "increment": 0.5, "removal": "ceiling", "ceiling": 1.0})],
    "increg_columns": [
        (
            "increg",
            {"ratio": 0.4, "increment": 0.5, "removal": "ceiling", "ceiling": 1.0, "granularity": "columns"},
        )
    ],
    "group_lasso": [("group_lasso", {"lam": 0.42})],
    "network_slimming": [("network_slimming", {"lam": 0.1})],
    "greg": [("greg", {"ratio": 0.4, "delta": 0.1, "every": 2})],
    "magnitude": [("magnitude", {})],
    "uniform": [("uniform", {})],
    "gal": [("gal", {"on": ["block"], "lam": 9.0, "mask_step": 2})],
    "several": [("ssr", {"lam": 1.6, "period": 2}), ("greg", {"ratio": 0.2})],
    "fading": [(f"{OWN}:Fading", {"lost": 0.05, "growth": 2.0})],
    "faithful": [(f"{OWN}:Faithful", {"keep": 0.7, "shake": [0.1, 0.2]})],
}

DECIDE_ALONE = {"increg_columns", "gal", "several"}
"""Methods that take no decision but their own."""

every_method = pytest.mark.parametrize("name", CHOSEN)


class Run:
    """A residual net in training as ``fxprune train`` has it."""

    def __init__(self, name: str, slot: int = 0) -> None:
        self.model, self.trace, self.groups, self.x = traced("residual", slot, slot)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.reg = make_method(
            CHOSEN[name], self.model, self.groups, optimizer=self.optimizer, budget=Budget(params=0.6)
        )
        self.random = torch.Generator().manual_seed(0)

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            x = torch.randn(4, *self.x.shape[1:], dtype=torch.float64, generator=self.random)
            y = torch.randn(4, 4, dtype=torch.float64, generator=self.random)
            self.optimizer.zero_grad()
            objective = self.reg.objective
            loss = (self.model(x) - y).square().mean() if objective is None else objective(x)
            (loss + self.reg.penalty()).backward()
            self.optimizer.step()
            self.reg.step()

    def everything(self) -> dict[str, torch.Tensor]:
        both = {**self.model.state_dict(), **{f"method.{k}": v for k, v in self.reg.state_dict().items()}}
        return {name: value.clone() for name, value in both.items()}


def differing(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name in before if not torch.equal(before[name], after[name])]


def same(one: Plan, two: Plan) -> bool:
    return (one.kept, one.removed, one.crops) == (two.kept, two.removed, two.crops)


def test_every_row_is_tested() -> None:
    assert {info.name for info in METHODS} <= set(CHOSEN)
    names = [name for info in METHODS for name in (info.name, info.method.__name__)]
    assert len(names) == len(set(names))
    assert any(info.one_shot for info in METHODS) and any(info.method is GAL for info in METHODS)


@every_method
def test_looking_changes_nothing(name: str) -> None:
    """Reports, and the decision of the moment, can be asked for at any step."""
    run = Run(name)
    run.step(4)
    before = run.everything()
    decision = run.reg.decision()
    report, removed = run.reg.report(), run.reg.removed_units()
    assert differing(before, run.everything()) == []
    assert not run.reg.finished
    assert (report.steps, 0 <= report.zero_share < 1) == (4, True)
    assert (np.diff(removed) > 0).all()
    if run.reg.one_shot:
        assert decision is None


@every_method
def test_the_decision_of_the_moment_is_what_finishing_takes(name: str) -> None:
    run = Run(name)
    run.step(6)
    decision = run.reg.decision()
    # What is not ripe yet goes all the same when IncReg finishes.
    if decision is not None and not name.startswith("increg"):
        run.reg.finish()
        assert same(run.reg.plan(), decision)


@every_method
def test_finishing_is_for_good(name: str) -> None:
    run = Run(name)
    run.step(6)
    run.reg.finish()
    assert run.reg.finished
    plan, before = run.reg.plan(), run.everything()
    assert plan.predicted.params < plan.dense.params or name == "increg_columns"
    run.reg.finish()
    assert differing(before, run.everything()) == []
    assert float(run.reg.penalty()) == 0
    run.step(2)
    assert same(run.reg.plan(), plan)
    slim = fxprune.slim(run.trace, plan).eval()
    torch.testing.assert_close(slim(run.x), run.model.eval()(run.x), rtol=ROUNDING, atol=ROUNDING)


@every_method
def test_a_plan_is_taken_or_refused(name: str) -> None:
    run = Run(name)
    run.step(4)
    if run.reg.steerable:
        assert run.reg.period >= 1 and run.reg.strength == 1.0
        wanted = run.reg.plan(Budget(params=0.8))
    else:
        wanted = fxprune.plan(run.trace, Budget(params=0.8), align=1)
    if name in DECIDE_ALONE:
        assert not run.reg.steerable
        with pytest.raises(PlanError, match="are not decided by a plan of channels"):
            run.reg.finish(wanted)
        assert not run.reg.finished
    else:
        run.reg.finish(wanted)
        assert same(run.reg.plan(), wanted)


@every_method
def test_a_budget_is_spent_as_the_options_say(name: str) -> None:
    run = Run(name)
    run.step(4)
    options = fxprune.planning.options.PlanOptions(align=1, protect=("stem*",))
    if name == "increg_columns":
        with pytest.raises(PlanError, match="ranks nothing that a budget could be spent on"):
            run.reg.plan(Budget(params=0.7), options)
        return
    plan = run.reg.plan(Budget(params=0.7), options)
    assert plan.predicted.params <= 0.72 * plan.dense.params
    assert ("stem.weight", 0) not in plan.kept or len(plan.kept["stem.weight", 0]) == 8


@every_method
@pytest.mark.parametrize("finished", [False, True])
def test_a_state_continues_bit_equal(name: str, finished: bool) -> None:
    first = Run(name)
    first.step(3)
    if finished:
        first.reg.finish()
    model, optimizer = first.model.state_dict(), first.optimizer.state_dict()
    saved = {key: value.clone() for key, value in model.items()}
    state, momenta = (
        first.reg.state_dict(),
        {k: v["momentum_buffer"].clone() for k, v in optimizer["state"].items()},
    )
    assert all(type(value) is torch.Tensor for value in state.values())
    first.random.manual_seed(7)
    first.step(3)
    second = Run(name, slot=1)
    second.model.load_state_dict(saved)
    states = {k: {"momentum_buffer": v} for k, v in momenta.items()}
    second.optimizer.load_state_dict({**optimizer, "state": states})
    second.reg.load_state_dict(state)
    assert second.reg.finished == finished
    second.random.manual_seed(7)
    second.step(3)
    assert differing(first.everything(), second.everything()) == []


@every_method
def test_the_student_is_what_the_model_becomes(name: str) -> None:
    run = Run(name)
    run.step(4)
    assert (run.reg.student is None) == (name not in ("gal", "faithful"))
    if name == "gal":
        run.model.eval()
        before = run.reg.student(run.x)
        assert (before - run.model(run.x)).abs().max() > 1e-3
        run.reg.finish()
        torch.testing.assert_close(run.model(run.x), before, rtol=ROUNDING, atol=ROUNDING)


# --- rows ----------------------------------------------------------------------------------------


def test_a_row_says_what_a_recipe_has_to_know() -> None:
    own = method_info(f"{OWN}:Fading")
    # Its own options, and those of the class that it hands the rest to.
    assert own.options == ("lost", "growth", "every", "members", "votes", "keep_at_least", "only")
    assert (own.name, own.one_shot) == ("fading", False)
    assert method_info("Uniform") == MethodInfo(Uniform)
    assert "lr" not in method_info(f"{OWN}:Faithful").options


@pytest.mark.parametrize(
    ("method", "options", "option", "what"),
    [
        ("Fading", {}, "", "fading needs the option 'lost'"),
        ("Fading", {"lost": "much"}, "lost", "fading: lost='much'"),
        ("Fading", {"lost": 0.1, "members": "some"}, "members", "fading: members='some'"),
        (
            "Fading",
            {"lost": 0.1, "keep_at_leats": 2},
            "keep_at_leats",
            "fading has no option 'keep_at_leats'",
        ),
        ("Faithful", {"shake": 0.1}, "shake", "faithful: shake=0.1"),
        ("Faithful", {"lr": 0.1}, "lr", "faithful has no option 'lr'"),
    ],
)
def test_options_of_ones_own_are_checked(
    method: str, options: dict[str, object], option: str, what: str
) -> None:
    with pytest.raises(WrongOption, match=what) as caught:
        method_info(f"{OWN}:{method}").check(options)
    assert caught.value.option == option
    assert caught.value.advice


def test_lists_become_what_annotations_say() -> None:
    assert method_info(f"{OWN}:Faithful").check({"shake": [1.0, 2.0]}) == {"shake": (1.0, 2.0)}
    assert method_info(f"{OWN}:Fading").check({"lost": 0.1, "only": ["a"]}) == {"lost": 0.1, "only": {"a"}}


UNFINISHED = """
from __future__ import annotations
from typing import TYPE_CHECKING
from fxprune.regularizers import GroupLasso, Regularizer
if TYPE_CHECKING:
    from decimal import Decimal

class Half(Regularizer):
    def penalty(self): ...

class Hidden(GroupLasso):
    def __init__(self, model, groups, *, lam: Decimal = 0) -> None: ...
"""


@pytest.mark.parametrize(
    ("cls", "what"),
    [
        ("Half", "is not complete: it has no finish, finished, load_state_dict, plan"),
        ("Hidden", "cannot be checked: name 'Decimal' is not defined"),
    ],
)
def test_what_cannot_work_is_refused_with_advice(cls: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "unfinished.py").write_text(UNFINISHED)
    with pytest.raises(WrongOption, match=what):
        method_info(f"{tmp_path / 'unfinished.py'}:{cls}").check({"lam": 1})


# --- several at once -----------------------------------------------------------------------------


def test_one_strength_for_several() -> None:
    run = Run("several")
    run.reg.strength = 3.0
    assert [part.strength for part in run.reg.parts] == [3.0, 3.0]
    assert run.reg.strength == 3.0


def test_a_method_with_an_objective_of_its_own_is_used_alone() -> None:
    run = Run("gal")
    other: nn.Module = run.model
    with pytest.raises(PlanError, match="'gal' has an objective of its own"):
        Compose(SSR(other, run.groups), run.reg)
    parts: list[Regularizer] = [GReg(other, run.groups), SSR(other, run.groups)]
    assert Compose(*parts).objective is None

"""What the protocol promises, for every method of the table, several at once, and two of somebody else's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from regularizers.own_methods import Fading
from torch import Tensor, nn

import fxprune
from fxprune.errors import PlanError
from fxprune.plans import Budget
from fxprune.regularizers import GAL, SSR, Compose, GReg, GroupRegularizer, Regularizer, Uniform, energy
from fxprune.regularizers.registry import METHODS, MethodInfo, WrongOption, method_info
from fxprune.testing import LawError, check_method
from fxprune.testing.methods import METHOD_LAWS, Training

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


def test_every_row_is_tested() -> None:
    assert {info.name for info in METHODS} <= set(CHOSEN)
    names = [name for info in METHODS for name in (info.name, info.method.__name__)]
    assert len(names) == len(set(names))
    assert any(info.one_shot for info in METHODS) and any(info.method is GAL for info in METHODS)


@every_method
@pytest.mark.parametrize("law", METHOD_LAWS)
def test_laws(name: str, law: str) -> None:
    assert METHOD_LAWS[law](lambda slot, only="": Training(CHOSEN[name], slot, only)) == ""


@every_method
def test_something_goes(name: str) -> None:
    """Else the laws would say little."""
    run = Training(CHOSEN[name])
    run.step(6)
    run.method.finish()
    plan = run.method.plan()
    assert plan.predicted.params < plan.dense.params or name == "increg_columns"


@every_method
def test_the_moments_decision_is_all_that_finishing_takes(name: str) -> None:
    run = Training(CHOSEN[name])
    run.step(6)
    decision = run.method.decision()
    assert (decision is None) == run.method.one_shot
    # What is not ripe yet goes all the same when IncReg finishes.
    if decision is not None and not name.startswith("increg"):
        run.method.finish()
        assert run.method.plan().kept == decision.kept


@pytest.mark.parametrize("name", sorted(DECIDE_ALONE))
def test_who_decides_alone_says_so(name: str) -> None:
    run = Training(CHOSEN[name])
    run.step(4)
    assert not run.method.steerable
    with pytest.raises(PlanError, match="are not decided by a plan of channels"):
        run.method.finish(fxprune.plan(run.trace, Budget(params=0.8), align=1))


@every_method
def test_who_can_be_led_says_so(name: str) -> None:
    run = Training(CHOSEN[name])
    assert run.method.period >= 1
    assert run.method.strength == 1.0
    if name not in DECIDE_ALONE:
        run.step(4)
        run.method.finish(fxprune.plan(run.trace, Budget(params=0.8), align=1))
        assert run.method.finished


def test_columns_rank_nothing() -> None:
    run = Training(CHOSEN["increg_columns"])
    run.step(4)
    with pytest.raises(PlanError, match="ranks nothing that a budget could be spent on"):
        run.method.plan(Budget(params=0.7))


@every_method
def test_the_student_is_what_the_model_becomes(name: str) -> None:
    run = Training(CHOSEN[name])
    run.step(4)
    assert (run.method.student is None) == (name not in ("gal", "faithful"))
    if name == "gal":
        run.model.eval()
        before = run.method.student(run.x)
        assert (before - run.model(run.x)).abs().max() > 1e-3
        run.method.finish()
        torch.testing.assert_close(run.model(run.x), before, rtol=ROUNDING, atol=ROUNDING)


# --- check_method ------------------------------------------------------------------------------

Patch = tuple[str, object]


# Slips that somebody who writes a method may make, and the first law that says so.
SLIPS: dict[str, tuple[str, Patch]] = {
    "decides when asked": (
        "looking changes nothing",
        ("decision", lambda self: self.finish() or self.plan()),
    ),
    "decides otherwise at the end": (
        "what would go goes",
        (
            "finish",
            lambda self, plan=None: GroupRegularizer.finish(self, plan or self.plan(Budget(params=0.99))),
        ),
    ),
    "lets what went come back": (
        "finishing is for good",
        ("step", lambda self: None if self.finished else GroupRegularizer.step(self)),
    ),
    "punishes what is left": ("finishing is for good", ("penalty", Fading._penalty)),
    "takes any plan for its own": (
        "a plan is taken or refused",
        ("finish", lambda self, plan=None: GroupRegularizer.finish(self)),
    ),
    "spends a budget its own way": (
        "a budget is spent or refused",
        (
            "plan",
            lambda self, budget=None, options=None: GroupRegularizer.plan(
                self, budget and Budget(params=0.9)
            ),
        ),
    ),
    "forgets its factor": (
        "a state continues bit for bit",
        ("_load_own_state", lambda self, state: None),
    ),
    "gives its tensors away": (
        "a state continues bit for bit",
        (
            "state_dict",
            lambda self: {**GroupRegularizer.state_dict(self), "own": next(self._model.parameters()).data},
        ),
    ),
    "takes any state": ("a foreign state is refused", ("load_state_dict", lambda self, state: None)),
    "touches everything": (
        "nothing else is touched",
        ("_step", lambda self: [p.data.mul_(0.9) for p in self._model.parameters()]),
    ),
    "ignores its strength": (
        "strength scales the penalty",
        ("_penalty", lambda self: _decay(self, self._factor, self._factor)),
    ),
    "differentiates wrongly": (
        "the gradient is the penalty's",
        (
            "_penalty",
            lambda self: _decay(self, self.strength * self._factor, 2 * self.strength * self._factor),
        ),
    ),
    "takes sums that carry no gradient": (
        "the gradient is the penalty's",
        ("_penalty", lambda self: self.strength * self._factor * self.view.sums(2).sum()),
    ),
}


def _decay(method: Fading, value: Tensor, slope: Tensor) -> Tensor:
    return energy(method.view, lambda squares: (value * squares.sum(), slope.expand_as(squares)))


def test_a_method_of_ones_own_keeps_the_laws() -> None:
    name, options = CHOSEN["fading"][0]
    assert str(check_method(name, options)).startswith("fading: 11 laws hold (looking changes nothing, ")


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_in_a_method_are_said(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law, (name, replaced) = SLIPS[slip]
    monkeypatch.setattr(Fading, name, replaced)
    with pytest.raises(LawError, match="the method fading breaks laws") as caught:
        check_method(Fading, CHOSEN["fading"][0][1])
    assert law in {broken.law for broken in caught.value.broken}


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
    run = Training(CHOSEN["several"])
    run.method.strength = 3.0
    assert [part.strength for part in run.method.parts] == [3.0, 3.0]
    assert run.method.strength == 3.0


def test_a_method_with_an_objective_of_its_own_is_used_alone() -> None:
    run = Training(CHOSEN["gal"])
    other: nn.Module = run.model
    with pytest.raises(PlanError, match="'gal' has an objective of its own"):
        Compose(SSR(other, run.groups), run.method)
    parts: list[Regularizer] = [GReg(other, run.groups), SSR(other, run.groups)]
    assert Compose(*parts).objective is None

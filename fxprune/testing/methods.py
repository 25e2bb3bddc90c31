"""Every law of the protocol on a method of one's own: what a training loop relies on, tried on a small residual net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.coupling.couple import couple
from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace, trace
from fxprune.planning.options import PlanOptions
from fxprune.planning.plan import plan
from fxprune.plans import Budget, Plan
from fxprune.regularizers.protocol import Regularizer
from fxprune.regularizers.registry import make_method
from fxprune.slimming.slim import slim
from fxprune.support.words import headline
from fxprune.testing.operators import Broken, LawError

__all__ = ["METHOD_LAWS", "Chosen", "MethodReport", "Training", "broken_laws", "check_method"]

Chosen = Sequence[tuple[str | type[Regularizer], Mapping[str, object]]]
"""Methods as recipes name them, or their classes, each with its options."""

ROUNDING = 1e-10
"""Float64: sums in another order."""

DIFFERENCE = 1e-5
"""Of weights, to either side: in float64 rounding and curvature leave some eight digits of the slope."""

CURVED = 1e-6
"""Relative to the gradient's length, two orders above what ours leave."""

BUDGET = Budget(params=0.6)
"""For methods that ask for one."""


# --- the net -----------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Residual(nn.Module):
    """A stem of 8 channels, two residual blocks of 6 on one stream, a head of 4: float[n, 3, h, w] to float[n, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.block1 = Block(8, 6)
        self.block2 = Block(8, 6)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(torch.relu(self.bn(self.stem(x)))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def example(trace: Trace) -> Tensor:
    """The one input of the net."""
    (x,) = trace.args
    assert isinstance(x, Tensor)
    return x


@cache
def _traced(slot: int) -> tuple[nn.Module, Trace, tuple[Group, ...], dict[str, Tensor]]:
    """A net with live statistics, its groups, and its weights to begin with; one object for every slot."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(slot)
        net = Residual().double()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        net.train()(x)
    traced = trace(net.eval(), x)
    return net, traced, tuple(couple(traced)), {k: v.clone() for k, v in net.state_dict().items()}


class Training:
    """The net in training with a method, as ``fxprune train`` has it; equal for equal arguments.

    Attributes:
        model: The net, float64, in training mode.
        trace: Its trace.
        groups: Its coupling groups, or those whose names begin as asked for.
        x: float64[2, 3, 8, 8], an input.
        optimizer: SGD with momentum.
        method: The method at work.
        random: Draws batches.
    """

    def __init__(self, chosen: Chosen, slot: int = 0, only: str = "") -> None:
        self.model, self.trace, groups, begin = _traced(slot)
        self.groups = tuple(g for g in groups if g.name.startswith(only))
        self.model.load_state_dict(begin)
        self.model.train().zero_grad()
        self.x = example(self.trace)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        named = [(name, dict(options)) for name, options in chosen]
        self.method = make_method(named, self.model, self.groups, optimizer=self.optimizer, budget=BUDGET)
        self.random = torch.Generator().manual_seed(0)

    def step(self, n: int = 1, *, optimize: bool = True) -> None:
        """Train for some steps, on request without the optimizer's part."""
        for _ in range(n):
            x = torch.randn(4, *self.x.shape[1:], dtype=torch.float64, generator=self.random)
            y = torch.randn(4, 4, dtype=torch.float64, generator=self.random)
            self.optimizer.zero_grad()
            objective = self.method.objective
            loss = (self.model(x) - y).square().mean() if objective is None else objective(x)
            (loss + self.method.penalty()).backward()
            if optimize:
                self.optimizer.step()
            self.method.step()

    def everything(self) -> dict[str, Tensor]:
        """Copies of the model's and the method's tensors by name."""
        state = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        return {name: value.clone() for name, value in {**self.model.state_dict(), **state}.items()}


# --- laws --------------------------------------------------------------------------------------


class Begin(Protocol):
    """Begins a training; trainings of different slots begin with different weights."""

    def __call__(self, slot: int, only: str = "") -> Training: ...


MethodLaw = Callable[[Begin], str]
"""A law of the protocol: empty, or how it is broken."""


def looking_changes_nothing(begin: Begin) -> str:
    """Reports and the decision of the moment can be asked for at any step."""
    run = begin(0)
    run.step(4)
    before = run.everything()
    decision, report = run.method.decision(), run.method.report()
    removed = run.method.removed_units()
    if changed := _differing(before, run.everything()):
        return f"decision(), report() and removed_units() change {changed}"
    if run.method.finished:
        return "decision() finishes the method"
    if report.steps != 4 or not 0 <= report.zero_share <= 1:
        return f"after 4 steps the report says {report.steps} steps and a zero share of {report.zero_share:g}"
    if not (np.diff(removed) > 0).all():
        return "removed_units() are not ascending, or some stand there twice"
    return (
        "a method that decides at once has a decision of its own" if run.method.one_shot and decision else ""
    )


def what_would_go_goes(begin: Begin) -> str:
    """Finishing removes all that the decision of the moment named, and maybe what was not ripe yet."""
    run = begin(0)
    run.step(6)
    decision = run.method.decision()
    if decision is None:
        return ""
    run.method.finish()
    taken = run.method.plan()
    left = [a for a, index in taken.kept.items() if not set(index) <= set(decision.kept.get(a, index))]
    return f"finish() keeps what decision() removed in {left}" if left else ""


def finishing_is_for_good(begin: Begin) -> str:
    """What went stays zero through further training: the masked model is the slim model."""
    run = begin(0)
    run.step(6)
    run.method.finish()
    if not run.method.finished:
        return "after finish() the method is not finished"
    taken, before = run.method.plan(), run.everything()
    run.method.finish()
    if changed := _differing(before, run.everything()):
        return f"a second finish() changes {changed}"
    if penalty := float(run.method.penalty()):
        return f"after finish() the penalty is {penalty:g}"
    run.step(2)
    if not _same(run.method.plan(), taken):
        return "training after finish() changes the plan"
    small = slim(run.trace, taken).eval()
    with torch.no_grad():
        wanted = run.model.eval()(run.x)
        off = float((small(run.x) - wanted).abs().max() / wanted.abs().max())
    return "" if off <= ROUNDING else f"two steps after finish() the slim model is off by {off:.1e}"


def a_plan_is_taken_or_refused(begin: Begin) -> str:
    """``finish(plan)`` takes exactly that plan, or refuses and leaves the method as it was."""
    run = begin(0)
    run.step(4)
    wanted = run.method.plan(Budget(params=0.8)) if run.method.steerable else _uniform(run)
    try:
        run.method.finish(wanted)
    except PlanError:
        if run.method.steerable:
            return "steerable, and finish(plan) refuses"
        return "a refused plan finishes the method" if run.method.finished else ""
    return "" if _same(run.method.plan(), wanted) else "finish(plan) takes another plan"


def _uniform(run: Training) -> Plan:
    return plan(run.trace, Budget(params=0.8), align=1)


def a_budget_is_spent_or_refused(begin: Begin) -> str:
    """``plan(budget, options)`` meets the budget and leaves alone what is protected, or refuses."""
    run = begin(0)
    run.step(4)
    try:
        spent = run.method.plan(Budget(params=0.7), PlanOptions(align=1, protect=("stem*",)))
    except PlanError:
        return "steerable, and no budget can be spent" if run.method.steerable else ""
    if spent.predicted.params > 0.72 * spent.dense.params:
        return f"a budget of 0.7 leaves {spent.predicted.params / spent.dense.params:.2f} of the parameters"
    return "a protected layer loses channels" if len(spent.kept.get(("stem.weight", 0), range(8))) < 8 else ""


def a_state_continues(begin: Begin, *, finished: bool = False) -> str:
    """From a copy of the tensors of model, optimizer and method another run goes on bit for bit."""
    first = begin(0)
    first.step(3)
    if finished:
        first.method.finish()
    state = first.method.state_dict()
    if odd := [name for name, value in state.items() if type(value) is not torch.Tensor]:
        return f"no tensors in state_dict(): {odd}"
    frozen = {name: value.clone() for name, value in state.items()}
    weights = {name: value.clone() for name, value in first.model.state_dict().items()}
    optimizer = first.optimizer.state_dict()
    momenta = {k: {"momentum_buffer": v["momentum_buffer"].clone()} for k, v in optimizer["state"].items()}
    first.random.manual_seed(7)
    first.step(3)
    if changed := [name for name, value in state.items() if not torch.equal(value, frozen[name])]:
        return f"a state changes with later steps, as it is no copy: {changed}"
    second = begin(1)
    second.model.load_state_dict(weights)
    second.optimizer.load_state_dict({**optimizer, "state": momenta})
    second.method.load_state_dict(frozen)
    if second.method.finished != finished:
        return f"finished is {not finished} after loading a state where it was {finished}"
    second.random.manual_seed(7)
    second.step(3)
    changed = _differing(first.everything(), second.everything())
    return f"three steps after loading a state these differ: {changed}" if changed else ""


def a_finished_state_continues(begin: Begin) -> str:
    """As ``a_state_continues``, where the decisions are taken."""
    return a_state_continues(begin, finished=True)


def a_foreign_state_is_refused(begin: Begin) -> str:
    """The state of something else raises ``PlanError``."""
    try:
        begin(0).method.load_state_dict({"somebody_elses": torch.zeros(3)})
    except PlanError:
        return ""
    return "load_state_dict takes a state of another method"


def nothing_else_is_touched(begin: Begin) -> str:
    """Given some groups, and without the optimizer's steps, only their parameters change."""
    run = begin(0, "block1")
    members = {name for group in run.groups for name, _ in group.members}
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    run.step(4, optimize=False)
    after = dict(run.model.named_parameters())
    changed = [n for n in before if n not in members and not torch.equal(before[n], after[n])]
    return f"penalty() and step() change {changed}, which no group of the method holds" if changed else ""


def strength_scales_the_penalty(begin: Begin) -> str:
    """A steerable method's penalty is twice as high with twice the strength, or ``step()`` does something else.

    Methods act in either: by a penalty, or by a prox or a threshold of theirs in ``step()``.
    """
    if not begin(0).method.steerable:
        return ""
    single, after_single = _with_strength(begin, 1.0)
    double, after_double = _with_strength(begin, 2.0)
    scaled = single != 0 and abs(double - 2 * single) <= ROUNDING * abs(single)
    if scaled or _differing(after_single, after_double):
        return ""
    return f"twice the strength makes a penalty of {single:g} one of {double:g}, and step() does the same"


def _with_strength(begin: Begin, strength: float) -> tuple[float, dict[str, Tensor]]:
    """The penalty at a strength, and all tensors after the steps in which it may act."""
    run = begin(0)
    run.step(4)
    run.method.strength = strength
    penalty = float(run.method.penalty().detach())
    run.step(run.method.period, optimize=False)
    run.method.strength = 1.0  # itself a part of the state
    return penalty, run.everything()


def the_gradient_is_the_penaltys(begin: Begin) -> str:
    """Along random directions the penalty grows as its gradient says; one that is none by intent is not for ``penalty()``."""
    run = begin(0)
    run.step(4)
    weights = list(run.model.parameters())
    penalty = run.method.penalty()
    if penalty.requires_grad:
        asked = torch.autograd.grad(penalty, weights, materialize_grads=True)
    else:
        asked = tuple(map(torch.zeros_like, weights))
    size = float(torch.stack([g.norm() for g in asked]).norm())
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        way = [torch.randn(w.shape, dtype=w.dtype, generator=random) for w in weights]
        slope = float(torch.stack([(g * d).sum() for g, d in zip(asked, way, strict=True)]).sum())
        ahead, behind = (_penalty_at(run, weights, way, by) for by in (DIFFERENCE, -DIFFERENCE))
        seen = (ahead - behind) / (2 * DIFFERENCE)
        off = abs(seen - slope) > CURVED * max(size, abs(seen)) + ROUNDING
        if off and not penalty.requires_grad:
            return (
                f"along a random direction the penalty grows by {seen:.6g}, but it carries no gradient: sums of the "
                "view carry none, so write it as an energy(view, ...) or with view.tensors()"
            )
        if off:
            return (
                f"along a random direction the penalty grows by {seen:.6g}, but its gradient says {slope:.6g}"
            )
    return ""


@torch.no_grad()
def _penalty_at(run: Training, weights: Sequence[Tensor], way: Sequence[Tensor], by: float) -> float:
    """The penalty some way along a direction; the weights are put back."""
    before = [w.clone() for w in weights]
    for w, d in zip(weights, way, strict=True):
        w.add_(d, alpha=by)
    value = float(run.method.penalty())
    for w, b in zip(weights, before, strict=True):
        w.copy_(b)
    return value


METHOD_LAWS: Mapping[str, MethodLaw] = {
    "looking changes nothing": looking_changes_nothing,
    "what would go goes": what_would_go_goes,
    "finishing is for good": finishing_is_for_good,
    "a plan is taken or refused": a_plan_is_taken_or_refused,
    "a budget is spent or refused": a_budget_is_spent_or_refused,
    "a state continues bit for bit": a_state_continues,
    "a finished state continues bit for bit": a_finished_state_continues,
    "a foreign state is refused": a_foreign_state_is_refused,
    "nothing else is touched": nothing_else_is_touched,
    "strength scales the penalty": strength_scales_the_penalty,
    "the gradient is the penalty's": the_gradient_is_the_penaltys,
}
"""By name."""


def _differing(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    odd = sorted(before.keys() ^ after.keys())
    return odd + [name for name in before if name in after and not torch.equal(before[name], after[name])]


def _same(one: Plan, two: Plan) -> bool:
    return (one.kept, one.removed, one.crops) == (two.kept, two.removed, two.crops)


# --- all of them -------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodReport:
    """Laws that hold.

    Attributes:
        method: Name of the method.
        laws: Names of the laws.
    """

    method: str
    laws: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method}: {len(self.laws)} laws hold ({', '.join(self.laws)})"


def check_method(
    method: str | type[Regularizer], options: Mapping[str, object] | None = None
) -> MethodReport:
    """Run every law of the protocol on a method: what training loops, recipes and ``Compose`` rely on.

    A residual net of a few channels is trained for a few steps in float64, some seconds in all.

    Args:
        method: A class, or its name as in recipes: ``"ssr"``, ``"my_file.py:MyMethod"`` or ``"my_module:MyMethod"``.
        options: Keyword arguments, with which a few steps decide something.  ``lr`` and ``budget`` are given to a
            method that asks for them.

    Returns:
        Which laws hold.

    Raises:
        LawError: Some do not; it says which, and how.
        WrongOption: There is no such method, or it cannot be made with these options.

    Example:
        >>> print(check_method("group_lasso", {"lam": 0.42}))  # doctest: +ELLIPSIS
        group_lasso: 11 laws hold (looking changes nothing, ...)
    """
    chosen = [(method, options or {})]
    name = Training(chosen).method.name
    broken = [Broken(law, name, how) for law, how in broken_laws(chosen)]
    if broken:
        raise LawError("method", broken)
    return MethodReport(name, tuple(METHOD_LAWS))


def broken_laws(chosen: Chosen) -> list[tuple[str, str]]:
    """Names of the laws that do not hold for methods, and how; a law that fails does not hold."""
    broken = []
    for name, law in METHOD_LAWS.items():
        try:
            how = law(lambda slot, only="": Training(chosen, slot, only))
        except Exception as error:  # noqa: BLE001 - whatever a method makes fail, the method is to blame
            how = headline(error, most=200)
        if how:
            broken.append((name, how))
    return broken

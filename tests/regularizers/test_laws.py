"""One battery of laws for every method on groups, on a residual, a concat and an attention model."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from regularizers.nets import NETS, linear_chain, traced
from torch import nn

import fxprune
from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.plans import Budget
from fxprune.regularizers import (
    DWGL,
    GAL,
    REGULARIZERS,
    SSR,
    Compose,
    GReg,
    GroupLasso,
    GroupRegularizer,
    IncReg,
    Magnitude,
    NetworkSlimming,
    Regularizer,
    Uniform,
)

# float64: sums in another order.
ROUNDING = 1e-10

Make = Callable[[nn.Module, Sequence[Group], torch.optim.Optimizer], Regularizer]

# Strong enough that a few steps decide something on every model.
METHODS: dict[str, Make] = {
    "ssr_l21": lambda m, g, o: SSR(m, g, lam=1.0, scale="norm", period=2),
    "ssr_l20": lambda m, g, o: SSR(m, g, lam=0.55, norm="l2,0", scale="norm", period=2),
    "ssr_all": lambda m, g, o: SSR(m, g, lam=1.0, scale="norm", members="all", period=2, rho_growth=1.1),
    "ssr_layerwise": lambda m, g, o: SSR(
        m, g, lam=1.0, scale="norm", order="layerwise", stage_steps=(2, 1), period=2
    ),
    "ssr_subgradient": lambda m, g, o: SSR(m, g, lam=0.5, scale="norm", solver="subgradient", threshold=0.9),
    "dwgl": lambda m, g, o: DWGL(m, g, lam=0.4, lr=o, scale="norm", everywhere=True),
    "dwgl_power": lambda m, g, o: DWGL(m, g, lam=0.4, lr=o, scale="norm", ramp="power"),
    "lasso": lambda m, g, o: GroupLasso(m, g, lam=0.42, lr=o, scale="norm"),
    "lasso_votes": lambda m, g, o: GroupLasso(m, g, lam=0.42, lr=o, scale="norm", coupling="votes"),
    "lasso_subgradient": lambda m, g, o: GroupLasso(
        m, g, lam=0.5, scale="norm", solver="subgradient", threshold=0.9
    ),
    "increg": lambda m, g, o: IncReg(m, g, ratio=0.4, increment=0.5, removal="ceiling", ceiling=1.0),
    "increg_exp": lambda m, g, o: IncReg(
        m, g, ratio=0.4, increment=0.5, schedule="exp", removal="ceiling", ceiling=1.0, scope="global"
    ),
    "increg_columns": lambda m, g, o: IncReg(
        m, g, ratio=0.4, increment=0.5, removal="ceiling", ceiling=1.0, granularity="columns", linear=True
    ),
    "slimming": lambda m, g, o: NetworkSlimming(m, g, lam=0.1),
    "slimming_prox": lambda m, g, o: NetworkSlimming(m, g, lam=0.42, solver="prox", lr=o, ratio=None),
    "greg": lambda m, g, o: GReg(m, g, ratio=0.4, delta=0.1, every=2),
    "compose": lambda m, g, o: Compose(SSR(m, g, lam=1.6, scale="norm", period=2), GReg(m, g, ratio=0.2)),
    "magnitude": lambda m, g, o: Magnitude(m, g, budget=Budget(params=0.6)),
    "uniform": lambda m, g, o: Uniform(m, g, budget=Budget(params=0.6)),
}
WITHOUT_NORM_SCALES = {("attention", "slimming"), ("attention", "slimming_prox")}
PAIRS = [(net, method) for net in NETS for method in METHODS if (net, method) not in WITHOUT_NORM_SCALES]
COLUMNS = {"increg_columns"}
ONE_SHOT = {"magnitude", "uniform"}


class Run:
    """A model in training with a method."""

    def __init__(self, net: str, method: str, seed: int = 0, slot: int = 0) -> None:
        self.model, self.trace, self.groups, self.x = traced(net, seed, slot)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.reg = METHODS[method](self.model, self.groups, self.optimizer)
        self.random = torch.Generator().manual_seed(seed)

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            x = torch.randn(self.x.shape, dtype=torch.float64, generator=self.random)
            y = torch.randn(len(x), 4, dtype=torch.float64, generator=self.random)
            self.optimizer.zero_grad()
            ((self.model(x) - y).square().mean() + self.reg.penalty()).backward()
            self.optimizer.step()
            self.reg.step()


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def inside(model: nn.Module, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
    """For every parameter, which elements belong to a unit that may go."""
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    for group in groups:
        for (name, dim), index in group.indices.items():
            if group.pinned is None and name in masks:
                masks[name].index_fill_(dim, torch.from_numpy(index.ravel()), True)
    return masks


def test_every_method_is_tested() -> None:
    # GAL acts on masks and needs its own loss: it has the laws of test_protocol, and its own in gal/.
    assert set(REGULARIZERS) - {GAL} <= {type(Run("residual", name).reg) for name in METHODS}
    assert len({kind.name for kind in REGULARIZERS}) == len(REGULARIZERS)


@pytest.mark.parametrize(("net", "method"), PAIRS)
def test_masked_model_equals_slim_model(net: str, method: str) -> None:
    run = Run(net, method)
    run.step(6)
    run.reg.finish()
    run.step(2)  # masked fine-tuning
    removed = run.reg.removed_units()
    free = sum(g.width for g in run.groups if g.pinned is None)
    if method not in COLUMNS:
        assert 0 < len(removed) < free
    plan = run.reg.plan()
    slim = fxprune.slim(run.trace, plan).eval()
    model = run.model.eval()
    before = model(run.x)
    torch.testing.assert_close(slim(run.x), before, rtol=ROUNDING, atol=ROUNDING)
    assert sum(p.numel() for p in slim.parameters()) == plan.predicted.params
    if method in COLUMNS | ONE_SHOT:
        return
    # Every parameter slice of what went is exactly zero, and what is left is not.
    gone = set(removed.tolist())
    parameters = dict(model.named_parameters())
    for group in run.groups:
        dead = np.array([u in gone for u in group.units.tolist()])
        for (name, dim), index in group.indices.items():
            if name in parameters and group.pinned is None:
                rows = parameters[name].detach().index_select(dim, torch.from_numpy(index[dead].ravel()))
                assert not rows.any(), (name, dim)
    assert fxprune.verify(run.trace, plan, slim).error < ROUNDING


@pytest.mark.parametrize(("net", "method"), [pair for pair in PAIRS if pair[1] not in COLUMNS | ONE_SHOT])
def test_finishing_with_a_budget_takes_exactly_that(net: str, method: str) -> None:
    run = Run(net, method)
    if not isinstance(run.reg, GroupRegularizer):
        return  # compositions have no order of their own
    run.step(6)
    plan = run.reg.plan(Budget(params=0.8))
    run.reg.finish(plan)
    assert run.reg.finished
    run.step(2)
    assert run.reg.plan().kept == plan.kept
    slim = fxprune.slim(run.trace, plan).eval()
    torch.testing.assert_close(slim(run.x), run.model.eval()(run.x), rtol=ROUNDING, atol=ROUNDING)


def test_columns_are_not_finished_by_a_plan() -> None:
    run = Run("residual", "increg_columns")
    with pytest.raises(PlanError, match="columns are not decided by a plan of channels"):
        run.reg.finish(Run("residual", "magnitude").reg.plan())


@pytest.mark.parametrize("method", ["ssr_l21", "ssr_l20", "ssr_subgradient", "dwgl", "lasso", "lasso_votes"])
def test_a_layer_that_shrinks_as_a_whole_loses_no_importance(method: str) -> None:
    """Before a normalisation that costs nothing: the order must not let such a layer collapse."""

    def scores(factor: float) -> np.ndarray:
        reg = Run("residual", method).reg
        assert isinstance(reg, GroupRegularizer)
        view = reg.view
        view.scale_(torch.where(view.atom_family[view.term_atom] == 0, factor, 1.0))
        reg.penalty()  # the solver of SSR has a look
        return reg.scores()

    np.testing.assert_allclose(scores(0.1), scores(1.0), rtol=ROUNDING)


@pytest.mark.parametrize(("net", "method"), PAIRS)
def test_nothing_outside_the_groups_is_touched(net: str, method: str) -> None:
    run = Run(net, method)
    masks = inside(run.model, run.groups)
    for _ in range(4):
        run.optimizer.zero_grad()
        penalty = run.reg.penalty()
        before = snapshot(run.model)
        if penalty.requires_grad:
            penalty.backward()
        for name, parameter in run.model.named_parameters():
            if parameter.grad is not None:
                assert not parameter.grad[~masks[name]].any(), name
        run.reg.step()
        after = snapshot(run.model)
        for name, value in before.items():
            same = torch.equal(value, after[name])
            assert same or name in masks, name
            assert same or torch.equal(value[~masks[name]], after[name][~masks[name]]), name
    before = snapshot(run.model)
    run.reg.finish()
    for name, value in snapshot(run.model).items():
        assert name in masks or torch.equal(value, before[name]), name
        if name in masks:
            assert torch.equal(value[~masks[name]], before[name][~masks[name]]), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("finished", [False, True])
def test_state_round_trip_continues_bit_equal(method: str, finished: bool) -> None:
    first = Run("residual", method)
    first.step(3)
    if finished:
        first.reg.finish()
    file = io.BytesIO()
    torch.save(
        {
            "model": first.model.state_dict(),
            "optimizer": first.optimizer.state_dict(),
            "reg": first.reg.state_dict(),
        },
        file,
    )
    file.seek(0)
    first.random.manual_seed(7)
    first.step(4)
    second = Run("residual", method, seed=1, slot=1)
    state = torch.load(file, weights_only=True)
    second.model.load_state_dict(state["model"])
    second.optimizer.load_state_dict(state["optimizer"])
    second.reg.load_state_dict(state["reg"])
    second.random.manual_seed(7)
    second.step(4)
    mine, other = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    mine, other = first.reg.state_dict(), second.reg.state_dict()
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    assert first.reg.removed_units().tolist() == second.reg.removed_units().tolist()


@pytest.mark.parametrize("method", METHODS)
def test_a_state_is_a_copy(method: str) -> None:
    run = Run("residual", method)
    run.step(2)
    state = run.reg.state_dict()
    frozen = {name: value.clone() for name, value in state.items()}
    run.step(3)
    assert all(torch.equal(frozen[name], value) for name, value in state.items())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "compose"])
def test_a_foreign_state_is_refused(method: str) -> None:
    run = Run("residual", method)
    other = Run("residual", "greg" if method != "greg" else "lasso")
    with pytest.raises(PlanError, match="does not belong to"):
        run.reg.load_state_dict(other.reg.state_dict())


# DWGL looks at the index on purpose; one-shot methods and columns of linear layers see the consumers' order.
INVARIANT = sorted(set(METHODS) - {"dwgl", "dwgl_power", "uniform"})


@pytest.mark.parametrize("method", INVARIANT)
def test_permuting_units_permutes_decisions(method: str) -> None:
    """Hidden units of an MLP in another order: the same units go."""

    def build(order: list[int]) -> tuple[nn.Sequential, Regularizer, torch.optim.Optimizer]:
        torch.manual_seed(5)
        net = nn.Sequential(
            nn.Linear(4, 9),
            nn.BatchNorm1d(9),
            nn.ReLU(),
            nn.Linear(9, 9),
            nn.BatchNorm1d(9),
            nn.ReLU(),
            nn.Linear(9, 4),
        ).double()
        for layer in (net[1], net[4]):
            nn.init.uniform_(layer.weight, 0.2, 1.5)
        with torch.no_grad():
            for tensor in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
                tensor.copy_(tensor[order].clone())
            net[3].weight.copy_(net[3].weight[:, order].clone())
        groups = fxprune.couple(fxprune.trace(net.eval(), torch.randn(3, 4, dtype=torch.float64)))
        net.train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        return net, METHODS[method](net, groups, optimizer), optimizer

    def train(net: nn.Sequential, reg: Regularizer, optimizer: torch.optim.Optimizer) -> set[int]:
        random = torch.Generator().manual_seed(3)
        for _ in range(6):
            x, y = (torch.randn(16, 4, dtype=torch.float64, generator=random) for _ in range(2))
            optimizer.zero_grad()
            ((net(x) - y).square().mean() + reg.penalty()).backward()
            optimizer.step()
            reg.step()
        hidden = next(g for g in reg.groups if ("0.weight", 0) in g.members)
        gone = set(reg.removed_units().tolist())
        return {place for place, unit in enumerate(hidden.units.tolist()) if unit in gone}

    straight = train(*build(list(range(9))))
    order = [3, 8, 0, 5, 1, 7, 2, 6, 4]
    assert {order[place] for place in train(*build(order))} == straight


@pytest.mark.parametrize("method", METHODS)
def test_report_tells_what_goes(method: str) -> None:
    run = Run("residual", method)
    run.step(5)
    report = run.reg.report()
    assert report.steps == 5
    assert 0 <= report.zero_share < 1
    assert report.overhead_ms >= 0
    assert 0 <= report.overhead <= 2  # a composition may overlap
    if isinstance(run.reg, GroupRegularizer) and method not in COLUMNS:
        free = sum(
            g.width for g in run.groups if g.pinned is None and (run.reg._rows.unit_atom[g.units] >= 0).all()
        )
        assert report.zero_share == pytest.approx(len(run.reg.removed_units()) / free)
    assert method in ONE_SHOT or report.penalty > 0
    with pytest.raises(AttributeError):
        report.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("method", [m for m in METHODS if m not in COLUMNS])
def test_a_budget_is_spent_in_the_order_learned(method: str) -> None:
    run = Run("residual", method)
    run.step(4)
    plan = run.reg.plan(Budget(params=0.5))
    assert 0.3 < plan.predicted.params / plan.dense.params < 0.6
    fxprune.slim(run.trace, plan)


def test_penalties_follow_loss_scaling_and_accumulation() -> None:
    for method in ("ssr_l21", "ssr_subgradient", "increg", "slimming"):
        run = Run("residual", method)
        run.step(3)
        run.optimizer.zero_grad()
        run.reg.penalty().backward()
        once = {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}
        (3 * run.reg.penalty()).backward()
        for name, gradient in once.items():
            torch.testing.assert_close(run.model.get_parameter(name).grad, 4 * gradient)


def test_strength_scales_the_penalty() -> None:
    for method in ("ssr_subgradient", "slimming", "increg"):
        run = Run("residual", method)
        run.step(2)
        value = run.reg.penalty().item()
        run.reg.strength = 3.0
        assert run.reg.penalty().item() == pytest.approx(3 * value)


def test_composition_unites_removals_and_splits_its_state() -> None:
    run = Run("residual", "compose")
    run.step(4)
    both = set(run.reg.removed_units().tolist())
    each = [set(part.removed_units().tolist()) for part in run.reg.parts]
    assert both == each[0] | each[1]
    assert each[0] - each[1]
    assert each[1] - each[0]
    with pytest.raises(PlanError, match="nothing to compose"):
        Compose()


def test_composition_never_empties_a_group() -> None:
    net, groups = linear_chain(3, 4, 2)
    low, high = (GReg(net, groups, ratio=0.5) for _ in range(2))
    low._picked = torch.tensor([True, True, False, False])
    high._picked = torch.tensor([False, False, True, True])
    assert Compose(low, high).removed_units().tolist() == [0, 1]


def test_plans_need_a_trace() -> None:
    net, groups = linear_chain(3, 4, 2)
    with pytest.raises(PlanError, match="carry no trace"):
        GReg(net, groups).plan()
    with pytest.raises(PlanError, match="carry no trace"):
        Magnitude(net, groups)

from __future__ import annotations

import pytest
import torch
from regularizers.nets import linear_chain, traced
from torch import nn

import fxprune
from fxprune.errors import PlanError
from fxprune.plans import Budget
from fxprune.regularizers import GReg, GroupLasso, Magnitude, NetworkSlimming, Uniform

# float32 arithmetic on a handful of numbers.
ROUNDING = 1e-6


def chain(rows: list[float]) -> tuple[nn.Sequential, tuple[fxprune.Group, ...]]:
    net, groups = linear_chain(1, len(rows), 1, bias=False)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(rows)[:, None])
    return net, groups


# Group lasso -------------------------------------------------------------------------------------------


def test_lasso_subgradient_is_the_unit_vector() -> None:
    net, groups = linear_chain(3, 4, 2)
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0, 0
    reg = GroupLasso(net, groups, scale="none", lam=0.3, solver="subgradient")
    reg.penalty().backward()
    row = torch.cat([net[0].weight, net[0].bias[:, None]], 1).detach()
    gradient = torch.cat([net[0].weight.grad, net[0].bias.grad[:, None]], 1)
    expected = 0.3 * row / row.norm(dim=1, keepdim=True).clamp(min=1e-9)
    torch.testing.assert_close(gradient, expected)
    assert torch.equal(gradient[2], torch.zeros(4))


def test_lasso_prox_reads_the_rate_of_each_parameter_group() -> None:
    net, groups = linear_chain(1, 2, 2, 1, bias=False)
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.copy_(torch.eye(2))
    optimizer = torch.optim.SGD(
        [{"params": net[0].parameters(), "lr": 0.1}, {"params": net[2].parameters(), "lr": 0.4}], lr=1.0
    )
    GroupLasso(net, groups, scale="none", lam=1.0, lr=optimizer).step()
    torch.testing.assert_close(net[0].weight, torch.full((2, 1), 0.9))
    torch.testing.assert_close(net[2].weight, 0.6 * torch.eye(2))
    GroupLasso(net, groups, scale="none", lam=1.0, lr=lambda: 0.2).step()
    torch.testing.assert_close(net[0].weight, torch.full((2, 1), 0.7))
    with pytest.raises(PlanError, match="needs the step size"):
        GroupLasso(net, groups)


def test_threshold_of_the_subgradient_is_relative_to_the_start() -> None:
    net, groups = chain([1.0, 2.0, 3.0, 2.0])
    reg = GroupLasso(net, groups, scale="none", solver="subgradient", threshold=0.25)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.51, 0.49, 0.5, 0.5001])[:, None])
    assert reg.alive().tolist() == [True, False, False, True]


# Network slimming --------------------------------------------------------------------------------------


def test_slimming_looks_at_scales_only() -> None:
    net, _, groups, _ = traced("residual")
    reg = NetworkSlimming(net, groups, lam=0.01)
    names = {slot.name for slot in reg.view.layout.slots}
    assert names == {f"{n}.weight" for n in ("bn", "block1.bn1", "block1.bn2", "block2.bn1", "block2.bn2")}
    with torch.no_grad():
        net.bn.weight[1] *= -1
    value = reg.penalty()
    scales = [net.get_parameter(n) for n in sorted(names)]
    assert value.item() == pytest.approx(0.01 * sum(s.detach().abs().sum().item() for s in scales))
    value.backward()
    assert torch.equal(net.bn.weight.grad, 0.01 * net.bn.weight.detach().sign())
    assert net.stem.weight.grad is None


def test_slimming_ranks_units_of_all_groups_by_their_mean_scale() -> None:
    net, _, groups, _ = traced("residual")
    with torch.no_grad():
        for layer in (net.bn, net.block1.bn2, net.block2.bn2):
            layer.weight.copy_(torch.linspace(0.8, 1.5, 8))
        net.block1.bn1.weight.copy_(torch.linspace(-0.6, -0.1, 6))
        net.block2.bn1.weight.fill_(2.0)
    net.block1.bn2.weight.data[0] = 5.0  # one large scale saves the unit
    reg = NetworkSlimming(net, groups, ratio=0.4)  # 8 of 20
    gone = {g.name: [int(u) for u in g.units if u in set(reg.removed_units().tolist())] for g in groups}
    assert len(gone["block1.conv1"]) == 5  # all but one, which a group keeps
    assert [g.units.tolist().index(u) for g in groups if g.name == "stem" for u in gone["stem"]] == [1, 2]


def test_slimming_soft_threshold() -> None:
    net, _, groups, _ = traced("residual")
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.linspace(-0.5, 1.0, len(module.weight)))
    before = net.bn.weight.detach().clone()
    shift = net.bn.bias.detach().clone()
    reg = NetworkSlimming(net, groups, lam=0.5, lr=0.4, solver="prox", ratio=None)
    reg.step()
    expected = before.sign() * (before.abs() - 0.2).clamp(min=0)
    torch.testing.assert_close(net.bn.weight.detach(), expected)
    assert torch.equal(net.bn.bias.detach(), shift)
    zero = (before.abs() <= 0.2).nonzero().flatten()
    stem = next(g for g in groups if g.name == "stem")
    assert set(stem.units[zero]) <= set(reg.removed_units().tolist())


def test_slimming_needs_scales() -> None:
    net, groups = linear_chain(3, 4, 2)
    with pytest.raises(PlanError, match="without the parameters it looks at"):
        NetworkSlimming(net, groups)
    with pytest.raises(PlanError, match="no exact zeros"):
        NetworkSlimming(net, groups, ratio=None)


# GReg-1 ------------------------------------------------------------------------------------------------


def test_greg_grows_on_the_picked_only() -> None:
    net, groups = chain([4.0, -1.0, 3.0, 0.5])
    reg = GReg(net, groups, ratio=0.5, delta=0.5, every=2, ceiling=1.2)
    factors = []
    for _ in range(8):
        net.zero_grad()
        reg.penalty().backward()
        factors.append((net[0].weight.grad / net[0].weight.detach()).flatten().tolist())
        reg.step()
    picked = [f[1] for f in factors]
    assert picked == pytest.approx([0, 0, 0.5, 0.5, 1.0, 1.0, 1.2, 1.2], abs=ROUNDING)
    assert all(f[3] == f[1] and f[0] == f[2] == 0 for f in factors)
    assert reg.done
    assert reg.alive().tolist() == [True, False, True, False]


def test_greg_stops_growing_when_the_picked_are_negligible() -> None:
    net, groups = chain([4.0, 1.0, 3.0, 1.0])
    reg = GReg(net, groups, ratio=0.5, delta=0.1, every=1, negligible=50.0)
    with torch.no_grad():
        net[0].weight[[1, 3]] = 1e-4
    for _ in range(5):
        reg.step()
    # Smoothed by 0.9: after one step 0.9 + 0.1 * 35,000 exceeds 50, so the first growth is never followed.
    assert float(reg._factor) == pytest.approx(0.0, abs=ROUNDING)
    assert reg.done


def test_greg_global_scope_ranks_relative_to_the_group_and_empties_none() -> None:
    net, groups = linear_chain(1, 4, 12, 1, bias=False)
    with torch.no_grad():
        net[0].weight.fill_(1e-3)
        net[2].weight.fill_(0.01)
        net[2].weight[7] = 100.0
    few = GReg(net, groups, ratio=0.5, scope="global")  # 8 of 16: all from the layer with one dominant row
    assert (~few.alive()).nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 12]
    most = GReg(net, groups, ratio=0.9, scope="global")  # 15 of 16, but each group keeps one
    assert most.alive().nonzero().flatten().tolist() == [0, 11]


# One shot ----------------------------------------------------------------------------------------------


def test_one_shot_waits_for_finish_and_then_holds() -> None:
    net, _, groups, _ = traced("residual")
    before = {n: p.clone() for n, p in net.state_dict().items()}
    reg = Magnitude(net, groups, budget=Budget(params=0.6))
    assert float(reg.penalty()) == 0
    reg.step()
    assert all(torch.equal(before[n], p) for n, p in net.state_dict().items())
    reg.finish()
    plan = reg.plan()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    reg.step()
    assert reg.plan() == plan  # weights moved, the decision did not
    for (name, dim), kept in plan.kept.items():
        if name in dict(net.named_parameters()):
            gone = sorted(set(range(net.get_parameter(name).shape[dim])) - set(kept))
            index = torch.tensor(gone)
            assert not net.get_parameter(name).index_select(dim, index).any()
    assert len(reg.removed_units()) == round(reg.report().zero_share * 20)


def test_one_shot_plans_are_the_planners() -> None:
    net, trace, groups, _ = traced("residual")
    budget = Budget(macs=0.5)
    assert Magnitude(net, groups, budget=budget).plan() == fxprune.plan(trace, budget, criterion="l1")
    uniform = Uniform(net, groups, budget=budget, seed=3).plan()
    assert uniform == fxprune.plan(trace, budget, criterion="random", scope="local", seed=3)
    some = [g for g in groups if g.name == "block1.conv1"]
    assert {n for n, _ in Magnitude(net, some, budget=Budget(params=0.95)).plan().kept} <= {
        n for n, _ in some[0].members
    }

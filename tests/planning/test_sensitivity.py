"""What hangs on each group, and plans that know it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.criteria import FROM_SAMPLES
from fxprune.criteria.score import score
from fxprune.errors import PlanError
from fxprune.planning.sensitivity import Probe, Sensitivity, _along
from fxprune.recovery.reconstruction import Reconstruction


def two_groups() -> tuple[fxprune.Trace, Tensor]:
    """The first hidden layer repeats four features four times, all 16 of the second's matter."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    with torch.no_grad():
        net[0].weight.copy_(net[0].weight[:4].repeat(4, 1))
        net[0].bias.copy_(net[0].bias[:4].repeat(4))
        net[4].weight.copy_(torch.eye(16))
    return fxprune.trace(net.eval(), torch.zeros(2, 6)), 2 * torch.randn(512, 6)


def test_what_is_there_twice_hangs_on_nothing() -> None:
    trace, data = two_groups()
    said: list[str] = []
    table = fxprune.sensitivity(
        trace, data, shares=(0.75, 0.25), progress=lambda *told: said.append(str(told))
    )
    first, second = table.groups["0"], table.groups["2"]
    assert [p.removed for p in first] == [p.removed for p in second] == [0.25, 0.75]
    assert first[0].recovered < 1e-3 < 0.01 < second[0].recovered < second[1].recovered
    assert first[1].sliced > 0.2  # unrecovered it does matter
    assert first[1].macs == pytest.approx(0.75 * (6 * 16 + 16 * 16) / (6 * 16 + 2 * 16 * 16))
    assert (len(said), said[0], said[-1]) == (5, "(0, 4, '0')", "(4, 4, '')")


def test_a_plan_by_the_table_takes_what_hangs_on_nothing() -> None:
    trace, data = two_groups()
    table = fxprune.sensitivity(trace, data)
    plan = fxprune.plan(trace, fxprune.Budget(macs=0.7), criterion=table.criterion(), align=1)
    first, second = (16 - len(plan.kept.get((name, 0), range(16))) for name in ("0.weight", "2.weight"))
    assert first >= 6 > 2 >= second


def test_the_order_within_a_group_is_that_of_the_criterion() -> None:
    trace, data = two_groups()
    table = fxprune.sensitivity(trace, data, shares=(0.5,), criterion="l2")
    scores, before = score(trace, table.criterion()).units, score(trace, "l2").units
    for group in analyse(trace).coupling.groups:
        if group.pinned is None:
            order = np.argsort(before[group.units], kind="stable")
            assert (np.diff(scores[group.units][order]) > 0).all()


def test_scores_are_the_slopes_of_the_curve() -> None:
    # A quarter goes for 0.01 of a tenth of the MACs, the next for 0.08 of the next; the rest would cost what is left of 1.
    probes = [Probe("g", 8, 0.25, 0.25, 0.1, 0.0, 0.1), Probe("g", 8, 0.5, 0.5, 0.2, 0.0, 0.3)]
    scores = _along(probes, np.arange(8.0)[::-1].copy())
    assert scores[::-1] == pytest.approx([0.1, 0.1, 0.8, 0.8, 4.55, 4.55, 4.55, 4.55], rel=1e-6)


def test_a_curve_that_falls_is_made_level() -> None:
    probes = [Probe("g", 4, 0.25, 0.25, 0.1, 0.0, 0.5), Probe("g", 4, 0.5, 0.5, 0.2, 0.0, 0.4)]
    scores = _along(probes, np.arange(4.0))
    assert scores[:2] == pytest.approx([1.25, 1.25], rel=1e-6)
    assert (np.diff(scores) > 0).all()


@pytest.mark.parametrize("shares", [(), (0.0,), (0.5, 1.0)])
def test_shares_that_are_none(shares: tuple[float, ...]) -> None:
    trace, data = two_groups()
    with pytest.raises(PlanError, match="are no shares to remove"):
        fxprune.sensitivity(trace, data, shares=shares)


def test_a_table_of_another_model() -> None:
    trace, _ = two_groups()
    with pytest.raises(PlanError, match="is of another model"):
        fxprune.plan(trace, fxprune.Budget(macs=0.5), criterion=Sensitivity((), 0, 0.0).criterion())


def test_a_model_of_which_nothing_may_go() -> None:
    trace = fxprune.trace(nn.Linear(4, 4), torch.zeros(2, 4))
    with pytest.raises(PlanError, match=r"nothing to prune|no group of which|nothing to say"):
        fxprune.sensitivity(trace, torch.randn(64, 4))


def test_by_name() -> None:
    trace, data = two_groups()
    budget, batches = fxprune.Budget(macs=0.7), iter(data.split(64))
    by_name = fxprune.plan(trace, budget, criterion="sensitivity", calibrate=batches, align=1)
    by_table = fxprune.plan(trace, budget, criterion=fxprune.sensitivity(trace, data).criterion(), align=1)
    assert by_name.kept == by_table.kept
    costs = Reconstruction(trace, data, normalise="mean")
    by_name = fxprune.plan(trace, budget, criterion="reconstruction", calibrate=data, align=1)
    assert by_name.kept == fxprune.plan(trace, budget, criterion=costs, align=1).kept
    for name in FROM_SAMPLES:
        with pytest.raises(PlanError, match="looks at what the model makes of samples, and there are none"):
            fxprune.plan(trace, budget, criterion=name)
        with pytest.raises(PlanError, match="is made of what the model makes of samples"):
            score(trace, name)


def test_labels_and_weights_are_left_alone() -> None:
    trace, data = two_groups()
    before = {name: tensor.clone() for name, tensor in trace.model.state_dict().items()}
    batches = ((data[k : k + 64], torch.zeros(64)) for k in range(0, 512, 64))  # gone through once
    table = fxprune.sensitivity(trace, batches, shares=(0.5,))
    assert len(table.probes) == 2
    assert all(torch.equal(before[name], tensor) for name, tensor in trace.model.state_dict().items())

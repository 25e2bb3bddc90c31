from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from regularizers.nets import linear_chain, traced

from fxprune.errors import PlanError
from fxprune.regularizers import DWGL, GroupLasso
from fxprune.regularizers.dwgl import ramp
from fxprune.regularizers.reorder import permute_, reorder_

EXACT = 1e-12


@given(
    n=st.integers(1, 300),
    shape=st.sampled_from(["linear", "power", "geometric", "flat"]),
    low=st.floats(0.01, 1),
    high=st.floats(1, 9),
    exponent=st.floats(0, 4),
)
def test_ramps_increase_and_have_mean_one(
    n: int, shape: str, low: float, high: float, exponent: float
) -> None:
    values = ramp(n, shape, low=low, high=high, exponent=exponent)  # type: ignore[arg-type]
    assert len(values) == n
    assert float(values.mean()) == pytest.approx(1, abs=EXACT)
    assert (values >= 0).all()
    assert (values.diff() >= -EXACT).all()


def test_ramp_values() -> None:
    assert ramp(3).tolist() == [0.5, 1.0, 1.5]
    assert ramp(4, "power", exponent=1).tolist() == [0.4, 0.8, 1.2, 1.6]
    geometric = ramp(3, "geometric", low=1, high=4)
    torch.testing.assert_close(geometric, torch.tensor([3 / 7, 6 / 7, 12 / 7], dtype=torch.float64))
    assert ramp(2, "flat").tolist() == [1.0, 1.0]


def test_ramps_that_do_not_increase_are_refused() -> None:
    for options in ({"low": 2.0, "high": 1.0}, {"low": 0.0}, {"exponent": -1.0}):
        with pytest.raises(PlanError, match="does not increase"):
            ramp(4, **options)
    with pytest.raises(PlanError, match="ramp='cubic' is unknown"):
        ramp(4, "cubic")  # type: ignore[arg-type]


def test_producers_share_the_ramp_and_inner_layers_have_none() -> None:
    net, _, groups, _ = traced("residual")
    reg = DWGL(net, groups, scale="none", lam=1.0, lr=0.1)
    stream = next(g for g in groups if len(g.producers) == 3)
    inner = [g for g in groups if g.pinned is None and len(g.producers) == 1]
    atoms = reg._rows.unit_atom
    torch.testing.assert_close(reg.direction[atoms[stream.units]], ramp(8))
    assert all((reg.direction[atoms[g.units]] == 1).all() for g in inner)
    # Three terms for each unit of the stream, all with its coefficient.
    coefficient = reg._coefficient[torch.isin(reg.view.term_atom, torch.from_numpy(atoms[stream.units]))]
    torch.testing.assert_close(coefficient.sort().values, ramp(8).repeat_interleave(3).sort().values)
    everywhere = DWGL(net, groups, scale="none", lam=1.0, lr=0.1, everywhere=True)
    torch.testing.assert_close(everywhere.direction[atoms[inner[0].units]], ramp(6))


def test_prox_step_by_hand() -> None:
    net, groups = linear_chain(1, 3, 1, bias=False)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [-1.0], [1.0]]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    reg = DWGL(net, groups, scale="none", lam=1.4, lr=optimizer, everywhere=True)
    assert float(reg.penalty()) == 0
    reg.step()  # thresholds 0.5 * 1.4 * (0.5, 1, 1.5)
    torch.testing.assert_close(net[0].weight.flatten(), torch.tensor([0.65, -0.3, 0.0]))
    assert reg.alive().tolist() == [True, True, False]
    assert reg.report().penalty == pytest.approx(1.4 * 3)
    optimizer.param_groups[0]["lr"] = 0.1
    reg.step()  # the step size of the moment
    torch.testing.assert_close(
        net[0].weight.flatten(), torch.tensor([0.58, -0.44 + 0.28, 0.0]), atol=1e-6, rtol=0
    )


def test_a_unit_goes_only_when_all_producers_gave_it_up() -> None:
    net, _, groups, _ = traced("residual")
    reg = DWGL(net, groups, scale="none", lam=1.0, lr=0.1)
    stream = next(g for g in groups if len(g.producers) == 3)
    layers = [(net.stem, net.bn), (net.block1.conv2, net.block1.bn2), (net.block2.conv2, net.block2.bn2)]
    with torch.no_grad():
        for number, (conv, norm) in enumerate(layers):
            for tensor in (conv.weight, norm.weight, norm.bias):
                tensor[5] = 0
                tensor[number] = 0  # one voter only
        net.stem.weight[6] = 0  # the batch norm behind it still passes a constant
    assert reg.removed_units().tolist() == [int(stream.units[5])]
    published = DWGL(net, groups, scale="none", lam=1.0, lr=0.1, members="rows")
    with torch.no_grad():
        for conv, _ in layers:
            conv.weight[6] = 0
    assert published.removed_units().tolist() == stream.units[[5, 6]].tolist()


def test_votes_coincide_under_a_shared_direction() -> None:
    """The claim in small, without training: equal lam and steps, three producers, eight channels."""

    def gone(ramp_shape: str) -> tuple[int, int]:
        net, _, groups, _ = traced("residual", seed=3)
        stream = [g for g in groups if len(g.producers) == 3]
        reg = DWGL(net, stream, scale="none", lam=1.0, lr=0.1, ramp=ramp_shape, low=0.1, high=1.9)  # type: ignore[arg-type]
        for _ in range(12):
            reg.step()
        return int((reg.view.sums(2) == 0).sum()), len(reg.removed_units())

    plain_votes, plain = gone("flat")
    directed_votes, directed = gone("linear")
    assert (plain, directed) == (0, 4)
    # Hardly more votes are cast (norms lie between 0.8 and 1.6, the plain threshold is 1.2), but they agree.
    assert plain_votes == 8
    assert directed_votes == 13


def test_last_unit_of_a_group_is_spared() -> None:
    net, groups = linear_chain(3, 6, 5, 2)
    reg = GroupLasso(net, groups, scale="none", lam=1e6, lr=1.0)
    strongest = int(reg._importance()[:6].argmax())
    before = net[0].weight[strongest].detach().clone()
    for _ in range(3):
        reg.step()
    assert reg.alive()[:6].nonzero().tolist() == [[strongest]]
    assert torch.equal(net[0].weight[strongest], before)
    assert int(reg.alive().sum()) == 2


@pytest.mark.parametrize("name", ["residual", "concat", "attention"])
def test_reordering_preserves_the_function(name: str) -> None:
    net, _, groups, x = traced(name)
    net.eval()
    before, weights = net(x), {n: p.clone() for n, p in net.state_dict().items()}
    orders = reorder_(net, groups)
    assert any((order[1:] < order[:-1]).any() for order in orders.values())
    assert any(not torch.equal(weights[n], p) for n, p in net.state_dict().items())
    # float64: only the order of sums changes.
    torch.testing.assert_close(net(x), before, rtol=EXACT, atol=EXACT)
    for g in groups:
        if g.name in orders and len(g.producers) == 1:
            rows = GroupLasso(net, [g], scale="none", lr=1.0).view.sums(2)
            assert (rows.diff() <= EXACT).all()


def test_permutation_there_and_back_is_bit_equal() -> None:
    net, _, groups, _ = traced("residual")
    weights = {n: p.clone() for n, p in net.state_dict().items()}
    stream = next(g for g in groups if len(g.producers) == 3)
    order = torch.randperm(8).numpy()
    permute_(net, stream, order)
    assert torch.equal(net.bn.running_mean, weights["bn.running_mean"][order])
    permute_(net, stream, order.argsort())
    assert all(torch.equal(weights[n], p) for n, p in net.state_dict().items())


def test_permutations_that_change_the_function_are_undone() -> None:
    """A constant that is no parameter cannot move along."""

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)
            self.c = torch.nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.b(self.a(x) * torch.arange(1.0, 5.0))))

    import fxprune

    net = Positional()
    with torch.no_grad():
        net.a.weight.mul_(torch.tensor([[0.1], [1.0], [2.0], [3.0]]))
    x = torch.randn(2, 3)
    before = net(x)
    groups = fxprune.couple(fxprune.trace(net, x))
    orders = reorder_(net, groups)
    torch.testing.assert_close(net(x), before)
    assert "b" in orders
    assert "a" not in orders


def test_dwgl_reorders_before_it_begins() -> None:
    net, _, groups, x = traced("residual")
    net.eval()
    before = net(x)
    reg = DWGL(net, groups, scale="none", lr=0.1, reorder=True)
    torch.testing.assert_close(net(x), before, rtol=EXACT, atol=EXACT)
    stream = next(g for g in groups if len(g.producers) == 3)
    joint = reg.view.per_atom(reg.view.sums(2))[reg._rows.unit_atom[stream.units]]
    assert (joint.diff() <= EXACT).all()
    assert (reg.direction[reg._rows.unit_atom[stream.units]].diff() > 0).all()

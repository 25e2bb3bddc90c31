from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from regularizers.nets import linear_chain, traced
from torch import nn

import fxprune
from fxprune.coupling.cost import measure
from fxprune.errors import PlanError
from fxprune.regularizers import Crop, IncReg
from fxprune.regularizers.increg import exponential_increment, linear_increment

EXACT = 1e-12
INCREMENTS = [linear_increment, exponential_increment]


def increments(function, count: int, target: float, maximum: float = 1.0) -> torch.Tensor:
    full = torch.full((count,), count)
    return function(torch.arange(count), torch.full((count,), target, dtype=torch.float64), full, maximum)


def test_equation_one_at_its_corners() -> None:
    G, R, A = 20, 0.4, 2.5e-4
    delta = increments(linear_increment, G, R * G, A)
    assert float(delta[0]) == A
    assert float(delta[8]) == 0  # rank RG
    assert float(delta[G - 1]) == pytest.approx(-A, abs=EXACT)
    # Both sides are straight lines.
    torch.testing.assert_close(delta[:9].diff(), torch.full((8,), -A / 8, dtype=torch.float64))
    torch.testing.assert_close(delta[8:].diff(), torch.full((11,), -A / 11, dtype=torch.float64))


def test_equation_one_between_ranks() -> None:
    # RG = 2.5: not a rank; the line crosses zero there all the same.
    delta = increments(linear_increment, 5, 2.5)
    expected = [1, 1 - 1 / 2.5, 1 - 2 / 2.5, -(3 - 2.5) / 1.5, -(4 - 2.5) / 1.5]
    assert delta.tolist() == pytest.approx(expected, abs=EXACT)


def test_equation_one_where_its_denominators_vanish() -> None:
    assert increments(linear_increment, 4, 3.0).tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0], abs=EXACT)
    assert increments(linear_increment, 4, 3.5).tolist()[-1] == pytest.approx(1 - 3 / 3.5)
    assert increments(linear_increment, 4, 0.0).tolist()[0] == 1.0
    assert torch.isfinite(increments(linear_increment, 1, 0.3)).all()


@given(st.integers(2, 400), st.floats(0.05, 0.95))
def test_increments_fall_with_the_rank_and_stay_within_bounds(count: int, ratio: float) -> None:
    for function in INCREMENTS:
        delta = increments(function, count, ratio * count)
        assert float(delta[0]) == 1
        assert (delta.diff() <= EXACT).all()
        assert (delta.abs() <= 1 + EXACT).all()


@given(st.integers(1, 300))
def test_exponential_increment_is_zero_at_n_p(n_p: int) -> None:
    delta = increments(exponential_increment, n_p + 2, float(n_p))
    assert float(delta[n_p]) == pytest.approx(0, abs=EXACT)
    assert float(delta[n_p - 1]) > 0 > float(delta[n_p + 1])


def test_exponential_increment_turns_at_two_thirds() -> None:
    delta = increments(exponential_increment, 12, 9.0)  # N1 = 6
    assert float(delta[6]) == pytest.approx(0.25, abs=EXACT)
    rate = math.log(8) / 9
    assert float(delta[3]) == pytest.approx(math.exp(-3 * rate), abs=EXACT)
    # Centre-symmetric about (N1, u A).
    for k in range(1, 4):
        assert float(delta[6 - k] + delta[6 + k]) == pytest.approx(0.5, abs=EXACT)


def chain(widths: list[float]) -> tuple[nn.Sequential, tuple[fxprune.Group, ...]]:
    net, groups = linear_chain(1, len(widths), 1, bias=False)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(widths)[:, None])
    return net, groups


def test_ranks_are_averaged_and_sorted_again() -> None:
    net, groups = chain([1.0, 2.0, 3.0, 4.0])
    reg = IncReg(net, groups, ratio=0.5, increment=1.0, removal="ceiling", ceiling=99, members="producers")
    reg.step()
    # Equation 1 with RG = 2, G = 4: 1, 1/2, 0, -1 (cut at 0).
    assert reg._factor.tolist() == [1.0, 0.5, 0.0, 0.0]
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([4.0, 1.0, 2.0, 3.0])[:, None])
    reg.step()
    # Sums of ranks 0+3, 1+0, 2+1, 3+2 = 3, 1, 3, 5; the tie of the first and the third goes by the norms of now.
    assert reg._rank_sum.tolist() == [3, 1, 3, 5]
    assert reg._factor.tolist() == [1.0, 1.5, 0.5, 0.0]
    value = reg.penalty()
    assert value.item() == pytest.approx(0.5 * (1 * 16 + 1.5 * 1 + 0.5 * 4))
    value.backward()
    assert net[0].weight.grad.flatten().tolist() == [4.0, 1.5, 1.0, 0.0]


def test_ceiling_prunes_for_good_and_finishes_the_layer() -> None:
    net, groups = chain([1.0, 2.0, 3.0, 4.0])
    reg = IncReg(net, groups, ratio=0.5, increment=1.0, removal="ceiling", ceiling=2.5)
    pruned = []
    for _ in range(6):
        reg.step()
        pruned.append((~reg.alive()).tolist())
        with torch.no_grad():
            net[0].weight[pruned[-1]] += 0.5  # an optimizer with momentum would move it
    first = [True, False, False, False]
    # Rank 0 gains 1 a step; once it is gone, the next one (half-way so far, 1.5) has rank 0 and gains 1 a step.
    assert pruned == [[False] * 4] * 2 + [first] + [[True, True, False, False]] * 3
    assert reg.done
    assert reg._factor.tolist() == [0.0] * 4
    reg.step()
    assert net[0].weight.flatten().tolist() == [0, 0, 3, 4]


def test_magnitude_rule_looks_at_the_mean_absolute_weight() -> None:
    net, groups = linear_chain(3, 3, 1, bias=False)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2e-6, 0, 0.9e-6], [1.0, 1, 1], [1e-6, 1e-6, 1.1e-6]]))
    reg = IncReg(net, groups, ratio=0.67, members="producers")
    reg.step()
    assert reg.alive().tolist() == [False, True, True]
    assert torch.equal(net[0].weight[0], torch.zeros(3))


def test_global_scope_ranks_all_layers_together_but_empties_none() -> None:
    net, groups = linear_chain(3, 4, 6, 2)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.copy_(torch.arange(1.0, layer.out_features + 1)[:, None].expand_as(layer.weight))
            layer.bias.zero_()
    options = {"scope": "global", "increment": 1.0, "members": "producers"}
    reg = IncReg(net, groups, ratio=0.4, removal="ceiling", ceiling=0.5, **options)  # type: ignore[arg-type]
    while not reg.done:
        reg.step()
    # Relative to their layers' means: 0.4, 0.8, 1.2, 1.6 and 0.29, 0.57, 0.86, 1.14, 1.43, 1.71.
    assert (~reg.alive()).nonzero().flatten().tolist() == [0, 1, 4, 5]
    greedy = IncReg(net, groups, ratio=0.9, **options)  # type: ignore[arg-type]
    greedy.finish()
    assert [int(a.sum()) for a in (greedy.alive()[:4], greedy.alive()[4:])] == [1, 1]


def test_ratios_by_group_and_a_layer_without_one() -> None:
    net, groups = linear_chain(3, 4, 6, 2)
    reg = IncReg(net, groups, ratio={"2": 0.5})
    for _ in range(3):
        reg.step()
    assert (reg._factor[:4] == 0).all()
    assert (reg._factor[4:] > 0).sum() == 3
    reg.finish()
    assert [int(a.sum()) for a in (reg.alive()[:4], reg.alive()[4:])] == [4, 3]
    with pytest.raises(PlanError, match="ratio=1 would empty"):
        IncReg(net, groups, ratio=1.0)


@pytest.mark.parametrize(("members", "ends"), [("all", True), ("producers", False)])
def test_training_prunes_the_ratio_by_magnitude(members: str, ends: bool) -> None:
    """While the consumers read a unit its gradient does not vanish: factors must act on both sides."""
    net, groups = linear_chain(5, 10, 8, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    reg = IncReg(net, groups, ratio=0.3, increment=0.02, members=members)  # type: ignore[arg-type]
    x, y = torch.randn(32, 5), torch.randn(32, 3)
    for _ in range(400):
        optimizer.zero_grad()
        ((net(x) - y).square().mean() + reg.penalty()).backward()
        optimizer.step()
        reg.step()
        if reg.done:
            break
    assert reg.done == ends
    pruned = [int((~a).sum()) for a in (reg.alive()[:10], reg.alive()[10:])]
    assert pruned == ([3, 3] if ends else [0, 0])  # 0.3 x 8 rounds up


# Columns -----------------------------------------------------------------------------------------------


def convolutions() -> tuple[nn.Sequential, fxprune.Trace, tuple[fxprune.Group, ...]]:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 1),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 2, (1, 5), padding=(0, 2)),
    ).double()
    trace = fxprune.trace(net.eval(), torch.randn(2, 2, 7, 7, dtype=torch.float64))
    return net, trace, fxprune.couple(trace)


def kill(reg: IncReg, name: str, index: tuple[object, ...]) -> None:
    """Mark columns ``W[:, c, y, x]`` as pruned."""
    slot = next(s for s in reg.view.layout.slots if s.name == name)
    terms = reg.view.position_term[slot.start : slot.stop].view([slot.shape[d] for d in slot.dims])
    reg._pruned[terms[index].flatten()] = True


def test_a_channel_without_columns_is_removed_and_an_empty_border_is_cropped() -> None:
    net, trace, groups = convolutions()
    reg = IncReg(net, groups, granularity="columns", ratio=0)
    kill(reg, "2.weight", (1,))  # every column of channel 1
    kill(reg, "2.weight", (slice(None), 0))  # the top row of the kernel, everywhere
    kill(reg, "2.weight", (2, 1, 1))
    kill(reg, "4.weight", (slice(None), 0, slice(3, 5)))
    reg.finish()
    assert (net[2].weight[:, 1] == 0).all()
    assert (net[2].weight[:, 0, 1:] != 0).all()
    units = {g.name: g.units for g in groups}
    assert reg.removed_units().tolist() == [int(units["0"][1])]
    assert reg.crops() == (
        Crop("2.weight", (3, 3), (1, 0), (0, 0)),
        Crop("4.weight", (1, 5), (0, 0), (0, 2)),
    )
    assert reg.crops()[0].cropped == (2, 3)
    first, second = reg.masked()
    assert (first.columns, first.pruned, first.left) == (27, 9 + 2 * 3 + 1, 1)
    assert (second.columns, second.pruned, second.left) == (20, 8, 0)
    slim = fxprune.slim(trace, reg.plan())
    x = torch.randn(3, 2, 7, 7, dtype=torch.float64)
    # float64: the same sums in another order.
    torch.testing.assert_close(slim.eval()(x), net(x), rtol=EXACT, atol=EXACT)
    assert slim.get_parameter("0.weight").shape[0] == 2


def test_cropped_kernel_with_less_padding_is_the_same_convolution() -> None:
    net, _, groups = convolutions()
    reg = IncReg(net, groups, granularity="columns", ratio=0)
    kill(reg, "2.weight", (slice(None), 2))
    reg.finish()
    (crop,) = reg.crops()
    x = torch.randn(1, 3, 7, 7, dtype=torch.float64)
    weight = net[2].weight[:, :, crop.before[0] : 3 - crop.after[0], crop.before[1] : 3 - crop.after[1]]
    padded = nn.functional.pad(
        x, (1 - crop.before[1], 1 - crop.after[1], 1 - crop.before[0], 1 - crop.after[0])
    )
    torch.testing.assert_close(nn.functional.conv2d(padded, weight, net[2].bias), net[2](x))


def test_cropped_slim_models_are_proved_by_the_oracle() -> None:
    net, trace, groups = convolutions()
    reg = IncReg(net, groups, granularity="columns", ratio=0)
    kill(reg, "2.weight", (1,))
    kill(reg, "2.weight", (slice(None), 0))  # the top row: another padding at each end
    kill(reg, "4.weight", (slice(None), 0, slice(0, 1)))
    kill(reg, "4.weight", (slice(None), 0, slice(4, 5)))  # both ends: less padding
    reg.finish()
    plan = reg.plan()
    cropped = fxprune.slim(trace, plan)
    proof = fxprune.verify(trace, plan, cropped)
    assert proof.error < EXACT
    assert proof.crops == 2
    assert "2 kernels cropped, 1 units removed" in str(proof)
    assert measure(cropped, trace.args) == plan.predicted
    assert plan.notes == ("empty borders of 2 kernels go: 2.weight 3x3 -> 2x3, 4.weight 1x5 -> 1x3",)
    assert fxprune.Plan.from_json(plan.to_json()) == plan
    assert cropped.get_parameter("2.weight").shape == (4, 2, 2, 3)
    assert cropped.get_submodule("2").border == (1, 1, 0, 1)
    assert cropped.get_parameter("4.weight").shape == (2, 4, 1, 3)
    assert type(cropped.get_submodule("4")) is nn.Conv2d
    assert cropped.get_submodule("4").padding == (0, 1)
    # It is a model like any other: what is cropped can be traced, and pruned again.
    again = fxprune.trace(cropped.eval(), trace.args[0])
    assert {group.name: group.width for group in fxprune.couple(again) if group.pinned is None} == {
        "0": 2,
        "2": 4,
    }
    # A wrong crop is noticed.
    cropped.get_submodule("2").border = (1, 1, 1, 0)
    with pytest.raises(fxprune.VerificationError):
        fxprune.verify(trace, plan, cropped)


def test_columns_are_ranked_within_each_convolution() -> None:
    net, _, groups = convolutions()
    reg = IncReg(net, groups, granularity="columns", ratio=0.5, increment=1.0, removal="ceiling", ceiling=0.5)
    before = net[2].weight.detach().clone()
    for _ in range(10):
        reg.step()
    norms = before.abs().sum(0).flatten()
    smallest = norms.argsort()[:14]  # half of 27, rounded up
    assert set((net[2].weight.abs().sum(0).flatten() == 0).nonzero().flatten().tolist()) == set(
        smallest.tolist()
    )
    assert reg.done
    assert reg.report().details["masked_share"] > 0.3
    with pytest.raises(PlanError, match="ranks nothing"):
        reg.plan(fxprune.Budget(macs=0.5))


def test_columns_keep_a_channel_that_another_consumer_reads() -> None:
    net, _, groups, _ = traced("concat")
    reg = IncReg(net, groups, granularity="columns")
    kill(reg, "c.weight", (slice(None),))
    # Channels of a and b are also read by b and by the linear head.
    assert reg.removed_units().tolist() == []
    linear = IncReg(net, groups, granularity="columns", linear=True)
    kill(linear, "c.weight", (slice(0, 2),))
    kill(linear, "b.weight", (slice(0, 2),))
    kill(linear, "head.weight", (slice(0, 1),))
    a = next(g for g in groups if g.producers and g.producers[0][0] == "a.weight")
    assert linear.removed_units().tolist() == [int(a.units[0])]
    assert np.isnan(linear.report().penalty)

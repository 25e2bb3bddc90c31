from __future__ import annotations

import numpy as np
import pytest
import torch
from regularizers.nets import Attention, Residual, group, ids, linear_chain
from torch import nn

import fxprune
from fxprune.coupling.groups import Block
from fxprune.errors import PlanError
from fxprune.regularizers.terms.layout import column_layout, row_layout
from fxprune.regularizers.terms.view import GroupView, energy, rank_within

# Sums of at most a few hundred float32 products.
ROUNDING = 1e-5


def naive(model: nn.Module, groups, members: str, power: int) -> list[float]:
    """Sums over units, element by element."""
    parameters = dict(model.named_parameters())
    found = []
    for g in groups:
        for u in range(g.width):
            total = 0.0
            for (name, dim), index in g.indices.items():
                read = (name, dim) in g.consumers
                bias_or_producer = (name, dim) in g.producers or (name.endswith("bias") and "bn" not in name)
                if name not in parameters or (members != "all" and read):
                    continue
                if members == "rows" and not bias_or_producer:
                    continue
                for k in index[u]:
                    total += float(parameters[name].detach().select(dim, int(k)).abs().pow(power).sum())
            found.append(total)
    return found


@pytest.mark.parametrize("members", ["rows", "producers", "all"])
@pytest.mark.parametrize("power", [1, 2])
def test_sums_equal_loops(members: str, power: int) -> None:
    net = Residual()
    groups = [g for g in fxprune.couple(fxprune.trace(net.eval(), torch.randn(2, 3, 8, 8))) if not g.pinned]
    owner, layout = row_layout(net, groups, members=members)
    sums = GroupView(owner, layout).sums(power)
    by_unit = [float(sums[layout.unit_atom[u]]) for g in groups for u in g.units]
    assert len(by_unit) == 8 + 6 + 6
    np.testing.assert_allclose(by_unit, naive(net, groups, members, power), rtol=ROUNDING)


def test_votes_have_one_norm_for_each_producer_with_its_batch_norm() -> None:
    net = Residual()
    groups = [g for g in fxprune.couple(fxprune.trace(net.eval(), torch.randn(2, 3, 8, 8))) if not g.pinned]
    owner, layout = row_layout(net, groups, votes=True)
    assert (layout.n_atoms, layout.n_terms, layout.n_layers) == (20, 3 * 8 + 6 + 6, 5)
    view = GroupView(owner, layout)
    stem = net.stem.weight.square().sum((1, 2, 3)) + net.bn.weight.square() + net.bn.bias.square()
    deep = net.block2.conv2.weight.square().sum((1, 2, 3)) + net.block2.bn2.weight.square()
    stream = view.sums(2)[
        view.atom_family[view.term_atom] == view.atom_family[layout.unit_atom[groups[0].units[0]]]
    ]
    for expected in (stem, deep):
        assert torch.isclose(stream[:, None], expected[None], rtol=ROUNDING).any(0).all()


def test_two_groups_on_one_axis_and_a_unit_at_several_positions() -> None:
    net = nn.Linear(2, 6, bias=False)
    inner = group("inner", ids(0, 1), {("weight", 0): ids(1, 4, 2, 3)}, producers=(("weight", 0),))
    outer = group("outer", ids(2, 3), {("weight", 0): ids(0, 5)}, producers=(("weight", 0),))
    owner, layout = row_layout(net, [inner, outer])
    rows = net.weight.square().sum(1)
    expected = torch.stack([rows[1] + rows[4], rows[2] + rows[3], rows[0], rows[5]])
    torch.testing.assert_close(GroupView(owner, layout).sums(2), expected)
    assert layout.term_size.tolist() == [4, 4, 2, 2]
    assert layout.families == ("inner", "outer")


def test_positions_outside_groups_are_not_touched() -> None:
    net = nn.Linear(3, 5)
    before = net.weight.clone()
    only = group("g", ids(0, 1), {("weight", 0): ids(1, 3)}, producers=(("weight", 0),))
    view = GroupView(*row_layout(net, [only]))
    view.scale_(torch.tensor([0.0, 2.0]))
    expected = before * torch.tensor([1.0, 0.0, 1.0, 2.0, 1.0])[:, None]
    assert torch.equal(net.weight, expected)
    gradient = view.gradients(torch.tensor([1.0, 1.0]), view.tensors(), 2)[0]
    assert torch.equal(gradient[[0, 2, 4]], torch.zeros(3, 3))


def test_pinned_frozen_and_narrow_groups_are_left_out() -> None:
    net, (a, b, c) = linear_chain(4, 6, 1, 5, 3)
    net[0].weight.requires_grad_(False)
    _, layout = row_layout(net, [a, b, c])
    assert layout.families == ("4",)  # 0 is frozen, 2 has one unit
    _, with_frozen = row_layout(net, [a, b, c], frozen=True)
    assert with_frozen.families == ("0", "4")
    pinned = group(a.name, a.units, dict(a.indices), producers=a.producers, pinned=True)
    assert row_layout(net, [pinned, b, c], frozen=True)[1].families == ("4",)
    assert row_layout(net, [c], keep_at_least=5)[1].families == ()


def test_tied_parameters_count_once() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 3, bias=False), "b": nn.Linear(2, 3, bias=False)})
    net["b"].weight = net["a"].weight
    axes = {("a.weight", 0): ids(0, 1, 2), ("b.weight", 0): ids(0, 1, 2)}
    view = GroupView(*row_layout(net, [group("g", ids(0, 1, 2), axes, producers=tuple(axes))]))
    torch.testing.assert_close(view.sums(2), net["a"].weight.square().sum(1).detach())


def test_rows_of_blocks_are_atoms() -> None:
    """Two heads of two cells: queries and values die with their head, over two groups."""
    net = nn.ModuleDict({"q": nn.Linear(3, 4, bias=False), "v": nn.Linear(3, 4, bias=False)})
    rows = ids(8, 9)
    blocks = (
        Block(rows, np.arange(4).reshape(2, 2), None, "q"),
        Block(rows, np.arange(4, 8).reshape(2, 2), None, "v"),
    )
    q = group(
        "q", ids(0, 1, 2, 3), {("q.weight", 0): np.arange(4)}, producers=(("q.weight", 0),), blocks=blocks
    )
    v = group(
        "v", ids(4, 5, 6, 7), {("v.weight", 0): np.arange(4)}, producers=(("v.weight", 0),), blocks=blocks
    )
    owner, layout = row_layout(net, [q, v])
    assert layout.n_atoms == 2
    assert layout.families == ("q",)
    assert layout.unit_atom[:8].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    squares = net["q"].weight.square().sum(1) + net["v"].weight.square().sum(1)
    torch.testing.assert_close(GroupView(owner, layout).sums(2), squares.view(2, 2).sum(1).detach())
    # Without the values no head may go, but one cell of every head may.
    assert row_layout(net, [q])[1].unit_atom[:4].tolist() == [0, 1, 0, 1]


def test_heads_of_a_real_attention_layer() -> None:
    net = Attention()
    groups = fxprune.couple(fxprune.trace(net.eval(), torch.randn(2, 6, 5)))
    _, layout = row_layout(net, [g for g in groups if g.exact])
    width = dict(zip(layout.families, np.bincount(layout.atom_family), strict=True))
    assert sorted(width.values()) == [4, 12]  # heads, units of the MLP


def test_columns_of_convolutions() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)
    )
    groups = fxprune.couple(fxprune.trace(net.eval(), torch.randn(1, 2, 6, 6)))
    owner, layout = column_layout(net, groups)
    assert layout.families == ("2.weight", "4.weight")
    sums = GroupView(owner, layout).sums(1)
    expected = [net[2].weight.abs().sum(0).flatten(), net[4].weight.abs().sum(1).flatten()]
    torch.testing.assert_close(sums, torch.cat(expected).detach(), rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("members", ["rows", "all"])
def test_energy_gradient_is_autograd(members: str) -> None:
    net, groups = linear_chain(4, 6, 5, 3)
    net = net.double()
    view = GroupView(*row_layout(net, groups, members=members))
    slope = torch.rand(view.layout.n_terms, dtype=torch.float64)
    value = energy(view, lambda s: ((slope * s.sqrt()).sum(), slope / (2 * s.sqrt())))
    value.backward()
    mine = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    expected = torch.zeros((), dtype=torch.float64)
    for i, axis in enumerate(layer for layer in ("0", "2")):
        weight, bias = net.get_parameter(f"{axis}.weight"), net.get_parameter(f"{axis}.bias")
        square = weight.square().sum(1) + bias.square()
        if members == "all":
            square = square + net.get_parameter(f"{2 * i + 2}.weight").square().sum(0)
        here = slope[torch.from_numpy(view.layout.unit_atom[groups[i].units])]
        expected = expected + (here * square.sqrt()).sum()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, net.get_parameter(name).grad, rtol=1e-12, atol=1e-14)


def test_rank_within_equals_sorting_each_family() -> None:
    family = torch.randint(0, 5, (300,))
    key, tie = torch.randint(0, 20, (300,)).double(), torch.rand(300)
    rank = rank_within(family, key, tie)
    for f in range(5):
        own = (family == f).nonzero().flatten()
        order = sorted(own.tolist(), key=lambda i: (float(key[i]), float(tie[i])))
        assert [int(rank[i]) for i in order] == list(range(len(own)))


def test_wrappers_are_looked_through() -> None:
    net, groups = linear_chain(4, 6, 3)
    wrapper = nn.Module()
    wrapper.module = net
    assert row_layout(wrapper, groups)[0] is net


def test_groups_of_another_model_are_refused() -> None:
    _, groups = linear_chain(4, 6, 3)
    with pytest.raises(PlanError, match="none of the groups' tensors"):
        row_layout(nn.Conv2d(1, 1, 1), groups)
    with pytest.raises(PlanError, match="does not fit a tensor of shape") as caught:
        row_layout(linear_chain(4, 5, 3)[0], groups)
    assert caught.value.tensor == "0.weight"


def test_a_model_that_moved_is_refused() -> None:
    net, groups = linear_chain(4, 6, 3)
    view = GroupView(*row_layout(net, groups))
    net.to("meta")
    with pytest.raises(PlanError, match="moved from cpu to meta"):
        view.sums(2)

"""Plans of traced models: options, messages, and a predicted cost that is the slim model's real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.coupling.cost import measure
from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace, trace
from fxprune.planning.alignment import good_widths
from fxprune.planning.atoms import Mode
from fxprune.planning.plan import plan, plan_units, remove
from fxprune.plans import Budget, Plan
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim
from fxprune.testing import random_net


class Residual(nn.Module):
    """Two stages of one residual block each, batch norm, a classifier."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.up = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bn = nn.BatchNorm2d(2 * width)
        self.down = nn.Conv2d(2 * width, width, 3, padding=1)
        self.grow = nn.Conv2d(width, 3 * width, 1)
        self.fc = nn.Linear(3 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.down(self.bn(self.up(x)).relu())
        return self.fc(self.grow(x).relu().mean((2, 3)))


class Grouped(nn.Module):
    """A grouped convolution between plain ones."""

    def __init__(self, groups: int = 4, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 1)
        self.group = nn.Conv2d(width, width, 3, groups=groups)
        self.leave = nn.Conv2d(width, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.group(self.enter(x).relu()).relu())


def traced(net: nn.Module, size: int = 8) -> Trace:
    return fxprune.trace(net.eval(), torch.randn(2, 3, size, size))


@pytest.fixture(scope="module")
def residual() -> Trace:
    torch.manual_seed(0)
    return traced(Residual())


def width(made: Plan, name: str, full: int, dim: int = 0) -> int:
    return len(made.kept.get((name, dim), range(full)))


def slim_cost(trace: Trace, made: Plan) -> None:
    slim = fxprune.slim(trace, made)
    assert measure(slim, trace.args, trace.kwargs) == made.predicted
    assert measure(trace.model, trace.args, trace.kwargs) == made.dense


# --- budgets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
@pytest.mark.parametrize("align", ["auto", 1, 8])
@pytest.mark.parametrize("quantity", ["macs", "params", "channels"])
def test_budget_is_kept_and_predicted(residual: Trace, quantity: str, align: str, scope: str) -> None:
    made = plan(residual, Budget(**{quantity: 0.5}), scope=scope, align=align)  # type: ignore[arg-type]
    slim_cost(residual, made)
    if quantity == "channels":
        groups = {"stem.weight": 32, "up.weight": 64, "grow.weight": 96}
        left = sum(width(made, name, full) for name, full in groups.items())
        # 96 of 192; local and global scope hit it exactly, steps of 16 as well.
        assert left == 96
    else:
        reached = getattr(made.predicted, quantity) / getattr(made.dense, quantity)
        assert 0.5 - {1: 0.02, 8: 0.06, "auto": 0.12}[align] <= reached <= 0.5
        assert any(note.startswith("keeps") and "widths move in steps" in note for note in made.notes) == (
            0.5 - reached > 0.01 and align != 1
        )


def test_auto_alignment_ends_on_steps(residual: Trace) -> None:
    step = fxprune.targets.get("onnxruntime-cpu-avx512").channel_step
    for fraction in (0.2, 0.4, 0.6, 0.8):
        made = plan(residual, Budget(macs=fraction), target="onnxruntime-cpu-avx512")
        for name, full in (("stem.weight", 32), ("up.weight", 64), ("grow.weight", 96)):
            assert good_widths(full, step)[width(made, name, full)]


def test_whole_budget_is_an_empty_plan(residual: Trace) -> None:
    made = plan(residual, Budget(macs=1.0))
    assert made.kept == {}
    assert made.predicted == made.dense
    assert made.notes == ()


def test_smaller_budgets_cost_less(residual: Trace) -> None:
    costs = [plan(residual, Budget(macs=f), align=1).predicted.macs for f in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert costs == sorted(costs)


def test_same_plan_twice(residual: Trace) -> None:
    first, second = (plan(residual, Budget(macs=0.5), criterion="random", seed=3) for _ in range(2))
    assert first == second
    assert Plan.from_json(first.to_json()) == first
    assert plan(residual, Budget(macs=0.5), criterion="random", seed=4) != first


def test_unreachable_budget_says_why(residual: Trace) -> None:
    made = plan(residual, Budget(macs=0.001), protect=["grow"], align=16)
    (note,) = made.notes
    assert "where 0.1 % was asked: everything that may go is at its minimum" in note
    assert "'grow' (protected," in note
    slim_cost(residual, made)


def test_a_changed_weight_changes_the_plan() -> None:
    """Weights are read when the plan is made, not when the model was traced."""
    trace = traced(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)))
    with torch.no_grad():
        trace.model.get_parameter("0.weight").fill_(1.0)
        trace.model.get_parameter("2.weight").fill_(1.0)
        trace.model.get_parameter("0.weight")[5] = 0.01
    made = plan(trace, Budget(channels=0.9), align=1)
    assert made.kept["0.weight", 0] == (0, 1, 2, 3, 4, 6, 7)


# --- options ---------------------------------------------------------------------------------------


def test_protect_only_and_ratios(residual: Trace) -> None:
    protected = plan(residual, Budget(macs=0.5), protect=["up"], align=1)
    assert width(protected, "up.weight", 64) == 64
    assert width(protected, "stem.weight", 32) < 32
    single = plan(residual, Budget(macs=0.5), protect="bn.weight", align=1)  # type: ignore[arg-type]
    assert single.kept == protected.kept  # a tensor of the same group; one pattern needs no list
    only = plan(residual, Budget(params=0.8), only=["grow"], align=1)
    assert set(only.kept) == {("grow.weight", 0), ("grow.bias", 0), ("fc.weight", 1)}
    ratio = plan(residual, Budget(macs=0.5), ratios={"up": 0.625}, align=1)
    assert width(ratio, "up.weight", 64) == 40
    assert 0.47 < ratio.predicted.macs / ratio.dense.macs <= 0.5
    for made in (protected, only, ratio):
        slim_cost(residual, made)


def test_ratios_beyond_the_budget_are_followed_and_noted(residual: Trace) -> None:
    made = plan(residual, Budget(macs=0.5), ratios={"up": 0.25}, align=1)
    assert width(made, "up.weight", 64) == 16
    assert made.notes == ("keeps 32.3 % of the MACs where 50.0 % was asked: ratios= alone remove that much",)


def test_keep_at_least(residual: Trace) -> None:
    made = plan(residual, Budget(macs=0.01), keep_at_least=5, align=1)
    assert [width(made, name, 99) for name in ("stem.weight", "up.weight", "grow.weight")] == [5, 5, 5]


def test_blocks_whole_or_inside() -> None:
    trace = traced(Grouped())
    whole = plan(trace, Budget(channels=0.5), align=1)
    inside = plan(trace, Budget(channels=0.5), align=1, blocks="inside")
    assert width(whole, "group.weight", 8, 1) == 8
    assert width(inside, "group.weight", 8, 1) == 4
    removed = set(range(32)) - set(whole.kept["enter.weight", 0])
    assert removed == {8 * (r // 8) + k for r in removed for k in range(8)}
    for made in (whole, inside):
        slim_cost(trace, made)


def test_evidence(residual: Trace) -> None:
    data = [torch.randn(2, 3, 8, 8) for _ in range(2)]
    made = plan(
        residual,
        Budget(macs=0.5),
        criterion="taylor",
        data=data,
        loss=lambda model, x: model(x).square().mean(),
    )
    slim_cost(residual, made)


def test_unscored_groups_stay_whole_and_are_named(residual: Trace) -> None:
    made = plan(residual, Budget(params=0.7), criterion="bn_scale", align=1)
    assert {name for name, _ in made.kept} == {
        "up.weight",
        "up.bias",
        "bn.weight",
        "bn.bias",
        "down.weight",
    } | {
        "bn.running_mean",
        "bn.running_var",
    }
    assert "cannot score 2 groups, which stay whole: stem, grow" in made.notes[0]


def test_meta_weights_are_planned_by_shape() -> None:
    with torch.device("meta"):
        trace = fxprune.trace(Residual(), torch.zeros(1, 3, 8, 8))
    made = plan(trace, Budget(params=0.5), criterion="random", scope="local", align=1)
    assert 0.48 < made.predicted.params / made.dense.params <= 0.5
    with pytest.raises(PlanError, match="meta device"):
        plan(trace, Budget(params=0.5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"align": 0}, "align=0 is no step"),
        ({"align": "fast"}, "align='fast' is no step"),
        ({"keep_at_least": 0}, "would empty a layer"),
        ({"scope": "layer"}, "scope='layer' is unknown"),
        ({"blocks": "heads"}, "blocks='heads' is unknown"),
        ({"criterion": "l7"}, "no criterion 'l7'"),
        ({"target": "abacus"}, "no target 'abacus'"),
        ({"ratios": {"up": 0.0}}, r"ratios\['up'\]=0.0 is not a fraction"),
        ({"ratios": {"up": 0.5, "bn.*": 0.6}}, "ratios ask for 0.5 and 0.6 of group 'up'"),
        ({"protect": ["upp"]}, "protect='upp' fits no group"),
        ({"only": ["gro"]}, "only='gro' fits no group"),
        ({"ratios": {"nowhere.*": 0.5}}, r"ratios='nowhere.\*' fits no group"),
        ({"protect": ["*"]}, "nothing in this model may go"),
    ],
)
def test_refusals(residual: Trace, options: dict, words: str) -> None:
    budget = options.pop("budget", Budget(macs=0.5))
    with pytest.raises(PlanError, match=words) as caught:
        plan(residual, budget, **options)
    assert caught.value.advice


def test_near_misses_are_listed(residual: Trace) -> None:
    with pytest.raises(PlanError) as caught:
        plan(residual, Budget(macs=0.5), protect=["steem"])
    assert "did you mean 'stem'" in caught.value.advice


# --- explicit removals -----------------------------------------------------------------------------


def test_removal_takes_what_is_coupled(residual: Trace) -> None:
    made = remove(residual, {("down.weight", 0): [3, 30], ("bn.bias", 0): [0]})
    left = tuple(i for i in range(32) if i not in (3, 30))
    assert made.kept["stem.weight", 0] == made.kept["down.weight", 0] == made.kept["up.weight", 1] == left
    assert made.kept["up.weight", 0] == made.kept["bn.running_mean", 0] == tuple(range(1, 64))
    assert ("grow.weight", 0) not in made.kept
    slim_cost(residual, made)


def test_removal_of_nothing(residual: Trace) -> None:
    assert remove(residual, {("stem.weight", 0): []}).kept == {}


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        ({("stemm.weight", 0): [0]}, r"no axis \('stemm.weight', 0\)"),
        ({("stem.weight", 7): [0]}, r"no axis \('stem.weight', 7\)"),
        ({("stem.weight", 0): [32]}, "position 32 is outside"),
        ({("stem.weight", 0): [0, -1]}, "position -1 is outside"),
        ({("fc.weight", 0): [1]}, "1 units of group 'fc' cannot go: the model's output"),
        ({("stem.weight", 1): [1]}, "cannot go: meets the model input"),
        ({("grow.weight", 0): list(range(96))}, "nothing would be left of 'grow.weight' along dimension 0"),
    ],
)
def test_impossible_removals(residual: Trace, removed: dict, words: str) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        remove(residual, removed)
    assert caught.value.advice


def test_pinned_removal_names_op_node_and_source(residual: Trace) -> None:
    with pytest.raises(PlanError) as caught:
        remove(residual, {("stem.weight", 1): [0]})
    error = caught.value
    assert error.op == "aten.conv2d.default"
    assert error.node == "conv2d"
    assert "in forward" in error.source
    assert error.tensor == "stem.weight"


def test_unequal_groups_are_refused() -> None:
    trace = traced(Grouped())
    with pytest.raises(PlanError, match="its 4 rows would keep 7, 8, 8, 8 of 8") as caught:
        remove(trace, {("group.weight", 0): [0]})
    assert caught.value.op == "aten.conv2d.default"
    assert "in forward" in caught.value.source
    # The groups share one input axis of the weight, so they lose the same positions.
    with pytest.raises(PlanError, match="position 0 is removed in row 0 and not in the others"):
        remove(trace, {("enter.weight", 0): [0, 9, 18, 27]})
    outputs = remove(trace, {("group.weight", 0): [0, 9, 18, 27]})
    slim_cost(trace, outputs)
    equal = remove(trace, {("group.weight", 1): [3]})
    assert equal.kept["enter.weight", 0] == tuple(i for i in range(32) if i % 8 != 3)
    slim_cost(trace, equal)
    row = remove(trace, {("enter.weight", 0): range(8, 16)})
    assert row.kept["group.weight", 0] == (*range(8), *range(16, 32))
    slim_cost(trace, row)


def test_plan_units_checks_its_mask(residual: Trace) -> None:
    n = analyse(residual).coupling.n_units
    with pytest.raises(PlanError, match="does not fit"):
        plan_units(residual, np.ones(n + 1, bool))
    with pytest.raises(PlanError, match="does not fit"):
        plan_units(residual, np.ones(n))  # type: ignore[arg-type]
    assert plan_units(residual, np.ones(n, bool), notes=["by hand"]).notes == ("by hand",)


# --- real networks ---------------------------------------------------------------------------------

Build = Callable[[], nn.Module]
NETS: Sequence[tuple[str, Build, int, float]] = (
    ("resnet18", torchvision.models.resnet18, 64, 0.005),
    ("mobilenet_v2", torchvision.models.mobilenet_v2, 64, 0.005),
    ("densenet121", torchvision.models.densenet121, 64, 0.005),
    ("shufflenet", torchvision.models.shufflenet_v2_x1_0, 64, 0.005),
    ("resnext50", torchvision.models.resnext50_32x4d, 64, 0.005),
    ("vit", lambda: torchvision.models.VisionTransformer(32, 8, 4, 4, 48, 96), 32, 0.03),
)


@pytest.mark.parametrize(("name", "build", "size", "gap"), NETS, ids=[n[0] for n in NETS])
def test_networks(name: str, build: Build, size: int, gap: float) -> None:
    """By default and with any width: the budget is met from below, and the slim model costs what was said."""
    torch.manual_seed(0)
    trace = traced(build(), size)
    for options in ({}, {"align": 1, "scope": "local"}, {"blocks": "inside", "scope": "local"}):
        made = plan(trace, Budget(macs=0.5), **options)  # type: ignore[arg-type]
        assert 0.5 - gap <= made.predicted.macs / made.dense.macs <= 0.5, options
        slim_cost(trace, made)


class Swapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two = self.first(x).chunk(2, 1)
        return self.second(torch.cat([two, one.relu()], 1))


def test_no_part_of_a_split_is_emptied() -> None:
    net = Swapped()
    with torch.no_grad():
        net.first.weight[:4] *= 1e-3  # all that goes would be the first half
    found = traced(net)
    small = plan(found, Budget(channels=0.5), align=1)
    assert small.kept["first.weight", 0][0] < 4
    assert len(small.kept["first.weight", 0]) == 4
    assert verify(found, small, slim(found, small)).error < 1e-12


class Windows(nn.Module):
    """Relative positions by padding and reshaping, as halo attention makes them: one row has padding only."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(3, 6)
        self.table, self.scale = nn.Linear(6, 7, bias=False), nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = F.pad(self.table(self.lift(x)), (0, 1)).flatten(1)
        shifted = F.pad(scores, (0, 3)).view(-1, 5, 7)[:, :4, 3:]
        return (shifted.sum(1) * self.scale).sum(-1)


def test_padding_without_a_name_stays() -> None:
    found = trace(Windows().eval(), torch.randn(2, 4, 3))
    for seed in range(4):
        small = plan(found, Budget(channels=0.7), align=1, criterion="random", seed=seed)
        assert verify(found, small, slim(found, small)).error < 1e-12


def test_a_number_is_no_budget(residual: Trace) -> None:
    with pytest.raises(PlanError, match=r"0\.5 is no budget\n.*write fxprune.Budget\(macs=0.5\)"):
        plan(residual, 0.5)


class Products(nn.Module):
    """Products of all pairs of channels: row and column of one square are the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 10, 1), nn.Linear(100, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(torch.relu(self.a(x))).flatten(2)
        return self.head((y @ y.transpose(1, 2)).flatten(1))


@pytest.mark.parametrize("quantity", ["macs", "params"])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.8])
def test_a_square_loses_rows_and_columns_and_the_budget_is_met(quantity: str, fraction: float) -> None:
    torch.manual_seed(0)
    trace = fxprune.trace(Products().eval(), torch.randn(2, 3, 8, 8))
    made = plan(trace, Budget(**{quantity: fraction}), align=1)
    slim = fxprune.slim(trace, made)
    fxprune.verify(trace, made, slim)
    assert measure(slim, trace.args) == made.predicted
    share = getattr(made.predicted, quantity) / getattr(made.dense, quantity)
    assert fraction - 0.05 < share < fraction + 0.006


@pytest.mark.parametrize("blocks", ["auto", "whole", "inside"])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7])
def test_rows_of_one_layout_are_columns_of_another(blocks: Mode, fraction: float) -> None:
    """What goes whole from the second takes cells of all rows of the first along (random net 2476)."""

    model, inputs = random_net(2476).build()
    traced = trace(model, inputs)
    half = plan(traced, Budget(macs=fraction), blocks=blocks)
    assert half.predicted.macs <= (fraction + 0.005) * half.dense.macs
    verify(traced, half, slim(traced, half))

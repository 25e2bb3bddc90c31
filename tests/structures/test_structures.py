"""Structures: found by dominators, cut exactly, combined with channels, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from structures.structure_nets import NETS, CifarResNet, live
from torch import fx, nn
from torch.nn import functional as F

import fxprune
from fxprune.coupling.cost import measure
from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError, SliceError, VerificationError
from fxprune.graph.live import liven
from fxprune.planning.plan import plan, plan_structures
from fxprune.plans import Budget, Plan
from fxprune.resizing.resolve import keep_mask
from fxprune.structures.cut import cut
from fxprune.structures.find import Structure, find_structures

# float64 models; the cut graph adds the same numbers in the same order, up to fused kernels.
EXACT = 1e-10
# float32: two ways through the same operators.
ROUNDING = 1e-5


@cache
def traced(name: str) -> tuple[nn.Module, fxprune.Trace, torch.Tensor]:
    net, x = live(name)
    return net, fxprune.trace(net, x), x


def removable(trace: fxprune.Trace) -> list[str]:
    return [s.name for s in find_structures(trace) if s.removable]


def of(model: nn.Module, x: torch.Tensor) -> dict[str, Structure]:
    return {s.name: s for s in find_structures(fxprune.trace(model.eval(), x))}


# --- what is found ---------------------------------------------------------------------------------------


def test_resnet_blocks() -> None:
    _, trace, _ = traced("resnet18")
    found = find_structures(trace)
    assert [s.name for s in found] == [f"layer{stage}.{k}" for stage in (1, 2, 3, 4) for k in (0, 1)]
    assert all(s.kind == "residual" and s.removable and len(s.nodes) == 5 for s in found)
    first = found[2]
    # The projection is the shortcut, not the block.
    assert first.parameters == tuple(
        f"layer2.0.{p}"
        for p in ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias")
    )


def test_cifar_blocks_with_padded_shortcuts() -> None:
    _, trace, _ = traced("cifar")
    found = find_structures(trace)
    assert [s.name for s in found] == [f"layer{stage}.{k}" for stage in (1, 2, 3) for k in (0, 1)]
    assert all(s.removable for s in found)


def test_inception_branches() -> None:
    _, trace, _ = traced("googlenet")
    found = find_structures(trace)
    modules = ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    assert [s.name for s in found] == [f"inception{m}.branch{k}" for m in modules for k in (1, 2, 3, 4)]
    assert {s.kind for s in found} == {"branch"}
    assert [len(s.units) for s in found[:4]] == [64, 128, 32, 32]


def test_nested_branches() -> None:
    _, trace, _ = traced("inception")
    found = {s.name: s for s in find_structures(trace)}
    assert set(found) == {"a1", "a2", "a3", "b1", "b2a", "b2b", "b2"}
    assert set(found["b2a"].nodes) < set(found["b2"].nodes)
    assert len(found["b2"].units) == 5


def test_dense_layers() -> None:
    _, trace, _ = traced("densenet")
    found = {s.name: s for s in find_structures(trace)}
    layers = [f"features.denseblock{b}.denselayer{k}" for b in (1, 2) for k in (1, 2)]
    assert [n for n, s in found.items() if s.removable] == layers
    assert [len(found[n].joins) for n in layers] == [2, 1, 2, 1]
    assert found["features.conv0"].reason == "nothing else is concatenated with it"


def test_transformer_blocks() -> None:
    _, trace, _ = traced("vit")
    layer = "encoder.layers.encoder_layer_{}.{}"
    assert removable(trace) == [layer.format(k, part) for k in (0, 1) for part in ("self_attention", "mlp")]
    assert next(s for s in find_structures(trace) if not s.removable).name == "conv_proj"


@pytest.mark.parametrize("name", NETS)
def test_private_nodes_are_those_that_reach_the_output_through_it_only(name: str) -> None:
    """Brute force against dominators."""
    _, trace, _ = traced(name)
    for structure in find_structures(trace):
        seen: set[fx.Node] = set()
        stack = [trace.graph.graph.output_node()]
        while stack:
            node = stack.pop()
            if node not in seen and node is not structure.output:
                seen.add(node)
                stack.extend(node.all_input_nodes)
        tensors = [n for n in trace.graph.graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
        private = {n for n in tensors if n not in seen and n.op == "call_function"}
        assert private == set(structure.nodes), structure.name
        readable = {str(n.target) for n in trace.graph.graph.nodes if n.op == "get_attr" and n not in seen}
        names = {n for n, _ in trace.model.named_parameters()}
        assert set(structure.parameters) == readable & names, structure.name
        assert structure.nodes[-1] is structure.output


# --- cutting ---------------------------------------------------------------------------------------------


def check(trace: fxprune.Trace, made: Plan, x: torch.Tensor) -> nn.Module:
    """Slim, proof, cost, other batch sizes and training; returns the slim model."""
    slim = fxprune.slim(trace, made)
    proof = fxprune.verify(trace, made, slim)
    assert proof.error < EXACT, proof
    assert proof.effect > 1e-6
    assert proof.structures == len(made.removed)
    assert measure(slim, (x,)) == made.predicted
    assert made.dense == analyse(trace).coupling.cost.dense
    assert Plan.from_json(made.to_json()) == made
    assert slim(torch.cat([x, x, x])).shape[0] == 3 * len(x)
    return slim


@pytest.mark.parametrize("name", [n for n in NETS if n != "googlenet"])
def test_cutting_one_structure_equals_zeroing_it(name: str) -> None:
    _, trace, x = traced(name)
    chosen = removable(trace)
    for structure in chosen[2::5] if name == "resnet18" else chosen:
        slim = check(trace, plan_structures(trace, [structure]), x)
        left = [n for n, _ in slim.named_parameters() if n.startswith(structure + ".")]
        assert all("downsample" in n for n in left)


@pytest.mark.parametrize("names", [("inception3a.branch2",), ("inception4d.branch1", "inception5b.branch4")])
def test_cutting_inception_branches(names: tuple[str, ...]) -> None:
    _, trace, x = traced("googlenet")
    check(trace, plan_structures(trace, names), x)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("cifar", [f"layer{stage}.{k}" for stage in (1, 2, 3) for k in (0, 1)]),
        ("inception", ["a1", "a3", "b2a", "b2"]),
        ("inception", ["a2", "a3", "b1", "b2b"]),
        ("densenet", ["features.denseblock1.denselayer1", "features.denseblock1.denselayer2"]),
        ("vit", ["encoder.layers.encoder_layer_1.mlp", "encoder.layers.encoder_layer_0.self_attention"]),
    ],
)
def test_cutting_several(name: str, names: list[str]) -> None:
    _, trace, x = traced(name)
    check(trace, plan_structures(trace, names), x)


def test_consumers_of_a_concatenation_lose_the_branch() -> None:
    _, trace, x = traced("inception")
    made = plan_structures(trace, ["a2"])
    kept = (0, 1, 2, 3, 9, 10, 11)
    assert made.kept == {("b1.weight", 1): kept, ("b2.weight", 1): kept}
    slim = check(trace, made, x)
    assert slim.get_parameter("b1.weight").shape == (4, 7, 1, 1)
    # No padding is left where the branch was.
    assert not [n for n in slim.graph.nodes if "pad" in str(n.target)]
    assert dict(slim.named_parameters()).keys() == {
        n for n, _ in trace.model.named_parameters() if "a2" not in n
    }


def test_published_cost_of_a_block() -> None:
    """ResNet-56 in GAL's tables: 125.49M MACs, 0.85M parameters, and 4.7186M for each of its blocks."""
    trace = fxprune.trace(CifarResNet(9).eval(), torch.zeros(1, 3, 32, 32))
    names = removable(trace)
    assert len(names) == 27
    made = plan_structures(trace, names[1:11])
    assert made.dense.macs == 125_485_696 and made.dense.params == 853_018
    # Two of these ten have a strided first convolution of half the work and twice the channels' parameters.
    saved = [plan_structures(trace, [n]) for n in (names[1], names[9])]
    assert [made.dense.macs - p.predicted.macs for p in saved] == [4_718_592, 3_538_944]
    assert made.dense.macs - made.predicted.macs == 9 * 4_718_592 + 3_538_944


def test_zeroed_dense_model_is_the_cut_model() -> None:
    """The oracle's own claim, without the oracle: a block whose last scale is zero adds nothing."""
    net, x = live("cifar")
    trace = fxprune.trace(net, x)
    slim = fxprune.slim(trace, plan_structures(trace, ["layer2.0"]))
    with torch.no_grad():
        net.layer2[0].bn2.weight.zero_()
        net.layer2[0].bn2.bias.zero_()
        torch.testing.assert_close(slim(x), net(x), rtol=ROUNDING, atol=ROUNDING)


def test_empty_concatenation_is_refused() -> None:
    _, trace, _ = traced("inception")
    with pytest.raises(PlanError, match="nothing would be left of a concatenation") as caught:
        plan_structures(trace, ["b1", "b2"])
    assert "structure_nets.py" in caught.value.source


# --- with channels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("cifar", ["layer1.1", "layer3.0"]),
        ("inception", ["a2", "b2b"]),
        ("densenet", ["features.denseblock2.denselayer1"]),
        ("vit", ["encoder.layers.encoder_layer_1.self_attention"]),
    ],
)
def test_structures_and_channels_in_one_plan(name: str, names: list[str]) -> None:
    _, trace, x = traced(name)
    small = cut(trace, names)
    made = plan(small, Budget(params=0.6), align=1)
    assert made.removed == small.cuts and made.kept
    assert made.predicted.params <= 0.6 * analyse(small).coupling.cost.dense.params
    check(trace, made, x)


def test_units_of_the_dense_model_carry_over() -> None:
    """A keep mask over the dense model's units, with a structure cut: what is inside it does not matter."""
    _, trace, x = traced("cifar")
    keep = np.ones(analyse(trace).coupling.n_units, bool)
    for group in fxprune.couple(trace):
        if group.pinned is None:
            keep[group.units[::3]] = False
    made = plan_structures(trace, ["layer1.1", "layer3.1"], keep=keep)
    check(trace, made, x)
    alone = plan_structures(trace, [], keep=keep)
    assert {axis: index for axis, index in alone.kept.items() if axis in made.kept} == dict(made.kept)
    assert not [axis for axis in made.kept if axis[0].startswith(("layer1.1", "layer3.1"))]


# --- files and misuse ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "names"), [("cifar", ["layer2.0"]), ("inception", ["a1", "b2b"])])
def test_save_and_load(name: str, names: list[str], tmp_path: Path) -> None:
    _, trace, x = traced(name)
    made = plan_structures(trace, names)
    slim = fxprune.slim(trace, made)
    file = tmp_path / "slim.safetensors"
    fxprune.save(slim, made, file)
    again = fxprune.load(NETS[name][0](), file, x).eval()
    assert again.fxprune_kind == "graph"
    with torch.no_grad():
        assert torch.equal(again(x), slim(x))


def test_slim_model_says_what_was_cut_and_trains() -> None:
    net, trace, x = traced("cifar")
    slim = fxprune.slim(trace, plan_structures(trace, ["layer1.0"]))
    assert slim.fxprune_kind == "graph"
    assert [s.split(" ")[0].split(":")[0] for s in slim.fxprune_sources] == ["structure_nets.py"]
    before = slim.get_buffer("bn1.running_mean").clone()
    slim.train()(x).square().mean().backward()
    assert slim.get_parameter("layer1.1.conv1.weight").grad is not None
    assert not torch.equal(before, slim.get_buffer("bn1.running_mean"))
    # The dense model keeps its own tensors.
    assert torch.equal(before, net.get_buffer("bn1.running_mean"))


def test_weights_of_the_moment() -> None:
    """Training between plan and slim counts, replaced parameters too."""
    net, x = live("cifar")
    trace = fxprune.trace(net, x)
    made = plan_structures(trace, ["layer1.0"])
    with torch.no_grad():
        net.linear.weight.mul_(2)
    net.conv1.weight = nn.Parameter(net.conv1.weight * 3)
    slim = fxprune.slim(trace, made)
    assert fxprune.verify(trace, made, slim).error < EXACT
    torch.testing.assert_close(slim.get_parameter("conv1.weight"), net.conv1.weight)


def test_misuse() -> None:
    _, trace, _ = traced("cifar")
    made = plan_structures(trace, ["layer1.0"])
    with pytest.raises(PlanError, match="no structure 'layer9'") as caught:
        plan_structures(trace, ["layer9"])
    assert "layer1.0" in caught.value.advice
    with pytest.raises(SliceError, match=r"cannot leave out layer1\.0"):
        fxprune.slim(trace, made, kind="module")
    with pytest.raises(PlanError, match=r"the plan cuts layer1\.0, this trace is cut at nothing"):
        keep_mask(analyse(trace), made)
    _, dense, _ = traced("densenet")
    with pytest.raises(PlanError, match="cannot be removed: nothing else is concatenated"):
        plan_structures(dense, ["features.conv0"])


def test_verification_can_fail() -> None:
    _, trace, _ = traced("cifar")
    made = plan_structures(trace, ["layer1.0"])
    other = fxprune.slim(trace, plan_structures(trace, ["layer1.1"]))
    with pytest.raises(VerificationError, match="differs"):
        fxprune.verify(trace, made, other)


def test_cut_of_a_cut() -> None:
    _, trace, _ = traced("cifar")
    once = cut(trace, ["layer1.0"])
    twice = cut(once, ["layer3.1"])
    assert twice is cut(trace, ["layer3.1", "layer1.0"])
    assert twice.cuts == ("layer1.0", "layer3.1") and twice.fingerprint == trace.fingerprint
    assert cut(trace, []) is trace and cut(once, ["layer1.0"]) is once


# --- graphs with traps -----------------------------------------------------------------------------------


class Net(nn.Module):
    """Three layers of equal width in an arrangement that a test gives."""

    def __init__(self, body: Callable[[Net, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.body = body
        self.stem, self.f, self.g, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.scale = nn.Parameter(torch.randn(6))
        self.places = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self, self.stem(x)))


def arrangement(
    body: Callable[[Net, torch.Tensor], torch.Tensor],
) -> tuple[fxprune.Trace, dict[str, Structure]]:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    trace = fxprune.trace(liven(Net(body), x), x)
    return trace, {s.name: s for s in find_structures(trace)}


def in_place(net: Net, x: torch.Tensor) -> torch.Tensor:
    return (net.f(x).add_(x)).relu_() + 0.5 * x  # relu_ must not reach x


def in_place_view(net: Net, x: torch.Tensor) -> torch.Tensor:
    return (net.f(x) + x).view(-1, 6).relu_() * x


def parallel(net: Net, x: torch.Tensor) -> torch.Tensor:
    return x + net.f(x).relu() + net.g(x)


def difference(net: Net, x: torch.Tensor) -> torch.Tensor:
    return x - net.f(x)


def gated(net: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.add(x, net.scale * net.f(x), alpha=2)


def nested(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.f(x)
    return x + (y + net.g(y.relu()))


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (in_place, ["f"]),
        (in_place_view, ["f"]),
        (parallel, ["f", "g"]),
        (difference, ["f"]),
        (gated, ["f"]),
        (nested, ["f", "g"]),
    ],
)
def test_arrangements_that_can_be_cut(
    body: Callable[[Net, torch.Tensor], torch.Tensor], names: list[str]
) -> None:
    trace, found = arrangement(body)
    assert sorted(found) == names and all(s.removable for s in found.values())
    for chosen in [*([n] for n in names), names]:
        made = plan_structures(trace, chosen)
        assert fxprune.verify(trace, made, fxprune.slim(trace, made)).error < EXACT


def subtracted(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.f(x) - x


def weighted(net: Net, x: torch.Tensor) -> torch.Tensor:
    return torch.add(net.f(x), x, alpha=2)


def broadcast(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.f(x) + x.mean(1, keepdim=True)


def overwriting(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.f(x.view(-1, 6).relu_()) + x


def accumulated(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = x.relu()
    return y.view(-1, 6).add_(net.f(y)) * y


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (subtracted, "scaled"),
        (weighted, "scaled"),
        (broadcast, "another shape"),
        (overwriting, "writes into a tensor that others read"),
        (accumulated, "written into a tensor that is read again"),
    ],
)
def test_arrangements_that_cannot(body: Callable[[Net, torch.Tensor], torch.Tensor], reason: str) -> None:
    _, found = arrangement(body)
    assert not found["f"].removable and reason in found["f"].reason


def pyramid(net: Net, x: torch.Tensor) -> torch.Tensor:
    return net.f(x) + net.g(net.head(x))  # neither is a shortcut past the other


def placed(net: Net, x: torch.Tensor) -> torch.Tensor:
    return x + net.places  # an embedding, not a branch


def doubled(net: Net, x: torch.Tensor) -> torch.Tensor:
    y = net.f(x)
    return y + y


@pytest.mark.parametrize("body", [placed, doubled])
def test_sums_that_are_no_blocks(body: Callable[[Net, torch.Tensor], torch.Tensor]) -> None:
    assert not arrangement(body)[1]


def test_the_deeper_side_of_a_sum_is_the_block() -> None:
    _, found = arrangement(pyramid)
    assert [s.name for s in found.values()] == ["g"]


class TiedConcat(nn.Module):
    """A concatenation that is added to another tensor: its branches are tied with what makes that one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 5)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + torch.cat([self.a(x), self.b(x)], -1))


def test_tied_branches_stay() -> None:
    found = of(TiedConcat(), torch.randn(2, 6))
    assert found["a"].reason == "its channels are tied with those that 'stem.weight' makes"


class Recorded(nn.Module):
    """Control flow that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.f = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return x + F.relu(self.f(x)) if float(x.sum()) > -1e9 else x


def test_recorded_models_say_why() -> None:
    found = of(Recorded(), torch.randn(2, 6))
    assert not found["f"].removable and "recorded" in found["f"].reason


def test_no_weights_are_needed() -> None:
    with torch.device("meta"):
        net = CifarResNet(2)
    trace = fxprune.trace(net, torch.zeros(1, 3, 32, 32, device="meta"))
    made = plan_structures(trace, removable(trace)[1:3])
    assert made.removed == ("layer1.1", "layer2.0")
    assert made.dense.params - made.predicted.params == 2 * 16 * 16 * 9 + 64 + 9 * (16 * 32 + 32 * 32) + 128

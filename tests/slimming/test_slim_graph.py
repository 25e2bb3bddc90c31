"""Slim graphs called in ways that the example does not show: other sizes, types, devices, training, names."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from fxprune.errors import SliceError
from fxprune.graph.graph_module import NamedGraph, set_tensor
from fxprune.graph.trace import trace
from fxprune.planning.plan import remove
from fxprune.plans import Plan
from fxprune.proof.verify import verify
from fxprune.slimming.slim import load, save, slim

SAME = 1e-6
"""Relative difference of two float32 runs of the same few layers: rounding of 24-bit fractions."""

EXACT = 1e-10
"""Relative difference of two float64 runs: rounding of 53-bit fractions, with digits to spare."""


def gap(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).detach().abs().max() / one.detach().abs().max())


class Resized(nn.Module):
    """Parts of unequal width after pruning (a graph), a pooling as large as the picture, and its size again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.gate, self.norm, self.out = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12), nn.Conv2d(12, 5, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, *, sharp: bool = False) -> torch.Tensor:
        size = x.shape[-2:]
        one, two = torch.relu(self.a(x)).chunk(2, 1)
        y = self.norm(self.b(one)) + self.norm(self.b(two))
        pooled = F.avg_pool2d(y, (y.shape[2], y.shape[3]))
        y = self.drop(y * torch.sigmoid(self.gate(pooled)))
        y = y + torch.arange(y.shape[-1], dtype=x.dtype, device=x.device) * 0.1
        return F.interpolate(self.out(y), size=size, mode="nearest" if sharp else "bilinear")


def resized() -> tuple[nn.Module, torch.Tensor, Plan]:
    torch.manual_seed(0)
    model, x = Resized().eval(), torch.randn(1, 3, 32, 32)
    return model, x, remove(trace(model, x), {("a.weight", 0): [0, 3], ("gate.weight", 0): [1, 2]})


def test_other_sizes_have_their_own_graph() -> None:
    model, x, made = resized()
    found = trace(model, x)
    small = slim(found, made, kind="graph").eval()
    whole = slim(found, remove(found, {}), kind="graph").eval()
    for shape in ((1, 3, 48, 40), (3, 3, 16, 24), (2, 3, 32, 32)):
        other = torch.randn(shape)
        assert gap(model(other), whole(other)) < SAME
        found = trace(model, other)
        again = slim(found, replace(made, fingerprint=found.fingerprint))
        assert small(other).shape == (shape[0], 5, *shape[2:])
        assert gap(again.eval()(other), small(other)) < SAME


def test_flags_and_structure_have_their_own_graph() -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").eval()
    soft, sharp = small(x), small(x, sharp=True)
    assert gap(soft, sharp) > 0.01
    found = trace(model, {"x": x, "sharp": True})
    expected = slim(found, replace(made, fingerprint=found.fingerprint), kind="graph").eval()
    assert gap(expected(x=x, sharp=True), sharp) < SAME


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_types_follow(kind: torch.dtype) -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").eval()
    expected = small(x)
    model.to(kind)(x.to(kind))  # the dense model can
    result = small.to(kind)(x.to(kind))
    assert result.dtype == kind
    assert gap(expected, result.float()) < (SAME if kind == torch.float64 else 2.0**-4)


def test_devices_follow() -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").eval()
    result = small.to("meta")(x.to("meta"))
    assert (result.device.type, result.shape) == ("meta", (1, 5, 32, 32))


class Explicit(nn.Module):
    """Types that the code insists on, whatever the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.dtype
        y = self.a(x).view(-1, 8).to(torch.float32)
        y = (y / y.square().mean(-1, keepdim=True).sqrt()) * 3e4
        return self.b((y / 3e4).to(kind))


def test_types_that_the_code_insists_on_stay() -> None:
    model, x = Explicit(), torch.randn(3, 4)
    made = remove(trace(model, x), {})
    small = slim(trace(model, x), made, kind="graph").half()
    model.half()
    assert torch.equal(model(x.half()), small(x.half())), (
        "squares beyond half precision's range are in float32"
    )


def test_a_call_that_the_model_refuses_is_refused_in_words() -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").eval()
    with pytest.raises(
        SliceError, match=r"made for float32\[1, 3, 32, 32\].*none for float32\[1, 4, 8, 8\]"
    ) as caught:
        small(torch.randn(1, 4, 8, 8))
    assert "trace and slim" in caught.value.advice


def test_copies_share_nothing_and_go_on() -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").eval()
    big = torch.randn(1, 3, 40, 40)
    expected = small(big)
    other = copy.deepcopy(small)
    assert torch.equal(other(big), expected)
    with torch.no_grad():
        other.get_parameter("out.bias").add_(1.0)
    assert gap(expected + 1, other(big)) < SAME, "graphs made before the copy read its own tensors"
    assert torch.equal(small(big), expected)
    assert set(small.state_dict()) == set(model.state_dict()), "further graphs add nothing to the state"


def test_files_bring_back_other_sizes(tmp_path) -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").eval()
    save(small, made, tmp_path / "small.safetensors")
    back = load(Resized(), tmp_path / "small.safetensors", x).eval()
    big = torch.randn(1, 3, 40, 24)
    assert torch.equal(small(big), back(big))


# --- training -----------------------------------------------------------------------------------


def test_plain_dropout_and_batch_norm_need_no_other_graph() -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").train()
    small(x)
    assert len(small._made) == 1
    assert int(small.get_buffer("norm.num_batches_tracked")) == 2, "the norm runs twice in a call"


class Attends(nn.Module):
    """Dropout inside an attention, a hard-coded width, and a norm that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.norm, self.wide, self.head = nn.BatchNorm1d(8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(torch.relu(self.wide(x)).view(x.shape[0], x.shape[1], 12))


def test_training_runs_what_the_model_runs_in_training() -> None:
    model, x = Attends(), torch.randn(4, 5, 8)
    found = trace(model, x)
    made = remove(found, {("wide.weight", 0): [0, 7]})
    small = slim(found, made)
    assert small.fxprune_kind == "graph"
    small.eval()
    assert torch.equal(small(x), small(x))
    small.train()
    assert not torch.equal(small(x), small(x)), "attention drops"
    small(x).sum().backward()
    assert int(small.get_buffer("norm.num_batches_tracked")) == 3, "each batch counts once"
    assert all(p.grad is not None for p in small.parameters())
    whole = slim(found, remove(found, {}), kind="graph").train()
    torch.manual_seed(1)
    expected = model.train()(x)
    torch.manual_seed(1)
    assert gap(expected, whole(x)) < SAME
    assert gap(model.norm.running_mean, whole.get_buffer("norm.running_mean")) < SAME
    assert verify(found, made, slim(found, made), tolerance=EXACT).units == 2


def test_training_returns_what_the_model_returns_in_training() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> object:
            y = self.b(torch.relu(self.a(x)).view(-1, 8))
            return {"raw": [y, y.sum(1)]} if self.training else y.softmax(1)

    model, x = Heads(), torch.randn(2, 4)
    found = trace(model, x)
    small = slim(found, remove(found, {("a.weight", 0): [0, 7]}))
    assert small.fxprune_kind == "graph"
    assert small.eval()(x).shape == (2, 3)
    raw = small.train()(x)["raw"]
    assert gap(raw[0].softmax(1), small.eval()(x)) < SAME
    assert small.train()(torch.randn(5, 4))["raw"][1].shape == (5,)


# --- names --------------------------------------------------------------------------------------

AWKWARD = (
    "graph",
    "meta",
    "code",
    "class",
    "None",
    'a"b',
    "back\\slash",
    "two words",
    "print_readable",
    "weight",
)


class Named(nn.Module):
    """A layer and a parameter of any name, and a hard-coded width."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.add_module(name, nn.Linear(8, 8))
        self.last.register_parameter(f"{name}s", nn.Parameter(torch.randn(3)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self._modules[self.name](torch.relu(self.first(x)))).view(-1, 8)
        return self.last(x) * self.last._parameters[f"{self.name}s"] * mask


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_will_do(name: str) -> None:
    x = torch.randn(4, 6), torch.ones(4, 1)
    found = trace(Named(name), x)
    assert (found.kind, found.dynamic_batch) == ("export", True)
    made = remove(found, {(f"{name}.weight", 0): [0, 1]})
    small = slim(found, made)
    assert small.fxprune_kind == "graph"
    assert list(small.state_dict()) == list(found.model.state_dict())
    assert verify(found, made, small, tolerance=EXACT).units == 2
    assert copy.deepcopy(small)(torch.randn(2, 6), torch.ones(2, 1)).shape == (2, 3)
    again = trace(small, x)
    second = remove(again, {(f"{name}.weight", 0): [0]})
    assert slim(again, second)(*x).shape == (4, 3)


def test_names_run_nothing() -> None:
    """A name is data, also where it looks like code."""
    name = 'x"), print("'
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2))
    model._modules[name] = model._modules.pop("1")
    found = trace(model, torch.randn(3, 2))
    small = slim(found, remove(found, {("0.weight", 0): [1]}), kind="graph")
    assert f"{name}.weight" in small.state_dict()
    assert name not in small.code
    assert small(torch.randn(3, 2)).shape == (3, 2)


def test_a_graph_of_any_names() -> None:
    names = [
        "graph.weight",
        "class.weight",
        'we"ird.b',
        "0.weight",
        "None",
        ".weight",
        "back\\slash.x",
        "code.x",
    ]
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    for name in names:
        node = graph.call_function(torch.ops.aten.add.Tensor, (node, graph.get_attr(name)))
    graph.output(node)
    module = NamedGraph("Net")
    for k, name in enumerate(names):
        set_tensor(module, name, nn.Parameter(torch.full((1,), float(2**k))))
    module.graph = graph
    assert float(module(torch.zeros(1))) == 255
    assert sorted(module.state_dict()) == sorted(names)
    assert [str(n.target) for n in module.graph.nodes if n.op == "get_attr"] == names
    other = copy.deepcopy(module)
    other.state_dict()["graph.weight"].zero_()
    assert (float(other(torch.zeros(1))), float(module(torch.zeros(1)))) == (254, 255)


# --- signatures ---------------------------------------------------------------------------------


class Star(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, *xs: torch.Tensor, **more: object) -> torch.Tensor:
        y = torch.relu(self.a(sum(xs)))
        if more.get("flag"):
            y = y * 2
        scale = more.get("scale")
        return self.b(y if scale is None else y * scale["by"][0])


STAR: tuple[Callable[[int], object], ...] = (
    lambda n: (torch.randn(n, 4), torch.randn(n, 4)),
    lambda n: torch.randn(n, 4),
)


@pytest.mark.parametrize("make", STAR)
def test_any_signature_keeps_the_batch_free(make: Callable[[int], object]) -> None:
    found = trace(Star(), make(2))
    assert found.dynamic_batch, found.why_static
    given = make(5)
    small = slim(found, remove(found, {("a.weight", 0): [1]}), kind="graph")
    assert small(*given if isinstance(given, tuple) else (given,)).shape == (5, 2)


def test_nested_inputs_with_flags_keep_the_batch_free() -> None:
    class Batch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(
            self, batch: dict[str, object], *, flag: bool = False, scale: float = 1.0
        ) -> torch.Tensor:
            inner = batch["meta"]
            return self.b(self.a(batch["x"]) + self.a(inner["y"])) * (scale if flag else 1)

    def given(n: int) -> dict[str, object]:
        x, y = torch.randn(n, 4), torch.randn(n, 4)
        return {"batch": {"x": x, "meta": {"y": y}}, "flag": True, "scale": 0.5}

    found = trace(Batch(), given(3))
    assert (found.dynamic_batch, found.batch) == (True, 3)
    made = remove(found, {("a.weight", 0): [1]})
    assert made.dense.macs == 2 * 4 * 8 + 8 * 2, "multiply-accumulates are those of one sample"
    assert slim(found, made, kind="graph")(**given(5)).shape == (5, 2)


def test_what_a_model_keeps_from_its_first_call_makes_no_other_model(tmp_path) -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            self.grid: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            grid = torch.arange(2).float().square() if self.grid is None else self.grid
            if not torch.compiler.is_exporting():
                self.grid = grid
            return self.b(self.a(x)) + grid

    model, x = Grid(), torch.randn(3, 4)
    model(x)
    found = trace(model, x)
    made = remove(found, {("a.weight", 0): [1]})
    small = slim(found, made)
    save(small, made, tmp_path / "small.safetensors")
    assert torch.equal(load(Grid(), tmp_path / "small.safetensors", x)(x), small(x))


def test_pickled_graphs_are_as_they_were_and_go_on_being_made() -> None:
    model, x, made = resized()
    small = slim(trace(model, x), made, kind="graph").eval()
    large = torch.randn(2, 3, 48, 40)
    before = small(large)  # a second graph, pickled along
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert type(again).__name__ == "Resized" and again.fxprune_kind == "graph"
    assert list(again.state_dict()) == list(small.state_dict())
    assert torch.equal(again(large), before) and torch.equal(again(x), small(x))
    other = torch.randn(1, 3, 20, 24)
    assert torch.equal(again(other), small(other))
    with torch.no_grad():
        again.get_parameter("out.bias").add_(1.0)
    assert torch.allclose(again(large), before + 1, atol=1e-5)  # all graphs hold the same tensors
    again.train()(x).sum().backward()
    assert again.get_parameter("a.weight").grad is not None


def test_pickled_graphs_keep_names_that_no_code_can_hold() -> None:
    odd = NamedGraph("Odd")
    set_tensor(odd, "class.code", nn.Parameter(torch.tensor([2.0])))
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.get_attr("class.code")
    graph.output(graph.call_function(torch.ops.aten.mul.Tensor, (x, weight)))
    odd.graph = graph
    again = pickle.loads(pickle.dumps(odd))
    assert torch.equal(again(torch.ones(3)), torch.full((3,), 2.0))
    assert [n for n, _ in again.named_parameters()] == ["class.code"]


class Picks(nn.Module):
    """An index that the graph holds under a name of its own, of which a second slim has another."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.read = nn.Conv2d(3, 12, 1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.make(x).index_select(1, torch.tensor([0, 5])).flatten(2).mean(1))


def test_a_second_slim_has_indices_of_its_own() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2, 2)
    found = trace(Picks().eval(), x)
    small = slim(found, remove(found, {("make.weight", 0): [0, 1, 2]}))
    again = trace(small, x)
    made = remove(again, {("make.weight", 0): [0]})
    smaller = slim(again, made)
    verify(again, made, smaller)
    held = {name: tensor.tolist() for name, tensor in smaller.named_buffers() if "fxprune_index" in name}
    assert sorted(held.values()) == [[1], [2]], held


class Telling(nn.Module):
    """Says of itself what people read: names, strides, a configuration, a width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(9, 2, 1)
        self.names, self.stride, self.width = {0: "cat", 1: "dog"}, (8, 16), 12
        self.meta, self.grid, self.hook = "taken", [torch.zeros(2)], gap
        self._hidden = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, _ = self.first(x).split([9, 3], 1)
        return self.last(left)


def test_a_graph_says_of_itself_what_the_model_does() -> None:
    net = Telling()
    found = trace(net, torch.randn(2, 3, 4, 4))
    small = slim(found, remove(found, {("first.weight", 0): [1, 2, 10]}), kind="graph")
    for one in (small, copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert (one.names, one.stride) == (net.names, (8, 16))
        assert one.meta != "taken"  # fx's own
        assert not any(hasattr(one, name) for name in ("grid", "hook", "_hidden"))
    small.names[0] = "cow"
    assert net.names[0] == "cat"

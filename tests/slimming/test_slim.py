"""Slim models: the user's class or a graph that trains, and files of them."""

from __future__ import annotations

import copy
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import CifarResNet
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from fxprune.coupling.couple import analyse
from fxprune.errors import FxpruneError, PlanError, SliceError, TraceError
from fxprune.graph.live import liven
from fxprune.graph.trace import Trace, trace
from fxprune.planning.plan import plan, remove
from fxprune.plans import Budget, Cost, Plan
from fxprune.proof.verify import verify
from fxprune.slimming.slim import load, save, slim

SAME = 1e-6
"""Relative difference of two float32 runs of the same few layers: rounding of 24-bit fractions."""

EXACT = 1e-10
"""Relative difference of two float64 runs: rounding of 53-bit fractions, with digits to spare."""


class Net(nn.Module):
    """Batch norm, both dropouts, a grouped convolution and a hard-coded view on request."""

    def __init__(self, *, hard: bool) -> None:
        super().__init__()
        self.hard = hard
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.group = nn.Conv2d(12, 12, 3, padding=1, groups=3)
        self.drop = nn.Dropout2d(0.5)
        self.body = nn.Linear(12, 16)
        self.fade = nn.Dropout(0.5)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.group(torch.relu(self.norm(self.stem(x))))))
        x = x.view(-1, 12, 64).mean(2) if self.hard else x.mean((2, 3))
        return self.head(self.fade(torch.relu(self.body(x))))


class Tied(nn.Module):
    """One weight under two names, and a module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix = nn.Linear(6, 8, bias=False), nn.Linear(8, 8)
        self.last = nn.Linear(8, 6, bias=False)
        self.matrix = nn.Parameter(self.first.weight)
        self.first.weight = self.matrix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.mix(torch.relu(self.mix(self.first(x)))))
        return self.last(x) + F.linear(x, self.matrix.t())


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8)


def make(hard: bool) -> Trace:
    x = image(4)
    return trace(liven(Net(hard=hard), x), x)


def half(found: Trace) -> Plan:
    return plan(found, Budget(channels=0.5), align=1, scope="local")


def gap(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).detach().abs().max() / one.detach().abs().max())


KINDS = pytest.mark.parametrize("hard", [False, True], ids=["module", "graph"])


# --- kinds -------------------------------------------------------------------------------------


def test_a_module_is_the_users_class() -> None:
    found = make(hard=False)
    small = slim(found, half(found))
    assert (type(small), small.fxprune_kind) == (Net, "module")
    assert not small.hard
    assert (small.stem.out_channels, small.norm.num_features) == (6, 6)
    assert (small.group.in_channels, small.group.out_channels, small.group.groups) == (6, 6, 3)
    assert (small.body.in_features, small.body.out_features, small.head.in_features) == (6, 8, 8)


def test_hard_coded_sizes_need_a_graph_and_are_named() -> None:
    found = make(hard=True)
    small = slim(found, half(found))
    assert (type(small).__name__, small.fxprune_kind) == ("Net", "graph")
    (line,) = small.fxprune_sources
    number = int(line.split(":")[1].split()[0])
    assert "view(-1, 12, 64)" in Path(__file__).read_text().splitlines()[number - 1]
    with pytest.raises(SliceError, match="own code") as caught:
        slim(found, half(found), kind="module")
    assert "test_slim.py" in caught.value.source


def test_both_kinds_compute_the_same() -> None:
    found = make(hard=False)
    made = half(found)
    module, graph = slim(found, made, kind="module").eval(), slim(found, made, kind="graph").eval()
    x = image(5)
    assert gap(module(x), graph(x)) < SAME


def test_code_that_computes_with_widths_is_not_trusted() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(x - x.sum(1, keepdim=True) / x.shape[1])

    found = trace(Mean(), torch.zeros(1, 4))  # zeros, on which no difference would show
    made = remove(found, {("first.weight", 0): [0, 1, 2]})
    small = slim(found, made)
    assert small.fxprune_kind == "graph"
    assert verify(found, made, small, tolerance=EXACT).effect > SAME


@KINDS
def test_names_of_the_state_stay(hard: bool) -> None:
    found = make(hard)
    small = slim(found, half(found))
    own, dense = small.state_dict(), found.model.state_dict()
    assert set(own) == set(dense)
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in found.model.named_parameters()]


@KINDS
def test_flags_and_types_of_tensors_stay(hard: bool) -> None:
    x = image(4)
    model = Net(hard=hard).double()
    model.stem.weight.requires_grad_(False)
    found = trace(model, x.double())
    small = slim(found, half(found))
    assert not small.get_parameter("stem.weight").requires_grad
    assert small.get_parameter("head.weight").requires_grad
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert small.state_dict()["norm.num_batches_tracked"].dtype == torch.int64


@KINDS
def test_the_dense_model_shares_nothing_with_the_slim_one(hard: bool) -> None:
    found = make(hard)
    before = {n: t.clone() for n, t in found.model.state_dict().items()}
    small = slim(found, half(found))
    with torch.no_grad():
        for tensor in [*small.parameters(), *small.buffers()]:
            tensor.fill_(3)
    after = found.model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


# --- training ----------------------------------------------------------------------------------


@KINDS
def test_slim_models_train(hard: bool) -> None:
    """Any batch size, gradients everywhere, and train and eval switch batch norm and dropout really."""
    found = make(hard)
    small = slim(found, half(found))
    x = image(6)
    small.eval()
    assert torch.equal(small(x), small(x)), "nothing random in evaluation"
    mean = small.state_dict()["norm.running_mean"].clone()
    small.train()
    torch.manual_seed(1)
    one = small(x)
    assert not torch.equal(one, small(x)), "dropout draws anew"
    assert not torch.equal(mean, small.state_dict()["norm.running_mean"]), "statistics follow the batches"
    moved = small.state_dict()["norm.running_mean"].clone()
    assert (
        int(small.state_dict()["norm.num_batches_tracked"]) == int(found.model.norm.num_batches_tracked) + 2
    )
    optimizer = torch.optim.Adam(small.parameters(), lr=0.02)
    target = torch.randint(4, (6,))
    small.eval()
    first = F.cross_entropy(small(x), target)
    for _ in range(30):
        loss = F.cross_entropy(small(x), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in small.parameters())
        optimizer.step()
    assert float(loss.detach()) < 0.5 * float(first.detach()), "the loss on six images halves in thirty steps"
    assert torch.equal(moved, small.state_dict()["norm.running_mean"]), "evaluation leaves statistics alone"


@KINDS
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_that_of_the_dense_model(hard: bool, training: bool) -> None:
    found = make(hard)
    found.model.train(training)
    small = slim(found, half(found))
    assert {m.training for m in small.modules()} == {training}


def test_a_graph_drops_whole_channels_and_single_entries() -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.whole = nn.Conv2d(3, 64, 1), nn.Dropout2d(0.5)
            self.last = nn.Conv2d(64, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.whole(self.first(x)))

    found = trace(Drops(), image())
    graph = slim(found, remove(found, {("first.weight", 0): [0]}), kind="graph").train()
    (shim,) = (m for n, m in graph.named_modules() if "dropout" in n and m is not graph)
    x = torch.ones(1, 63, 8, 8)
    dropped = shim(x).flatten(2)
    assert torch.equal(dropped.amin(2), dropped.amax(2)), "a channel goes as a whole"
    assert 0 < float((dropped[:, :, 0] == 0).float().mean()) < 1
    assert torch.equal(shim.eval()(x), x)


# --- again and again ---------------------------------------------------------------------------


@KINDS
def test_slimming_twice_gives_the_same_twice(hard: bool) -> None:
    found = make(hard)
    made = half(found)
    one, two = slim(found, made), slim(found, made)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )
    assert not {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}


@KINDS
def test_slimming_a_slim_model(hard: bool) -> None:
    """Taking three channels, then one more, is taking four."""
    found = make(hard)
    first = remove(found, {("stem.weight", 0): [0, 4, 8], ("body.weight", 0): [1]})
    small = slim(found, first)
    again = trace(small, image(3))
    assert again.kind == "export"
    second = remove(again, {("body.weight", 0): [0], ("stem.weight", 0): [0, 3, 6]})
    smaller = slim(again, second)
    verify(again, second, smaller, tolerance=EXACT)
    at_once = remove(found, {("stem.weight", 0): [0, 4, 8, 1, 5, 9], ("body.weight", 0): [0, 1]})
    goal = slim(found, at_once)
    x = image(5)
    smaller.eval(), goal.eval()
    assert gap(goal(x), smaller(x)) < SAME
    assert {n: t.shape for n, t in goal.named_parameters()} == {
        n: t.shape for n, t in smaller.named_parameters()
    }


@KINDS
def test_an_empty_plan_gives_a_copy(hard: bool) -> None:
    found = make(hard)
    made = remove(found, {})
    assert (made.kept, made.predicted) == ({}, made.dense)
    for kind in ("auto", "graph"):
        small = slim(found, made, kind=kind).eval()
        assert torch.equal(
            small(image(1)).shape and small.state_dict()["head.weight"], found.model.head.weight
        )
        x = image(3)
        assert gap(found.model.eval()(x), small(x)) < SAME
        proof = verify(found, made, small, tolerance=EXACT)
        assert (proof.units, proof.effect) == (0, 0.0)
    assert slim(found, made).fxprune_kind == "module", "nothing is cut, so the user's code fits"


# --- files -------------------------------------------------------------------------------------


@KINDS
def test_files_bring_back_what_was_saved(hard: bool, tmp_path: Path) -> None:
    found = make(hard)
    made = half(found)
    small = slim(found, made)
    with torch.no_grad():
        for p in small.parameters():
            p.add_(0.01 * torch.randn_like(p))  # as training would
        small.get_buffer("norm.running_mean").add_(1.0)
    save(small, made, tmp_path / "small.safetensors")
    fresh = Net(hard=hard)
    before = {n: t.clone() for n, t in fresh.state_dict().items()}
    back = load(fresh, tmp_path / "small.safetensors", image(4))
    assert back.fxprune_kind == small.fxprune_kind == ("graph" if hard else "module")
    x = image(3)
    assert torch.equal(small.eval()(x), back.eval()(x))
    assert all(torch.equal(before[n], t) for n, t in fresh.state_dict().items())


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path: Path) -> None:
    x = torch.randn(3, 6)
    found = trace(Tied(), x)
    made = remove(found, {("mix.weight", 0): [2, 7]})
    for kind in ("module", "graph"):
        small = slim(found, made, kind=kind)
        assert small.matrix is small.first.weight
        assert verify(found, made, small, tolerance=EXACT).units == 2
        path = tmp_path / f"{kind}.safetensors"
        save(small, made, path)
        assert len(load_file(path)) == len(dict(small.named_parameters()))
        back = load(Tied(), path, x)
        assert back.matrix is back.first.weight
        assert torch.equal(small(x), back(x))
        assert back.fxprune_kind == kind


def test_files_are_plain_tensors_with_a_plan(tmp_path: Path) -> None:
    found = make(hard=False)
    made = half(found)
    save(slim(found, made), made, tmp_path / "small.safetensors")
    raw = (tmp_path / "small.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert Plan.from_json(header["__metadata__"]["plan"]) == made
    assert header["__metadata__"]["kind"] == "module"


class Bomb:
    """Unpickling this would leave a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_files_of_others_are_refused_without_unpickling(tmp_path: Path) -> None:
    mark = tmp_path / "unpickled"
    for name, content in (
        ("a.safetensors", pickle.dumps(Bomb(mark))),
        ("b.safetensors", b""),
        ("c.safetensors", b"\x00" * 64),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SliceError, match="damaged"):
            load(Net(hard=False), tmp_path / name, image())
    torch.save(Bomb(mark), tmp_path / "d.safetensors")
    with pytest.raises(SliceError, match="damaged"):
        load(Net(hard=False), tmp_path / "d.safetensors", image())
    assert not mark.exists()
    save_file({"w": torch.zeros(2)}, tmp_path / "e.safetensors")
    with pytest.raises(SliceError, match="not written by fxprune"):
        load(Net(hard=False), tmp_path / "e.safetensors", image())
    with pytest.raises(SliceError, match="there is no file"):
        load(Net(hard=False), tmp_path / "none.safetensors", image())
    save_file(
        {"w": torch.zeros(2)},
        tmp_path / "f.safetensors",
        {"format": "fxprune", "kind": "module", "plan": "{"},
    )
    with pytest.raises(PlanError, match="plan"):
        load(Net(hard=False), tmp_path / "f.safetensors", image())
    save_file({"w": torch.zeros(2)}, tmp_path / "g.safetensors", {"format": "fxprune"})
    with pytest.raises(FxpruneError):
        load(Net(hard=False), tmp_path / "g.safetensors", image())


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    found = make(hard=False)
    made = half(found)
    save(slim(found, made), made, tmp_path / "small.safetensors")
    raw = (tmp_path / "small.safetensors").read_bytes()
    for cut in (10, len(raw) // 2, len(raw) - 1):
        (tmp_path / "cut.safetensors").write_bytes(raw[:cut])
        with pytest.raises(SliceError, match="damaged"):
            load(Net(hard=False), tmp_path / "cut.safetensors", image())


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    found = make(hard=False)
    made = half(found)
    tensors = {n: t.contiguous() for n, t in slim(found, made).state_dict().items()}
    meta = {"format": "fxprune", "kind": "module", "plan": made.to_json()}
    missing = {n: t for n, t in tensors.items() if n != "head.bias"}
    other = {**tensors, "head.weight": torch.zeros(4, 9)}
    extra = {**tensors, "tail.weight": torch.zeros(1)}
    for wrong, name in ((missing, "head.bias"), (other, "head.weight"), (extra, "tail.weight")):
        save_file(wrong, tmp_path / "wrong.safetensors", meta)
        with pytest.raises(SliceError, match="do not fit") as caught:
            load(Net(hard=False), tmp_path / "wrong.safetensors", image())
        assert caught.value.tensor == name


def test_a_file_for_another_architecture_is_refused(tmp_path: Path) -> None:
    found = make(hard=False)
    made = half(found)
    save(slim(found, made), made, tmp_path / "small.safetensors")
    with pytest.raises(PlanError, match="another model"):
        load(CifarResNet(20), tmp_path / "small.safetensors", torch.zeros(2, 3, 32, 32))
    with pytest.raises(TraceError):
        load(Net(hard=False), tmp_path / "small.safetensors", torch.zeros(2, 5))


def test_no_half_written_file_is_left(tmp_path: Path) -> None:
    found = make(hard=False)
    made = half(found)
    small = slim(found, made)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SliceError):
        save(small, made, tmp_path / "file" / "small.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(SliceError):
        save(small, made, tmp_path / "folder.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors"]


# --- plans that do not fit ---------------------------------------------------------------------


def test_a_plan_for_another_model_is_refused() -> None:
    found = make(hard=False)
    other = trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(1, 4))
    with pytest.raises(PlanError, match="another model"):
        slim(other, half(found))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({("stem.weight", 0): ()}, "keeps nothing of 'stem.weight'"),
        ({("stem.weight", 0): (0, 12)}, "ascending positions"),
        ({("stem.weight", 0): (1, 0)}, "ascending positions"),
        ({("stem.weight", 0): (0, 0, 1)}, "ascending positions"),
        ({("stem.weight", 9): (0,)}, "no prunable axis"),
        ({("nobody.weight", 0): (0,)}, "no prunable axis"),
        ({("head.weight", 0): (0, 1)}, "pinned"),
        ({("body.weight", 0): tuple(range(8))}, "contradicts itself"),
    ],
    ids=[
        "empty",
        "beyond",
        "unordered",
        "twice",
        "no such dim",
        "no such tensor",
        "pinned",
        "coupled axes differ",
    ],
)
def test_plans_that_make_no_sense_are_refused(
    kept: dict[tuple[str, int], tuple[int, ...]], message: str
) -> None:
    found = make(hard=False)
    made = Plan(kept, Cost(1, 1), analyse(found).coupling.cost.dense, analyse(found).coupling.fingerprint)
    with pytest.raises(PlanError, match=message):
        slim(found, made)


def test_plans_that_would_empty_a_layer_are_refused() -> None:
    found = make(hard=False)
    with pytest.raises(PlanError, match="nothing would be left"):
        remove(found, {("body.weight", 0): range(16)})
    everything = {a: () for a in analyse(found).coupling.axes if a[0].startswith(("body", "head.weight"))}
    with pytest.raises(PlanError):
        slim(found, replace(half(found), kept=everything))


def test_uneven_groups_are_refused_with_the_layout_and_the_line() -> None:
    found = make(hard=False)
    with pytest.raises(PlanError, match="rectangular") as caught:
        remove(found, {("stem.weight", 0): [0]})
    assert "conv2d" in caught.value.op
    assert caught.value.advice


def test_what_is_no_trace_or_plan_is_refused_in_words() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), torch.zeros(1, 3, 9, 9)
    found = trace(net, x)
    made = plan(found, Budget(channels=0.5))
    forged = replace(made, predicted=replace(made.predicted, params=7))
    emptied = replace(made, kept={**made.kept, ("0.weight", 0): ()})
    for act, kind, words in (
        (lambda: analyse(net).coupling, TraceError, "expected a Trace, got Sequential"),
        (lambda: slim(net, made), TraceError, "expected a Trace, got Sequential"),
        (lambda: slim(found, "plan.json"), PlanError, "expected a Plan, got str"),
        (lambda: slim(found, forged), PlanError, "the plan states 7 parameters"),
        (lambda: slim(found, emptied), PlanError, "the plan keeps nothing of '0.weight'"),
        (lambda: plan(found, Budget(macs=0.5), criterion=3), PlanError, "criterion=3 is no criterion"),
        (lambda: Budget(macs=True), PlanError, "not a fraction to keep"),
        (lambda: verify(found, 3, net), PlanError, "expected a Plan, got int"),
    ):
        with pytest.raises(kind, match=re.escape(words)):
            act()


def test_a_model_that_was_pruned_twice_is_one_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.Conv2d(12, 4, 1)
    )
    x, model = torch.randn(2, 3, 9, 9), copy.deepcopy(net.eval())
    for share in (0.7, 0.6, 0.5):
        found = trace(model, x)
        made = plan(found, Budget(channels=share), align=1)
        model = slim(found, made)
        optimizer = torch.optim.SGD(model.train().parameters(), 0.1)
        model(x).square().mean().backward()
        optimizer.step()
        model.eval()
    save(model, made, tmp_path / "slim.safetensors")
    loaded = load(net, tmp_path / "slim.safetensors", x)
    assert torch.equal(loaded(x), model(x))
    assert loaded[0].out_channels == model[0].out_channels == 3
    (whole,) = loaded.fxprune_plans
    assert [part["budget"] for part in whole.origin["rounds"]] == [{"channels": s} for s in (0.7, 0.6, 0.5)]
    assert whole.dense.params == sum(p.numel() for p in net.parameters())

"""Recovery: what a removed unit did is done by others, on every kind of layer; never worse than the slice."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.errors import FxpruneError
from fxprune.graph.live import liven
from fxprune.planning.plan import remove
from fxprune.plans import Plan
from fxprune.recovery.recover import Recovery, run_recovery

CLOSE = 0.06
"""Output error, relative to the spread, where others can do all of what was removed: the ridge's share."""


class Block(nn.Module):
    """A residual block between two other layers."""

    def __init__(self, middle: Callable[[], nn.Module], norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up, self.norm1 = nn.Conv2d(8, 12, 1, bias=False), norm(12)
        self.middle, self.norm2 = middle(), norm(12)
        self.down, self.norm3 = nn.Conv2d(12, 8, 1, bias=False), norm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.norm1(self.up(x)))
        y = F.relu(self.norm2(self.middle(y)))
        return self.head(F.relu(x + self.norm3(self.down(y))).mean((2, 3)))


class Upsampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Conv2d(3, 12, 3, padding=1)
        self.grow, self.head = nn.ConvTranspose2d(12, 6, 2, 2), nn.Conv2d(6, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.grow(F.relu(self.up(x)))))


class Tokens(nn.Module):
    """A transformer's block of the kind that windows, permutes and scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return self.head((x + self.scale * y).mean((2, 3)))


class Products(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(6, 16)), nn.Parameter(torch.randn(16, 8))
        self.bias, self.head = nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(torch.addmm(self.bias, F.relu(x @ self.up), self.down)))


def conv(groups: int) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(12, 12, 3, padding=1, groups=groups, bias=False)


IMAGE = (3, 12, 12)
NETS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "convolutions": (lambda: Block(conv(1), nn.BatchNorm2d), "up", IMAGE),
    "depthwise": (lambda: Block(conv(12), nn.BatchNorm2d), "up", IMAGE),
    "no norm": (lambda: Block(conv(1), nn.Identity), "up", IMAGE),
    "transposed": (Upsampled, "up", IMAGE),
    "tokens": (Tokens, "up", IMAGE),
    "products": (Products, "up", (6,)),
}


def tensors_of(model: nn.Module, layer: str) -> Iterator[tuple[Tensor, int]]:
    """Everything of a layer, and of what follows it channel by channel, with the dimension of its outputs."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name == "up" and not isinstance(model.get_parameter("up"), nn.Module):
            yield tensor, 1
        elif (
            (name.startswith((f"{layer}.", "norm1.")) and tensor.ndim)
            or (name == "middle.weight" and tensor.shape[1] == 1)
            or (name.startswith("norm2.") and tensor.ndim and model.middle.weight.shape[1] == 1)
        ):
            yield tensor, 0


def doubled(model: nn.Module, layer: str) -> nn.Module:
    """Every channel of the layer's second half becomes the same as one of the first."""
    with torch.no_grad():
        for tensor, dim in tensors_of(model, layer):
            first, second = tensor.chunk(2, dim)
            second.copy_(first)
    return model


def made(name: str) -> tuple[fxprune.Trace, Plan, tuple[int, ...]]:
    """A net whose second half of one layer says nothing new, and the plan that removes it."""
    net, layer, shape = NETS[name]
    model = doubled(liven(net(), torch.randn(8, *shape)), layer)
    traced = fxprune.trace(model.eval(), torch.randn(2, *shape))
    weight, dim = (f"{layer}.weight", 0) if hasattr(getattr(model, layer), "weight") else (layer, 1)
    width = traced.tensor(weight).shape[dim]
    return traced, remove(traced, {(weight, dim): range(width // 2, width)}), shape


def test_the_slim_model_comes_back_and_says_what_was_done() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    trace, x = fxprune.trace(net.eval(), torch.zeros(2, 6)), torch.randn(256, 6)
    plan = fxprune.remove(trace, {("0.weight", 0): range(16)})
    slim = fxprune.slim(trace, plan)
    assert fxprune.recover(trace, plan, slim, x) is slim
    assert isinstance(slim.fxprune_recovery, Recovery)
    assert slim.fxprune_recovery.after < slim.fxprune_recovery.before


@pytest.mark.parametrize("kind", ["module", "graph"])
@pytest.mark.parametrize("name", NETS)
def test_what_others_can_do_is_recovered(name: str, kind: str) -> None:
    traced, plan, shape = made(name)
    small = fxprune.slim(traced, plan, kind=kind).eval()  # type: ignore[arg-type]
    report = run_recovery(traced, plan, small, torch.randn(256, *shape))
    assert report.before > 3 * CLOSE
    assert report.after < CLOSE
    unseen = torch.randn(64, *shape)
    with torch.no_grad():
        dense, mine = traced.model(unseen), small(unseen)
    assert float((dense - mine).norm() / (dense - dense.mean(0)).norm()) < CLOSE


def test_only_layers_behind_a_cut_change() -> None:
    traced, plan, shape = made("convolutions")
    small = fxprune.slim(traced, plan)
    before = copy.deepcopy(small.state_dict())
    report = run_recovery(traced, plan, small, torch.randn(64, *shape))
    changed = {n for n, t in small.state_dict().items() if not torch.equal(t, before[n])}
    assert not {n for n in changed if n.startswith(("stem", "up", "norm1"))}
    assert {"middle.weight", "down.weight"} <= changed
    assert [layer.name for layer in report.layers][:2] == ["middle.weight", "down.weight"]


def test_the_dense_model_the_data_and_the_modes_stay() -> None:
    traced, plan, shape = made("convolutions")
    small, data = fxprune.slim(traced, plan), torch.randn(64, *shape)
    small.train()
    before, given = copy.deepcopy(traced.model.state_dict()), data.clone()
    state = torch.get_rng_state()
    run_recovery(traced, plan, small, data)
    assert all(torch.equal(t, before[n]) for n, t in traced.model.state_dict().items())
    assert torch.equal(data, given)
    assert torch.equal(torch.get_rng_state(), state)
    assert small.training


def test_twice_is_the_same() -> None:
    traced, plan, shape = made("depthwise")
    data = torch.randn(64, *shape)
    one, two = fxprune.slim(traced, plan), fxprune.slim(traced, plan)
    run_recovery(traced, plan, one, data, seed=3)
    run_recovery(traced, plan, two, data, seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_training_and_evaluation_agree_afterwards() -> None:
    traced, plan, shape = made("convolutions")
    small, data = fxprune.slim(traced, plan), torch.randn(512, *shape)
    run_recovery(traced, plan, small, data)
    with torch.no_grad():
        evaluated = small.eval()(data)
        trained = copy.deepcopy(small).train()(data)
    assert float((evaluated - trained).norm() / evaluated.norm()) < 0.05


# --- sums ----------------------------------------------------------------------------------------------------


class Sum(nn.Module):
    """A layer whose result is added to a value that has lost something."""

    def __init__(self, way: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.back = way, back
        self.wide, self.narrow = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        self.tanh_of, self.up = nn.Conv2d(3, 6, 1), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        lost = torch.tanh(self.narrow(F.relu(self.wide(x))))  # cannot be made up for before the sum
        own = self.back(self.up(self.way(x)))
        return lost + own


WAYS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "permuted": (lambda x: x.permute(0, 2, 3, 1), lambda y: y.permute(0, 3, 1, 2)),
    "rolled and windowed": (
        lambda x: x.roll(2, 3).permute(0, 2, 3, 1).reshape(-1, 36, 3),
        lambda y: y.reshape(-1, 6, 6, 6).permute(0, 3, 1, 2).roll(-2, 3),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_makes_up_for_what_it_is_added_to(way: str) -> None:
    """Which is linear in its own input here, so that it can."""
    model = Sum(*WAYS[way])
    with torch.no_grad():
        model.narrow.weight.mul_(0.01)  # tanh is linear there
        model.wide.bias.add_(100)  # and relu, too  # type: ignore[union-attr]
        model.narrow.bias.copy_(-100 * model.narrow.weight.sum((1, 2, 3)))  # type: ignore[union-attr]
    traced = fxprune.trace(model, torch.randn(2, 3, 6, 6))
    plan = remove(traced, {("wide.weight", 0): [1, 2, 3, 4, 5, 6, 7]})
    small, data = fxprune.slim(traced, plan), torch.randn(256, 3, 6, 6)
    report = run_recovery(traced, plan, small, data)
    named = {layer.name: layer for layer in report.layers}
    assert named["narrow.weight"].after > 0.3  # three numbers in one
    assert report.after < CLOSE
    assert "up.weight" in named


# --- weights with several readers ------------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.twice, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.up(x))
        return self.head(F.relu(self.twice(F.relu(self.twice(y)))))


class OneNorm(nn.Module):
    """Two layers share a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.a, self.b = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 8, 3, bias=False),
            nn.Conv2d(8, 8, 3, bias=False),
        )
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.a(F.relu(self.up(x)))))
        return self.head(F.relu(self.norm(self.b(y))).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.up, self.down = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.down(F.relu(self.up(self.words(ids)))), self.words.weight)


def recovered(model: nn.Module, x: Tensor, data: Tensor, share: float = 0.6) -> tuple[Recovery, nn.Module]:
    traced = fxprune.trace(model.eval(), x)
    plan = fxprune.plan(traced, fxprune.Budget(macs=share), align=1)
    small = fxprune.slim(traced, plan)
    return run_recovery(traced, plan, small, data), small


def test_a_weight_with_two_readers_is_solved_for_both() -> None:
    report, _ = recovered(Twice(), torch.randn(2, 6), torch.randn(512, 6))
    named = {layer.name: layer for layer in report.layers}
    assert not named["twice.weight"].kept
    assert named["twice.weight"].after < named["twice.weight"].before
    assert report.after < report.before


def test_what_was_constant_goes_to_the_bias_of_a_weight_with_two_readers() -> None:
    model = Twice()
    with torch.no_grad():
        for layer in (model.up, model.twice):
            layer.weight[8:] = 0
            layer.bias[8:] = 3
    traced = fxprune.trace(model.eval(), torch.randn(2, 6))
    plan = remove(traced, {("up.weight", 0): range(8, 16)})
    report = run_recovery(traced, plan, fxprune.slim(traced, plan), torch.randn(512, 6))
    # Not exact: its second inputs were those of the slice when they were heard.  Without its bias it is at 0.86.
    assert report.after < 0.5 < report.before


def test_a_batch_norm_of_two_layers_stays() -> None:
    model = liven(OneNorm(), torch.randn(16, 3, 8, 8))
    traced = fxprune.trace(model, torch.randn(2, 3, 8, 8))
    plan = remove(traced, {("up.weight", 0): range(6)})
    small = fxprune.slim(traced, plan)
    before = copy.deepcopy(small.norm.state_dict())  # type: ignore[union-attr]
    report = run_recovery(traced, plan, small, torch.randn(256, 3, 8, 8))
    assert report.after < report.before
    assert all(torch.equal(t, before[n]) for n, t in small.norm.state_dict().items())  # type: ignore[union-attr]


def test_a_weight_that_others_read_stays() -> None:
    torch.manual_seed(1)
    report, _ = recovered(Tied(), torch.randint(20, (2, 5)), torch.randint(20, (256, 5)))
    named = {layer.name: layer for layer in report.layers}
    assert named["words.weight"].kept == "its weight is read by other operators, too"
    assert not named["down.weight"].kept


def test_what_is_no_linear_map_of_one_input_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 16), nn.GRU(16, 8, batch_first=True))
    traced = fxprune.trace(model.eval(), torch.randn(2, 5, 6))
    plan = remove(traced, {("0.weight", 0): range(8)})
    report = run_recovery(traced, plan, fxprune.slim(traced, plan), torch.randn(64, 5, 6))
    assert {layer.kept for layer in report.layers} >= {"its operator is no linear map of one input"}


class HeadsInBatch(nn.Module):
    """Attention as it is often written by hand: heads are laid into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 16) for _ in range(3))
        self.out, self.head = nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape

        def heads(y: Tensor) -> Tensor:
            return y.view(n, t, 4, 4).transpose(1, 2).reshape(n * 4, t, 4)

        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return self.head(x + self.out(y.view(n, 4, t, 4).transpose(1, 2).reshape(n, t, 16)))


def test_heads_that_lie_in_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    traced = fxprune.trace(HeadsInBatch().eval(), torch.randn(8, 5, 8))
    assert traced.dynamic_batch and analyse(traced).counts_samples
    plan = remove(traced, {("q.weight", 0): range(4)})
    assert len(plan.kept["out.weight", 1]) == 12
    small = fxprune.slim(traced, plan)
    report = run_recovery(traced, plan, small, torch.randn(24, 5, 8))
    assert (report.samples, report.held_out) == (16, 8), "calls are of eight samples, as the example was"
    assert report.after < 0.7 * report.before


def test_half_precision_is_summed_in_full() -> None:
    traced, plan, shape = made("products")
    half = fxprune.trace(copy.deepcopy(traced.model).bfloat16(), torch.randn(2, *shape).bfloat16())
    small = fxprune.slim(half, plan)
    report = run_recovery(half, plan, small, torch.randn(256, *shape).bfloat16())
    assert next(small.parameters()).dtype == torch.bfloat16
    assert report.after < report.before / 3


# --- never worse, and refusals ------------------------------------------------------------------------------------


def test_outputs_that_get_no_better_keep_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    traced, plan, shape = made("convolutions")
    small = fxprune.slim(traced, plan)
    before = copy.deepcopy(small.state_dict())
    errors = iter([0.5, 0.6])
    monkeypatch.setattr("fxprune.recovery.recover._Job._error", lambda *_: next(errors))
    report = run_recovery(traced, plan, small, torch.randn(64, *shape))
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())
    assert (report.before, report.after, report.solved) == (0.5, 0.5, 0)
    assert "no better" in report.notes[0]


def test_memory_bounds_the_samples_and_says_so() -> None:
    traced, plan, shape = made("convolutions")
    data = torch.randn(256, *shape)
    free = run_recovery(traced, plan, fxprune.slim(traced, plan), data)
    bounded = run_recovery(traced, plan, fxprune.slim(traced, plan), data, max_memory=free.peak // 2)
    assert bounded.peak <= free.peak // 2
    assert bounded.samples + bounded.held_out < 256
    assert "of 256 samples were used" in bounded.notes[0]
    assert bounded.after < CLOSE
    with pytest.raises(FxpruneError, match="do not hold the activations"):
        run_recovery(traced, plan, fxprune.slim(traced, plan), data, max_memory=1000)


def test_progress_names_layers() -> None:
    traced, plan, shape = made("convolutions")
    told: list[tuple[int, int, str]] = []
    run_recovery(
        traced, plan, fxprune.slim(traced, plan), torch.randn(64, *shape), progress=lambda *t: told.append(t)
    )
    assert told[-1] == (4, 5, "head.weight")


def test_a_slim_model_of_another_plan_is_refused() -> None:
    traced, plan, shape = made("convolutions")
    other = remove(traced, {("up.weight", 0): [0]})
    with pytest.raises(FxpruneError, match="is not what this plan leaves of it"):
        run_recovery(traced, plan, fxprune.slim(traced, other), torch.randn(64, *shape))


def test_control_flow_on_data_is_refused_with_advice() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if float(x.sum()) > -1e9 else self.b(self.a(-x))

    traced = fxprune.trace(Branch(), torch.randn(2, 4))
    plan = remove(traced, {("a.weight", 0): [0]})
    with pytest.raises(FxpruneError, match="control flow"):
        run_recovery(traced, plan, fxprune.slim(traced, plan), torch.randn(64, 4))


def test_errors_are_finite_and_reported() -> None:
    traced, plan, shape = made("no norm")
    report = run_recovery(traced, plan, fxprune.slim(traced, plan), torch.randn(64, *shape))
    assert all(math.isfinite(layer.before) and layer.after <= layer.before for layer in report.layers)
    assert f"{report.solved} of {len(report.layers)} layers" in str(report)

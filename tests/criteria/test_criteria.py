"""Each criterion against its formula, written out in plain loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.coupling.groups import Group
from fxprune.criteria import CRITERIA, L1, L2, Activation, BnScale, Fpgm, Hessian, Random, Taylor
from fxprune.criteria.base import Criterion, View, slice_sums
from fxprune.criteria.score import score
from fxprune.errors import PlanError
from fxprune.graph.trace import Trace
from fxprune.labels import FloatArray

TOLERANCE = 1e-5
"""Relative; weights are float32 and summed in another order."""

Unit = Callable[[nn.Module, int], float]


class Net(nn.Module):
    """Two producers of one stream (a residual addition), batch norm, and two consumers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(3, 6, 1)
        self.read = nn.Conv2d(6, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn(self.one(x)) + self.two(x))
        return self.fc(F.relu(self.read(y)).mean((2, 3)))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(4, 3, 8, 8, generator=generator), torch.randint(0, 2, (4,), generator=generator))
        for _ in range(3)
    ]


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def net() -> Net:
    torch.manual_seed(1)
    model = Net()
    nn.init.uniform_(model.bn.weight, 0.2, 2.0)
    model.bn.running_mean.normal_()
    return model


@pytest.fixture
def traced(net: Net) -> Trace:
    return fxprune.trace(net, torch.randn(2, 3, 8, 8))


def stream(traced: Trace) -> Group:
    return next(g for g in analyse(traced).coupling.groups if ("read.weight", 1) in g.indices)


def scores(traced: Trace, criterion: str | Criterion, **more: object) -> FloatArray:
    return score(traced, criterion, **more).units[stream(traced).units]  # type: ignore[arg-type]


def unit_slices(net: Net, u: int, members: str) -> list[torch.Tensor]:
    made = [net.one.weight[u], net.two.weight[u]]
    made += [net.read.weight[:, u]] if members == "all" else []
    return [weight.detach() for weight in made]


@pytest.mark.parametrize("members", ["all", "producers"])
@pytest.mark.parametrize(
    ("criterion", "formula"),
    [
        (L1, lambda slices: sum(w.abs().sum() for w in slices)),
        (L2, lambda slices: sum(w.square().sum() for w in slices) ** 0.5),
    ],
)
def test_magnitudes(net: Net, traced: Trace, members: str, criterion: type, formula: Callable) -> None:
    wanted = np.array([float(formula(unit_slices(net, u, members))) for u in range(6)])
    plain = scores(traced, criterion(members=members, normalise="none"))
    assert plain == pytest.approx(wanted, rel=TOLERANCE)
    assert scores(traced, criterion(members=members)) == pytest.approx(wanted / wanted.mean(), rel=TOLERANCE)


def test_bn_scale(net: Net, traced: Trace) -> None:
    found = score(traced, "bn_scale")
    assert found.units[stream(traced).units] == pytest.approx(
        net.bn.weight.abs().detach().numpy(), rel=TOLERANCE
    )
    assert np.isnan(found.units[analyse(traced).coupling.axes["read.weight", 0]]).all()
    assert "cannot score 1 groups" in found.notes[0]
    assert "read" in found.notes[0]


def test_fpgm(net: Net, traced: Trace) -> None:
    wanted = np.zeros(6)
    for weight in (net.one.weight, net.two.weight):
        rows = weight.detach().flatten(1)
        for u in range(6):
            wanted[u] += sum(float((rows[u] - rows[j]).norm()) for j in range(6))
    assert scores(traced, Fpgm(normalise="none")) == pytest.approx(wanted, rel=TOLERANCE)


def gradients(net: Net) -> list[dict[str, torch.Tensor]]:
    net.eval()
    found = []
    for batch in batches():
        net.zero_grad()
        loss(net, batch).backward()
        found.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    net.zero_grad()
    return found


@pytest.mark.parametrize("members", ["all", "producers"])
def test_taylor(net: Net, traced: Trace, members: str) -> None:
    wanted = np.zeros(6)
    for grads in gradients(net):
        for u in range(6):
            terms = [
                net.one.weight[u].detach() * grads["one.weight"][u],
                net.two.weight[u].detach() * grads["two.weight"][u],
            ]
            if members == "all":
                terms.append(net.read.weight[:, u].detach() * grads["read.weight"][:, u])
            wanted[u] += float(sum(t.sum() for t in terms)) ** 2 / 3
    found = scores(traced, Taylor(members=members), data=batches(), loss=loss)
    assert found == pytest.approx(wanted, rel=1e-3)  # squares of small differences of float32 sums


@pytest.mark.parametrize("members", ["all", "producers"])
def test_hessian(net: Net, traced: Trace, members: str) -> None:
    wanted = np.zeros(6)
    for grads in gradients(net):
        for u in range(6):
            terms = [
                net.one.weight[u].detach() * grads["one.weight"][u],
                net.two.weight[u].detach() * grads["two.weight"][u],
            ]
            if members == "all":
                terms.append(net.read.weight[:, u].detach() * grads["read.weight"][:, u])
            wanted[u] += 0.5 * float(sum(t.square().sum() for t in terms)) / 3
    found = scores(traced, Hessian(members=members), data=batches(), loss=loss)
    assert found == pytest.approx(wanted, rel=1e-3)


def test_activation(net: Net, traced: Trace) -> None:
    net.eval()
    wanted = np.zeros(6)
    with torch.no_grad():
        for x, _ in batches():
            for layer in (net.one, net.two):
                wanted += layer(x).abs().mean((0, 2, 3)).numpy() / 3
    found = scores(traced, Activation(normalise="none"), data=batches(), loss=loss)
    assert found == pytest.approx(wanted, rel=TOLERANCE)


def test_activation_of_functional_calls_and_linear_layers() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3))
            self.out = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(F.linear(x, self.weight).relu())

    net = Functional()
    x = torch.randn(4, 7, 3)
    traced = fxprune.trace(net, x)
    found = score(
        traced, Activation(normalise="none"), data=[x], loss=lambda model, batch: model(batch).sum()
    )
    wanted = F.linear(x, net.weight).abs().mean((0, 1)).detach().numpy()
    units = analyse(traced).coupling.axes["weight", 0]
    assert found.units[units] == pytest.approx(wanted, rel=TOLERANCE)


def test_random_is_seeded(traced: Trace) -> None:
    first, again, other = (scores(traced, "random", seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda c: c.name)
def test_every_criterion(criterion: Criterion, net: Net, traced: Trace) -> None:
    """Laws for all: finite, not negative, deterministic, frozen options, and the model is left alone."""
    net.train()
    net.fc.eval()
    net.two.weight.requires_grad_(False)
    net.one.weight.grad = torch.ones_like(net.one.weight)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    rng = torch.get_rng_state()
    first, second = (score(traced, criterion, data=batches(), loss=loss) for _ in range(2))
    values = first.units[stream(traced).units]
    assert np.array_equal(first.units, second.units, equal_nan=True)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert len(np.unique(values)) == 6
    if criterion.normalise == "mean":
        assert values.mean() == pytest.approx(1, rel=TOLERANCE)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert net.one.weight.grad is not None
    assert torch.equal(net.one.weight.grad, torch.ones_like(net.one.weight))
    assert net.read.weight.grad is None
    assert not net.two.weight.requires_grad
    assert (net.training, net.bn.training, net.fc.training) == (True, True, False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        criterion.normalise = "none"  # type: ignore[misc]


def test_names_are_unique() -> None:
    names = [criterion.name for criterion in CRITERIA]
    assert len(set(names)) == len(names)
    assert {"l1", "l2", "bn_scale", "taylor", "fpgm", "hessian", "activation", "random"} <= set(names)


@pytest.mark.parametrize("shape", [(4, 3), (5, 4, 3, 3), (6,), (2, 3, 1)])
def test_slice_sums(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    dims = tuple(range(len(shape)))
    for dim, value in zip(dims, slice_sums(weight, dims, torch.square), strict=True):
        rest = [d for d in dims if d != dim]
        wanted = weight.square().sum(rest) if rest else weight.square()
        assert value == pytest.approx(wanted.double().numpy(), rel=TOLERANCE)


def test_slice_sums_of_large_and_permuted_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and memory layout do not change the sums."""
    monkeypatch.setattr("fxprune.criteria.base.CHUNK", 50)
    weight = torch.randn(20, 7, 3, 3).to(memory_format=torch.channels_last)
    rows, columns = slice_sums(weight, (0, 1), torch.abs)
    assert rows == pytest.approx(weight.abs().sum((1, 2, 3)).double().numpy(), rel=TOLERANCE)
    assert columns == pytest.approx(weight.abs().sum((0, 2, 3)).double().numpy(), rel=TOLERANCE)


def test_half_precision_weights_are_summed_in_float32() -> None:
    weight = torch.full((2, 4096), 0.1, dtype=torch.bfloat16)
    (rows,) = slice_sums(weight, (0,), torch.abs)
    assert rows == pytest.approx([4096 * float(weight[0, 0])] * 2, rel=TOLERANCE)


@pytest.mark.parametrize("name", ["taylor", "hessian", "activation"])
def test_missing_evidence_is_named(traced: Trace, name: str) -> None:
    with pytest.raises(PlanError, match="data and loss is missing") as caught:
        score(traced, name)
    assert "pass data=batches" in caught.value.advice
    with pytest.raises(PlanError, match="but loss is missing"):
        score(traced, name, data=batches())
    with pytest.raises(PlanError, match="no batch"):
        score(traced, name, data=[], loss=loss)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda model, batch: 3.0, "scalar tensor that depends on the weights, got 3.0"),
        (lambda model, batch: model(batch[0]), r"tensor of shape \(4, 2\)"),
        (lambda model, batch: model(batch[0]).sum() * float("nan"), "the loss is nan"),
    ],
)
def test_bad_losses(traced: Trace, bad: Callable, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        score(traced, "taylor", data=batches(), loss=bad)


def test_a_failing_loss_leaves_the_model_alone(net: Net, traced: Trace) -> None:
    net.train()

    def fail(model: nn.Module, batch: object) -> torch.Tensor:
        model(batches()[0][0])
        raise RuntimeError("no luck")

    mean = net.bn.running_mean.clone()
    with pytest.raises(RuntimeError, match="no luck"):
        score(traced, "taylor", data=batches(), loss=fail)
    assert net.training
    assert torch.equal(net.bn.running_mean, mean)


def test_no_batch_norm_anywhere() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(PlanError, match="nothing to say") as caught:
        score(fxprune.trace(net, torch.zeros(1, 3, 8, 8)), BnScale())
    assert "no batch norm" in caught.value.advice


def test_unknown_criterion(traced: Trace) -> None:
    with pytest.raises(PlanError, match="no criterion 'l3'") as caught:
        score(traced, "l3")
    assert "l1, l2" in caught.value.advice


def test_meta_weights() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        traced = fxprune.trace(net, torch.zeros(1, 3, 8, 8))
    with pytest.raises(PlanError, match="meta device") as caught:
        score(traced, "l1")
    assert "random" in caught.value.advice
    with pytest.raises(PlanError, match="meta device"):
        score(traced, "taylor", data=batches(), loss=loss)
    assert np.isfinite(score(traced, Random()).units).all()


@dataclasses.dataclass(frozen=True)
class Own:
    """A criterion of somebody's."""

    made: Callable[[View], object]
    needs: frozenset[str] = frozenset()
    normalise: str = "none"
    name: str = "own"

    def score(self, view: View) -> object:
        return self.made(view)


BAD: dict[str, tuple[Own, str]] = {
    "one score too few": (Own(lambda v: np.ones(v.coupling.n_units - 1)), "gave scores of shape"),
    "a score for all": (Own(lambda v: 1.0), r"gave scores of shape \(\)"),
    "names": (Own(lambda v: ["a"] * v.coupling.n_units), "that are no numbers"),
    "infinite": (Own(lambda v: np.full(v.coupling.n_units, np.inf)), "scores that are infinite"),
    "needs labels": (Own(lambda v: np.ones(v.coupling.n_units), frozenset({"labels"})), "which nobody gathers"),
    "another norm": (Own(lambda v: np.ones(v.coupling.n_units), normalise="max"), "has normalise='max'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_a_criterion_of_ones_own_gets_wrong_is_said(traced: Trace, name: str) -> None:
    own, words = BAD[name]
    with pytest.raises(PlanError, match=words):
        score(traced, own, data=batches(), loss=loss)  # type: ignore[arg-type]


def test_a_criterion_may_need_gradients_and_activations(traced: Trace) -> None:
    """Both are there, from batches that can be gone through once."""
    product = Own(
        lambda v: Taylor().score(v) * Activation().score(v), frozenset({"gradients", "activations"})
    )
    both = score(traced, product, data=iter(batches()), loss=loss)  # type: ignore[arg-type]
    apart = [
        score(traced, c, data=batches(), loss=loss).units for c in (Taylor(), Activation(normalise="none"))
    ]
    np.testing.assert_array_equal(both.units, apart[0] * apart[1])

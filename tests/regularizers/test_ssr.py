from __future__ import annotations

import numpy as np
import pytest
import torch
from regularizers.nets import group, linear_chain
from torch import nn

from fxprune.coupling.groups import Group
from fxprune.errors import PlanError
from fxprune.regularizers import SSR, GroupLasso, Regularizer

# AULM is stopped by a number of steps; with these the distance to the optimum is about 1e-9.
OPTIMUM = 1e-7


class Regression:
    """``1 / 2n ||X W^T - B||^2 + lam * sum_j ||W[:, j]||``: group lasso over the inputs of a linear layer."""

    def __init__(self, seed: int = 0, n: int = 60, inputs: int = 12, outputs: int = 4) -> None:
        random = np.random.default_rng(seed)
        mixing = np.eye(inputs) + 0.3 * random.standard_normal((inputs, inputs))
        self.X = random.standard_normal((n, inputs)) @ mixing
        true = random.standard_normal((outputs, inputs)) * (np.arange(inputs) < inputs // 3)
        self.B = self.X @ true.T + 0.3 * random.standard_normal((n, outputs))
        self.n = n
        self.smooth = float(np.linalg.eigvalsh(self.X.T @ self.X / n).max())

    def gradient(self, W: np.ndarray) -> np.ndarray:
        return (self.X @ W.T - self.B).T @ self.X / self.n

    def objective(self, W: np.ndarray, lam: float) -> float:
        fit = 0.5 * ((self.X @ W.T - self.B) ** 2).sum() / self.n
        return float(fit + lam * np.linalg.norm(W, axis=0).sum())

    def reference(self, lam: float) -> np.ndarray:
        """FISTA, until the optimality conditions hold to 1e-11."""
        W = last = np.zeros((self.B.shape[1], self.X.shape[1]))
        momentum = 1.0
        for _ in range(100_000):
            after = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
            y = W + (momentum - 1) / after * (W - last)
            last, momentum = W, after
            v = y - self.gradient(y) / self.smooth
            norm = np.linalg.norm(v, axis=0)
            W = v * np.maximum(1 - lam / self.smooth / np.maximum(norm, 1e-300), 0)
            if ((y - W) * (W - last)).sum() > 0:
                momentum = 1.0
            if self.violation(W, lam) < 1e-11:
                return W
        raise AssertionError("the reference did not converge")

    def violation(self, W: np.ndarray, lam: float) -> float:
        """Largest violation of the conditions that characterise the optimum."""
        g, norm = self.gradient(W), np.linalg.norm(W, axis=0)
        at_zero = np.maximum(np.linalg.norm(g, axis=0) - lam, 0)
        elsewhere = np.linalg.norm(g + lam * W / np.maximum(norm, 1e-300), axis=0)
        return float(np.where(norm == 0, at_zero, elsewhere).max())

    def layer(self) -> tuple[nn.Linear, list[Group]]:
        width = self.X.shape[1]
        net = nn.Linear(width, self.B.shape[1], bias=False).double()
        axes = {("weight", 1): np.arange(width)}
        return net, [group("inputs", np.arange(width), axes, producers=(("weight", 1),))]

    def train(self, net: nn.Linear, reg: Regularizer, steps: int, how: float | torch.optim.Optimizer) -> None:
        X, B = torch.from_numpy(self.X), torch.from_numpy(self.B)
        given = isinstance(how, torch.optim.Optimizer)
        optimizer = how if given else torch.optim.SGD(net.parameters(), lr=how, momentum=0.5)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = 0.5 * (net(X) - B).square().sum() / self.n + reg.penalty()
            loss.backward()
            optimizer.step()
            reg.step()


def auxiliary(reg: SSR) -> np.ndarray:
    assert reg._aulm is not None
    return reg._aulm.auxiliary()[0].numpy()


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 1000),
        ({"rho": 3.0}, 1000),
        ({"rho": 0.2, "rho_growth": 1.05, "rho_max": 2.0}, 1000),
        ({"period": 1}, 3000),
    ],
)
def test_aulm_reaches_the_optimum_of_a_convex_problem(options: dict[str, float], steps: int) -> None:
    problem, lam = Regression(), 0.4
    best = problem.reference(lam)
    assert 0 < (np.linalg.norm(best, axis=0) == 0).sum() < best.shape[1]
    net, groups = problem.layer()
    reg = SSR(net, groups, scale="none", lam=lam, **{"period": 5, **options})
    problem.train(net, reg, steps, 0.5 / (problem.smooth + options.get("rho", 1.0)))
    found = auxiliary(reg)
    np.testing.assert_allclose(found, best, atol=OPTIMUM)
    np.testing.assert_allclose(net.weight.detach(), best, atol=OPTIMUM)
    assert problem.objective(found, lam) == pytest.approx(problem.objective(best, lam), abs=OPTIMUM**1.5)
    # The decision is the exact support of the optimum.
    assert reg.alive().tolist() == (np.linalg.norm(best, axis=0) > 0).tolist()
    assert reg.report().details["primal_residual"] < OPTIMUM


def test_prox_reaches_the_optimum_with_momentum() -> None:
    """The threshold follows the step that momentum really makes."""
    problem, lam = Regression(), 0.4
    best = problem.reference(lam)
    for momentum in (0.0, 0.5, 0.9):
        net, groups = problem.layer()
        lr = 0.5 / problem.smooth * (1 - momentum)
        optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
        reg = GroupLasso(net, groups, scale="none", lam=lam, lr=optimizer)
        problem.train(net, reg, 1000, optimizer)
        np.testing.assert_allclose(net.weight.detach(), best, atol=OPTIMUM)
        assert reg.alive().tolist() == (np.linalg.norm(best, axis=0) > 0).tolist()


def test_subgradient_comes_near_but_makes_no_zeros() -> None:
    problem, lam = Regression(), 0.4
    best = problem.reference(lam)
    net, groups = problem.layer()
    reg = SSR(net, groups, scale="none", lam=lam, solver="subgradient")
    problem.train(net, reg, 3000, 0.5 / problem.smooth)
    W = net.weight.detach().numpy()
    # A constant step leaves it swinging around the zeros.
    assert problem.objective(W, lam) == pytest.approx(problem.objective(best, lam), rel=0.02)
    assert (np.linalg.norm(W, axis=0) > 0).all()
    assert problem.violation(W, lam) > 1e3 * OPTIMUM


def test_l20_keeps_what_is_worth_its_price_when_inputs_are_orthogonal() -> None:
    """With X^T X = n I the problem splits: keep group j iff 1/2 ||w_j||^2 > lam, w the least-squares fit."""
    problem = Regression(inputs=8)
    q, _ = np.linalg.qr(problem.X)
    problem.X, problem.smooth = q * np.sqrt(problem.n), 1.0
    fit = -problem.gradient(np.zeros((4, 8)))
    gain = 0.5 * (fit**2).sum(0)
    lam = float(np.sort(gain)[3:5].mean())
    net, groups = problem.layer()
    with torch.no_grad():
        net.weight.copy_(torch.from_numpy(fit))
    reg = SSR(net, groups, scale="none", lam=lam, norm="l2,0", rho=1.0, period=10)
    problem.train(net, reg, 2000, 0.2)
    assert reg.alive().tolist() == (gain > lam).tolist()
    # Survivors are not shrunk.
    np.testing.assert_allclose(auxiliary(reg)[:, gain > lam], fit[:, gain > lam], atol=OPTIMUM)


def test_one_update_by_hand() -> None:
    net, groups = linear_chain(1, 3, 1, bias=False)
    net = net.double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0], [-1.0], [0.25]]))
    reg = SSR(net, groups, scale="none", lam=1.0, rho=2.0, period=1)
    value = reg.penalty()  # t = 0: Y = 0, T = W, F = shrink by lam / rho = 0.5
    F = torch.tensor([[2.5], [-0.5], [0.0]], dtype=torch.float64)
    Y = 2.0 * (net[0].weight.detach() - F)
    assert torch.equal(torch.from_numpy(auxiliary(reg)), F)
    torch.testing.assert_close(reg._aulm._dual[0], Y)
    value.backward()
    W = net[0].weight.detach()
    assert value.item() == pytest.approx(float((W - F + Y / 2).square().sum()))
    torch.testing.assert_close(net[0].weight.grad, 2 * (W - F) + Y)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[2.0], [-0.1], [0.1]]))
    reg.step()  # T = W + Y / 2, shrunk by 0.5; then the multiplier moves with the new F
    T = torch.tensor([[2.5], [-0.6], [0.35]], dtype=torch.float64)
    F = torch.tensor([[2.0], [-0.1], [0.0]], dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(auxiliary(reg)), F)
    torch.testing.assert_close(reg._aulm._dual[0], 2 * (T - F))
    assert reg.alive().tolist() == [True, True, False]


def test_growing_rho_equals_a_rescaled_dual() -> None:
    """The same run with the scaled dual u = Y / rho, which must shrink whenever rho grows."""
    net, groups = linear_chain(2, 5, 1, bias=False)
    net = net.double()
    reg = SSR(net, groups, scale="none", lam=0.3, rho=0.5, rho_growth=1.7, rho_max=2.0, period=1)
    random = torch.Generator().manual_seed(1)
    rho, u = 0.5, torch.zeros(5, 2, dtype=torch.float64)
    for k in range(8):
        W = net[0].weight.detach().clone()
        new = 0.5 if k == 0 else min(rho * 1.7, 2.0)
        u, rho = u * rho / new, new
        norm = (W + u).norm(dim=1, keepdim=True)
        F = (W + u) * (1 - 0.3 / rho / norm).clamp(min=0)
        u = u + W - F
        reg.penalty() if k == 0 else reg.step()
        torch.testing.assert_close(torch.from_numpy(auxiliary(reg)), F, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(reg._aulm._dual[0], rho * u, rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            net[0].weight.add_(torch.randn(5, 2, dtype=torch.float64, generator=random))


def test_period_counts_optimizer_steps() -> None:
    net, groups = linear_chain(3, 5, 2)
    reg = SSR(net, groups, period=4)
    updates = []
    for _ in range(9):
        reg.penalty()
        reg.step()
        updates.append(reg._aulm.updates)
    assert updates == [1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_strength_by_group_and_scale() -> None:
    net, groups = linear_chain(4, 6, 5, 3)
    reg = SSR(net, groups, lam={"*": 0.1, "2": 0.3}, scale="size")
    # Unit: row and bias, 5 and 7 elements.
    expected = [0.1 * 5**0.5] * 6 + [0.3 * 7**0.5] * 5
    torch.testing.assert_close(reg._coefficient, torch.tensor(expected))
    counted = SSR(net, groups, lam=0.1, norm="l2,0", scale="size")
    torch.testing.assert_close(counted._coefficient, torch.tensor([0.5] * 6 + [0.7] * 5))
    norms = (net[0].weight.square().sum(1) + net[0].bias.square()).sqrt().mean().detach()
    relative = SSR(net, groups, lam={"0.weight": 2.0}, scale="norm")
    torch.testing.assert_close(relative._coefficient[:6], (2 * norms).expand(6))
    assert relative._coefficient[6:].tolist() == [0.0] * 5  # named by no pattern: left alone
    with pytest.raises(PlanError, match="no group and no tensor of one is named 'layer9"):
        SSR(net, groups, lam={"layer9*": 1.0})


def test_layerwise_trains_one_group_at_a_time_and_keeps_its_mask() -> None:
    net, groups = linear_chain(4, 6, 5, 3)
    with torch.no_grad():
        net[0].weight.mul_(torch.tensor([0.1, 1.0, 1.0, 0.1, 1.0, 1.0])[:, None])
    reg = SSR(net, groups, scale="none", lam=0.5, order="layerwise", stage_steps=(3, 2), period=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randn(16, 3)
    moved: list[set[str]] = []
    for _ in range(11):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        optimizer.zero_grad()
        ((net(x) - y).square().mean() + reg.penalty()).backward()
        optimizer.step()
        reg.step()
        moved.append({n for n, p in net.named_parameters() if not torch.equal(p, before[n])})
        if len(moved) == 3:
            first = reg.alive()[:6].clone()
    first_layer, second_layer, everything = {"0.weight", "0.bias"}, {"2.weight", "2.bias"}, set(before)
    assert moved[:3] == [first_layer] * 3
    assert moved[3:5] == [everything] * 2
    assert moved[5:8] == [second_layer] * 3
    assert moved[8:] == [everything] * 3
    assert 0 < int(first.sum()) < 6
    assert torch.equal(reg.alive()[:6], first)
    assert torch.equal(net[0].weight[~first], torch.zeros(int((~first).sum()), 4))


def test_options_that_do_not_fit() -> None:
    net, groups = linear_chain(3, 4, 2)
    with pytest.raises(PlanError, match="sub-gradient solver takes the l2,1 norm"):
        SSR(net, groups, norm="l2,0", solver="subgradient")
    with pytest.raises(PlanError, match="norm='l1' is unknown"):
        SSR(net, groups, norm="l1")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="do not make a solver"):
        SSR(net, groups, rho=0.0)
    with pytest.raises(PlanError, match="can act on none"):
        SSR(net, [])

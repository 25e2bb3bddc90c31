from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from fxprune.regularizers.terms.prox import hard, shrink

EXACT = 1e-15
REALS = st.floats(-5, 5).filter(lambda x: x == 0 or abs(x) > 1e-6)


def test_shrink_values() -> None:
    factor = shrink(torch.tensor([5.0, 2.0, 1.0, 0.0], dtype=torch.float64), 2.0)
    assert factor.tolist() == [0.6, 0.0, 0.0, 0.0]


def test_shrink_is_not_negative_zero_nor_nan_at_zero_threshold() -> None:
    factor = shrink(torch.tensor([1.0, 0.0]), 0.0)
    assert factor.tolist() == [1.0, 0.0]


def test_hard_values() -> None:
    # Threshold sqrt(2 * 2) = 2: a norm of exactly 2 goes.
    assert hard(torch.tensor([2.0001, 2.0, 0.5, 0.0]), 2.0).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_thresholds_may_differ() -> None:
    norms = torch.tensor([4.0, 4.0], dtype=torch.float64)
    assert shrink(norms, torch.tensor([1.0, 3.0], dtype=torch.float64)).tolist() == [0.75, 0.25]
    assert hard(norms, torch.tensor([7.0, 9.0], dtype=torch.float64)).tolist() == [1.0, 0.0]


@given(st.lists(REALS, min_size=1, max_size=4), st.floats(0.01, 3))
def test_shrink_minimises(values: list[float], t: float) -> None:
    """prox(v) = argmin_u 1/2 ||u - v||^2 + t ||u||: no point on the ray, nor beside it, is better."""
    v = torch.tensor(values, dtype=torch.float64)
    best = shrink(v.norm().reshape(1), t) * v

    def objective(u: torch.Tensor) -> float:
        return float(0.5 * (u - v).square().sum() + t * u.norm())

    rivals = [f * v for f in torch.linspace(-0.2, 1.2, 57)] + [
        best + 0.1 * torch.randn(len(v)) for _ in range(20)
    ]
    assert all(objective(best) <= objective(u.double()) + 1e-12 for u in rivals)


@given(st.lists(REALS, min_size=1, max_size=4), st.floats(0.01, 3))
def test_hard_minimises(values: list[float], t: float) -> None:
    v = torch.tensor(values, dtype=torch.float64)
    best = hard(v.norm().reshape(1), t) * v
    cost = float(0.5 * (best - v).square().sum() + t * bool(best.any()))
    assert cost == pytest.approx(min(t if v.any() else 0.0, 0.5 * float(v.square().sum())), abs=EXACT + 1e-12)


def test_firmly_nonexpansive() -> None:
    a, b = torch.randn(200, 3, dtype=torch.float64), torch.randn(200, 3, dtype=torch.float64)
    pa, pb = (shrink(x.norm(dim=1), 0.7)[:, None] * x for x in (a, b))
    assert ((pa - pb).square().sum(1) <= ((pa - pb) * (a - b)).sum(1) + 1e-12).all()
    assert math.isclose(float(shrink(torch.tensor([1e30]), 1.0)), 1.0)

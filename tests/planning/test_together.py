"""Budgets of several quantities: each is a most, and the tightest decides."""

from __future__ import annotations

import pytest
import torch
import torchvision

import fxprune
from fxprune import targets
from fxprune.coupling.couple import analyse
from fxprune.errors import PlanError
from fxprune.planning.latency import latency_model
from fxprune.planning.together import all_met
from fxprune.plans import Budget, Cost, Plan
from fxprune.resizing.resolve import keep_mask

AVX512 = "onnxruntime-cpu-avx512"


@pytest.fixture(scope="module")
def trace() -> fxprune.Trace:
    torch.manual_seed(0)
    return fxprune.trace(torchvision.models.resnet18().eval(), torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("macs", "params", "latency", "tightest"),
    [
        (0.4, 0.8, None, "macs"),
        (0.8, 0.3, None, "params"),
        (0.9, 0.9, 0.5, "latency"),
        (0.3, 0.9, 0.8, "macs"),
    ],
)
def test_every_budget_is_met_and_one_is_used_up(
    trace: fxprune.Trace, macs: float, params: float, latency: float | None, tightest: str
) -> None:
    made = fxprune.plan(trace, Budget(macs=macs, params=params, latency=latency), target=AVX512)
    analysis = analyse(trace)
    model = latency_model(analysis, targets.get(AVX512))
    whole = torch.ones(analysis.coupling.n_units, dtype=torch.bool).numpy()
    used = {
        "macs": made.predicted.macs / made.dense.macs / macs,
        "params": made.predicted.params / made.dense.params / params,
    }
    if latency is not None:
        share = model.milliseconds(keep_mask(analysis, made)) / model.milliseconds(whole)
        used["latency"] = share / latency
    assert max(used, key=used.__getitem__) == tightest
    assert 0.95 < used[tightest] <= 1.011
    assert any(f"of several budgets that of {tightest} decides" in note for note in made.notes), made.notes
    fxprune.verify(trace, made, fxprune.slim(trace, made))


def test_where_no_plan_serves_the_others_one_is_tightened() -> None:
    """Each plan takes twice of what the other budget allows."""

    def planned(budget: Budget) -> Plan:
        (part,) = budget.parts
        own, other = int(1000 * part.fraction), int(2000 * part.fraction)
        macs, params = (own, other) if part.quantity == "macs" else (other, own)
        return Plan({}, Cost(params, macs), Cost(1000, 1000), "")

    made = all_met(Budget(macs=0.4, params=0.4), planned, lambda _: 1.0)
    assert max(made.predicted.macs, made.predicted.params) == 400


@pytest.mark.parametrize("wrong", [{"channels": 0.5, "macs": 0.5}, {"latency": 0.5, "latency_ms": 3.0}])
def test_two_of_one_kind_are_no_budget(wrong: dict[str, float]) -> None:
    with pytest.raises(PlanError, match="is two of one kind"):
        Budget(**wrong)


def test_several_quantities_have_no_single_fraction() -> None:
    several = Budget(macs=0.5, latency_ms=4)
    assert [part.quantity for part in several.parts] == ["macs", "latency"]
    with pytest.raises(PlanError, match=r"Budget\(macs=0.5, latency_ms=4\) has no single quantity"):
        _ = several.fraction

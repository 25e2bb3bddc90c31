"""The smallest model that is still good enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import PlanError
from fxprune.recovery.recover import run_recovery


def trained() -> tuple[fxprune.Trace, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return fxprune.trace(net.eval(), torch.zeros(2, 8)), torch.randn(512, 8)


class Width:
    """A metric that knows the answer: the share of the second layer's weights that is left."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked, self.stop_after = 0, stop_after

    def __call__(self, model: nn.Module) -> float:
        if self.asked == self.stop_after:
            raise KeyboardInterrupt
        self.asked += 1
        assert not model.training and not torch.is_grad_enabled()
        return sum(p.numel() for p in model.parameters()) / 5000


def test_the_smallest_that_meets_the_floor() -> None:
    trace, data = trained()
    metric = Width()
    plan = fxprune.plan(trace, accuracy=0.5, metric=metric, calibrate=data, align=1)
    assert 0.5 <= plan.predicted.params / 5000 < 0.5 + 0.03
    assert metric.asked == 8  # the dense model, and seven halvings of 98 points
    assert "accuracy=0.5 after recovery: the metric says 0.5" in plan.notes[-1]


def test_without_a_metric_the_outputs_are_compared() -> None:
    trace, data = trained()
    plan = fxprune.plan(trace, accuracy=0.8, calibrate=data, align=1)
    small = fxprune.slim(trace, plan)
    assert run_recovery(trace, plan, small, data).after <= 0.2
    assert plan.predicted.macs < 0.95 * plan.dense.macs
    looser = fxprune.plan(trace, accuracy=0.5, calibrate=data, align=1)
    assert looser.predicted.macs < plan.predicted.macs


def test_a_search_that_was_stopped_goes_on(tmp_path: Path) -> None:
    trace, data = trained()
    file = tmp_path / "trials.json"
    with pytest.raises(KeyboardInterrupt):
        fxprune.plan(trace, accuracy=0.5, metric=Width(3), calibrate=data, align=1, trials=file)
    assert len(json.loads(file.read_text())["values"]) == 3
    rest, whole = Width(), Width()
    plan = fxprune.plan(trace, accuracy=0.5, metric=rest, calibrate=data, align=1, trials=file)
    assert rest.asked == 5
    again = fxprune.plan(trace, accuracy=0.5, metric=whole, calibrate=data, align=1)
    assert (plan.kept, plan.notes) == (again.kept, again.notes)


def test_trials_of_another_search(tmp_path: Path) -> None:
    trace, data = trained()
    file = tmp_path / "trials.json"
    fxprune.plan(trace, accuracy=0.5, metric=Width(), calibrate=data, align=1, trials=file)
    for other in ({"align": 2}, {"criterion": "l2"}, {"accuracy": 0.6}):
        with pytest.raises(PlanError, match="of another model or of other options"):
            fxprune.plan(
                trace,
                **{
                    "accuracy": 0.5,
                    "metric": Width(),
                    "calibrate": data,
                    "align": 1,
                    "trials": file,
                    **other,
                },
            )
    with torch.no_grad():
        next(trace.model.parameters())[0, 0] += 1
    with pytest.raises(PlanError, match="of another model or of other options"):
        fxprune.plan(trace, accuracy=0.5, metric=Width(), calibrate=data, align=1, trials=file)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": "fxprune-trials", "asked": "x", "values": {"a": 1}}']
)
def test_a_file_that_holds_no_trials(tmp_path: Path, text: str) -> None:
    trace, data = trained()
    file = tmp_path / "trials.json"
    file.write_text(text)
    with pytest.raises(PlanError, match="holds no trials"):
        fxprune.plan(trace, accuracy=0.5, metric=Width(), calibrate=data, trials=file)
    assert file.read_text() == text


def test_what_cannot_be_asked() -> None:
    trace, data = trained()
    with pytest.raises(PlanError, match="a budget or accuracy=, one of them"):
        fxprune.plan(trace)
    with pytest.raises(PlanError, match="a budget or accuracy=, one of them"):
        fxprune.plan(trace, fxprune.Budget(macs=0.5), accuracy=0.5, calibrate=data)
    with pytest.raises(PlanError, match="no samples to recover on"):
        fxprune.plan(trace, accuracy=0.5)
    with pytest.raises(PlanError, match="is no floor"):
        fxprune.plan(trace, accuracy=float("nan"), calibrate=data)
    with pytest.raises(PlanError, match=r"the dense model has 0.9992 itself, below accuracy=2"):
        fxprune.plan(trace, accuracy=2, metric=Width(), calibrate=data)


def test_a_floor_that_only_the_dense_model_meets() -> None:
    trace, data = trained()
    plan = fxprune.plan(trace, accuracy=1.0, calibrate=data, align=1)
    assert plan.predicted.macs > 0.98 * plan.dense.macs

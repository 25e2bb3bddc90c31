"""What a plan says about itself."""

from __future__ import annotations

import numpy as np
import torch
import torchvision

import fxprune
from fxprune.planning.notes import steps_note


def test_what_steps_cost_is_said_where_it_is_a_percent() -> None:
    score = np.array([5.0, 1.0, 1.0, 3.0, np.nan])
    with_steps, without = np.array([1, 0, 1, 0, 1], bool), np.array([1, 0, 0, 1, 0], bool)
    (note,) = steps_note(score, with_steps, without, 2)
    assert "steps of 2 keep 60.0 % of the importance, any widths would keep 80.0 %" in note
    assert steps_note(score, with_steps, without, 1) == ()
    assert steps_note(score, without, without, 2) == ()
    assert steps_note(np.zeros(5), with_steps, without, 2) == ()


def test_a_plan_on_steps_says_what_they_cost() -> None:
    torch.manual_seed(0)
    trace = fxprune.trace(torchvision.models.resnet18(num_classes=10).eval(), torch.zeros(1, 3, 32, 32))
    plan = fxprune.plan(trace, fxprune.Budget(macs=0.5), target="onnxruntime-cpu-avx512")
    (note,) = plan.notes
    assert note.startswith("widths that end on steps of 16 keep ")
    assert not fxprune.plan(trace, fxprune.Budget(macs=0.5), align=1).notes

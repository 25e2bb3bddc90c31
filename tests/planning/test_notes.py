"""What a plan says about itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn

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
    widths = (3, *[48] * 12)
    layers = [
        layer for ins, outs in pairwise(widths) for layer in (nn.Conv2d(ins, outs, 3, padding=1), nn.ReLU())
    ]
    net = nn.Sequential(*layers, nn.Conv2d(48, 4, 1))
    names = [f"{2 * k}.weight" for k in range(12)]
    with torch.no_grad():  # half of each layer matters, and half is no multiple of 16
        for name in names:
            net.get_parameter(name)[24:] *= 0.05
    trace = fxprune.trace(net, torch.zeros(1, 3, 16, 16))
    half = fxprune.remove(trace, {(name, 0): range(24, 48) for name in names}).predicted.macs
    budget = fxprune.Budget(macs=half / fxprune.remove(trace, {}).dense.macs)
    plan = fxprune.plan(trace, budget, align=16, target="onnxruntime-cpu-avx512")
    assert any(note.startswith("widths that end on steps of 16 keep ") for note in plan.notes), plan.notes
    assert not any("widths that end" in note for note in fxprune.plan(trace, budget, align=8).notes)

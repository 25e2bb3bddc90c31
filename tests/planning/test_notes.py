"""What a plan says about itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn

import fxprune
from fxprune.planning.steps import importance_kept, steps_note


def test_what_steps_cost_is_said_where_it_is_a_percent() -> None:
    score = np.array([5.0, 1.0, 1.0, 3.0, np.nan])
    assert importance_kept(score, np.array([1, 0, 1, 0, 1], bool)) == 0.6
    assert importance_kept(np.zeros(5), np.zeros(5, bool)) == 1.0
    (note,) = steps_note({2: 0.6, 1: 0.8}, 2, 2)
    assert "steps of 2 keep 60.0 % of the importance, any widths would keep 80.0 %" in note
    assert steps_note({2: 0.6, 1: 0.8}, 1, 2) == ()
    assert steps_note({2: 0.8, 1: 0.8}, 2, 2) == ()


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


class _Stream(nn.Module):
    """One stream of 32 channels through three sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.further = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for layer in self.further:
            x = x + layer(x)
        return self.last(x)


def test_steps_that_ask_too_much_of_a_model_become_finer() -> None:
    torch.manual_seed(0)
    net = _Stream()
    with torch.no_grad():  # a quarter of the stream is worth nothing
        for layer in (net.first, *net.further):
            layer.weight[24:] *= 0.01
    trace = fxprune.trace(net, torch.zeros(1, 3, 16, 16))
    wanted = fxprune.remove(trace, {("first.weight", 0): range(24, 32)})
    budget = fxprune.Budget(macs=wanted.predicted.macs / wanted.dense.macs)
    plan = fxprune.plan(trace, budget, target="onnxruntime-cpu-avx512")
    assert plan.kept["first.weight", 0] == tuple(range(24))
    (note,) = plan.notes
    assert note.startswith("widths end on steps of 8: on steps of 16 ") and "on these it is 87.9 %" in note
    asked = fxprune.plan(trace, budget, target="onnxruntime-cpu-avx512", align=16)
    assert len(asked.kept["first.weight", 0]) == 16


def test_an_equal_share_is_had_or_said_not_to_be() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 48, 3), nn.ReLU(), nn.Conv2d(48, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)]
    trace = fxprune.trace(nn.Sequential(*layers), torch.zeros(1, 3, 16, 16))
    budget = fxprune.Budget(channels=0.75)
    uneven = fxprune.plan(trace, budget, scope="local", align=16)
    assert len(uneven.kept["0.weight", 0]) == 32
    assert any(
        n.startswith("scope='local': groups keep 67 to 100 %") and "align=1" in n for n in uneven.notes
    )
    equal = fxprune.plan(trace, budget, scope="local", align=1)
    assert [len(equal.kept[name, 0]) for name in ("0.weight", "2.weight")] == [36, 12]
    assert equal.notes == ()

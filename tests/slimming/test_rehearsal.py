"""Recorded models: what their code holds as numbers stays, the rest goes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.errors import SliceError
from fxprune.planning.plan import plan_units

Middle = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """Widths 8, 6 and 5, and a branch on data, for which torch.export declines it."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.c, self.d = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 4, 1)
        self.middle = middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.middle(self.b(F.relu(self.a(x))))
        y = self.d(F.relu(self.c(y)))
        return y if float(y.sum()) < 1e9 else 2 * y


def into_zeros(y: torch.Tensor) -> torch.Tensor:
    made = y.new_zeros(len(y), 6, 8, 8)
    made[:, :, 1:] = y[:, :, 1:]
    return made


def attended(y: torch.Tensor) -> torch.Tensor:
    """Scaled by a number that Python makes of the width."""
    rows = y.flatten(2)
    weights = (rows.transpose(1, 2) @ rows / y.shape[1] ** 0.5).softmax(-1)
    return (rows @ weights).view(y.shape)


HELD: dict[str, tuple[Middle, str]] = {
    "a view of so many channels": (lambda y: y.flatten().view(2, 6, 8, 8), "view_default_1"),
    "so many zeros": (into_zeros, "new_zeros_default"),
    "parts of so many channels": (lambda y: torch.cat(y.split([4, 2], 1)[::-1], 1), "split_with_sizes_default"),
    "a number made of the width": (attended, "div_tensor"),
}  # fmt: skip


def traced(middle: Middle) -> fxprune.Trace:
    torch.manual_seed(0)
    trace = fxprune.trace(Net(middle).eval(), torch.randn(2, 3, 8, 8))
    assert trace.kind == "recorded"
    return trace


@pytest.mark.parametrize("name", HELD)
def test_what_the_code_holds_as_a_number_stays(name: str) -> None:
    middle, node = HELD[name]
    trace = traced(middle)
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.6), align=1)
    kept = {axis: len(index) for axis, index in plan.kept.items()}
    assert ("b.weight", 0) not in kept
    assert kept["a.weight", 0] < 8
    assert kept["c.weight", 0] < 5
    assert any(note.startswith(f"what '{node}' reads stays whole: ") for note in plan.notes), plan.notes
    slim = fxprune.slim(trace, plan)
    assert slim.fxprune_kind == "module"
    fxprune.verify(trace, plan, slim)


def test_what_follows_the_widths_goes() -> None:
    trace = traced(lambda y: y.flatten(2).view(len(y), -1, 8, 8))
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    assert not any("stays whole" in note for note in plan.notes)
    assert {axis[0] for axis in plan.kept} >= {"a.weight", "b.weight", "c.weight"}
    fxprune.verify(trace, plan, fxprune.slim(trace, plan))


@pytest.mark.parametrize("by", ["nonzero", "nms"])
def test_how_many_the_data_pick_is_no_number_that_the_code_holds(by: str) -> None:
    """Slim weights find others than were found in the record; that is no reason to keep the layers before."""

    def found(y: torch.Tensor) -> torch.Tensor:
        scores = y.mean(1).flatten()
        picked = scores.sub(scores.median()).relu().mul(9).round().nonzero().flatten()
        if by == "nms":
            side = 1 + scores[:, None].tanh()
            place = torch.arange(len(scores), dtype=y.dtype)[:, None] / 4
            boxes = torch.cat([place, place, place + side, place + side], 1)
            picked = torchvision.ops.nms(boxes, scores, 0.3)
        return y + scores[picked].mean()

    trace = traced(found)
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    assert not any("stays whole" in note for note in plan.notes), plan.notes
    assert {axis[0] for axis in plan.kept} >= {"a.weight", "b.weight", "c.weight"}
    fxprune.verify(trace, plan, fxprune.slim(trace, plan))


def test_features_convolved_with_features_are_judged_by_the_oracle_that_can() -> None:
    """Of a recorded model the first oracle zeroes weights, and there are none beside these channels."""
    trace = traced(lambda y: y * F.conv2d(y, y.mean((2, 3))[:, :, None, None]).sum(1, keepdim=True))
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    assert ("b.weight", 0) in plan.kept
    fxprune.verify(trace, plan, fxprune.slim(trace, plan))


def test_a_refusal_says_why_the_model_was_recorded() -> None:
    trace = traced(into_zeros)
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.6), align=1)
    assert ("b.weight", 0) not in plan.kept
    keep = np.ones(analyse(trace).coupling.n_units, bool)
    keep[analyse(trace).coupling.axes["b.weight", 0][[1, 4]]] = False
    with pytest.raises(SliceError, match=r"torch\.export declines it: GuardOnDataDependentSymNode"):
        fxprune.slim(trace, plan_units(trace, keep))


def test_a_plan_by_hand_is_rehearsed_before_it_is_applied() -> None:
    """The code makes a number of the width: it would run, and compute something else."""
    trace = traced(attended)
    keep = np.ones(analyse(trace).coupling.n_units, bool)
    keep[analyse(trace).coupling.axes["b.weight", 0][[1, 4]]] = False
    with pytest.raises(SliceError, match=r"computes with 2 for 2.44949.* in attended"):
        fxprune.slim(trace, plan_units(trace, keep))


def test_a_copy_that_would_pick_other_channels_is_refused() -> None:
    """Every second of six channels; of five they are as many, and others."""
    trace = traced(lambda y: torch.cat([y[:, ::2], y[:, ::2].tanh()], 1))
    keep = np.ones(analyse(trace).coupling.n_units, bool)
    keep[analyse(trace).coupling.axes["b.weight", 0][3]] = False
    with pytest.raises(SliceError, match="takes other positions than it would have to of what is left"):
        fxprune.slim(trace, plan_units(trace, keep))

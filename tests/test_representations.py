"""What an interpreter prints: some lines, whatever an object holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest
import torch
import torchvision
from torch import nn

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.inspection.explain import explain, group_table
from fxprune.models.calls import as_call
from fxprune.models.loading import load_model
from fxprune.resizing.resolve import keep_mask, resolve
from fxprune.structures.find import find_structures
from fxprune.support.briefly import briefly

LETTERS, LINES = 1000, 12


def nouns(value: object, seen: set[int]) -> Iterator[object]:
    """An object of fxprune and all that it holds."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if type(value).__module__.startswith("fxprune."):
        yield value
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from nouns(getattr(value, field.name), seen)
    elif isinstance(value, (tuple, list)):
        for part in value[:50]:
            yield from nouns(part, seen)


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16"])
def test_everything_public_prints_in_some_lines(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None)
    x = torch.randn(1, 3, 224, 224)
    traced = fxprune.trace(model, x)
    groups = fxprune.couple(traced)
    plan = fxprune.plan(traced, fxprune.Budget(macs=0.5))
    analysis = analyse(traced)
    made = (
        *(traced, groups, plan, analysis),
        *(resolve(analysis, keep_mask(analysis, plan)), explain(traced, groups[0].name)),
        *(group_table(traced), find_structures(traced), as_call(x), load_model("torchvision:resnet18")),
    )
    found = list(nouns(made, set()))
    kinds = {type(value).__name__ for value in found}
    assert {
        "Trace",
        "Groups",
        "Group",
        "Plan",
        "Coupling",
        "Analysis",
        "CostModel",
        "Explanation",
        "Pin",
    } <= kinds
    for value in found:
        shown = repr(value)
        assert len(shown) <= LETTERS, (type(value), len(shown))
        assert shown.count("\n") < LINES, type(value)
    assert ("Block" in kinds) == (name == "vit_b_16")


def test_groups_print_what_matters() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = fxprune.couple(fxprune.trace(net, torch.zeros(1, 3)))
    assert repr(groups).splitlines()[:2] == [
        "<3 groups, 1 can be pruned",
        "  Group('0': 4 units on 3 axes; exact),>",
    ]
    assert "pinned: " in repr(next(group for group in groups if group.pinned))
    assert isinstance(groups, tuple)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (torch.zeros(2, 3), "float32[2, 3]"),
        (nn.Linear(2, 2), "<Linear>"),
        ({"a": torch.zeros(2)}, "{'a': float32[2]}"),
        ([1, 2, 3], "[1, 2, 3]"),
        ((1,), "(1,)"),
        ([0] * 99, "<list of 99>"),
        (dict.fromkeys(range(9)), "<9 entries>"),
        ("a\nb", "'a\\nb'"),
    ],
)
def test_briefly(value: object, shown: str) -> None:
    assert briefly(value) == shown

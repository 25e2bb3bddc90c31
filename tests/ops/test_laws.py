"""Laws that every row of the table of rules obeys, on samples; a new row needs samples and no new test."""

from __future__ import annotations

import pytest
import torch
import torchvision  # noqa: F401 - registers its operators
from engine.lawful import disturb, left, lone, plans, slimmed, zeroed
from engine.samples import SAMPLES, TAGGED, WITHOUT_SAMPLE, Sample

from fxprune.coupling.cost import counted_macs
from fxprune.ops import RULES, qualified_name, rule_for

EXACT = 1e-11
"""Largest difference relative to the largest entry: single calls in float64, where only the order of a few
additions differs; a norm over a single position multiplies that by the inverse root of its epsilon, 316."""


def name_of(sample: Sample) -> str:
    return f"{sample.op}-{SAMPLES.index(sample)}"


def base(sample: Sample) -> str:
    """``aten.conv2d.default`` as ``aten::conv2d``."""
    namespace, op, _ = sample.op.split(".")
    return f"{namespace}::{op}"


def close(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.shape != two.shape:
        return False
    if not one.numel() or torch.equal(one, two):
        return True
    if one.is_complex():
        one, two = torch.view_as_real(one), torch.view_as_real(two)
    scale = float(one.double().abs().nan_to_num(0, 0, 0).max()) or 1.0
    return torch.allclose(one.double(), two.double(), rtol=0, atol=EXACT * scale, equal_nan=True)


NAMES = [name for rule in RULES for name in rule.ops]


def test_every_operator_has_a_sample() -> None:
    """A new operator comes with a sample, or with the reason why there is none."""
    sampled = {base(s) for s in SAMPLES}
    assert [n for n in NAMES if n not in sampled and n not in WITHOUT_SAMPLE] == []
    assert [n for n in WITHOUT_SAMPLE if n in sampled or n not in NAMES] == []


def test_every_operator_is_in_one_row() -> None:
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_exists(name: str) -> None:
    namespace, op = name.split("::")
    # Some exist only as in-place variants, which are looked up by their functional name.
    assert hasattr(getattr(torch.ops, namespace), op) or hasattr(getattr(torch.ops, namespace), f"{op}_")


@pytest.mark.parametrize("sample", TAGGED, ids=name_of)
def test_pointwise_operators_need_no_row(sample: Sample) -> None:
    from engine.lawful import overload

    assert qualified_name(overload(sample.op)) not in NAMES or torch.Tag.pointwise in overload(sample.op).tags
    assert rule_for(overload(sample.op)) is not None


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_what_may_go(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly the expected dimensions hold units that may go: a rule that pins more is a regression."""
    assert lone(sample, monkeypatch).free() == sample.free


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_slim_is_what_is_left(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resized operator on what is left of its operands gives what is left of its results.

    And no label is dropped: whatever the removed positions hold, what is left stays the same.
    """
    one = lone(sample, monkeypatch)
    made = plans(one)
    assert made or set(sample.free) <= set("- "), "no removal is possible"
    for each in made:
        oracle, dense = zeroed(one, each)
        goal = left(one, oracle, dense)
        given = slimmed(one, each)
        if sample.chance:
            assert [g.shape for g in given] == [t.shape for t in goal], each.kept
            continue
        assert all(map(close, goal, given)), f"{each.kept}: {goal} {given}"
        disturb(one, each)
        oracle, dense = zeroed(one, each)
        assert all(map(close, goal, left(one, oracle, dense))), f"{each.kept}: depends on what was removed"


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_costs_are_those_of_the_counter(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply-accumulates are what PyTorch's counter sees when the call runs."""
    one = lone(sample, monkeypatch)
    counted = counted_macs(lambda: one.trace.graph(*one.trace.args))
    assert one.found.cost.dense.macs == counted

"""A rule that fails, gives wrong shapes or forgets labels is not believed: what its operator reads stays, and it says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.errors import UnsupportedOp
from fxprune.labels import IntArray
from fxprune.ops import rule_for
from fxprune.ops.base import Call, Context, Output, Value

Couple = Callable[[Context, Call], Output]


class Net(nn.Module):
    """Something happens between the second layer and the third."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(m, n) for m, n in ((3, 8), (8, 6), (6, 5), (5, 4)))
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.between(self.b(self.a(x).relu()))
        return self.d(self.c(y).relu())


def labels_of(call: Call) -> list[IntArray]:
    return [a for v in call.tensors() for a in v.arrays]


def raises(_: Context, call: Call) -> Output:
    raise ValueError("operands could not be broadcast")


def of_other_shape(_: Context, call: Call) -> Output:
    return Value((*call.shape, 1), call.tensors()[0].arrays)


def of_other_labels(_: Context, call: Call) -> Output:
    return Value(call.shape, tuple(np.concatenate([a, a], axis=-1) for a in labels_of(call)))


def of_other_rank(_: Context, call: Call) -> Output:
    return Value(call.shape, tuple(a[0] for a in labels_of(call)))


def of_other_count(_: Context, call: Call) -> Output:
    return [call.tensors()[0], call.tensors()[0]]


def gives_nothing(_: Context, call: Call) -> Output:
    return None


def forgets(_: Context, call: Call) -> Output:
    return Value(call.shape)


def makes_others(ctx: Context, call: Call) -> Output:
    return Value(call.shape, (ctx.fresh(call.shape[-1:])[None],))


def ties_and_forgets(ctx: Context, call: Call) -> Output:
    for array in labels_of(call):
        ctx.tie(array, array[..., ::-1])
    return Value(call.shape)


FAULTS: dict[str, tuple[Couple, str]] = {
    "raises": (raises, "fails (ValueError: operands could not be broadcast)"),
    "shape": (of_other_shape, "gives a result of shape"),
    "labels": (of_other_labels, "gives labels of shape (1, 12) for a result of shape"),
    "rank": (of_other_rank, "gives labels of shape (6,) for a result of shape"),
    "count": (of_other_count, "gives 2 results where there are 1"),
    "nothing": (gives_nothing, "gives nothing"),
    "forgets": (forgets, "forgets channels"),
    "others": (makes_others, "forgets channels"),
    "ties": (ties_and_forgets, "forgets channels"),
}


def pins(ctx: Context, call: Call) -> Output:
    ctx.pin(labels_of(call), "they must not go")
    return Value(call.shape)


def ties_to_its_own(ctx: Context, call: Call) -> Output:
    made = ctx.fresh(call.shape[-1:])[None]
    ctx.tie(labels_of(call)[0], made)
    return Value(call.shape, (made,))


def hands_on(_: Context, call: Call) -> Output:
    return Value(call.shape, tuple(labels_of(call)))


def traced(monkeypatch: pytest.MonkeyPatch, couple: Couple) -> fxprune.Trace:
    """A net around an operator with this rule."""
    target, right = torch.ops.aten.cumsum.default, rule_for(torch.ops.aten.cumsum.default)
    assert right is not None
    false = replace(right, couple=couple, move=None)
    monkeypatch.setattr("fxprune.coupling.walk.rule_for", lambda op: false if op is target else rule_for(op))
    return fxprune.trace(Net(lambda y: y.cumsum(0)).eval(), torch.zeros(2, 3))


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_operator_reads_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    couple, why = FAULTS[name]
    trace = traced(monkeypatch, couple)
    groups = {group.name: group for group in fxprune.couple(trace)}
    assert {name: group.width for name, group in groups.items() if not group.pinned} == {"a": 8, "c": 5}
    first, later = groups["b"].pinned, groups["c:1"].pinned
    assert first is not None
    assert later is not None
    assert first.reason.startswith("the rule for aten::cumsum ")
    assert why in first.reason
    assert (first.kind, first.op, first.node) == ("unknown", "aten.cumsum.default", "cumsum")
    assert first.source.startswith("test_forgotten.py:")
    # The layer behind it does not blame the data.
    assert later.reason.startswith("meets the result of 'cumsum' (the rule for aten::cumsum ")
    assert later.kind == "unknown"


@pytest.mark.parametrize("name", FAULTS)
def test_strict_coupling_refuses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    couple, why = FAULTS[name]
    with pytest.raises(UnsupportedOp) as caught:
        fxprune.couple(traced(monkeypatch, couple), strict=True)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("couple", "free"), [(pins, {"a"}), (ties_to_its_own, {"a", "b"}), (hands_on, {"a", "b"})]
)
def test_a_rule_that_says_what_became_of_labels_is_believed(
    couple: Couple, free: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = traced(monkeypatch, couple)
    groups = {group.name: group for group in fxprune.couple(trace, strict=True)}
    assert {name for name, group in groups.items() if not group.pinned} == {*free, "c"}


def test_without_a_rule_the_first_operator_is_named() -> None:
    trace = fxprune.trace(Net(lambda y: torch.linalg.qr(y)[0]).eval(), torch.zeros(6, 3))
    groups = {group.name: group for group in fxprune.couple(trace)}
    first, later = groups["b"].pinned, groups["c:1"].pinned
    assert first is not None
    assert later is not None
    assert first.reason == "no rule for aten::linalg_qr"
    assert later.reason == "meets the result of 'linalg_qr' (no rule for aten::linalg_qr)"


@pytest.mark.parametrize("name", FAULTS)
def test_what_an_operator_costs_is_known_without_its_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, right = torch.ops.aten.linear.default, rule_for(torch.ops.aten.linear.default)
    assert right is not None
    false = replace(right, couple=FAULTS[name][0])
    monkeypatch.setattr("fxprune.coupling.walk.rule_for", lambda op: false if op is target else rule_for(op))
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(1, 4)
    assert analyse(fxprune.trace(model, x)).coupling.cost.dense.macs == 4 * 6 + 6 * 3

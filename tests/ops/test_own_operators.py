"""Operators of the user's own: without a rule they pin, with one their channels go, and the proof holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fxprune
from fxprune import ops
from fxprune.coupling.couple import analyse
from fxprune.errors import FxpruneError
from fxprune.ops import OpRule, pointwise, register

torch.library.define("fxprune_tests::swell", "(Tensor x) -> Tensor")


@torch.library.impl("fxprune_tests::swell", "CompositeExplicitAutograd")
def _swell(x: torch.Tensor) -> torch.Tensor:
    return x.exp() + 1


@torch.library.register_fake("fxprune_tests::swell")
def _fake(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Swelling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        swollen: torch.Tensor = torch.ops.fxprune_tests.swell(self.first(x))
        return self.last(swollen)


@pytest.fixture
def table() -> Iterator[None]:
    """The table of rules as it was."""
    before = dict(ops._BY_NAME)
    yield
    ops._BY_NAME.clear()
    ops._BY_NAME.update(before)


def test_without_a_rule_it_pins_and_with_one_its_channels_go(table: None) -> None:
    model, x = Swelling().eval(), torch.randn(2, 6)
    pins = [
        g.pinned for g in analyse(fxprune.trace(model, x)).coupling.groups if ("first.weight", 0) in g.members
    ]
    assert [p.kind for p in pins if p is not None] == ["unknown"]
    assert [p.op.split(".")[0] for p in pins if p is not None] == ["fxprune_tests"]

    register(OpRule(("fxprune_tests::swell",), pointwise.pointwise))
    trace = fxprune.trace(model, x)
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    slim = fxprune.slim(trace, plan)
    assert slim.first.out_features == 4
    proof = fxprune.verify(trace, plan, slim)
    assert proof.judged["graph"] == 1.0


@pytest.mark.parametrize("name", ["swell", "fxprune_tests::", "::swell", "fxprune_tests::swell.default"])
def test_names_that_are_none_are_refused(name: str, table: None) -> None:
    with pytest.raises(FxpruneError, match="no name of an operator"):
        register(OpRule((name,), pointwise.pointwise))


def test_a_rule_of_the_table_is_not_replaced(table: None) -> None:
    with pytest.raises(FxpruneError, match="has a rule already"):
        register(OpRule(("aten::cat",), pointwise.pointwise))

"""Second names of operators are those of the same operator."""

from __future__ import annotations

import pytest
import torch

from fxprune.ops import rule_for
from fxprune.ops.aliases import ALIASES
from fxprune.testing.samples import SAMPLES


def overloads(name: str) -> list[torch._ops.OpOverload]:
    """Those on tensors that write nowhere else."""
    packet = getattr(torch.ops.aten, name.removeprefix("aten::"))
    found = [getattr(packet, variant) for variant in packet.overloads() if "out" not in variant]
    return [op for op in found if str(op._schema.returns[0].type) == "Tensor"]


def facts(op: torch._ops.OpOverload) -> tuple[list[str], object]:
    """Names of its arguments, and what its rule does."""
    rule = rule_for(op)
    assert rule is not None
    return [argument.name for argument in op._schema.arguments], rule.couple


@pytest.mark.parametrize("alias", ALIASES)
def test_arguments_and_rule_are_those_of_the_first_name(alias: str) -> None:
    first = [facts(op) for op in overloads(ALIASES[alias])]
    assert overloads(alias)
    for op in overloads(alias):
        assert facts(op) in first


def test_every_alias_has_a_sample() -> None:
    """The laws of ``test_laws`` run on it under the name that it has in a graph."""
    assert set(ALIASES) <= {sample.name for sample in SAMPLES}


def test_no_alias_has_another_one() -> None:
    assert not set(ALIASES) & set(ALIASES.values())

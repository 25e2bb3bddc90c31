"""Laws that every row of the table of rules obeys, on samples; a new row needs samples and no new test."""

from __future__ import annotations

import pytest
import torch
import torchvision  # noqa: F401 - registers its operators

from fxprune.ops import RULES, qualified_name, rule_for
from fxprune.testing.laws import LAWS
from fxprune.testing.samples import SAMPLES, WITHOUT_SAMPLE
from fxprune.testing.samples.base import Sample
from fxprune.testing.samples.pointwise import TAGGED


def name_of(sample: Sample) -> str:
    return f"{sample.op}-{SAMPLES.index(sample)}"


NAMES = [name for rule in RULES for name in rule.ops]


def test_every_operator_has_a_sample() -> None:
    """A new operator comes with a sample, or with the reason why there is none."""
    sampled = {s.name for s in SAMPLES}
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
    assert qualified_name(sample.target) not in NAMES or torch.Tag.pointwise in sample.target.tags
    assert rule_for(sample.target) is not None


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_what_may_go(sample: Sample) -> None:
    assert not LAWS["what may go"](sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_slim_is_what_is_left(sample: Sample) -> None:
    assert not LAWS["slim is what is left"](sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_costs_are_counted(sample: Sample) -> None:
    assert not LAWS["costs are counted"](sample)


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLES, ids=name_of)
def test_networks_are_proved(sample: Sample) -> None:
    assert not LAWS["networks are proved"](sample)

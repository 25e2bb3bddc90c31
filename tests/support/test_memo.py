"""Results are remembered beside their owner, and by nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import nn

import fxprune
from fxprune.coupling.couple import analyse
from fxprune.resizing.resolve import keep_mask, resolve
from fxprune.support.memo import Memo, latest


@dataclass(frozen=True, eq=False)
class Owner:
    number: int
    memo: Memo = field(default_factory=Memo, init=False)


def test_the_last_arguments_count() -> None:
    made: list[tuple[int, int]] = []

    @latest
    def product(owner: Owner, factor: int) -> int:
        made.append((owner.number, factor))
        return owner.number * factor

    one = Owner(3)
    assert [product(one, f) for f in (2, 2, 5, 5, 2)] == [6, 6, 15, 15, 6]
    assert made == [(3, 2), (3, 5), (3, 2)]
    assert product(replace(one, number=4), 2) == 8, "a copy has a memo of its own"
    one.memo.clear()
    assert product(one, 2) == 6
    assert len(made) == 5


def test_functions_do_not_share() -> None:
    @latest
    def twice(owner: Owner) -> int:
        return 2 * owner.number

    @latest
    def thrice(owner: Owner) -> int:
        return 3 * owner.number

    one = Owner(5)
    assert (twice(one), thrice(one), twice(one)) == (10, 15, 10)


def test_an_analysis_is_made_once_and_asking_adds_nothing() -> None:
    """Resolving and slicing used to register layouts, and so make labels, after the units were closed."""
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    trace = fxprune.trace(net, torch.randn(2, 5, 16))
    analysis = analyse(trace)
    layouts = list(analysis.layouts)
    plan = fxprune.plan(trace, fxprune.Budget(channels=0.5), align=1)
    assert plan.kept
    fxprune.verify(trace, plan, fxprune.slim(trace, plan))
    assert analyse(trace) is analysis
    assert list(analysis.layouts) == layouts
    assert all(part.max() < len(analysis.unit_of_label) for layout in layouts for part in layout.rows)
    keep = keep_mask(analysis, plan)
    assert resolve(analysis, keep.copy()) is resolve(analysis, keep), "equal masks have one resolution"
    assert not keep.flags.writeable, "whoever asks again gets the same mask"

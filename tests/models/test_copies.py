"""Copies of modules: new tensors in the place of the old, everything else as copy.deepcopy has it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.models.copies import copied


class Part(nn.Module):
    """Holds one of everything that a copy could get wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(3, 3)
        self.again = self.own
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.own.weight
        self.grid = torch.arange(4)
        self.sizes, self.names = (1, 2), {"a", "b"}
        self.names_again = self.names
        self.table = OrderedDict(one=[1, (2, [3])])
        self.back = [self]
        self.register_buffer("left", torch.ones(2), persistent=False)


class Watched(nn.Linear):
    """Copies in its own way."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        made = Watched(self.in_features, self.out_features)
        made.copies = getattr(self, "copies", 0) + 1
        return made


def test_a_copy_has_the_shape_of_its_model() -> None:
    model = nn.Sequential(Part(), nn.BatchNorm1d(3), nn.GRU(3, 3))
    model[1].eval()
    made = copied(model, lambda t: t.detach() + 1)
    part = made[0]
    assert part.own is part.again
    assert part.tied.weight is part.own.weight
    assert part.back[0] is part
    assert part.names is part.names_again
    assert part.names is not model[0].names
    assert part.table == model[0].table
    assert part.table["one"][1][1] is not model[0].table["one"][1][1]
    assert part.sizes == (1, 2)
    assert torch.equal(part.grid, torch.arange(4) + 1)
    assert part._non_persistent_buffers_set == {"left"}
    assert [m.training for m in made] == [True, False, True]
    assert made[2]._flat_weights[0] is made[2].weight_ih_l0
    wanted = copy.deepcopy(model)
    assert str(made) == str(wanted)
    assert [vars(m).keys() for m in made.modules()] == [vars(m).keys() for m in wanted.modules()]
    for (name, new), old in zip(made.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(new, old + 1), name


def test_hooks_go_along_and_new_ones_do_not_come_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(0))
    made = copied(model, torch.clone)
    made[1].register_forward_hook(lambda *_: calls.append(1))
    made(torch.zeros(1, 2))
    assert calls == [0, 1]
    model(torch.zeros(1, 2))
    assert calls == [0, 1, 0]


@pytest.mark.parametrize("own", [Watched(2, 3), torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))])
def test_a_class_that_copies_in_its_own_way_does_so(own: nn.Module) -> None:
    made = copied(nn.Sequential(own, own), torch.clone)
    assert made[0] is made[1]
    assert made[0] is not own
    assert type(made[0]).__name__ == type(own).__name__
    if isinstance(own, Watched):
        assert made[0].copies == 1

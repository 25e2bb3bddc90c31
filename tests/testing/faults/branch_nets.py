"""Networks with branches, whose structures are cut and whose factors are folded, and one that trains another way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache

import torch
from structures.structure_nets import live
from torch import fx, nn
from torch.nn import functional as F

from fxprune.graph.dataflow import DataFlow
from fxprune.graph.live import liven
from fxprune.graph.trace import Trace, trace
from fxprune.planning.plan import plan_structures, remove
from fxprune.plans import Plan
from fxprune.regularizers.gal.folding import fold_into
from fxprune.slimming.slim import slim
from fxprune.structures.find import Structure, find_structures

FACTOR = 0.5
EXACT = 1e-5
"""Largest relative difference in float32 of the same operators with some numbers halved: rounding."""


class Factors(nn.Module):
    """Residual branches that end in a product, a sum, a concatenation, a layer with a bias, and activations."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.product = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.sum = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.join = nn.ModuleList([nn.Linear(width, width // 2), nn.Linear(width, width // 2)])
        self.plain = nn.Linear(width, width)
        self.norm = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.bent = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.product
        x = x + a(x) * b(x)
        a, b = self.sum
        x = x + (a(x) + b(x))
        a, b = self.join
        x = x + torch.cat([a(x), b(x)], -1)
        x = x + self.plain(x).relu()
        x = x + self.norm(x)
        x = x + F.gelu(self.bent(x))
        x = x + self.gate(x).sigmoid()
        return self.head(x)


class Auxiliary(nn.Module):
    """A second head that only runs in training."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.other = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x).relu()
        return (self.head(x), self.other(x)) if self.training else self.head(x)


@cache
def traced(name: str) -> Trace:
    """A network by name: those of ``structure_nets``, ``"factors"`` and ``"auxiliary head"``."""
    torch.manual_seed(0)
    own = {"factors": (Factors, (2, 8)), "auxiliary head": (Auxiliary, (2, 4))}
    if name not in own:
        return trace(*live(name))
    make, shape = own[name]
    x = torch.randn(shape)
    return trace(liven(make(), x), x)


def cuts(found: Trace) -> Iterator[Plan]:
    """Plans that cut one structure each."""
    for structure in find_structures(found):
        if structure.removable:
            yield plan_structures(found, [structure.name])


def folds(found: Trace) -> None:
    """A factor on a branch, folded into parameters, is that factor on the branch's result."""
    data = DataFlow(found)
    folded = 0
    for structure in find_structures(found):
        fold = fold_into(structure, data)
        if not fold.parameters:
            continue
        model = copy.deepcopy(found.model)
        with torch.no_grad():
            for name in fold.parameters:
                model.get_parameter(name).mul_(FACTOR)
            given, wanted = model(*found.args), _Multiplied(found, structure).run(*found.args)
        gap = float((given - wanted).abs().max() / wanted.abs().max())
        assert gap <= EXACT, f"a factor on {structure.name} folded into {fold.parameters} is off by {gap:.1e}"
        folded += 1
    assert folded, "no factor was folded"


class _Multiplied(fx.Interpreter):
    """The traced graph with a factor on one node's result."""

    def __init__(self, found: Trace, structure: Structure) -> None:
        super().__init__(found.graph)
        self.found, self.scaled = found, structure.output

    def get_attr(self, target: object, args: object, kwargs: object) -> torch.Tensor:
        return self.found.tensor(str(target))

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        return result * FACTOR if n is self.scaled else result  # type: ignore[operator]


def trains(found: Trace) -> None:
    """What is left runs in training as well."""
    small = slim(found, remove(found, {("stem.weight", 0): [1, 4]}))
    small.train()(*found.args)

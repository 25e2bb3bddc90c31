"""Models that no tracer can follow are refused by what they are; odd ones that can be followed are."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from fxprune.errors import TraceError
from fxprune.graph.trace import trace
from fxprune.planning.plan import remove
from fxprune.proof.verify import verify
from fxprune.slimming.slim import slim


class Doing(nn.Module):
    """Two layers, and something done between them."""

    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.step = nn.Linear(4, 8), nn.Linear(8, 2), step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.step(self.a(x)))


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def _raise(error: BaseException) -> Callable[[torch.Tensor], torch.Tensor]:
    def step(_: torch.Tensor) -> torch.Tensor:
        raise error

    return step


def _times_numpys(x: torch.Tensor) -> torch.Tensor:
    return x * float(np.random.rand())  # noqa: NPY002  as old code does


def _endless() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 2)))
    model[1].add_module("up", model)
    return model


def _float8() -> nn.Module:
    model = nn.Linear(4, 2)
    model.register_buffer("scale", torch.ones(2).to(torch.float8_e4m3fn))
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (lambda: torch.jit.script(nn.Linear(4, 2)), "TorchScript"),
    "frozen": (lambda: torch.jit.freeze(torch.jit.script(nn.Linear(4, 2).eval())), "TorchScript"),
    "scripted part": (lambda: nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 2))), "part '1'"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), "'0.weight' is lazy"),
    "endless": (_endless, r"'1\.up' is a module that contains it"),
    "float8": (_float8, "'scale' is of type float8_e4m3fn"),
    "ends the program": (lambda: Doing(lambda x: sys.exit(3)), "ends the program"),
    "wordless": (lambda: Doing(_raise(Unspeakable())), "does not run on the example inputs: Unspeakable"),
    "python's numbers": (lambda: Doing(lambda x: x * random.random()), "random numbers of Python"),
    "numpy's numbers": (lambda: Doing(_times_numpys), "random numbers of numpy"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_named(name: str) -> None:
    make, what = REFUSED[name]
    with pytest.raises(TraceError, match=what) as caught:
        trace(make(), torch.randn(2, 4))
    assert caught.value.advice


@pytest.fixture
def meta_by_default() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device("cpu")


def test_a_default_device_without_numbers_is_named(meta_by_default: None) -> None:
    model, x = nn.Linear(4, 2, device="cpu"), torch.zeros(2, 4, device="cpu")
    with pytest.raises(TraceError, match="set_default_device"):
        trace(model, x)


def test_inputs_of_another_type_are_refused() -> None:
    with pytest.raises(TraceError, match="linear is given float32 and int64") as caught:
        trace(Doing(torch.relu), torch.zeros(2, 4, dtype=torch.long))
    assert "test_odd_models.py" in caught.value.source or caught.value.node


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return self.b(torch.relu(self.a(x)))


def test_a_model_that_writes_into_its_input() -> None:
    x = torch.randn(2, 4)
    before = x.clone()
    found = trace(Writes(), x)
    made = remove(found, {("a.weight", 0): [1]})
    small = slim(found, made)
    assert torch.equal(x, before), "the user's input is as it was"
    assert verify(found, made, small).units == 1
    assert torch.equal(x, before)

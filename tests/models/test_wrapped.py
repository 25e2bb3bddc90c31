"""What torch wraps around models is looked through, by every stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import fxprune
from fxprune.models.wrapped import unwrapped
from fxprune.regularizers import SSR


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "data parallel": nn.DataParallel,
    "distributed": DistributedDataParallel,
    "compiled": torch.compile,
    "averaged": AveragedModel,
    "compiled and distributed": lambda net: DistributedDataParallel(torch.compile(net)),
}


@pytest.fixture(params=WRAPPERS)
def wrap(request: pytest.FixtureRequest, group: None) -> Callable[[nn.Module], nn.Module]:
    return WRAPPERS[request.param]


def test_every_stage_sees_the_model_inside(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    net, x = _net(), torch.randn(2, 4)
    outer = wrap(net)
    traced = fxprune.trace(outer, x)
    assert traced.dynamic_batch
    assert traced.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert traced.fingerprint == fxprune.trace(net, x).fingerprint
    plan = fxprune.plan(traced, fxprune.Budget(channels=0.5), align=1)
    small = fxprune.slim(traced, plan)
    assert small[0].out_features == 4
    around = wrap(small)
    assert fxprune.verify(traced, plan, around).error < 1e-10
    fxprune.recover(traced, plan, around, torch.randn(64, 4))
    fxprune.save(around, plan, tmp_path / "slim.safetensors")
    again = fxprune.load(wrap(_net()), tmp_path / "slim.safetensors", x)
    assert torch.equal(again(x), unwrapped(around)(x))
    report = fxprune.export_onnx(around, x, tmp_path / "slim.onnx")
    assert report.max_error_inputs is not None
    # Some steps of a method on the wrapped model, as it is trained.
    method = SSR(outer, fxprune.couple(traced), lam=0.1)
    before = float(method.penalty())
    assert before > 0


def test_parts_that_are_compiled_are_traced() -> None:
    net = _net()
    net[0] = torch.compile(net[0])
    net.compile()
    traced = fxprune.trace(net, torch.randn(2, 4))
    plan = fxprune.remove(traced, {("0._orig_mod.weight", 0): [1]})
    small = fxprune.slim(traced, plan)
    assert fxprune.verify(traced, plan, small).error < 1e-10


def test_a_model_with_a_part_called_module_is_no_wrapper() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.module(x))

    net = Own()
    assert unwrapped(net) is net
    assert fxprune.trace(net, torch.zeros(1, 4)).names[0] == "module.weight"

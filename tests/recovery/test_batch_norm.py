"""Batch norm restated: statistics of what it reads, and its function kept or not."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from fxprune.recovery.batch_norm import Norm


def norm(channels: int) -> tuple[nn.BatchNorm2d, Norm]:
    module = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor in (module.weight, module.bias, module.running_mean):
            assert tensor is not None
            tensor.normal_()
        assert module.running_var is not None
        module.running_var.uniform_(0.5, 2)
    assert module.running_mean is not None and module.running_var is not None
    tensors = (t.detach() for t in (module.weight, module.bias, module.running_mean, module.running_var))
    return module.eval(), Norm(*tensors, module.eps)


def test_the_function_stays_and_training_agrees_with_evaluation() -> None:
    module, mine = norm(5)
    x = torch.randn(64, 5, 7, 7) * 3 + 2
    before = module(x).detach()
    mine.restate(x.split(16), keep=True)
    assert torch.allclose(module(x), before, atol=1e-5)
    # The variance of a sample of n differs from that of a batch by n / (n - 1).
    assert torch.allclose(module.train()(x), before, atol=1e-2)


def test_statistics_alone_change_the_function_to_that_of_training() -> None:
    module, mine = norm(5)
    x = torch.randn(64, 5, 7, 7) * 3 + 2
    before = module(x).detach()
    mine.restate([x], keep=False)
    assert not torch.allclose(module(x), before, atol=0.1)
    trained = F.batch_norm(x, None, None, module.weight, module.bias, training=True)
    assert torch.allclose(module(x), trained, atol=1e-2)


def test_an_absorbed_offset_acts_as_if_it_were_added_before() -> None:
    module, mine = norm(3)
    x, offset = torch.randn(8, 3, 4, 4), torch.tensor([1.0, -2.0, 0.5])
    expected = module(x + offset.view(1, 3, 1, 1)).detach()
    mine.absorb(offset)
    assert torch.allclose(module(x), expected, atol=1e-5)


def test_a_copy_keeps_what_is_changed_after_it() -> None:
    module, mine = norm(3)
    x = torch.randn(8, 3, 4, 4) * 9
    before, saved = module(x).detach(), mine.copy()
    mine.restate([x], keep=False)
    mine.take(saved)
    assert torch.equal(module(x), before)
    assert mine.off(x, before) == 0

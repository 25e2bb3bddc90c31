"""Samples: the inputs on which two models are compared."""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree

from fxprune.proof.masks.runs import Sample

__all__ = ["another_batch", "in_batches", "random_like"]


def in_batches(sample: Sample, size: int) -> list[Sample]:
    """The samples in batches of that size; the last one is filled up with the first samples."""
    given = _size(sample)
    order = torch.arange(-(-given // size) * size) % given
    return [_at(sample, index) for index in order.split(size)]


def another_batch(sample: Sample) -> Sample:
    """One sample more: a batch size that is written down somewhere shows."""
    size = _size(sample)
    return _at(sample, torch.arange(size + 1) % size)


def _size(sample: Sample) -> int:
    """Samples in it; numbers beside them may be tensors, too."""
    leaves = pytree.tree_leaves((sample[0], dict(sample[1])))
    return next(len(t) for t in leaves if isinstance(t, torch.Tensor) and t.ndim)


def _at(sample: Sample, index: torch.Tensor) -> Sample:
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: t[index.to(t.device)] if t.ndim else t, (sample[0], dict(sample[1]))
    )
    return args, kwargs


def random_like(sample: Sample, seed: int) -> tuple[tuple[object, ...], dict[str, object]]:
    """Random floating inputs of the same shapes; indices and masks stay as they are."""
    generator = torch.Generator().manual_seed(seed)

    def redraw(t: torch.Tensor) -> torch.Tensor:
        if not t.is_floating_point():
            return t
        return torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype).to(t.device)

    args, kwargs = pytree.tree_map_only(torch.Tensor, redraw, (sample[0], dict(sample[1])))
    return args, kwargs

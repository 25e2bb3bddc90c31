"""Access to parameters that may be sharded: the one place that knows about DTensor.

Everything a regulariser does is a sum over slices or a product with one factor per slice.  Both
work on the part of a parameter that this process holds; sums then need one reduction over the
processes, for all parameters together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

if dist.is_available():
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

__all__ = ["Part", "all_reduce", "assembled", "gathering", "held", "is_sharded", "part", "wrapped"]


@dataclass(frozen=True)
class Part:
    """Which slice of a parameter this process holds.

    Attributes:
        start: First index along each dimension.
        size: Extent along each dimension.
        whole: The process holds everything.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    whole: bool


def is_sharded(tensor: Tensor) -> bool:
    """Whether processes hold parts of a tensor."""
    return dist.is_available() and isinstance(tensor, DTensor)


def gathering(owner: nn.Module) -> list[nn.Module]:
    """Modules that swap their sharded parameters for whole ones while they compute.

    Such a module may still hold the whole ones after its forward pass; its ``reshard()`` brings the
    parameters back that the optimizer knows.
    """
    return [m for m in owner.modules() if dist.is_available() and isinstance(m, FSDPModule)]


def assembled(tensor: Tensor) -> Tensor:
    """A copy of the whole tensor on the CPU; every process has to ask."""
    whole = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return whole.detach().to("cpu", copy=True)


def held(tensor: Tensor) -> Tensor:
    """The plain tensor this process holds, sharing storage and cut off from autograd."""
    if is_sharded(tensor):
        return tensor.detach().to_local()  # type: ignore[attr-defined, no-any-return]
    return tensor.detach()


def part(tensor: Tensor) -> Part:
    """Which slice of the full tensor ``held`` returns."""
    if not is_sharded(tensor):
        return Part((0,) * tensor.ndim, tuple(tensor.shape), whole=True)
    size, start = compute_local_shape_and_global_offset(
        tensor.shape,
        tensor.device_mesh,  # type: ignore[attr-defined]
        tensor.placements,  # type: ignore[attr-defined]
    )
    return Part(tuple(start), tuple(size), whole=tuple(size) == tuple(tensor.shape))


def wrapped(values: Tensor, like: Tensor) -> Tensor:
    """Give a plain local tensor the placement of ``like``, whose held part it is the size of."""
    if not is_sharded(like):
        return values
    return DTensor.from_local(
        values,
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def all_reduce(values: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """Sum over the processes among which ``tensors`` are split; in place, nothing if none is."""
    for tensor in tensors:
        if not is_sharded(tensor):
            continue
        mesh = tensor.device_mesh  # type: ignore[attr-defined]
        for dim, placement in enumerate(tensor.placements):  # type: ignore[attr-defined]
            if isinstance(placement, Shard):
                dist.all_reduce(values, group=mesh.get_group(dim))
        break  # one mesh for all parameters: that is what fully_shard makes
    return values

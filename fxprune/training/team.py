"""The processes that train together, one or several, and the device each of them has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fxprune.errors import FxpruneError
from fxprune.regularizers.terms.local import is_sharded

if dist.is_available():
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

__all__ = ["Team", "computes_bf16", "inner", "laid_like", "shard_dims", "team"]

Precision = Literal["no", "bf16", "fp16"]
Parallel = Literal["ddp", "fsdp"]


class Team:
    """One process's view of all of them.

    Args:
        accelerator: Knows the device, the precision and the other processes.
        parallel: How several processes share a model.

    Attributes:
        precision: Of the forward passes.
        device: Where this process computes.
        rank: Its number.
        world: How many there are.
    """

    def __init__(self, accelerator: Accelerator, parallel: Parallel, precision: Precision) -> None:
        self._accelerator = accelerator
        self.precision = precision
        self.device: torch.device = accelerator.device
        self.rank = int(accelerator.process_index)
        self.world = int(accelerator.num_processes)
        self.sharded = parallel == "fsdp" and self.world > 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def spread(self, model: nn.Module) -> nn.Module:
        """Make a model on this device the model of all processes.

        Args:
            model: The same on every process; with ``fsdp`` it is changed in place.
        """
        if self.world == 1:
            return model
        if self.sharded:
            _shard(model)
            return model
        on_gpu = self.device.type == "cuda"
        return DistributedDataParallel(model, device_ids=[self.device] if on_gpu else None)

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """An optimizer that scales gradients where the precision asks for it."""
        prepared: torch.optim.Optimizer = self._accelerator.prepare_optimizer(optimizer)
        return prepared

    def autocast(self) -> AbstractContextManager[None]:
        """Context in which models run in the precision asked for."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    def stepped(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer of this team has really stepped: fp16 leaves a step out where a gradient overflows."""
        assert isinstance(optimizer, AcceleratedOptimizer), "made by Team.optimizer"
        return not optimizer.step_was_skipped

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled where the precision asks for it."""
        self._accelerator.backward(loss)

    def clip(self, model: nn.Module, norm: float) -> None:
        """Bound the norm of the gradient."""
        self._accelerator.unscale_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), norm)

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.world == 1:
            return values
        summed: Tensor = self._accelerator.reduce(values, reduction="sum")
        return summed

    def each(self, value: object) -> list[object]:
        """The value of every process, in the order of their numbers."""
        gathered: list[object] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(gathered, value)
        return gathered

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()


@contextmanager
def team(
    *, device: Literal["auto", "cpu"], mixed_precision: Literal["auto"] | Precision, parallel: Parallel
) -> Iterator[Team]:
    """The processes that were started together (by ``accelerate launch`` or ``torchrun``), or just this one.

    Args:
        device: ``auto`` takes an accelerator if there is one.
        mixed_precision: Of the forward passes; ``auto`` takes bf16 where the device computes it natively.
        parallel: How several processes share a model; ``accelerate launch --use_fsdp`` asks for ``fsdp``, too.

    Raises:
        FxpruneError: The device cannot compute in this precision.
    """
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        parallel = "fsdp"
    if mixed_precision == "fp16" and on_cpu:
        raise FxpruneError("fp16 needs a GPU", advice="on a CPU use mixed_precision: bf16")
    if mixed_precision == "auto":
        mixed_precision = "bf16" if computes_bf16("cpu" if on_cpu else _accelerator()) else "no"
    try:
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed_precision)
    except (ValueError, RuntimeError) as error:
        raise FxpruneError(
            f"the processes cannot be set up: {error}", advice="check device and mixed_precision"
        ) from error
    try:
        yield Team(accelerator, parallel, mixed_precision)
    finally:
        accelerator.end_training()
        # The next run in this Python may want another precision.
        AcceleratorState._reset_state(reset_partial_state=True)


def _accelerator() -> str:
    accelerator = torch.accelerator.current_accelerator()
    return "cpu" if accelerator is None else accelerator.type


def computes_bf16(device: str) -> bool:
    """Whether a kind of device has instructions for bf16, so that it is faster than float32 there.

    A CPU without them (AVX-512 BF16 or AMX) converts back and forth instead: ten times slower than
    float32 was measured for a ResNet-20 on AVX2.

    Args:
        device: ``"cpu"``, ``"cuda"``, ...; unknown kinds do not.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def inner(model: nn.Module) -> nn.Module:
    """The user's module inside what ``spread`` made of it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def _shard(model: nn.Module) -> None:
    """Each child on its own, so that not all parameters are whole at once, then the rest."""
    for child in model.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            _shard_items(child)
        elif any(p.requires_grad for p in child.parameters()):
            fully_shard(child)
    fully_shard(model)


def _shard_items(container: nn.Module) -> None:
    """A list of modules is never called itself."""
    for child in container.children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            _shard_items(child)
        elif any(p.requires_grad for p in child.parameters()):
            fully_shard(child)


# --- sharded tensors -------------------------------------------------------------------------


def shard_dims(tensor: Tensor) -> list[int] | None:
    """Along which dimensions a tensor is split, -1 for copies; None for one that is whole."""
    if not is_sharded(tensor):
        return None
    return [p.dim if isinstance(p, Shard) else -1 for p in tensor.placements]  # type: ignore[attr-defined]


def laid_like(values: Tensor, like: Tensor, dims: list[int] | None = None) -> Tensor:
    """Whole values on the device, and split as a tensor is (or along other dimensions of its mesh)."""
    if not is_sharded(like):
        return (
            torch.empty_like(like, dtype=values.dtype).copy_(values)
            if dims is None
            else values.to(like.device)
        )
    placements: list[Placement] = list(like.placements)  # type: ignore[attr-defined]
    if dims is not None:
        placements = [Shard(dim) if dim >= 0 else Replicate() for dim in dims]
    return distribute_tensor(values.to(like.device), like.device_mesh, placements)  # type: ignore[attr-defined]

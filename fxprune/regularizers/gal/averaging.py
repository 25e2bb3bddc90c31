"""Means over data-parallel processes, for what a method computes beside the wrapped model."""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fxprune.errors import PlanError
from fxprune.regularizers.terms.local import part

__all__ = ["Averaging"]


class Averaging:
    """Averages gradients that do not pass through the wrapper of the model.

    Args:
        model: The model, wrapped or not; nothing is averaged unless it is a ``DistributedDataParallel``.

    Raises:
        PlanError: Its parameters are sharded.
    """

    def __init__(self, model: nn.Module) -> None:
        if not all(part(p).whole for p in model.parameters()):
            raise PlanError(
                "a masked graph cannot run on sharded parameters",
                advice="use DistributedDataParallel, or one process",
            )
        self._group = model.process_group if isinstance(model, DistributedDataParallel) else None
        self._handles: list[object] = []

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the processes, in place."""
        if self._group is not None:
            dist.all_reduce(tensor, group=self._group)
            tensor /= self._group.size()
        return tensor

    def watch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average every gradient of these parameters as it arrives."""
        if self._group is not None:
            self._handles = [
                p.register_hook(lambda g: self.mean(g.clone())) for p in parameters if p.requires_grad
            ]

    def stop(self) -> None:
        """Watch no longer."""
        for handle in self._handles:
            handle.remove()  # type: ignore[attr-defined]
        self._handles = []

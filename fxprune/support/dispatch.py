"""Watching the operators that torch runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Watching"]


class Watching(TorchDispatchMode, ABC):
    """A dispatch mode that is asked for the result of every operator, and of nothing else."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @abstractmethod
    def called(
        self, func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        """The result of an operator; torch itself gives it by ``func(*args, **kwargs)``."""

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """What torch calls."""
        return self.called(func, args, kwargs or {})

"""What is left of every tensor: a state beside each element, shared by all views of the same memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["ALIVE", "DEAD", "FREE", "States"]

FREE, ALIVE, DEAD = 0, 1, 2
"""A literal (zeros, padding) that no parameter stands behind; left; gone.

Where two meet in one element the larger one wins, and operators that fill with zeros fill with literals.
"""


@dataclass(eq=False)
class _Entry:
    """The states of one piece of memory.

    Attributes:
        memory: Weak reference to it; as long as it is held, no other memory takes its place in the table.
        unit: Bytes that one state stands for.
        flat: uint8, a state for each unit.
        lost: Why nothing can be said about it, or empty.
        doubt: Why a difference need not be a fault, or empty.
    """

    memory: StorageWeakRef
    unit: int
    flat: Tensor
    lost: str = ""
    doubt: str = ""


class States:
    """States by memory: movement that makes a view, and writing through one, need no law."""

    def __init__(self) -> None:
        self._table: dict[int, _Entry] = {}
        self._limit = 256

    def known(self, tensor: Tensor) -> bool:
        """Whether anything but life is noted of the memory."""
        return self._key(tensor) in self._table

    def of(self, tensor: Tensor) -> Tensor | None:
        """uint8 of the tensor's shape (a view); None where everything is alive."""
        entry = self._table.get(self._key(tensor))
        if entry is None:
            return None
        if entry.unit != _unit(tensor):
            entry.lost = entry.lost or "memory is read as another type"
            return None
        return _seen(entry.flat, tensor)[..., 0]

    def set(self, tensor: Tensor, state: Tensor | None) -> None:
        """Note the states of a tensor, or of a part of some memory; None is life."""
        entry = self._table.get(self._key(tensor))
        if entry is None:
            if state is None or tensor.layout is not torch.strided:
                return
            entry = self._enter(tensor)
        if entry.unit != _unit(tensor):
            entry.lost = entry.lost or "memory is written as another type"
            return
        where = _seen(entry.flat, tensor)
        if state is None:
            where.fill_(ALIVE)
        else:
            where.copy_(state.expand(tensor.shape)[..., None].expand(where.shape))

    def lost(self, tensor: Tensor) -> str:
        """Why nothing can be said about a tensor, or empty."""
        entry = self._table.get(self._key(tensor))
        return entry.lost if entry else ""

    def doubt(self, tensor: Tensor) -> str:
        """Why a difference need not be a fault, or empty."""
        entry = self._table.get(self._key(tensor))
        return entry.doubt if entry else ""

    def warn(self, tensor: Tensor, lost: str, doubt: str) -> None:
        """Note that nothing, or not everything, can be said about a tensor."""
        if not lost and not doubt:
            return
        entry = self._table.get(self._key(tensor)) or self._enter(tensor)
        entry.lost, entry.doubt = entry.lost or lost, entry.doubt or doubt

    def _enter(self, tensor: Tensor) -> _Entry:
        if len(self._table) > self._limit:
            self._table = {k: e for k, e in self._table.items() if not e.memory.expired()}
            self._limit = 2 * len(self._table) + 256
        storage = tensor.untyped_storage()
        unit = _unit(tensor)
        flat = torch.full((storage.nbytes() // unit,), ALIVE, dtype=torch.uint8, device=tensor.device)
        entry = self._table[self._key(tensor)] = _Entry(StorageWeakRef(storage), unit, flat)
        return entry

    @staticmethod
    def _key(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else -id(tensor)


def _unit(tensor: Tensor) -> int:
    """Bytes of a real number of the tensor's type."""
    return tensor.element_size() // (2 if tensor.is_complex() else 1)


def _seen(flat: Tensor, tensor: Tensor) -> Tensor:
    """The states as the tensor sees its memory, with one dimension more: the parts of complex numbers."""
    parts = 2 if tensor.is_complex() else 1
    strides = [parts * s for s in tensor.stride()]
    return flat.as_strided([*tensor.shape, parts], [*strides, 1], parts * tensor.storage_offset())

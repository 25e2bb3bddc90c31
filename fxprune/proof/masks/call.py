"""One call of an operator as the laws see it, and lines of states."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxprune.models.conditions import Values
from fxprune.proof.masks.states import ALIVE, DEAD, FREE, States

__all__ = [
    "Call",
    "Law",
    "Result",
    "State",
    "Unknown",
    "counted",
    "emptied",
    "merged",
    "mixed",
    "padded",
    "unmixed",
]

State = Tensor | None


class Unknown(Exception):
    """Nothing can be said about what this call returns."""


@dataclass
class Call:
    """One call of an operator.

    Attributes:
        func: The operator.
        values: Arguments by name, defaults included.
        states: What is left of every tensor.
        plain: Runs an operator on values.
        composed: Runs a function of torch under the masks, for operators that are made of others.
        follow: Statistics run over what is left, and literals made in the likeness of a tensor lose what it
            loses; else zeros stand in the place of what is gone, and count.
        doubt: Why a difference need not be a fault.
    """

    func: torch._ops.OpOverload
    values: Values
    states: States
    plain: Callable[[torch._ops.OpOverload, Values], object]
    composed: Callable[[Callable[[], object]], object]
    follow: bool
    doubt: str = ""
    loose: bool = field(default=False)

    def __getitem__(self, name: str) -> object:
        return self.values.get(name)

    def tensor(self, name: str) -> Tensor:
        """An operand that must be there."""
        value = self.values[name]
        assert isinstance(value, Tensor)
        return value

    def first(self) -> str:
        """Name of the first operand that is a tensor."""
        return next(n for n, v in self.values.items() if isinstance(v, Tensor))

    def state(self, tensor: object) -> Tensor:
        """States of an operand, alive where nothing is noted; literals share the fate of their slices."""
        assert isinstance(tensor, Tensor)
        state = self.states.of(tensor)
        if state is None:
            return torch.full(tensor.shape, ALIVE, dtype=torch.uint8, device=tensor.device)
        return settled(state) if self.follow else state

    def run(self, /, **changed: object) -> object:
        """The operator with some arguments changed."""
        return self.plain(self.func, {**self.values, **changed})

    def without(self, name: str, fill: float = 0.0) -> Tensor:
        """An operand with something in the place of what is gone: zeros where a removal is said to be exact."""
        tensor = self.tensor(name)
        state = None if self.states.of(tensor) is None else self.state(tensor)
        if state is None or not bool((state == DEAD).any()):
            return tensor
        value = _within(fill if self.follow else 0.0, tensor.dtype)
        return torch.where(state == DEAD, torch.full((), value, dtype=tensor.dtype), tensor)

    def counts(self, state: Tensor) -> Tensor:
        """bool, which positions statistics count."""
        return state != DEAD if self.follow else torch.ones_like(state, dtype=torch.bool)

    def dims(self, *names: str) -> list[int]:
        """Dimensions that the operator works along: those of the first argument that names any, all if none does."""
        ndim = self.tensor(self.first()).ndim
        given = next((self.values[n] for n in names if self.values.get(n) is not None), None)
        chosen = range(ndim) if given is None or given == [] else [given] if isinstance(given, int) else given
        return sorted({d % max(ndim, 1) for d in chosen})  # type: ignore[attr-defined]


Result = tuple[object, State | Sequence[State | Unknown]]
"""What the operator returns, and the states of each tensor in it (one for all, if there is only one)."""

Law = Callable[[Call], Result]


def _within(fill: float, dtype: torch.dtype) -> float | int | bool:
    """The value, or what comes next to it in a type that has no infinity."""
    if dtype.is_floating_point or dtype.is_complex:
        return fill
    if dtype == torch.bool:
        return fill > 0
    return int(fill) if math.isfinite(fill) else getattr(torch.iinfo(dtype), "max" if fill > 0 else "min")


def merged(state: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    """State of each line: alive if anything in it is, else gone if anything is."""
    if not dims:
        return state
    alive = (state == ALIVE).amax(dims, keepdim=keepdim)
    dead = (state == DEAD).amax(dims, keepdim=keepdim)
    return torch.where(alive, ALIVE, torch.where(dead, DEAD, FREE)).to(torch.uint8)


def settled(state: Tensor) -> Tensor:
    """States in which literals share the fate of their slice: padding lives and goes with the channel it is laid around.

    Where slices along two dimensions say different things (a row overwritten in every channel, one of which is gone)
    it stays a literal.
    """
    free, alive, dead = state == FREE, state == ALIVE, state == DEAD
    if not bool(free.any()) or not bool(dead.any()):
        return state
    living, dying = torch.zeros_like(free), torch.zeros_like(free)
    for dim in range(state.ndim):
        others = [d for d in range(state.ndim) if d != dim]
        lives, dies = (one.amax(others, keepdim=True) for one in (alive, dead))
        if bool((dies & ~lives).any()):
            living, dying = living | (lives & ~dies), dying | (dies & ~lives)
    state = torch.where(free & dying & ~living, DEAD, torch.where(free & living & ~dying, ALIVE, state))
    return state.to(torch.uint8)


def mixed(state: Tensor, dims: list[int]) -> bool:
    """Some line along the dimensions holds both what is left and what is gone."""
    return bool(dims) and bool(((state == ALIVE).amax(dims) & (state == DEAD).amax(dims)).any())


def padded(state: Tensor, dims: list[int]) -> bool:
    """Some line holds both literals and what is gone: some of the literals may be gone as well."""
    return bool(dims) and bool(((state == FREE).amax(dims) & (state == DEAD).amax(dims)).any())


def unmixed(call: Call, name: str, dims: list[int]) -> Tensor:
    """State of each line of an operand that holds either what is left or what is gone, reduced dimensions kept."""
    state = call.state(call.tensor(name))
    if mixed(state, dims):
        raise Unknown(f"{call.func} works across positions that are gone")
    return merged(state, dims, keepdim=True)


def emptied(state: Tensor, dims: list[int]) -> bool:
    """Of some line nothing is left but literals."""
    alive, dead, free = (
        ((state == kind).amax(dims) for kind in (ALIVE, DEAD, FREE)) if dims else [state[:0]] * 3
    )
    return bool((dead & free & ~alive).any())


def counted(call: Call, state: Tensor, dims: list[int]) -> None:
    """Statistics over a line count its positions."""
    if padded(state, dims):
        call.doubt = f"{call.func} counts literals beside what is gone"

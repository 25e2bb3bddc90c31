"""What is met, moved or made: laws for operators that work position by position, or along whole lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fxprune.models.conditions import Values
from fxprune.proof.masks.call import Call, Law, Result, State, Unknown, settled, unmixed
from fxprune.proof.masks.states import ALIVE, DEAD, FREE

__all__ = [
    "along",
    "bagged",
    "composed",
    "copied",
    "drawn",
    "elementwise",
    "last",
    "likeness",
    "literal",
    "moved",
    "named",
    "nothing",
    "overwritten",
    "parts",
    "picked",
    "same",
]


def elementwise(call: Call) -> Result:
    """What meets something gone is gone."""
    states: list[Tensor | None] = [
        call.states.of(t) for t in pytree.tree_leaves(call.values) if isinstance(t, Tensor)
    ]
    known = [s for s in states if s is not None]
    state = known[0] if known else None
    for other in known[1:]:
        state = torch.maximum(state, other)  # type: ignore[arg-type]
    if state is not None and len(known) < len(states):
        state = state.clamp_min(ALIVE)
    return call.run(), state


def same(call: Call) -> Result:
    """The states of the first operand."""
    state = call.states.of(call.tensor(call.first()))
    return call.run(), state


def copied(call: Call) -> Result:
    """The states of what is written."""
    before = _before(call)
    result, state = call.run(), call.states.of(call.tensor("src"))
    return result, state if state is None else _over(before, state)


def literal(call: Call) -> Result:
    """Numbers that the model's code writes down."""
    before = _before(call) if call.func._schema.name.endswith("_") else None
    return call.run(), _over(before, torch.full((), FREE, dtype=torch.uint8))


def _before(call: Call) -> Tensor | None:
    """States of what is written into, where statistics run over what is left."""
    return call.state(call.tensor(call.first())).clone() if call.follow else None


def _over(before: Tensor | None, written: Tensor) -> Tensor:
    """A literal neither brings back what is gone nor makes less of what is left."""
    return written if before is None else torch.where(written == FREE, before, written).to(torch.uint8)


def likeness(call: Call) -> Result:
    """A literal in the likeness of a tensor."""
    result, state = literal(call)
    return result, call.states.of(call.tensor("self")) if call.follow else state


def drawn(call: Call) -> Result:
    """Random numbers in the likeness of a tensor (or nothing yet) lose what it loses."""
    result = call.run()
    return result, call.states.of(call.tensor("self"))


def moved(*kept: str, literals: Sequence[str] = ("value",)) -> Law:
    """Movement: the operator itself moves the states.  ``kept`` are operands that say where, none of them gone."""

    def law(call: Call) -> Result:
        if call["accumulate"] or call["reduce"]:
            raise Unknown(f"{call.func} adds up")
        for name in kept:
            for index in pytree.tree_leaves(call[name]):
                if (
                    isinstance(index, Tensor)
                    and (s := call.states.of(index)) is not None
                    and (s == DEAD).any()
                ):
                    raise Unknown(f"{call.func} takes positions from what is gone")
        clear: Values = {n: 0 for n in literals if isinstance(call[n], (int, float))}
        result = call.run()
        return result, _on_states(call, kept, clear)

    return law


def overwritten(*kept: str) -> Law:
    """A tensor with other entries in some places; ``kept`` say where."""
    move = moved(*kept)

    def law(call: Call) -> Result:
        before = _before(call)
        result, state = move(call)
        return result, _over(before, state) if isinstance(state, Tensor) else state

    return law


def picked(call: Call) -> Result:
    """An index entry for each position of the result: where the entry is gone, so is what it picks."""
    result = call.run()
    moved_states = _on_states(call, ("index",), {})
    state = call.states.of(call.tensor("index"))
    if state is None:
        return result, moved_states
    assert isinstance(moved_states, Tensor)
    return result, torch.where(state == DEAD, DEAD, moved_states).to(torch.uint8)


def bagged(call: Call) -> Result:
    """Rows of a table summed or compared column by column; the numbers beside the result say where the bags are."""
    columns = unmixed(call, "weight", [0])
    for name in ("indices", "offsets", "per_sample_weights"):
        if isinstance(call[name], Tensor) and bool((call.state(call[name]) == DEAD).any()):
            raise Unknown(f"'{name}' of {call.func} has lost something")
    result = call.run()
    assert isinstance(result, tuple)
    bags, *others = result
    return result, [columns.expand(bags.shape), *[Unknown("where bags lie")] * len(others)]


def _on_states(call: Call, kept: Sequence[str], clear: Values) -> State | list[State]:
    """The operator (its variant that does not write into its operand) on states."""

    def on(kind: torch.dtype) -> object:
        moving = {
            n: v
            if n in kept
            else pytree.tree_map_only(Tensor, lambda t: call.state(t).to(kind, copy=True), v)
            for n, v in call.values.items()
            if n not in ("dtype", "out")
        }
        return call.func(**{**moving, **clear})

    try:
        result = on(torch.uint8)
    except (RuntimeError, NotImplementedError):  # some kernels know floating types only
        result = on(torch.float64)
    leaves = pytree.tree_leaves(result)
    states: list[State] = [settled(t.round().to(torch.uint8) if t.is_floating_point() else t) for t in leaves]
    return states[0] if isinstance(result, Tensor) else states


def nothing(call: Call) -> Result:
    """Changes how memory is seen, or nothing."""
    call.loose = True
    return call.run(), None


def composed(of: Callable[[Call], object]) -> Law:
    """Made of other operators."""

    def law(call: Call) -> Result:
        call.loose = True  # its parts have noted their states themselves
        return call.composed(lambda: of(call)), None

    return law


def parts(call: Call) -> object:
    """Torch's own composition."""
    places = [a.name for a in call.func._schema.arguments if not a.kwarg_only]
    others = {n: v for n, v in call.values.items() if n not in places}
    return call.func.decompose(*(call.values[n] for n in places), **others)


def along(dims: Callable[[Call], Sequence[int]], *others: str, beside: str = "") -> Law:
    """What works along some dimensions only, any way it likes: lines that are whole, or gone as a whole.

    Of ``others`` nothing may be gone; ``beside`` has the same lines, and what is gone in either is gone.
    """

    def law(call: Call) -> Result:
        name = call.first()
        x = call.tensor(name)
        touched = sorted({d % x.ndim for d in dims(call)})
        line = unmixed(call, name, touched)
        for other in others:
            if isinstance(value := call[other], Tensor) and bool((call.state(value) == DEAD).any()):
                raise Unknown(f"'{other}' of {call.func} has lost something")
        if beside:
            line = torch.maximum(line, unmixed(call, beside, touched))
        result = call.run()
        states = [_fitted(line, touched, t) for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        return result, states

    return law


def _fitted(line: Tensor, touched: Sequence[int], result: Tensor) -> State | Unknown:
    """States of lines for a result with other extents along them, or without them."""
    state = line if result.ndim == line.ndim else line.squeeze(tuple(touched))
    if (
        state.ndim
        and len(state) not in (1, len(result) if result.ndim else 1)
        and bool((state == state[:1]).all())
    ):
        state = state[:1]  # regions instead of samples
    if result.ndim != state.ndim:
        return Unknown("the result has other dimensions")
    try:
        return state.expand(result.shape)
    except RuntimeError:
        return Unknown("the result has other dimensions")


def last(count: int) -> Callable[[Call], Sequence[int]]:
    """The last dimensions."""
    return lambda call: list(range(-count, 0))


def named(*names: str) -> Callable[[Call], Sequence[int]]:
    """The dimensions that an argument names."""
    return lambda call: call.dims(*names)

"""The dense model under masks: the second oracle, which knows a plan and no rules.

The user's module runs under a dispatch mode with a state beside every element: what the plan keeps of a parameter
is alive, the rest is gone, and every operator passes this on by laws of its own (``fxprune.proof.masks.laws``).  What
the laws do not cover is *not judged*, and so is all that depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.models.conditions import Conditions, Values, copied, named_arguments, unfused
from fxprune.models.distance import Limits
from fxprune.plans import Plan
from fxprune.proof.masks.call import Call, Unknown
from fxprune.proof.masks.judging import Comparison, Output, judge
from fxprune.proof.masks.laws import law_of
from fxprune.proof.masks.runs import Sample, Watch, is_output, jittered, returned, run, typed
from fxprune.proof.masks.states import ALIVE, DEAD, FREE, States

__all__ = ["Comparison", "Masked", "compare", "masked_outputs"]


class Masked(Conditions):
    """Runs a model and keeps, beside every tensor, what is left of it.

    Args:
        dtype: The floating type.
        follow: Statistics run over what is left, and literals made in the likeness of a tensor lose what it loses.
            Where a plan removes only what is said to be exact, zeros stand in the place of what is gone and count.
    """

    def __init__(self, dtype: torch.dtype, *, follow: bool) -> None:
        super().__init__(dtype)
        self.follow = follow
        self.states = States()
        self.astray = ""

    def called(
        self, func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> object:
        """Run one operator and note what is left of its result."""
        values = named_arguments(func, args, kwargs)
        given = [t for t in pytree.tree_leaves(values) if isinstance(t, Tensor)]
        if not given:
            return self._noted(self.run(func, values), torch.full((), FREE, dtype=torch.uint8))
        if func.is_view:
            return self._viewed(func, values)
        if not any(map(self.states.known, given)):
            return self.run(func, values)
        lost = next(filter(None, map(self.states.lost, given)), "")
        if lost:
            return self._lost(func, values, lost)
        try:
            result, doubt = self._lawful(func, values)
        except Unknown as unknown:
            return self._lost(func, values, str(unknown))
        doubt = next(filter(None, map(self.states.doubt, given)), doubt)
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.states.warn(tensor, "", doubt)
        return result

    def _viewed(self, func: torch._ops.OpOverload, values: Values) -> object:
        """A view shares its memory and so its states; where reshape and its like must copy, the states are copied too."""
        result = self.run(func, values)
        name = func._schema.arguments[0].name
        given = values[name]
        if not isinstance(given, Tensor) or not isinstance(result, Tensor) or not self.states.known(given):
            return result
        if result.untyped_storage()._cdata != given.untyped_storage()._cdata:
            state = self.states.of(given)
            if state is not None:
                moved = self.run(func, {**values, name: state})
                assert isinstance(moved, Tensor)
                self.states.set(result, moved.to(torch.uint8))
            self.states.warn(result, self.states.lost(given), self.states.doubt(given))
        return result

    def _lawful(self, func: torch._ops.OpOverload, values: Values) -> tuple[object, str]:
        law = law_of(func)
        if law is None:
            if self._gone(values):
                raise Unknown(f"there is no law for {func}")
            return self._noted(self.run(func, values), None), ""
        defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        call = Call(func, {**defaults, **values}, self.states, self.run, self._composed, self.follow)
        result, state = law(call)
        if call.loose:
            return result, call.doubt
        return self._written(func, values, self._noted(result, state)), call.doubt

    def _gone(self, values: Values) -> bool:
        """Some operand has lost something."""
        states = [self.states.of(t) for t in pytree.tree_leaves(values) if isinstance(t, Tensor)]
        return any(s is not None and bool((s == DEAD).any()) for s in states)

    def _noted(self, result: object, state: object) -> object:
        tensors = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        states: list[Tensor | Unknown | None]
        states = list(state) if isinstance(state, (list, tuple)) else [state] * len(tensors)  # type: ignore[list-item]
        for tensor, one in zip(tensors, states, strict=True):
            if isinstance(one, Unknown):
                self.states.warn(tensor, str(one), "")
            else:
                self.states.set(tensor, one)
        return result

    def _written(self, func: torch._ops.OpOverload, values: Values, result: object) -> object:
        """Where an operator writes into its operand, the result of the law is written there."""
        if not func._schema.name.endswith("_"):
            return result
        own = values[func._schema.arguments[0].name]
        assert isinstance(own, Tensor) and isinstance(result, Tensor)
        if own.data_ptr() != result.data_ptr():
            state = self.states.of(result)
            own.copy_(result)
            self.states.set(own, state)
        return own

    def _lost(self, func: torch._ops.OpOverload, values: Values, why: str) -> object:
        result = self.run(func, values)
        leaves = pytree.tree_leaves(result)
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                self.states.warn(leaf, why, "")
            elif leaf is not None:
                self.astray = self.astray or f"Python reads a number: {why}"
        return result

    def _composed(self, run: Callable[[], object]) -> object:
        with self:
            return run()


def masked_outputs(
    model: nn.Module,
    plan: Plan,
    sample: Sample,
    *,
    exact: bool,
    dtype: torch.dtype,
    watch: Watch = returned,
) -> dict[str, Output]:
    """Run the dense model with what a plan removes masked out.

    Args:
        model: The dense model; a private copy runs.
        plan: What stays.
        sample: Arguments.
        exact: The plan removes only what is said to be exact: no statistics, and no constants, may notice.
        dtype: The floating type.
        watch: What is judged.
    """
    copy = copied(model, dtype)
    mode = Masked(dtype, follow=not exact)
    _mask(copy, plan, mode.states)
    with torch.no_grad(), mode, unfused():
        tensors = watch(copy, typed(sample, dtype))
    return {name: _output(mode, t, inner=not is_output(name)) for name, t in tensors.items()}


def _output(mode: Masked, tensor: Tensor, *, inner: bool) -> Output:
    state = mode.states.of(tensor)
    left = None if state is None or not bool((state == DEAD).any()) else state != DEAD
    return Output(tensor, left, mode.astray or mode.states.lost(tensor), mode.states.doubt(tensor), inner)


def _mask(model: nn.Module, plan: Plan, states: States) -> None:
    """Of a parameter is left what is left along all its dimensions; borders that are cropped are zero."""
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    for (name, dim), index in plan.kept.items():
        if name not in tensors:
            continue  # a constant of the graph, which the module's code makes anew
        tensor = tensors[name]
        gone = torch.full((tensor.shape[dim],), DEAD, dtype=torch.uint8, device=tensor.device)
        gone[list(index)] = ALIVE
        known = states.of(tensor)
        state = gone.reshape([-1 if d == dim else 1 for d in range(tensor.ndim)]).expand(tensor.shape)
        states.set(tensor, state if known is None else torch.maximum(known, state))
    for crop in plan.crops:
        weight = tensors[crop.tensor].detach()
        inside = [slice(b, k - a) for k, b, a in zip(crop.kernel, crop.before, crop.after, strict=True)]
        kept = torch.zeros(weight.shape[-len(inside) :], dtype=torch.bool, device=weight.device)
        kept[tuple(inside)] = True
        weight.masked_fill_(~kept, 0)


def compare(
    model: nn.Module,
    plan: Plan,
    slim: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None = None,
    *,
    exact: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Comparison:
    """Compare a slim model with the dense one under masks, on the outputs for one input.

    Args:
        model: The dense model, as the user wrote it.
        plan: The plan.
        slim: The slim model, a module or a graph.
        args: Positional arguments.
        kwargs: Keyword arguments.
        exact: The plan removes only units of groups that are said to be exact.
        dtype: Floating type of the comparison.

    Returns:
        The difference and how much of the outputs it covers.

    Example:
        >>> import fxprune
        >>> net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 6)
        >>> t = fxprune.trace(net, x)
        >>> p = fxprune.plan(t, fxprune.Budget(channels=0.5))
        >>> found = compare(net, p, fxprune.slim(t, p), (x,))
        >>> found.judged, found.error < 1e-9
        (1.0, True)
    """
    sample = (args, kwargs or {})
    expected = masked_outputs(model, plan, sample, exact=exact, dtype=dtype)
    dense, small = (run(m, sample, dtype) for m in (model, slim))
    return judge(expected, dense, small, Limits.of(dtype), lambda: jittered(slim, sample, dtype))

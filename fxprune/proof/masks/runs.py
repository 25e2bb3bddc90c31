"""Runs of a comparison: what a model returns, or what each of its modules does, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxprune.models.conditions import Conditions, cast, copied, unfused

__all__ = ["Sample", "Watch", "everything", "is_output", "jittered", "returned", "run", "typed"]

Sample = tuple[tuple[object, ...], Mapping[str, object]]
"""Positional and keyword arguments of one call."""

Watch = Callable[[nn.Module, Sample], dict[str, Tensor]]
"""Calls a model and picks the tensors that are compared."""

ULPS = 4.0
"""Units in the last place by which ``jittered`` moves weights and inputs."""


def returned(model: nn.Module, sample: Sample) -> dict[str, Tensor]:
    """The tensors that a model returns."""
    leaves = pytree.tree_leaves(model(*sample[0], **sample[1]))
    return {f"output {k}": t for k, t in enumerate(t for t in leaves if isinstance(t, Tensor))}


def everything(model: nn.Module, sample: Sample) -> dict[str, Tensor]:
    """Every tensor that any submodule returns, by place.

    A detector's final boxes may be few or none; its heads always say something.
    """
    seen: dict[str, Tensor] = {}
    calls: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, result: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            for k, tensor in enumerate(t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)):
                seen[f"{name}#{calls[name]}.{k}"] = tensor.clone()

        return hook

    handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules()]
    try:
        model(*sample[0], **sample[1])
    finally:
        for handle in handles:
            handle.remove()
    return seen


def is_output(name: str) -> bool:
    """Whether a tensor of that name is returned by the model itself, not by a submodule."""
    return name.startswith(("output ", "#"))


def typed(sample: Sample, dtype: torch.dtype) -> Sample:
    """A private copy of the arguments, floating (and complex) ones in another type."""

    def own(tensor: Tensor) -> Tensor:
        return cast(tensor.detach(), dtype, copy=True)

    args, kwargs = pytree.tree_map_only(Tensor, own, (sample[0], dict(sample[1])))
    return args, kwargs


def run(model: nn.Module, sample: Sample, dtype: torch.dtype, watch: Watch = returned) -> dict[str, Tensor]:
    """What a private copy of a model does in evaluation mode under the conditions of the comparison.

    Args:
        model: Any module; it is not changed, nor are the arguments.
        sample: Arguments.
        dtype: Floating type to compute in.
        watch: What is looked at.
    """
    copy = copied(model, dtype)
    with torch.no_grad(), Conditions(dtype), unfused():
        return watch(copy, typed(sample, dtype))


def jittered(
    model: nn.Module, sample: Sample, dtype: torch.dtype, watch: Watch = returned
) -> dict[str, Tensor]:
    """The same with weights and inputs moved by a few units in the last place: what rounding may do to the result."""
    random = torch.Generator().manual_seed(0)
    step = ULPS * torch.finfo(dtype).eps

    def moved(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=random, dtype=torch.float64).to(tensor)
        return tensor.detach() * (1 + step * noise)

    copy = copied(model, dtype)
    copy._apply(moved)
    args, kwargs = pytree.tree_map_only(Tensor, moved, typed(sample, dtype))
    with torch.no_grad(), Conditions(dtype), unfused():
        return watch(copy, (args, kwargs))

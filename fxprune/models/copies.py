"""Copies of modules whose tensors are replaced: sliced, in another type, or without numbers."""

from __future__ import annotations

import contextlib
import copy
import copyreg
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils import _pytree as pytree

from fxprune.errors import FxpruneError, SliceError
from fxprune.support.words import headline

__all__ = ["as_parameter", "copied", "held", "on_meta", "unchanged_buffers", "without_numbers"]

Change = Callable[[torch.Tensor], torch.Tensor]

_HOLDERS = frozenset({"_parameters", "_buffers", "_modules"})
_PLAIN = frozenset({bool, int, float, str, type(None)})


def held(model: nn.Module) -> Iterator[torch.Tensor]:
    """Every tensor a model holds: parameters, buffers, and what its code keeps in plain attributes (a cached grid)."""
    for module in model.modules():
        yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None)
        other = [v for n, v in vars(module).items() if type(v) not in _PLAIN and n not in _HOLDERS]
        if not all(map(_is_bare, other)):
            yield from (t for t in pytree.tree_leaves(other) if isinstance(t, torch.Tensor))


def _is_bare(value: object) -> bool:
    """There is surely no tensor in it."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        return not value
    return kind in (tuple, set) and _PLAIN.issuperset(map(type, cast("tuple[object, ...]", value)))


def copied(model: nn.Module, change: Change) -> nn.Module:
    """A copy of a module that holds ``change(tensor)`` in the place of each of its tensors.

    Args:
        model: Left untouched; nothing of it is copied that ``change`` replaces.
        change: Gives the new tensor; what is tied stays tied.

    Raises:
        SliceError: Something in the model cannot be copied.
    """
    # deepcopy takes what is in the memo as already copied: the numbers are never duplicated.
    memo: dict[int, object] = {}
    with torch.no_grad():
        for tensor in held(model):
            if id(tensor) not in memo:
                memo[id(tensor)] = as_parameter(change(tensor), tensor)
    try:
        module = _deepcopy(model, memo)
        assert isinstance(module, nn.Module)
    except FxpruneError:
        raise
    except Exception as error:
        raise SliceError(
            f"the model cannot be copied: {headline(error)}",
            advice="an attribute of the model holds what Python cannot copy (an open file, a lock, another process); "
            "set it aside, or give its class a __deepcopy__",
        ) from error
    _compute_again(module)
    return module


def _deepcopy(value: object, memo: dict[int, object]) -> object:
    """What ``copy.deepcopy`` makes, without its detours for what modules are made of."""
    kind = type(value)
    if id(value) in memo:
        return memo[id(value)]
    if kind in _PLAIN or (isinstance(value, tuple) and _is_bare(value)):
        return value
    if isinstance(value, dict) and (kind is dict or (kind is OrderedDict and not vars(value))):
        memo[id(value)] = table = kind()
        for key, part in value.items():
            table[key if type(key) in _PLAIN else _deepcopy(key, memo)] = _deepcopy(part, memo)
        return table
    if isinstance(value, set) and _is_bare(value):
        memo[id(value)] = entries = value.copy()
        return entries
    if isinstance(value, nn.Module) and _is_its_attributes(value):
        module = type(value).__new__(type(value))
        memo[id(value)] = module
        # The state may be a new dictionary each time: nothing is remembered by its id.
        state = value.__getstate__().items()
        module.__setstate__(
            {name: part if type(part) in _PLAIN else _deepcopy(part, memo) for name, part in state}
        )
        return module
    return copy.deepcopy(value, memo)


def _is_its_attributes(module: nn.Module) -> bool:
    """To copy a module is to copy its attributes: neither its class nor the module itself says otherwise."""
    kind = type(module)
    return (
        "__deepcopy__" not in vars(module)
        and not hasattr(kind, "__deepcopy__")
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and not hasattr(kind, "__slots__")
        and kind not in copyreg.dispatch_table
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__getattribute__ is object.__getattribute__
        and kind.__getattr__ is nn.Module.__getattr__
    )


def as_parameter(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The tensor as a parameter where the other is one."""
    if isinstance(like, nn.Parameter) and not isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor, requires_grad=like.requires_grad)
    return tensor


def on_meta(model: nn.Module) -> nn.Module:
    """The model without its numbers; copying costs nothing and nothing can be changed."""
    return copied(model, without_numbers)


def without_numbers(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like this one on the meta device."""
    if tensor.layout is torch.strided and tensor.is_contiguous():  # the other way is written in Python
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor, device="meta")


def _compute_again(model: nn.Module) -> None:
    """Tensors that hooks compute from parameters before each call (pruning masks, weight norm) follow the new ones."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            for kind, compute in _COMPUTED:
                if isinstance(hook, kind):
                    name, tensor = compute(hook, module)
                    setattr(module, name, tensor.detach())


def _masked(hook: prune.BasePruningMethod, module: nn.Module) -> tuple[str, torch.Tensor]:
    return hook._tensor_name, hook.apply_mask(module)


def _normed(hook: WeightNorm, module: nn.Module) -> tuple[str, torch.Tensor]:
    return hook.name, hook.compute_weight(module)


def _spectral(hook: SpectralNorm, module: nn.Module) -> tuple[str, torch.Tensor]:
    return hook.name, hook.compute_weight(module, do_power_iteration=False)


_COMPUTED: tuple[tuple[type, Callable[..., tuple[str, torch.Tensor]]], ...] = (
    (prune.BasePruningMethod, _masked),
    (WeightNorm, _normed),
    (SpectralNorm, _spectral),
)
"""Hooks of torch.nn.utils that keep a computed tensor as a plain attribute, and how they make it."""


@contextlib.contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Give every buffer back as it was: the same object with the same numbers."""
    before = [
        (module, name, buffer, None if buffer.is_meta else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, numbers in before:
                if numbers is not None and not _same(buffer, numbers):
                    buffer.copy_(numbers)
                if module._buffers.get(name) is not buffer:
                    setattr(module, name, buffer)


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Bit for bit, so that nothing is written where nothing has changed."""
    return one.shape == two.shape and bool(torch.equal(one, two))

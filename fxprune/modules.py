"""Integers that torch.nn modules cache about their weights, and how to refresh them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["refresh", "watching_widths"]

Groups = int | None


def _conv(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, _ConvNd)
    module.groups = groups or module.groups
    out, inner = module.weight.shape[:2]
    if isinstance(module, _ConvTransposeNd):
        out, inner = inner, out
        module.out_channels, module.in_channels = out * module.groups, inner
    else:
        module.out_channels, module.in_channels = out, inner * module.groups


def _linear(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, nn.Linear)
    module.out_features, module.in_features = module.weight.shape


def _bilinear(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, nn.Bilinear)
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _norm(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, _NormBase)
    for tensor in (module.weight, module.running_mean):
        if tensor is not None:
            module.num_features = len(tensor)


def _layer_norm(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, nn.GroupNorm)
    if module.weight is not None:
        module.num_channels = len(module.weight)
    module.num_groups = groups or module.num_groups


def _embedding(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    module.embedding_dim = module.weight.shape[1]


def _prelu(module: nn.Module, groups: Groups) -> None:
    assert isinstance(module, nn.PReLU)
    module.num_parameters = module.weight.numel()


REFRESH: tuple[
    tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[nn.Module, Groups], None]], ...
] = (
    (_ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_NormBase, _norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.PReLU, _prelu),
)


def refresh(model: nn.Module, groups: Mapping[str, int]) -> None:
    """Set widths that modules cache from the shapes of their weights.

    Args:
        model: A model whose tensors were sliced; changed in place.
        groups: New group counts by parameter name.
    """
    for path, module in model.named_modules():
        for types, update in REFRESH:
            if isinstance(module, types):
                update(module, _groups_of(path, module, groups))
                break


@contextlib.contextmanager
def watching_widths(model: nn.Module) -> Iterator[None]:
    """While the model runs, instance norms without parameters note the width they are given."""

    def note(module: nn.Module, inputs: tuple[object, ...]) -> None:
        x = inputs[0]
        if isinstance(x, torch.Tensor) and isinstance(module, _InstanceNorm) and x.ndim > 1:
            module.num_features = x.shape[1]

    bare = [m for m in model.modules() if isinstance(m, _InstanceNorm) and not m.affine]
    handles = [m.register_forward_pre_hook(note) for m in bare]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _groups_of(path: str, module: nn.Module, groups: Mapping[str, int]) -> Groups:
    """The new group count of a module: that of any parameter below it."""
    for name, _ in module.named_parameters():
        found = groups.get(f"{path}.{name}" if path else name)
        if found is not None:
            return found
    return None

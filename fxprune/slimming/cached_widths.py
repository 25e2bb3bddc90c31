"""Integers that torch.nn modules cache about their weights, and how to refresh them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["Setting", "refresh"]

Setting = Mapping[str, object]
"""New arguments of the calls inside a module, by name, and ``width``: channels of what they return."""


def _groups(setting: Setting, now: int) -> int:
    """The new number of groups, or the present one."""
    groups = next((setting[n] for n in ("groups", "num_groups", "group") if n in setting), now)
    assert isinstance(groups, int)
    return groups


def _conv(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, _ConvNd)
    module.groups = _groups(setting, module.groups)
    out, inner = module.weight.shape[:2]
    if isinstance(module, _ConvTransposeNd):
        out, inner = inner, out
        module.out_channels, module.in_channels = out * module.groups, inner
    else:
        module.out_channels, module.in_channels = out, inner * module.groups


def _linear(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, nn.Linear)
    module.out_features, module.in_features = module.weight.shape


def _bilinear(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, nn.Bilinear)
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _norm(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, _NormBase)
    held = [len(t) for t in (module.weight, module.running_mean) if t is not None]
    module.num_features = next(iter(held), setting.get("width", module.num_features))  # type: ignore[assignment]


def _layer_norm(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, (nn.LayerNorm, nn.RMSNorm))
    shape = setting.get("normalized_shape", module.normalized_shape)
    assert isinstance(shape, (list, tuple))
    module.normalized_shape = tuple(module.weight.shape if module.elementwise_affine else shape)


def _group_norm(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, nn.GroupNorm)
    width = setting.get("width", module.num_channels)
    assert isinstance(width, int)
    module.num_channels = len(module.weight) if module.affine else width
    module.num_groups = _groups(setting, module.num_groups)


def _channel_shuffle(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, nn.ChannelShuffle)
    module.groups = _groups(setting, module.groups)


def _embedding(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    module.embedding_dim = module.weight.shape[1]


def _prelu(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, nn.PReLU)
    module.num_parameters = module.weight.numel()


def _recurrent(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, nn.RNNBase)
    weight = module.get_parameter("weight_ih_l0")
    module.hidden_size, module.input_size = len(weight) // GATES[module.mode], weight.shape[1]
    if module.proj_size:
        module.proj_size = len(module.get_parameter("weight_hr_l0"))
    module._init_flat_weights()


def _recurrent_cell(module: nn.Module, setting: Setting) -> None:
    assert isinstance(module, nn.RNNCellBase)
    module.hidden_size, module.input_size = module.weight_hh.shape[1], module.weight_ih.shape[1]


# Blocks that are stacked in the weights of a recurrent layer.
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}

REFRESH: tuple[
    tuple[type[nn.Module] | tuple[type[nn.Module], ...], Callable[[nn.Module, Setting], None]], ...
] = (
    (_ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_NormBase, _norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.ChannelShuffle, _channel_shuffle),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
)


def refresh(model: nn.Module, settings: Mapping[str, Setting]) -> None:
    """Set what modules cache about widths: from the shapes of their weights, else from the calls inside them.

    Args:
        model: A model whose tensors were sliced; changed in place.
        settings: By the path of a module, or by the name of the parameter that a call reads.
    """
    for path, module in model.named_modules():
        for types, update in REFRESH:
            if isinstance(module, types):
                update(module, _setting_of(path, module, settings))
                break


def _setting_of(path: str, module: nn.Module, settings: Mapping[str, Setting]) -> Setting:
    """The setting of a module's path, or of any parameter below it."""
    names = [n for n, _ in module.named_parameters()]
    paths = [path, *(f"{path}.{n}" if path else n for n in names)]
    return next((settings[p] for p in paths if p in settings), {})

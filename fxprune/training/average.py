"""A running average of the weights while they are trained."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["running_average"]

_Tensors = tuple[Tensor, ...] | list[Tensor]


def running_average(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of a model whose parameters and buffers follow it: after step n by ``1 - min(decay, (1 + n) / (10 + n))`` of the way.

    Args:
        model: Parameters and buffers are whole.
        decay: Of what was averaged before.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = running_average(layer, 0.999)
        >>> for value in (1.0, 0.0):
        ...     _ = nn.init.constant_(layer.weight, value)
        ...     average.update_parameters(layer)
        >>> round(float(average.module.weight), 3)  # 2/11 of the first, the rest of the second
        0.182

    References:
        Tan and Le, "EfficientNet", ICML 2019, and TensorFlow's ``ExponentialMovingAverage``, whose ``num_updates`` makes the
        decay grow in this way.
    """

    def follow(mean: _Tensors, now: _Tensors, seen: Tensor | int) -> None:
        n = int(seen)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(mean, now, seen)

    return AveragedModel(model, multi_avg_fn=follow, use_buffers=True)

"""Stand-ins for calls whose training flag torch.export froze: they follow train() and eval()."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["BatchNorm", "Dropout"]


class BatchNorm(nn.Module):
    """Batch norm whose tensors stay under the model's own names.

    Args:
        momentum: Of the running statistics.
        eps: Added to the variance.
    """

    def __init__(self, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps

    def forward(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        variance: torch.Tensor,
        count: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Normalise ``x`` by batch (training) or running (evaluation) statistics."""
        if self.training and count is not None:
            count.add_(1)
        return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum, self.eps)


class Dropout(nn.Module):
    """Dropout of single entries or of whole channels.

    Args:
        p: Probability of zeroing.
        channels: Zero whole channels.
    """

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p = p
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop in training, pass in evaluation."""
        if self.channels:
            return torch.feature_dropout(x, self.p, self.training)
        return F.dropout(x, self.p, self.training)

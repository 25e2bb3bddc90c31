"""Small classifiers of the digits, as recipes name them."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Residual(nn.Module):
    """Two residual blocks, dropout and a classifier."""

    def __init__(self, width: int = 12, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.blocks(torch.relu(self.stem(x))).mean((2, 3))))


def residual() -> nn.Module:
    return Residual()


def plain() -> nn.Module:
    """Without batch norm or dropout, in double precision: several processes compute what one does."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 9, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(9, 14, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(14 * 9, 10),
    ).double()


def three_classes() -> nn.Module:
    return Residual(classes=3)


def fresh_weights() -> nn.Module:
    torch.manual_seed(0)
    return Residual()


def explosive() -> nn.Module:
    """Its loss is no number after a while."""

    class Explosive(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = super().forward(x)
            if self.training:
                self.calls += 1
                out = out + torch.where(self.calls > 7, torch.nan, 0.0)
            return out

    return Explosive()

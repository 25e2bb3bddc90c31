"""ResNets for CIFAR-10 (He et al. 2016, section 4.2), with the parameter names of the published weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.demo import DigitsNet

__all__ = ["ResNet", "digits_net", "resnet20", "resnet32", "resnet44", "resnet56"]

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters.

    Args:
        width_in: Channels that come in.
        width: Channels that go out.
        stride: Of the first convolution; above 1 the shortcut takes every second pixel and pads channels
            with zeros on both sides (option A).
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.border = (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.border, self.border))
        return F.relu(out + x)


class ResNet(nn.Module):
    """Three stages of blocks.

    Args:
        blocks: In each stage.
        classes: Number of classes.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, 1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, 2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, 2)
        self.linear = nn.Linear(WIDTHS[2], classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images float[n, 3, 32, 32]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(out, 1), 1))  # type: ignore[no-any-return]


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(width_in, width, stride)
    return nn.Sequential(first, *(Block(width, width, 1) for _ in range(blocks - 1)))


def resnet20() -> ResNet:
    """3 blocks a stage."""
    return ResNet(3)


def resnet32() -> ResNet:
    """5 blocks a stage."""
    return ResNet(5)


def resnet44() -> ResNet:
    """7 blocks a stage."""
    return ResNet(7)


def resnet56() -> ResNet:
    """9 blocks a stage."""
    return ResNet(9)


def digits_net() -> nn.Module:
    """A residual net for grey pictures of 8 x 8."""
    return DigitsNet((32, 64, 128))

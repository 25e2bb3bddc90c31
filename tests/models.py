"""Networks that tests share: published architectures that torchvision does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

DEPTHS = {20: 3, 32: 5, 44: 7, 56: 9}

ACCURACY = {20: 0.9173, 32: 0.9263, 44: 0.9310, 56: 0.9339}
"""Top-1 on the 10,000 test images of CIFAR-10, of the weights in ``shared/weights``."""


class PaddedBlock(nn.Module):
    """Two 3x3 convolutions; where the size changes, the shortcut subsamples and pads channels with zeros."""

    def __init__(self, inner: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = planes // 4 if inner != planes else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """The CIFAR-10 residual network of the ResNet paper with shortcuts of option A.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """

    def __init__(self, depth: int = 20) -> None:
        super().__init__()
        n = DEPTHS[depth]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, n, 1)
        self.layer2 = self._stage(16, 32, n, 2)
        self.layer3 = self._stage(32, 64, n, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inner: int, planes: int, count: int, stride: int) -> nn.Sequential:
        first = PaddedBlock(inner, planes, stride)
        return nn.Sequential(first, *(PaddedBlock(planes, planes, 1) for _ in range(count - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def trained_resnet(shared: Path, depth: int) -> CifarResNet:
    """A CIFAR ResNet with the weights of the shared folder, in evaluation mode."""
    model = CifarResNet(depth)
    model.load_state_dict(load_file(shared / "weights" / f"cifar10_resnet{depth}.safetensors"))
    return model.eval()


def cifar_test(shared: Path, count: int = 10_000) -> tuple[torch.Tensor, torch.Tensor]:
    """The first test images, normalised as the weights expect, and their labels."""
    with np.load(shared / "data" / "cifar10" / "test.npz") as data:
        images, labels = data["images"][:count], data["labels"][:count]
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None], torch.from_numpy(labels).long()

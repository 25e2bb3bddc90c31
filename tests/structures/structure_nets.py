"""Small nets with residual branches, concat branches and attention, for tests of structures and masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import DenseNet, VisionTransformer, googlenet, resnet18

from fxprune.graph.live import liven


class Basic(nn.Module):
    """A block of He et al. 2016, section 4.2, with the parameter-free shortcut (option A)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.extra = (width - before) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet-(6 n + 2) for small images."""

    def __init__(self, n: int, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages = []
        for stage in range(3):
            first = (width * 2 ** max(stage - 1, 0), width * 2**stage, 1 if stage == 0 else 2)
            rest = (width * 2**stage, width * 2**stage, 1)
            stages.append(nn.Sequential(Basic(*first), *(Basic(*rest) for _ in range(n - 1))))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Inception(nn.Module):
    """Two modules of three branches each, one of them nested, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a1, self.a2, self.a3 = (nn.Conv2d(6, w, k, padding=k // 2) for w, k in ((4, 1), (5, 3), (3, 1)))
        self.b1 = nn.Conv2d(12, 4, 1)
        self.b2 = nn.Conv2d(12, 6, 1)
        self.b2a, self.b2b = nn.Conv2d(6, 3, (1, 3), padding=(0, 1)), nn.Conv2d(6, 2, (3, 1), padding=(1, 0))
        self.head = nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([F.relu(self.a1(x)), F.relu(self.a2(x)), F.relu(self.a3(F.max_pool2d(x, 3, 1, 1)))], 1)
        y = F.relu(self.b2(x))
        inner = torch.cat([F.relu(self.b2a(y)), F.relu(self.b2b(y))], 1)
        return self.head(torch.cat([F.relu(self.b1(x)), inner], 1).mean((2, 3)))


def dense() -> nn.Module:
    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=5)


def vit() -> nn.Module:
    net = VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=20, num_classes=5
    )
    nn.init.normal_(net.heads.head.weight, std=0.3)
    return net


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (lambda: resnet18(num_classes=5), (2, 3, 32, 32)),
    "cifar": (lambda: CifarResNet(2, width=8), (2, 3, 16, 16)),
    "densenet": (dense, (2, 3, 32, 32)),
    "inception": (Inception, (2, 3, 8, 8)),
    "vit": (vit, (2, 3, 16, 16)),
    "googlenet": (lambda: googlenet(num_classes=5, init_weights=True), (2, 3, 32, 32)),
}


def live(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A live net in evaluation mode and an input."""
    torch.manual_seed(0)
    make, shape = NETS[name]
    x = torch.randn(shape)
    return liven(make(), x), x

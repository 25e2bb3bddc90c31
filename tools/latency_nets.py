"""Three nets beside torchvision's: a text encoder, a U-Net, a detector's backbone and heads as YOLO has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NETS"]


class Encoder(nn.Module):
    """Four transformer layers, 256 wide, over 128 tokens, as BERT has them: int64[n, 128] to float[n, 5]."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embed, self.positions = (
            nn.Embedding(1000, width),
            nn.Parameter(torch.randn(1, 128, width) * 0.02),
        )
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(self.embed(x) + self.positions).mean(1))
        return logits


def _conv(
    read: int, made: int, kernel: int, stride: int = 1, activation: type[nn.Module] = nn.SiLU
) -> nn.Sequential:
    convolution = nn.Conv2d(read, made, kernel, stride, kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(made), activation())


def _twice(read: int, made: int) -> nn.Sequential:
    return nn.Sequential(_conv(read, made, 3, activation=nn.ReLU), _conv(made, made, 3, activation=nn.ReLU))


class UNet(nn.Module):
    """Three levels down and up: float[n, 3, h, w] to float[n, 2, h, w]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(4)]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(_twice(a, b) for a, b in pairs)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for number, layer in enumerate(self.down):
            x = layer(F.max_pool2d(x, 2) if number else x)
            levels.append(x)
        for up, join, level in zip(self.up, self.join, levels[-2::-1], strict=True):
            x = join(torch.cat([level, up(x)], 1))
        out: Tensor = self.out(x)
        return out


class C2f(nn.Module):
    """Halves of a convolution's channels, refined one after another and joined, as in YOLOv8."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first = _conv(width, width, 1)
        self.refine = nn.ModuleList(_conv(width // 2, width // 2, 3) for _ in range(depth))
        self.last = _conv(width // 2 * (depth + 2), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for layer in self.refine:
            parts.append(parts[-1] + layer(parts[-1]))
        out: Tensor = self.last(torch.cat(parts, 1))
        return out


class Detector(nn.Module):
    """A backbone, a feature pyramid of two levels, a head on each: float[n, 3, h, w] to two maps of 85 channels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, width, 3, 2), _conv(width, 2 * width, 3, 2), C2f(2 * width, 1))
        self.p3 = nn.Sequential(_conv(2 * width, 4 * width, 3, 2), C2f(4 * width, 2))
        self.p4 = nn.Sequential(_conv(4 * width, 8 * width, 3, 2), C2f(8 * width, 2))
        self.lateral, self.neck = nn.Conv2d(8 * width, 4 * width, 1), C2f(8 * width, 1)
        self.heads = nn.ModuleList(nn.Conv2d(8 * width, 85, 1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.p3(self.stem(x))
        coarse = self.p4(fine)
        above = F.interpolate(self.lateral(coarse), scale_factor=2.0)
        return self.heads[0](self.neck(torch.cat([fine, above], 1))), self.heads[1](coarse)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "bert_like": (Encoder, lambda: torch.randint(1000, (1, 128))),
    "unet": (UNet, lambda: torch.randn(1, 3, 128, 128)),
    "yolo_like": (Detector, lambda: torch.randn(1, 3, 256, 256)),
}
"""By name: the class, and example inputs."""

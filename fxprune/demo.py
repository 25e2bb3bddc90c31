"""The demo: a small residual network on real handwritten digits, from training to a faster ONNX file.

Data: scikit-learn's 1,797 scanned digits of 8x8 pixels, enlarged to 16x16, split once into 1,347
for training and 450 for testing, the same share of every digit in both.  The network has three
stages of residual blocks; the blocks of a stage write into one stream, so its channels can only
go together with those of every block and of the projection shortcut at its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

__all__ = ["DemoResult", "Digits", "DigitsNet", "accuracy", "run_demo", "train"]

SIDE = 16
WIDTHS = (48, 96, 192)
TEST_SHARE = 0.25
BATCH = 64
EPOCHS = 10
FINETUNE_EPOCHS = 6
LEARNING_RATE = 0.05
KEEP_MACS = 0.45

Ticker = Callable[[int, int, float], None]
"""Called after each step with steps done, steps in all and the loss."""


class DigitsNet(nn.Module):
    """A residual network: a stem, three stages of two blocks, a linear head.

    Args:
        widths: Channels of each stage; each stage after the first halves the resolution and
            starts with a projection shortcut.

    Example:
        >>> DigitsNet((8, 16, 32))(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 10])
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        ins = (widths[0], *widths[:-1])
        self.stages = nn.Sequential(
            *(nn.Sequential(_Block(i, o, 1 if i == o else 2), _Block(o, o, 1)) for i, o in zip(ins, widths))
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32[n, 10] of images float32[n, 1, side, side]."""
        logits: torch.Tensor = self.head(self.stages(self.stem(images)).mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        projection = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))
        self.shortcut = nn.Identity() if ins == outs and stride == 1 else projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


@dataclass(frozen=True, eq=False)
class Digits:
    """The data: images float32[n, 1, side, side] with mean 0 and deviation 1, labels int64[n]."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    @staticmethod
    def load(side: int = SIDE) -> Digits:
        """scikit-learn's digits, split in the same way on every call."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        data = load_digits()
        train, test = train_test_split(
            np.arange(len(data.target)), test_size=TEST_SHARE, stratify=data.target, random_state=0
        )
        images = torch.tensor(data.images, dtype=torch.float32)[:, None]
        images = nn.functional.interpolate(images, size=(side, side), mode="bilinear")
        images = (images - images[train].mean()) / images[train].std()
        labels = torch.tensor(data.target)
        return Digits(images[train], labels[train], images[test], labels[test])


def train(
    model: nn.Module,
    digits: Digits,
    *,
    epochs: int,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    tick: Ticker | None = None,
) -> None:
    """Train a classifier in place; ends in evaluation mode.

    SGD with Nesterov momentum under a one-cycle schedule, label smoothing, and shifts by one
    pixel.  The same seed gives the same weights on the same machine and number of threads.

    Args:
        model: Takes images, returns logits.
        digits: The data.
        epochs: Passes over the training images.
        learning_rate: At the peak of the cycle.
        seed: Of the order of the images and of the shifts.
        tick: Called after each step.
    """
    random = torch.Generator().manual_seed(seed)
    batches = [epoch_batch for _ in range(epochs) for epoch_batch in _shuffled(digits, random)]
    optimizer = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=len(batches))
    model.train()
    for step, batch in enumerate(batches, start=1):
        shift = torch.randint(-1, 2, (2,), generator=random).tolist()
        images = torch.roll(digits.train_images[batch], shift, (2, 3)).contiguous(
            memory_format=torch.channels_last
        )
        loss = nn.functional.cross_entropy(model(images), digits.train_labels[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if tick:
            tick(step, len(batches), loss.item())
    model.eval()


def _shuffled(digits: Digits, random: torch.Generator) -> tuple[torch.Tensor, ...]:
    order = torch.randperm(len(digits.train_labels), generator=random)
    # A last batch of few images would give batch norm poor statistics.
    return order[: len(order) // BATCH * BATCH].split(BATCH)


def accuracy(model: nn.Module, digits: Digits) -> float:
    """Share of the test images that the model names rightly."""
    model.eval()
    with torch.inference_mode():
        right = model(digits.test_images).argmax(1) == digits.test_labels
    return right.double().mean().item()

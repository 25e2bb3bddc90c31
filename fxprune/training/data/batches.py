"""Batches: which images, how they are changed, as numbers for the model.

Everything random is drawn from (seed, phase, epoch, step) alone, for the whole batch, and then shared out: a run
that is continued sees the same images, and so do several processes together.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fxprune.training.data.images import Images
from fxprune.training.recipe.schema import Augment

__all__ = ["Batches", "Choices", "Look", "augmented", "generator"]


def generator(*numbers: int) -> torch.Generator:
    """A generator of random numbers of its own for every tuple of integers >= 0.

    Example:
        >>> a, b = (torch.rand(1, generator=generator(0, 7)) for _ in range(2))
        >>> bool(a == b), bool(a == torch.rand(1, generator=generator(7, 0)))
        (True, False)
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed % 2**63)


@dataclass(frozen=True, eq=False)
class Look:
    """How pixels become the model's input.

    Attributes:
        scale: float32[channels], multiplies pixels from 0 to 255.
        shift: float32[channels], is added then.
        channels_last: Memory format of the result.
    """

    scale: Tensor
    shift: Tensor
    channels_last: bool = False

    @staticmethod
    def of(
        mean: tuple[float, ...], std: tuple[float, ...], *, channels_last: bool, device: torch.device
    ) -> Look:
        """Normalise by mean and standard deviation on a scale from 0 to 1; empty is 0 and 1."""
        deviation = torch.tensor(std or (1.0,), dtype=torch.float64)
        middle = torch.tensor(mean or (0.0,), dtype=torch.float64)
        return Look(
            (1 / (255 * deviation)).float().to(device),
            (-middle / deviation).float().to(device),
            channels_last,
        )

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8[b, h, w, c] to float32[b, c, h, w]."""
        n, height, width, channels = pixels.shape
        # Whole rows of pixels at a time: the innermost loop is long.
        scale, shift = self.scale.expand(width, channels), self.shift.expand(width, channels)
        rows = pixels.to(self.scale.device).view(n, height, -1).float()
        values = (
            torch.addcmul(shift.reshape(-1), rows, scale.reshape(-1)).view(pixels.shape).permute(0, 3, 1, 2)
        )
        return values if self.channels_last else values.contiguous()


@dataclass(frozen=True, eq=False)
class Choices:
    """What chance decided about the images of a batch.

    Attributes:
        part: float[n, 3], see ``Images.take``.
        offset: int64[2, n], row and column of the window in the image with its border.
        mirror: bool[n].
    """

    part: Tensor
    offset: Tensor
    mirror: Tensor

    @staticmethod
    def draw(n: int, how: Augment, random: torch.Generator) -> Choices:
        """Everything is always drawn: to switch one thing off does not change the others."""
        return Choices(
            torch.rand(n, 3, generator=random),
            torch.randint(0, 2 * how.crop + 1, (2, n), generator=random),
            torch.rand(n, generator=random) < 0.5,
        )

    def of(self, mine: slice) -> Choices:
        """Those of some images."""
        return Choices(self.part[mine], self.offset[:, mine], self.mirror[mine])


def augmented(pixels: Tensor, how: Augment, chosen: Choices) -> Tensor:
    """Windows of images with a black border, some of them mirrored; one gather for the whole batch.

    Args:
        pixels: uint8[n, h, w, c].
        how: Width of the border, and whether to mirror.
        chosen: For each image.

    Returns:
        The same shape.
    """
    if not how.crop and not how.flip:
        return pixels
    n, height, width, _ = pixels.shape
    columns = torch.arange(width)
    if how.flip:
        columns = torch.where(chosen.mirror[:, None], columns.flip(0), columns)
    rows, columns = torch.arange(height) + chosen.offset[0][:, None], columns + chosen.offset[1][:, None]
    border = F.pad(pixels, (0, 0, how.crop, how.crop, how.crop, how.crop))
    wide = width + 2 * how.crop
    first = torch.arange(n) * (height + 2 * how.crop) * wide
    place = first[:, None, None] + rows[:, :, None] * wide + columns[:, None, :]
    # One row a pixel: several times as fast as an index for each dimension.
    windows = border.flatten(0, 2).index_select(0, place.flatten().to(pixels.device))
    return windows.view(pixels.shape)


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of one process.

    Attributes:
        images: The whole set.
        look: How pixels become input.
        size: Images a step, over all processes.
        seed: Of everything random.
        rank: Number of this process.
        world: How many there are; ``size`` is a multiple of it.
    """

    images: Images
    look: Look
    size: int
    seed: int
    rank: int = 0
    world: int = 1

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; a last batch that is not full is left out, unless it is the only one."""
        return max(len(self.images.labels) // self.size, 1)

    def training(
        self, phase: int, first: int, last: int, augment: Augment
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a phase from step ``first`` to before step ``last``.

        Args:
            phase: Number of the phase; each has its own order of images.
            first: Where to begin, counted over the whole phase.
            last: Where to end.
            augment: What to do to images.

        Yields:
            Inputs float32[b, c, h, w] and labels int64[b] of this process.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead:
            # One batch ahead: decoding overlaps with the step.
            waiting = ahead.submit(self._pixels, phase, first, augment) if first < last else None
            for step in range(first, last):
                assert waiting is not None
                pixels, labels = waiting.result()
                if step + 1 < last:
                    waiting = ahead.submit(self._pixels, phase, step + 1, augment)
                yield self.look(pixels), labels.to(self.look.scale.device)

    def _pixels(self, phase: int, step: int, augment: Augment) -> tuple[Tensor, Tensor]:
        """Images and labels of this process at a step."""
        epoch, place = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.images.labels), generator=generator(self.seed, phase, epoch))
        index = order[place * self.size : (place + 1) * self.size]
        chosen = Choices.draw(len(index), augment, generator(self.seed, phase, epoch, place + 1))
        mine = self._mine(len(index))
        pixels = self.images.take(index[mine], chosen.part[mine])
        return augmented(pixels, augment, chosen.of(mine)), self.images.labels[index[mine]]

    def _mine(self, n: int) -> slice:
        return slice(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    def evaluation(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All images in order; every process gets equally many batches.

        Yields:
            Inputs, labels, and bool[b]: which of them count (a process without images gets one that does not).
        """
        n = len(self.images.labels)
        for start in range(0, n, self.size):
            index = torch.arange(start, min(start + self.size, n))
            mine = index[self._mine(len(index))]
            counts = torch.full((max(len(mine), 1),), len(mine) > 0)
            mine = mine if len(mine) else index[:1]
            device = self.look.scale.device
            inputs = self.look(self.images.take(mine, None))
            yield inputs, self.images.labels[mine].to(device), counts.to(device)

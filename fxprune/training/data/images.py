"""Sets of labelled images: held in memory where they fit, decoded in threads where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fxprune.errors import FxpruneError
from fxprune.support.arrays import read_arrays
from fxprune.support.reading import regular_file, shown

__all__ = ["DecodedImages", "HeldImages", "Images", "Opener", "held_from_files", "read_npz"]

Pixels = npt.NDArray[np.uint8]
"""uint8[height, width, channels]."""

Opener = Callable[[int], Pixels]
"""The image of a number, as it is stored."""


class Images(Protocol):
    """Labelled images."""

    @property
    def labels(self) -> Tensor:
        """int64[n], class numbers."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what ``take`` gives."""

    def take(self, index: Tensor, part: Tensor | None) -> Tensor:
        """Some images.

        Args:
            index: int64[b], which.
            part: float[b, 3] in [0, 1], which part of a larger picture (its area, x and y); None is the middle.

        Returns:
            uint8[b, height, width, channels].
        """

    def subset(self, index: Tensor) -> Images:
        """The same set with fewer images, in the order of the index."""

    def to(self, device: torch.device) -> Images:
        """The same set on a device, if it is one that can lie there."""


@dataclass(frozen=True, eq=False)
class HeldImages:
    """Images in memory.

    Attributes:
        images: uint8[n, height, width, channels].
        labels: int64[n].
    """

    images: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def take(self, index: Tensor, part: Tensor | None) -> Tensor:
        """Some images: uint8[b, height, width, channels]."""
        del part
        return self.images.index_select(0, index.to(self.images.device))

    def subset(self, index: Tensor) -> Images:
        """Fewer of them."""
        return HeldImages(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Images:
        """The same on a device."""
        return HeldImages(self.images.to(device), self.labels)


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images that are decoded when they are asked for, cut to a square.

    For training a random part of 35 to 100 % of the area is stretched to the square; for testing the middle
    square of 7/8 of the shorter side.

    Attributes:
        open: Reads one image as it is stored.
        number: int64[n], its argument for each image.
        labels: int64[n].
        side: Of the square, pixels.
        channels: 1 or 3.
        pool: Threads that decode.
    """

    open: Opener
    number: Tensor
    labels: Tensor
    side: int
    channels: int
    pool: ThreadPoolExecutor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.side, self.side, self.channels

    def take(self, index: Tensor, part: Tensor | None) -> Tensor:
        """Some images: uint8[b, side, side, channels]."""
        drawn = [None] * len(index) if part is None else part.tolist()
        numbers = self.number[index.cpu()].tolist()
        return torch.from_numpy(np.stack(list(self.pool.map(self._square, numbers, drawn))))

    def _square(self, number: int, drawn: Sequence[float] | None) -> Pixels:
        from PIL import Image

        pixels = self.open(number)
        height, width = pixels.shape[:2]
        box = _middle(width, height) if drawn is None else _part(width, height, drawn)
        image = Image.fromarray(pixels.squeeze(2) if self.channels == 1 else pixels)
        small = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)
        return np.asarray(small).reshape(self.shape)

    def subset(self, index: Tensor) -> Images:
        """Fewer of them."""
        return DecodedImages(
            self.open, self.number[index], self.labels[index], self.side, self.channels, self.pool
        )

    def to(self, device: torch.device) -> Images:
        """Decoding is the CPU's business."""
        del device
        return self


_MOST_CLASSES = 2**31
_SHOWN_PART = 7 / 8
_LEAST_AREA = 0.35


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    side = _SHOWN_PART * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _part(width: int, height: int, drawn: Sequence[float]) -> tuple[float, float, float, float]:
    area, x, y = drawn
    share = (_LEAST_AREA + (1 - _LEAST_AREA) * area) ** 0.5
    left, top = x * (1 - share) * width, y * (1 - share) * height
    return left, top, left + share * width, top + share * height


# --- reading ---------------------------------------------------------------------------------


def held_from_files(numbers: Iterable[int], open_image: Opener, labels: Tensor, workers: int) -> HeldImages:
    """All images read into memory.

    Raises:
        ValueError: They are not all of one size.
    """
    with ThreadPoolExecutor(workers) as pool:
        read = list(pool.map(open_image, numbers))
    shapes = {pixels.shape for pixels in read}
    if len(shapes) != 1:
        some = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:3])
        raise ValueError(f"images have {len(shapes)} sizes: {some}")
    return HeldImages(torch.from_numpy(np.stack(read)), labels)


def read_npz(files: Sequence[Path]) -> HeldImages:
    """Arrays ``images`` and ``labels`` of several files, joined.

    Raises:
        FxpruneError: A file cannot be read; the message names it.
        ValueError: A file holds something else; likewise.
    """
    parts = [_read_npz(file) for file in files]
    shapes = {images.shape[1:] for images, _ in parts}
    if len(shapes) != 1:
        raise ValueError(f"the images of {files[0].name} and other files differ in size: {sorted(shapes)}")
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
    return HeldImages(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def _read_npz(file: Path) -> tuple[Pixels, npt.NDArray[np.integer]]:
    arrays = read_arrays(file, only=("images", "labels"))
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"images of {file} are {images.dtype}{list(images.shape)}, not uint8[N, H, W] or [N, H, W, C]"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels of {file} are {labels.dtype}{list(labels.shape)}, not {images.shape[0]} integers"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < _MOST_CLASSES:
        raise ValueError(f"labels of {file} are not class numbers: {labels.min()} to {labels.max()}")
    return images.reshape(*images.shape[:3], -1), labels  # type: ignore[return-value]


def open_file(paths: Sequence[Path], number: int, *, mode: str) -> Pixels:
    """One image file as pixels.

    Args:
        paths: All files.
        number: Which of them.
        mode: ``"RGB"`` or ``"L"``.

    Raises:
        FxpruneError: It is none.
    """
    from PIL import Image

    path = regular_file(paths[number])
    try:
        with Image.open(path) as image:
            return as_pixels(image.convert(mode))
    except Exception as error:  # a damaged image shows in many ways
        raise FxpruneError(
            f"{shown(path)} cannot be read as an image: {' '.join(str(error).split())[:200]}",
            advice="remove or replace it",
        ) from error


def as_pixels(image: object) -> Pixels:
    """A PIL image, a tensor [C, H, W] or an array as uint8[height, width, channels]."""
    if isinstance(image, Tensor):
        scaled = image.mul(255).round().byte() if image.is_floating_point() else image.byte()
        return np.asarray((scaled if scaled.ndim == 3 else scaled[None]).permute(1, 2, 0).numpy())
    if (mode := getattr(image, "mode", "")) not in ("", "L", "RGB"):
        image = image.convert("L" if mode in ("1", "I", "I;16", "F") else "RGB")  # type: ignore[attr-defined]
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def file_opener(paths: Sequence[Path], mode: str) -> Opener:
    """``open_file`` for a list of files."""
    return partial(open_file, tuple(paths), mode=mode)

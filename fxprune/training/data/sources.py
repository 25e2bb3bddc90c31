"""From a recipe's ``data`` to images: npz files, folders, torchvision's data sets, scikit-learn's digits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from fxprune.errors import FxpruneError
from fxprune.support.extras import need
from fxprune.support.reading import regular_file
from fxprune.training.data.images import (
    DecodedImages,
    HeldImages,
    Images,
    Opener,
    as_pixels,
    file_opener,
    held_from_files,
    read_npz,
)
from fxprune.training.recipe.file import RecipeFile
from fxprune.training.recipe.schema import (
    DataOptions,
    DigitsData,
    FolderData,
    NpzData,
    TorchvisionData,
    files_named,
)

__all__ = ["DataSet", "open_data"]

Part = Literal["train", "test"]

_UNPICKLING = frozenset({"LSUN", "LSUNClass"})  # without comparing a checksum first, as CIFAR does
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_DIGITS_TEST_SHARE = 0.2
_DIGITS_LEVELS = 16


@dataclass(frozen=True, eq=False)
class DataSet:
    """Training and evaluation images.

    Attributes:
        train: For training.
        test: For evaluation.
        classes: Number of classes.
        held_out: The evaluation images are a part of the training images.
    """

    train: Images
    test: Images
    classes: int
    held_out: bool


def open_data(file: RecipeFile) -> DataSet:
    """The images a recipe names.

    Raises:
        RecipeError: They cannot be read or do not fit together; with the line.
    """
    data, seed = file.recipe.data, file.recipe.seed
    train, test = _read(file, "train"), _read(file, "test")
    if train.shape != test.shape:
        raise file.error(
            "data",
            f"training images are {_size(train)}, test images {_size(test)}",
            advice="both must have one size; for files set data.size",
        )
    if data.limit is not None:
        train = train.subset(_spread(len(train.labels), data.limit))
    if data.holdout:
        order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))
        cut = max(round(data.holdout * len(order)), 1)
        train, test = train.subset(order[cut:].sort().values), train.subset(order[:cut].sort().values)
    if not len(train.labels) or not len(test.labels):
        raise file.error("data", "there are no images", advice="check the paths, limit and holdout")
    _check_channels(file, data, train.shape[2])
    seen = int(torch.cat([train.labels, test.labels]).max()) + 1
    if data.classes is not None and data.classes < seen:
        raise file.error(
            "data.classes",
            f"classes is {data.classes}, but there is a label {seen - 1}",
            advice=f"write classes: {seen}",
        )
    return DataSet(train, test, data.classes or seen, bool(data.holdout))


def _read(file: RecipeFile, part: Part) -> Images:
    data = file.recipe.data
    try:
        return _READERS[type(data)](data, part)
    except Exception as error:  # data sets raise many kinds
        key = f"data.{part}" if hasattr(data, part) else "data"
        said = error.what if isinstance(error, FxpruneError) else str(error)
        text = " ".join(said.split())[:300] or type(error).__name__
        raise file.error(
            key, f"the {part} images cannot be read: {text}", advice=_ADVICE[type(data)]
        ) from error


def _size(images: Images) -> str:
    return "x".join(map(str, images.shape))


def _spread(n: int, limit: int) -> Tensor:
    """That many numbers below n, evenly."""
    return torch.arange(n) if limit >= n else torch.arange(limit) * n // limit


def _check_channels(file: RecipeFile, data: DataOptions, channels: int) -> None:
    for key, values in (("data.mean", data.mean), ("data.std", data.std)):
        if values and len(values) != channels:
            raise file.error(
                key,
                f"{len(values)} values for images with {channels} channels",
                advice="give one value for each channel",
            )


# --- sources ---------------------------------------------------------------------------------


def _npz(data: DataOptions, part: Part) -> Images:
    assert isinstance(data, NpzData)
    return read_npz(files_named(data.train if part == "train" else data.test))


def _folder(data: DataOptions, part: Part) -> Images:
    assert isinstance(data, FolderData)
    names = [folder.name for folder in _folders(data.train)]
    root = data.train if part == "train" else data.test
    given = [folder.name for folder in _folders(root)]
    if not names or not set(given) <= set(names):
        odd = sorted(set(given) - set(names))
        raise ValueError(
            f"{root} has no folder of images" if not names else f"class '{odd[0]}' is not in {data.train}"
        )
    pairs = [(path, k) for k, name in enumerate(names) for path in _pictures(root / name)]
    if not pairs:
        raise ValueError(f"there are no images in {root}")
    paths = [path for path, _ in pairs]
    opener = file_opener(paths, _mode(paths[0]))
    return _images(opener, torch.tensor([k for _, k in pairs]), data.size, data.workers)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir())


def _pictures(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _mode(path: Path) -> str:
    from PIL import Image

    with Image.open(regular_file(path)) as image:
        return "L" if image.mode in ("1", "L", "I", "I;16", "F") else "RGB"


def _images(opener: Opener, labels: Tensor, size: int | None, workers: int) -> Images:
    """Held in memory where images are of one size, decoded on demand where they are cut to one."""
    if size is None:
        return held_from_files(range(len(labels)), opener, labels, workers)
    channels = opener(0).shape[2]
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    return DecodedImages(opener, torch.arange(len(labels)), labels, size, channels, pool)


def _torchvision(data: DataOptions, part: Part) -> Images:
    from torchvision import datasets

    assert isinstance(data, TorchvisionData)
    if data.name not in datasets.__all__:
        raise ValueError(f"torchvision has no data set '{data.name}'; it has {', '.join(datasets.__all__)}")
    if data.name in _UNPICKLING:
        raise ValueError(f"{data.name} unpickles a file of its folder, which could run any code")
    cls = getattr(datasets, data.name)
    known = inspect.signature(cls).parameters
    name = data.train if part == "train" else data.test
    offered = {"root": data.root, "train": part == "train", "split": name, "download": data.download}
    chosen = {key: value for key, value in offered.items() if key in known and value is not None}
    items = cast("Sequence[tuple[object, int]]", cls(**{**chosen, **data.options}))
    labels = torch.tensor([int(label) for label in _labels(items)])
    return _images(lambda number: as_pixels(items[number][0]), labels, data.size, data.workers)


def _labels(items: Sequence[tuple[object, int]]) -> Sequence[int]:
    """Class numbers, without decoding images where the data set lists them."""
    for name in ("targets", "labels", "_labels"):
        listed = getattr(items, name, None)
        if isinstance(listed, (list, Tensor, np.ndarray)) and len(listed) == len(items):
            return listed  # type: ignore[return-value]
    return [items[number][1] for number in range(len(items))]


def _digits(data: DataOptions, part: Part) -> Images:
    need("the digits", "sklearn")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    assert isinstance(data, DigitsData)
    digits = load_digits()
    parts = train_test_split(
        np.arange(len(digits.target)), test_size=_DIGITS_TEST_SHARE, stratify=digits.target, random_state=0
    )
    mine = parts[0 if part == "train" else 1]
    scaled = digits.images / _DIGITS_LEVELS
    noise = np.random.default_rng(0).normal(size=scaled.shape)
    seen = np.clip((1 - scaled if data.inverted else scaled) + data.noise * noise, 0, 1)[mine]
    pixels = (255 * seen).round().astype(np.uint8)
    return HeldImages(torch.from_numpy(pixels[..., None]), torch.from_numpy(digits.target[mine]).long())


_READERS: Mapping[type[DataOptions], Callable[[DataOptions, Part], Images]] = {
    NpzData: _npz,
    FolderData: _folder,
    TorchvisionData: _torchvision,
    DigitsData: _digits,
}
_ADVICE: Mapping[type[DataOptions], str] = {
    NpzData: "write it with numpy.savez(path, images=uint8 array, labels=integers)",
    FolderData: "make one folder for each class with image files in it; for images of several sizes set data.size",
    TorchvisionData: "check data.name, data.root and data.options; for images of several sizes set data.size",
    DigitsData: "check that scikit-learn is installed",
}

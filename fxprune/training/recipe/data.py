"""The ``data`` section of a recipe: where images come from and what is done to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import annotated_types
from pydantic import Field, model_validator

from fxprune.errors import RecipeError
from fxprune.support.reading import usable
from fxprune.training.recipe.sections import Count, NotNegative, Positive, Scalar, Section, Share

__all__ = [
    "Augment",
    "Data",
    "DataOptions",
    "DigitsData",
    "FolderData",
    "NpzData",
    "TorchvisionData",
    "files_named",
]


class Augment(Section):
    """What is done to training images.

    Attributes:
        crop: Pixels of black border to add before cutting a random window of the original size.
        flip: Mirror left and right, every second image on average.
    """

    crop: Annotated[int, annotated_types.Ge(0), annotated_types.Le(2**15)] = 0
    flip: bool = False


class DataOptions(Section):
    """What all sources of images share.

    Attributes:
        mean: Of each channel, on a scale from 0 to 1; none is 0.
        std: Of each channel, likewise; none is 1.
        augment: For training.
        classes: Number of classes, where the labels do not show all of them.
        limit: Use that many training images, spread evenly over all of them.
        holdout: Share of the training images to set apart and to evaluate on instead of the test images:
            for choosing strengths without touching the test set.
    """

    mean: tuple[float, ...] = ()
    std: tuple[Positive, ...] = ()
    augment: Augment = Augment()
    classes: Count | None = None
    limit: Count | None = None
    holdout: Share = 0.0

    @model_validator(mode="after")
    def _same_length(self) -> DataOptions:
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}")
        return self


class NpzData(DataOptions):
    """Arrays ``images`` uint8[N, H, W] or [N, H, W, C] and ``labels`` int[N] in ``.npz`` files.

    Attributes:
        train: Files, wildcards in their names; joined in the order of their names.
        test: Likewise.
    """

    source: Literal["npz"]
    train: str
    test: str


def files_named(pattern: str) -> list[Path]:
    """Files by a path whose last part may hold wildcards, in the order of their names."""
    path = usable(pattern, error=RecipeError)
    if not path.name:
        return []
    return sorted(file for file in path.parent.glob(path.name) if file.is_file())


class FolderData(DataOptions):
    """One folder for each class, image files in it.

    Attributes:
        train: Folder of folders.
        test: Likewise, with the same classes.
        size: Side of the square the images are cut to; None where all are of one size.
        workers: Threads that decode.
    """

    source: Literal["folder"]
    train: Path
    test: Path
    size: Count | None = None
    workers: Count = 2


class TorchvisionData(DataOptions):
    """A data set of torchvision that gives an image and a class.

    Attributes:
        name: Its class, as ``CIFAR10``.
        root: Where it lies, if it is read from files.
        train: Name of the training part, for data sets with a ``split``.
        test: Likewise.
        download: Fetch it if it is not there.
        options: Other arguments of the class.
        size: Side of the square the images are cut to; None where all are of one size.
        workers: Threads that decode.
    """

    source: Literal["torchvision"]
    name: str
    root: Path | None = None
    train: str = "train"
    test: str = "test"
    download: bool = False
    options: dict[str, Scalar | tuple[Scalar, ...]] = {}
    size: Count | None = None
    workers: Count = 2


class DigitsData(DataOptions):
    """scikit-learn's handwritten digits, 8 x 8 grey pixels, a fifth of them for testing.

    Attributes:
        inverted: Dark on bright, as on paper: another domain for a model that has learnt them bright on dark.
        noise: Deviation of what is added to every pixel, as a share of full scale; the same each time.
    """

    source: Literal["digits"]
    inverted: bool = False
    noise: NotNegative = 0.0


Data = Annotated[NpzData | FolderData | TorchvisionData | DigitsData, Field(discriminator="source")]

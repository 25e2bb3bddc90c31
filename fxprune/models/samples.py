"""Samples without labels from a file or a folder, as batches that a model is called with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fxprune.errors import FxpruneError
from fxprune.models.inputs import Inputs, describe_inputs
from fxprune.models.weights import load_pt
from fxprune.support.arrays import read_arrays
from fxprune.support.reading import shown

__all__ = ["MEAN", "STD", "normalised", "read_samples"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet on a scale from 0 to 1: how torchvision's and most of timm's models want pictures."""

LABELS = frozenset({"y", "label", "labels", "target", "targets"})
"""Arrays that are left aside."""

_ARRAYS = (".npz", ".npy", ".pt", ".pth")
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SHOWN_PART = 7 / 8  # of the shorter side, as ImageNet's models are tested
_ADVICE = (
    "pass an .npz, .npy or .pt file of inputs, a folder of such files, or a folder of pictures "
    f"({', '.join(s[1:] for s in _PICTURES)})"
)


def read_samples(path: Path, example: Inputs, *, most: int = 512, allow_pickle: bool = False) -> list[Inputs]:
    """Batches for ``fxprune.recover``.

    Arrays are taken as they are, except for pictures in bytes, uint8[n, height, width, 3], where the model wants
    decimal numbers: these and the pictures of a folder are scaled, cut to the middle square of the size that the model wants, and
    normalised by ImageNet's ``MEAN`` and ``STD``.  Arrays named like labels are left aside.

    Args:
        path: A file or a folder; a folder of pictures may have folders inside, and is gone through evenly.
        example: Example inputs.
        most: Samples that are wanted.
        allow_pickle: Unpickle ``.pt`` files that hold more than tensors.

    Raises:
        FxpruneError: Nothing can be read there.
    """
    path = Path(path)
    if not path.is_dir():
        return [_fitted(_arrays(path, allow_pickle), example, path)]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in _ARRAYS)
    if files:
        return [_fitted(_arrays(file, allow_pickle), example, file) for file in files]
    pictures = sorted(p for p in path.rglob("*") if p.suffix.lower() in _PICTURES)
    if not pictures:
        raise FxpruneError(f"there is nothing to calibrate with in {shown(path)}", advice=_ADVICE)
    chosen = pictures[:: -(-len(pictures) // most)]
    return [_decoded(chosen, _wanted(example, path))]


def _arrays(path: Path, allow_pickle: bool) -> dict[str, object]:
    if path.suffix in (".pt", ".pth"):
        value = load_pt(path, allow_pickle=allow_pickle)
        if isinstance(value, Mapping):
            return {str(k): v for k, v in value.items()}
        values = [value] if isinstance(value, Tensor) else value
        if isinstance(values, (tuple, list)):
            return {str(k): v for k, v in enumerate(values)}
    elif path.suffix in _ARRAYS:
        return {name: torch.from_numpy(array) for name, array in read_arrays(path).items()}
    raise FxpruneError(f"{shown(path)} is no file of arrays", advice=_ADVICE)


def _fitted(arrays: Mapping[str, object], example: Inputs, path: Path) -> Inputs:
    """The arrays that a model is called with."""
    if isinstance(example, dict):
        missing = [name for name in example if name not in arrays and isinstance(example[name], Tensor)]
        if missing:
            raise FxpruneError(
                f"{shown(path)} has no {', '.join(missing)}: it holds {', '.join(arrays) or 'nothing'}",
                advice="write it with numpy.savez, arrays by the names of the model's arguments",
            )
        return {name: arrays.get(name, value) for name, value in example.items()}
    wanted = example if isinstance(example, tuple) else (example,)
    given = [array for name, array in arrays.items() if name.lower() not in LABELS]
    if len(given) < len(wanted):
        held = describe_inputs(dict(arrays)) or "nothing"
        raise FxpruneError(
            f"{shown(path)} holds {held}, and the model takes {describe_inputs(wanted)}", advice=_ADVICE
        )
    return tuple(_as_input(array, like) for array, like in zip(given, wanted, strict=False))


def _as_input(array: object, like: object) -> object:
    """Pictures in bytes as the model wants them; anything else as it is."""
    if not isinstance(array, Tensor) or not isinstance(like, Tensor):
        return array
    pictures = array.dtype == torch.uint8 and array.ndim == 4
    decimal = like.is_floating_point() and like.ndim == 4 and like.shape[1] == 3
    if pictures and decimal and array.shape[3] == 3:
        return normalised(array).to(like.dtype)
    return array


def normalised(pictures: Tensor) -> Tensor:
    """Pictures uint8[n, h, w, 3] as the models want them, float32[n, 3, h, w]."""
    values = (pictures.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return values.permute(0, 3, 1, 2).contiguous()


def _wanted(example: Inputs, path: Path) -> Tensor:
    """The one argument of a model that looks at pictures."""
    values = (
        list(example.values())
        if isinstance(example, dict)
        else [*example]
        if isinstance(example, tuple)
        else [example]
    )
    tensors = [v for v in values if isinstance(v, Tensor)]
    if len(tensors) != 1 or tensors[0].ndim != 4 or tensors[0].shape[1] != 3:
        raise FxpruneError(
            f"{shown(path)} holds pictures, and the model takes {describe_inputs(example)}",
            advice="write what it takes with numpy.savez and pass that file",
        )
    return tensors[0]


def _decoded(files: Sequence[Path], like: Tensor) -> Tensor:
    import numpy as np
    from PIL import Image

    height, width = like.shape[2:]
    pictures = []
    for file in files:
        try:
            with Image.open(file) as stored:
                picture = stored.convert("RGB")
        except Exception as error:
            raise FxpruneError(
                f"{shown(file)} is no picture: {error}", advice="take it out of the folder"
            ) from error
        side = _SHOWN_PART * min(picture.width / width, picture.height / height)
        left, top = (picture.width - side * width) / 2, (picture.height - side * height) / 2
        box = (left, top, left + side * width, top + side * height)
        small = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        pictures.append(np.asarray(small))
    return normalised(torch.from_numpy(np.stack(pictures))).to(like.dtype)

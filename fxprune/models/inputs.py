"""Example inputs by name: from a command line's ``--input`` to tensors a model can be called with.

One ``--input`` is one argument of the model, in order:

=============================  ==================================================================
``1x3x224x224``                float32, standard normal values
``1x128:int64``                integers from 0 to 9
``1x128:int64:0..30521``       integers in a closed range; floats uniformly in it
``input_ids=1x128:int64``      a keyword argument
``batch.npz``                  arrays by name where the names are the model's arguments, else in order
``batch.pt``                   a tensor, a tuple or a dict of tensors saved by ``torch.save``
=============================  ==================================================================

Made-up values are the same on every run.  Without ``--input`` the shapes are guessed for
torchvision's and timm's models, whose families fix what they are fed with.
"""

from __future__ import annotations

import inspect as pyinspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fxprune.errors import FxpruneError
from fxprune.models.input_texts import InputSpec, input_file, parse_specs
from fxprune.models.specs import Loaded
from fxprune.models.weights import load_pt
from fxprune.support.arrays import read_arrays
from fxprune.support.briefly import brief
from fxprune.support.reading import shown

__all__ = ["Inputs", "Labelled", "describe_inputs", "example_inputs", "labelled_batches"]

Inputs = torch.Tensor | tuple[object, ...] | dict[str, object]
"""What ``fxprune.trace`` takes: one tensor, positional arguments, or keyword arguments."""

_SEED = 0
_CLASSES = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def example_inputs(loaded: Loaded, specs: Sequence[str] = (), *, allow_pickle: bool = False) -> Inputs:
    """Example inputs for a model: those asked for, those it came with, or a guess.

    Args:
        loaded: The model, as ``load_model`` returned it.
        specs: One text per argument, see the module's description.
        allow_pickle: Unpickle a ``.pt`` file that holds more than tensors.

    Returns:
        A tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        FxpruneError: A text or file cannot be read, or nothing can be guessed.

    Example:
        >>> from fxprune.models.loading import load_model
        >>> [x.shape for x in example_inputs(load_model("torchvision:r3d_18"))]
        [torch.Size([1, 3, 16, 112, 112])]
    """
    if specs:
        return _from_specs(specs, loaded.model, allow_pickle)
    if loaded.inputs is not None:
        inputs = loaded.inputs
        return inputs if isinstance(inputs, (torch.Tensor, tuple, dict)) else (inputs,)
    guessed = _guess(loaded)
    if guessed is None:
        raise FxpruneError(
            f"the input shape of {loaded.spec} is not known",
            advice="pass --input, such as --input 1x3x224x224, or let the factory return (model, example_inputs)",
        )
    return guessed


def describe_inputs(inputs: Inputs) -> str:
    """Shapes and dtypes on one line: ``1x3x224x224 float32``.

    Example:
        >>> describe_inputs((torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, dtype=torch.int64)))
        '1x3x8x8 float32, 1x4 int64'
    """
    return _describe(inputs if isinstance(inputs, (tuple, dict)) else (inputs,)).strip("()[]")


def _describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_describe(item)}" for key, item in value.items())
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_describe, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return repr(value)


# --- texts -----------------------------------------------------------------------------------


def _from_specs(specs: Sequence[str], model: nn.Module, allow_pickle: bool) -> Inputs:
    file = input_file(specs)
    if file is not None:
        read = _read_pt if file.suffix in (".pt", ".pth") else _read_npz
        return read(file, model, allow_pickle)
    random = torch.Generator().manual_seed(_SEED)
    parsed = parse_specs(specs)
    if parsed[0].name:
        return {spec.name: _made(spec, random) for spec in parsed}
    return tuple(_made(spec, random) for spec in parsed)


def _made(spec: InputSpec, random: torch.Generator) -> torch.Tensor:
    """Values that are the same on every run."""
    dtype: torch.dtype = getattr(torch, spec.dtype.name)
    if dtype == torch.bool:
        return torch.randint(0, 2, spec.shape, generator=random).bool()
    if not dtype.is_floating_point:
        low, high = int(spec.low or 0), int(9 if spec.high is None else spec.high)
        return torch.randint(low, high + 1, spec.shape, generator=random).to(dtype)
    if spec.low is None or spec.high is None:
        return torch.randn(spec.shape, generator=random).to(dtype)
    unit = torch.rand(spec.shape, generator=random)
    return (spec.low + (spec.high - spec.low) * unit).to(dtype)


# --- files -----------------------------------------------------------------------------------


def _read_npz(path: Path, model: nn.Module, allow_pickle: bool) -> Inputs:
    del allow_pickle  # an array of objects is no tensor
    return _by_name({**_npz_tensors(path)}, model)


def _npz_tensors(path: Path) -> dict[str, torch.Tensor]:
    arrays = read_arrays(path)
    try:
        return {key: torch.from_numpy(array) for key, array in arrays.items()}
    except (ValueError, TypeError) as error:
        raise FxpruneError(
            f"{shown(path)} holds numbers that torch has no dtype for: {error}",
            advice="store float32 or int64 arrays",
        ) from error


def _read_pt(path: Path, model: nn.Module, allow_pickle: bool) -> Inputs:
    value = load_pt(path, allow_pickle=allow_pickle)
    if isinstance(value, torch.Tensor):
        return (value,)
    if isinstance(value, (tuple, list)):
        return tuple(value)
    if isinstance(value, Mapping):
        return _by_name({str(key): item for key, item in value.items()}, model)
    raise FxpruneError(
        f"{path} holds a {type(value).__name__}, not example inputs",
        advice="save a tensor, a tuple of tensors or a dict of tensors",
    )


def _by_name(tensors: dict[str, object], model: nn.Module) -> Inputs:
    try:
        arguments = pyinspect.signature(model.forward).parameters
    except (ValueError, TypeError):  # compiled code does not tell
        return tuple(tensors.values())
    return tensors if tensors and all(key in arguments for key in tensors) else tuple(tensors.values())


@brief
@dataclass(frozen=True, eq=False)
class Labelled:
    """One batch of a data file: arguments of the model, and class numbers int64[n]."""

    inputs: tuple[torch.Tensor, ...]
    labels: torch.Tensor

    @staticmethod
    def loss(model: nn.Module, batch: Labelled) -> torch.Tensor:
        """Cross entropy of the model's logits."""
        return nn.functional.cross_entropy(model(*batch.inputs), batch.labels)

    @staticmethod
    def accuracy(model: nn.Module, batches: Sequence[Labelled]) -> float:
        """Share of samples that a model names rightly.

        Raises:
            FxpruneError: It returns something else than logits [n, classes].
        """
        right = 0
        for batch in batches:
            logits = model(*batch.inputs)
            if not isinstance(logits, torch.Tensor) or logits.shape[:-1] != batch.labels.shape:
                made = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
                raise FxpruneError(
                    f"the model returns {made}, not logits [{len(batch.labels)}, classes]",
                    advice="an accuracy by labels is one of classifiers; in Python pass a metric= of your own",
                )
            right += int((logits.argmax(1) == batch.labels).sum())
        return right / sum(len(batch.labels) for batch in batches)


def labelled_batches(path: Path, *, batch_size: int = 32) -> tuple[Labelled, ...]:
    """The batches of an ``.npz`` file: an array ``y`` of class numbers, and the inputs in order.

    Args:
        path: The file; all arrays have the samples along their first dimension.
        batch_size: Samples a batch.

    Raises:
        FxpruneError: The file cannot be read, has no labels, or its arrays differ in length.
    """
    arrays = _npz_tensors(path)
    labels = arrays.pop("y", None)
    if labels is None or labels.dtype not in _CLASSES or labels.ndim != 1 or not arrays:
        raise FxpruneError(
            f"{path} has no class numbers 'y' beside its inputs: it holds {describe_inputs(dict(arrays)) or 'nothing'}",
            advice="write it with numpy.savez(path, x=images, y=labels), labels as integers",
        )
    lengths = {len(array) if array.ndim else -1 for array in (labels, *arrays.values())}
    if len(lengths) != 1 or not len(labels):
        raise FxpruneError(
            f"the arrays in {path} differ in length or are empty: {describe_inputs({**arrays, 'y': labels})}",
            advice="every array has one entry per sample along its first dimension",
        )
    if int(labels.min()) < 0:
        raise FxpruneError(f"{path} has class numbers below 0", advice="number the classes from 0")
    columns = [array.split(batch_size) for array in arrays.values()]
    return tuple(
        Labelled(tuple(inputs), batch.long())
        for *inputs, batch in zip(*columns, labels.split(batch_size), strict=True)
    )


# --- guesses ---------------------------------------------------------------------------------


def _guess(loaded: Loaded) -> Inputs | None:
    zoo, _, name = loaded.spec.partition("?")[0].partition(":")
    guess = {"torchvision": _guess_torchvision, "timm": _guess_timm}.get(zoo)
    return guess(name.partition("@")[0], loaded) if guess else None


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(_SEED))


def _guess_timm(_name: str, loaded: Loaded) -> Inputs | None:
    config = getattr(loaded.model, "pretrained_cfg", None) or {}
    channels, *sides = config.get("input_size") or (3, 224, 224)
    asked = loaded.arguments.get("in_chans"), loaded.arguments.get("img_size")
    channels = asked[0] if isinstance(asked[0], int) else channels
    sides = [asked[1]] * 2 if isinstance(asked[1], int) else sides
    return (_noise(1, channels, *sides),)


def _guess_torchvision(name: str, loaded: Loaded) -> Inputs:
    from torchvision import models

    module = models.get_model_builder(name).__module__
    family = module.removeprefix("torchvision.models.").partition(".")[0]
    return _FAMILIES.get(family, _image)(name, loaded.model)


def _image(name: str, model: nn.Module) -> Inputs:
    from torchvision import models

    fixed = getattr(model, "image_size", None)  # vision transformers have position tables
    smallest = max(models.get_model_weights(name).DEFAULT.meta.get("min_size", (1,)))
    side = fixed if isinstance(fixed, int) else max(224, smallest)
    return (_noise(1, 3, side, side),)


def _clip(name: str, _model: nn.Module) -> Inputs:
    from torchvision import models

    transforms = models.get_model_weights(name).DEFAULT.transforms
    side = max(getattr(transforms, "keywords", {}).get("crop_size", (224,)))
    return (_noise(1, 3, 16, side, side),)


def _two_images(_name: str, _model: nn.Module) -> Inputs:
    return (_noise(1, 3, 128, 128), _noise(1, 3, 128, 128).flip(-1))


def _image_list(_name: str, _model: nn.Module) -> Inputs:
    return ([_noise(3, 224, 224).sigmoid()],)


_FAMILIES: Mapping[str, Callable[[str, nn.Module], Inputs]] = {
    "segmentation": lambda _name, _model: (_noise(1, 3, 224, 224),),
    "video": _clip,
    "optical_flow": _two_images,
    "detection": _image_list,
}

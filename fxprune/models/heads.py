"""A head of another size: read off the file of weights, or, where it cannot be, how to say it in code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from fxprune.errors import FxpruneError
from fxprune.models.specs import Loaded
from fxprune.models.weights import named_alike

__all__ = ["Shape", "factory_advice", "known_shapes", "with_head_of"]

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None where a plan has changed the size."""

_MOST_LAYERS = 3

_CLASSES = "num_classes"
"""What torchvision and timm call the size of a head, as most other factories do."""


def known_shapes(tensors: Mapping[str, Tensor], kept: Mapping[tuple[str, int], object]) -> dict[str, Shape]:
    """Shapes of the dense model's tensors, as far as the slim one's tell.

    Args:
        tensors: By name.
        kept: The axes that a plan has narrowed.

    Example:
        >>> import torch
        >>> known_shapes({"fc.weight": torch.zeros(10, 5)}, {("fc.weight", 1): ()})
        {'fc.weight': (10, None)}
    """
    return {
        name: tuple(None if (name, dim) in kept else size for dim, size in enumerate(tensor.shape))
        for name, tensor in tensors.items()
    }


def with_head_of(loaded: Loaded, shapes: Mapping[str, Shape], make: Callable[[int], Loaded]) -> Loaded:
    """The model with as many classes as the weights have, if that makes all shapes fit; else as it is.

    Args:
        loaded: The model with the number of classes that its factory has by default.
        shapes: Of the tensors in the file.
        make: The same model with another number of classes.
    """
    misfits = _misfits(loaded.model, shapes)
    if not misfits or _CLASSES in loaded.arguments:
        return loaded
    # Classifiers have a row for each class; the smallest number of rows, as regressors have several.
    for classes in sorted({n for name in misfits for n in shapes[name][:1] if n is not None}):
        try:
            other = make(classes)
        except FxpruneError:  # its factory takes no such argument
            return loaded
        if not _misfits(other.model, shapes):
            note = f"{_CLASSES}={classes}, as '{next(iter(misfits))}' in the weights has that many rows"
            return replace(other, notes=(*other.notes, note))
    return loaded


def _misfits(model: nn.Module, shapes: Mapping[str, Shape]) -> list[str]:
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    return [name for name, size in own.items() if name in shapes and not _fits(shapes[name], size)]


def _fits(shape: Shape, own: tuple[int, ...]) -> bool:
    return len(shape) == len(own) and all(a is None or a == b for a, b in zip(shape, own, strict=True))


def factory_advice(spec: str, model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """The code that makes a model whose layers have the shapes in a file; empty if more than a few differ, or none.

    Args:
        spec: By which the model was named.
        model: What it names.
        tensors: Of the file, by name.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.ReLU(), nn.Linear(4, 3))
        >>> print(factory_advice("nets.py:make", net, {"1.weight": torch.zeros(7, 4), "1.bias": torch.zeros(7)}))
        if the head was changed, name the model as mine.py:mine, a file mine.py with this in it:
            import torch
            def mine():
                model = make()  # of nets.py
                model.set_submodule("1", torch.nn.Linear(4, 7))
                return model
    """
    given, _ = named_alike(dict(tensors), model.state_dict())
    layers = dict.fromkeys(
        name.rpartition(".")[0] for name in (*_misfits(model, known_shapes(given, {})), *_gone(model, given))
    )
    if not layers or len(layers) > _MOST_LAYERS or "" in layers:
        return ""
    lines = [_replaced(path, model.get_submodule(path), given) for path in layers]
    package, made = _dense(spec)
    return "\n".join(
        (
            "if the head was changed, name the model as mine.py:mine, a file mine.py with this in it:",
            f"    import torch{package}",
            "    def mine():",
            f"        model = {made}",
            *(f"        {line}" for line in lines),
            "        return model",
        )
    )


def _dense(spec: str) -> tuple[str, str]:
    """What to import, and how to make the model that a text names."""
    place = spec.partition("?")[0]
    source, _, name = place.rpartition(":")
    name = name.partition("@")[0]
    zoos = {
        "torchvision": (", torchvision", f'torchvision.models.get_model("{name}", weights=None)'),
        "timm": (", timm", f'timm.create_model("{name}")'),
    }
    return zoos.get(source, ("", f"{name}()  # of {source}"))


def _gone(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """Tensors of the model in whose layer's place the file has a module of several layers."""
    missing = [name for name in model.state_dict() if name not in given]
    return [name for name in missing if any(n.startswith(f"{name.rpartition('.')[0]}.") for n in given)]


def _replaced(path: str, layer: nn.Module, given: Mapping[str, Tensor]) -> str:
    held = {name: tensor for name, tensor in given.items() if name.startswith(f"{path}.")}
    weight = held.get(f"{path}.weight")
    if isinstance(layer, nn.Linear) and weight is not None and weight.ndim == 2:
        bias = "" if f"{path}.bias" in held else ", bias=False"
        return f'model.set_submodule("{path}", torch.nn.Linear({weight.shape[1]}, {weight.shape[0]}{bias}))'
    holds = ", ".join(f"{name} {'x'.join(map(str, tensor.shape))}" for name, tensor in held.items())
    return f'model.set_submodule("{path}", ...)  # holds {holds}'

"""Weights from files, without running code that a file may hold.

safetensors files carry tensors and text only.  ``torch.save`` files are read with
``weights_only=True``; one that needs more is refused, unless the caller allows unpickling.
Every key, shape and kind of number must fit: a checkpoint that fits in part is the wrong checkpoint.
Precision may change (float16 into float32), values may not: what would overflow, integers for floats, an imaginary
part that would be dropped, NaN and negative variances are refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fxprune.errors import FxpruneError, SliceError
from fxprune.support.reading import check_archive, check_unfolded, is_archive, regular_file, shown
from fxprune.support.tensors import read_header, read_tensors

__all__ = ["check_values", "fill", "load_pt", "load_weights", "named_alike", "read_metadata", "read_weights"]

_SHOWN = 6
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTER = "n_averaged"  # of torch's AveragedModel, beside the weights
# How torch's weights-only reader words that it stopped at something it would have to execute.
_BLOCKED = re.compile(r"(?:GLOBAL|function|class|type) ([A-Za-z_][\w.]*)")
# Instructions of pickle's protocols 4 and 5 (140 to 152), which torch.save does not write: a pickle of someone's own.
_FOREIGN = re.compile(r"Unsupported operand (1(?:4\d|5[0-2]))\b")


def load_weights(model: nn.Module, path: Path, *, allow_pickle: bool = False) -> tuple[str, ...]:
    """Fill a model with the weights of a file.

    Args:
        model: Its parameters and buffers are overwritten.
        path: A safetensors file, or a ``torch.save`` file of tensors: a state dict, or a dict that
            holds one under ``state_dict`` or ``model``; a wrapper's prefix (``module.``) is removed.
        allow_pickle: Unpickle a ``torch.save`` file that holds other objects.

    Returns:
        Notes: that a prefix was removed.

    Raises:
        FxpruneError: The file is missing, corrupt, or needs unpickling.
        SliceError: Keys, shapes, kinds or values do not fit the model; it is then unchanged.
    """
    given, notes = named_alike(read_weights(path, allow_pickle=allow_pickle), model.state_dict())
    fill(model, given, path)
    return notes


def fill(model: nn.Module, given: Mapping[str, Tensor], path: str | Path, *, what: str = "the model") -> None:
    """Put tensors into a model, all of them or none.

    Args:
        model: Its parameters and buffers are overwritten.
        given: By name.
        path: Where they come from, for errors.
        what: What errors call the model.

    Raises:
        SliceError: Keys, shapes, kinds or values do not fit the model; it is then unchanged.
    """
    own = {key: tensor for key, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    lazy = next((key for key, tensor in own.items() if nn.parameter.is_lazy(tensor)), "")
    if lazy:
        raise SliceError(
            f"{what} has tensors without a shape yet", tensor=lazy, advice="run the model once, then load"
        )
    both = {key: (given[key], tensor) for key, tensor in own.items() if key in given}
    misfits = {key: _misfit(*pair) for key, pair in both.items()}
    stored = {tensor.data_ptr() for key, tensor in own.items() if key in given}
    missing = [
        key
        for key, tensor in own.items()
        # A tied tensor is stored once; old checkpoints have no batch counters.
        if key not in given
        and not key.endswith("num_batches_tracked")
        and not (tensor.numel() and tensor.data_ptr() in stored)
    ]
    faults = {
        "wrong shape or kind": {key: misfit for key, misfit in misfits.items() if misfit},
        "missing in the file": {key: _shape(own[key]) for key in missing},
        f"not in {what}": {key: _shape(tensor) for key, tensor in given.items() if key not in own},
    }
    if not any(faults.values()):
        sick = {key: _sick(key, *pair) for key, pair in both.items()}
        faults = {"values that cannot be": {key: text for key, text in sick.items() if text}}
    _refuse(path, what, faults)
    model.load_state_dict(dict(given), strict=False)


def check_values(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse to write what ``fill`` would refuse to read.

    Raises:
        SliceError: NaN, or a negative variance.
    """
    for name, tensor in tensors.items():
        fault = _sick(name, tensor, tensor)
        if fault:
            raise SliceError(
                f"{shown(path)} is not written: the model holds {fault}",
                tensor=name,
                advice="train it again with a lower learning rate, or from the last weights that were numbers",
            )


def _misfit(given: Tensor, own: Tensor) -> str:
    """Why one tensor cannot stand for another, empty if it can."""
    if given.shape != own.shape:
        return f"{_shape(given)} in the file, {_shape(own)} in the model"
    if _kind(given) != _kind(own):
        return f"{_kind(given)} in the file, {_kind(own)} in the model"
    return ""


def _kind(tensor: Tensor) -> str:
    """What sort of number a tensor holds; precision aside."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "quantized" if tensor.is_quantized else "no numbers" if tensor.is_meta else "sparse"
    dtype = tensor.dtype
    kinds = (("float", dtype.is_floating_point), ("complex", dtype.is_complex), ("bool", dtype == torch.bool))
    return next((kind for kind, holds in kinds if holds), "integer")


def _sick(name: str, given: Tensor, own: Tensor) -> str:
    """What is wrong with values once they are in the model, empty if nothing."""
    if given.is_meta or own.is_meta:
        return ""
    cast = given.detach().to(own.dtype)
    if _kind(given) == "integer":
        changed = (cast.to(given.dtype) != given).sum() if cast.dtype != given.dtype else 0
        return f"{int(changed)} integers that {own.dtype} cannot hold" if changed else ""
    if _kind(given) not in ("float", "complex"):
        return ""
    cast = cast.float() if cast.dtype.itemsize == 1 else cast
    wrong = ~torch.isfinite(cast)
    if wrong.any():
        # Masks of attention hold minus infinity on purpose: where the model does, too.
        wrong &= cast != own.detach().to(device=cast.device, dtype=cast.dtype)
        if wrong.any():
            return f"{int(wrong.sum())} values that are NaN or infinite"
    if name.endswith("running_var") and bool((cast < 0).any()):
        return f"{int((cast < 0).sum())} negative variances"
    return ""


def read_weights(path: str | Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
        FxpruneError: The file is missing, corrupt, or needs unpickling.
    """
    path = regular_file(path)
    if path.suffix == ".safetensors" or not _is_torch_file(path):
        return read_tensors(path).tensors
    value = load_pt(path, allow_pickle=allow_pickle)
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    for key in _NESTED:
        if isinstance(value, Mapping) and isinstance(value.get(key), (Mapping, nn.Module)):
            inner = value[key]
            value = inner.state_dict() if isinstance(inner, nn.Module) else inner
            break
    tensors = value if isinstance(value, Mapping) else {}
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise FxpruneError(
            f"{path} holds no weights: {_contents(value)}",
            advice="save model.state_dict(), best with safetensors.torch.save_file",
        )
    return {str(key): tensor for key, tensor in tensors.items()}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text entries of a safetensors file; empty for any other file.

    Raises:
        FxpruneError: The file is missing, or a corrupt safetensors file.
    """
    path = regular_file(path)
    return read_header(path) if path.suffix == ".safetensors" else {}


def load_pt(path: str | Path, *, allow_pickle: bool = False) -> object:
    """The content of a ``torch.save`` file on the CPU.

    Raises:
        FxpruneError: The file is missing, corrupt, or needs unpickling without ``allow_pickle``.
    """
    path = regular_file(path)
    try:
        if is_archive(path):
            check_archive(path)
        elif _is_torch_file(path):
            check_unfolded(path, path.stat().st_size)
        else:  # torch would also unpack a tar archive
            raise pickle.UnpicklingError("neither a zip archive nor a pickle")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of pickle protocols; what matters comes as an error
            value: object = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
        return value
    except FxpruneError:
        raise
    except pickle.UnpicklingError as error:
        text = str(error)
        blocked = None if allow_pickle else _BLOCKED.search(text) or _FOREIGN.search(text)
        if blocked is None:
            raise _corrupt(path, error) from error
        what = blocked[1] if blocked.re is _BLOCKED else "it is a pickle that torch.save did not write"
        raise FxpruneError(
            f"{path} holds pickled objects, which can run code when they are read: {what}",
            advice="save the state_dict with safetensors, or pass --allow-pickle (allow_pickle=True) if you trust whoever made the file",
        ) from error
    except Exception as error:  # a damaged archive shows in many ways
        raise _corrupt(path, error) from error


def _is_torch_file(path: Path) -> bool:
    """Whether the bytes look like a zip archive or a pickle stream."""
    with path.open("rb") as file:
        return is_archive(path) or file.read(1) == b"\x80"


def named_alike(
    given: dict[str, Tensor], own: Mapping[str, object]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors without the prefix of what the model was wrapped in, and a note if there was one.

    Args:
        given: By name.
        own: The model's names.

    Example:
        >>> named_alike({"module._orig_mod.fc.bias": torch.zeros(2)}, {"fc.bias": ()})[1]
        ("the weights are those of a wrapped model: 'module._orig_mod.' was taken off every name",)
    """
    taken = ""
    counted = [key for key in given if key.rpartition(".")[2] == _COUNTER and key not in own]
    if counted and len(given) > 1:
        given = {key: tensor for key, tensor in given.items() if key not in counted}
    while prefix := next((p for p in _PREFIXES if _is_around(p, given, own)), ""):
        given = {key.removeprefix(prefix): tensor for key, tensor in given.items()}
        taken += prefix
    said = f"the weights are those of a wrapped model: '{taken}' was taken off every name"
    return given, (said,) if taken else ()


def _is_around(prefix: str, given: Mapping[str, Tensor], own: Mapping[str, object]) -> bool:
    wrapped = bool(given) and all(key.startswith(prefix) for key in given)
    return wrapped and not any(key.startswith(prefix) for key in own)


def _refuse(path: str | Path, what: str, faults: Mapping[str, Mapping[str, str]]) -> None:
    nonempty = {title: texts for title, texts in faults.items() if texts}
    if not nonempty:
        return
    lines = [f"the weights in {shown(path)} do not fit {what}"]
    for title, texts in nonempty.items():
        lines.append(f"  {title} ({len(texts)}):")
        lines += [f"    {name}{':' * (' ' in text)} {text}" for name, text in list(texts.items())[:_SHOWN]]
        lines += [f"    ... and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    raise SliceError(
        "\n".join(lines),
        tensor=next(iter(next(iter(nonempty.values())))),
        advice="check that MODEL is the network these weights were trained for, and that the file is whole",
    )


def _corrupt(path: Path, error: BaseException) -> FxpruneError:
    return FxpruneError(
        f"{shown(path)} is damaged or not a weights file: {_reason(error)}",
        advice="copy or download the file again",
    )


def _reason(error: BaseException) -> str:
    """The last sentence of torch's page-long message, or the whole of a short one."""
    text = " ".join(str(error).split())
    text = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
    text = text.rpartition("Do it only if you got the file from a trusted source. ")[2]
    return text[:200] or type(error).__name__


def _contents(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(str, list(value)[:_SHOWN])) or 'nothing'}"
    return f"a {type(value).__name__}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"

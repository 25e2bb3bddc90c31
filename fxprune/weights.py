"""Weights from files, without running code that a file may hold.

safetensors files carry tensors and text only.  ``torch.save`` files are read with
``weights_only=True``; one that needs more is refused, unless the caller allows unpickling.
Every key and every shape must fit: a checkpoint that fits in part is the wrong checkpoint.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fxprune.errors import FxpruneError, SliceError

__all__ = ["load_pt", "load_weights", "read_metadata", "read_weights"]

_SHOWN = 6
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# How torch's weights-only reader words that it stopped at something it would have to execute.
_BLOCKED = re.compile(r"(?:GLOBAL|function|class|type) ([A-Za-z_][\w.]*)")
# Instructions of pickle's protocols 4 and 5 (140 to 152), which torch.save does not write: a pickle of someone's own.
_FOREIGN = re.compile(r"Unsupported operand (1(?:4\d|5[0-2]))\b")


def load_weights(model: nn.Module, path: Path, *, allow_pickle: bool = False) -> None:
    """Fill a model with the weights of a file.

    Args:
        model: Its parameters and buffers are overwritten.
        path: A safetensors file, or a ``torch.save`` file of tensors: a state dict, or a dict that
            holds one under ``state_dict`` or ``model``; a wrapper's prefix (``module.``) is removed.
        allow_pickle: Unpickle a ``torch.save`` file that holds other objects.

    Raises:
        FxpruneError: The file is missing, corrupt, or needs unpickling.
        SliceError: Keys or shapes do not fit the model; it is then unchanged.
    """
    own = model.state_dict()
    given = _strip_prefix(read_weights(path, allow_pickle=allow_pickle), own)
    wrong = [
        f"{key}: {_shape(given[key])} in the file, {_shape(tensor)} in the model"
        for key, tensor in own.items()
        if key in given and given[key].shape != tensor.shape
    ]
    stored = {tensor.data_ptr() for key, tensor in own.items() if key in given}
    missing = [
        f"{key} {_shape(tensor)}"
        for key, tensor in own.items()
        # A tied tensor is stored once; old checkpoints have no batch counters.
        if key not in given
        and not key.endswith("num_batches_tracked")
        and not (tensor.numel() and tensor.data_ptr() in stored)
    ]
    unexpected = [f"{key} {_shape(tensor)}" for key, tensor in given.items() if key not in own]
    _refuse(
        path, (("wrong shape", wrong), ("missing in the file", missing), ("not in the model", unexpected))
    )
    model.load_state_dict(given, strict=False)


def read_weights(path: Path, *, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a file by name.

    Raises:
        FxpruneError: The file is missing, corrupt, or needs unpickling.
    """
    _need_file(path)
    if path.suffix == ".safetensors" or not _is_torch_file(path):
        return _read_safetensors(path)
    value = load_pt(path, allow_pickle=allow_pickle)
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    for key in _NESTED:
        if isinstance(value, Mapping) and isinstance(value.get(key), (Mapping, nn.Module)):
            inner = value[key]
            value = inner.state_dict() if isinstance(inner, nn.Module) else inner
            break
    tensors = value if isinstance(value, Mapping) else {}
    if not tensors or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise FxpruneError(
            f"{path} holds no weights: {_contents(value)}",
            advice="save model.state_dict(), best with safetensors.torch.save_file",
        )
    return {str(key): tensor for key, tensor in tensors.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The text entries of a safetensors file; empty for any other file.

    Raises:
        FxpruneError: The file is missing, or a corrupt safetensors file.
    """
    _need_file(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _corrupt(path, error) from error


def load_pt(path: Path, *, allow_pickle: bool = False) -> object:
    """The content of a ``torch.save`` file on the CPU.

    Raises:
        FxpruneError: The file is missing, corrupt, or needs unpickling without ``allow_pickle``.
    """
    _need_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # of pickle protocols; what matters comes as an error
            value: object = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
        return value
    except pickle.UnpicklingError as error:
        text = str(error)
        blocked = None if allow_pickle else _BLOCKED.search(text) or _FOREIGN.search(text)
        if blocked is None:
            raise _corrupt(path, error) from error
        what = blocked[1] if blocked.re is _BLOCKED else "it is a pickle that torch.save did not write"
        raise FxpruneError(
            f"{path} holds pickled objects, which can run code when they are read: {what}",
            advice="save the state_dict with safetensors, or pass --allow-pickle if you trust whoever made the file",
        ) from error
    except Exception as error:  # a damaged archive shows in many ways
        raise _corrupt(path, error) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise _corrupt(path, error) from error


def _need_file(path: Path) -> None:
    if path.is_dir():
        raise FxpruneError(f"{path} is a folder", advice="give the file in it")
    if not path.is_file():
        raise FxpruneError(f"there is no file {path}", advice="check the path")


def _is_torch_file(path: Path) -> bool:
    """Whether the bytes look like a zip archive or a pickle stream."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == b"\x80"


def _strip_prefix(given: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in _PREFIXES:
        wrapped = given and all(key.startswith(prefix) for key in given)
        if wrapped and not any(key.startswith(prefix) for key in own):
            given = {key.removeprefix(prefix): tensor for key, tensor in given.items()}
    return given


def _refuse(path: Path, faults: tuple[tuple[str, list[str]], ...]) -> None:
    if not any(names for _, names in faults):
        return
    lines = [f"the weights in {path} do not fit the model"]
    for what, names in faults:
        lines += [f"  {what} ({len(names)}):"] if names else []
        lines += [f"    {name}" for name in names[:_SHOWN]]
        lines += [f"    ... and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    raise SliceError(
        "\n".join(lines), advice="check that MODEL is the network these weights were trained for"
    )


def _corrupt(path: Path, error: BaseException) -> FxpruneError:
    return FxpruneError(
        f"{path} is damaged or not a weights file: {_reason(error)}", advice="copy or download the file again"
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


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"

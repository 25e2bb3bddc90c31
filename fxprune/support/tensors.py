"""safetensors files of the package's own: written whole, with a digest, and checked when they are read.

The digest is SHA-256 over the metadata and over name, dtype, shape and bytes of every tensor, so that no bit of a
file can change without notice.  It guards against damage, not against forgery: who can write the file can write
its digest.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fxprune.errors import FxpruneError, IntegrityWarning
from fxprune.support.briefly import brief
from fxprune.support.files import atomic_path
from fxprune.support.reading import regular_file, shown

__all__ = ["DIGEST", "Content", "read_header", "read_tensors", "warn_unchecked", "write_tensors"]

DIGEST = "digest"
"""Key of the digest in the metadata."""


@brief
@dataclass(frozen=True, eq=False)
class Content:
    """What a file holds.

    Attributes:
        tensors: By name, on the CPU.
        metadata: Texts by name.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def checked(self) -> bool:
        """Whether a digest vouches for it."""
        return DIGEST in self.metadata


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    error: type[FxpruneError] = FxpruneError,
) -> None:
    """Write tensors with a digest, completely or not at all.

    Args:
        path: The file.
        tensors: By name; contiguous copies on the CPU are written.
        metadata: Texts by name.
        error: The class of the error.

    Raises:
        FxpruneError: Or the given subclass: the file cannot be written, or a dtype cannot be stored.
    """
    held: dict[str, Tensor] = {}
    stored: set[int] = set()
    for name, tensor in tensors.items():
        held[name] = tensor.detach().cpu().contiguous()
        place = held[name].untyped_storage().data_ptr()
        if place in stored:  # safetensors refuses tensors that share their memory
            held[name] = held[name].clone()
        stored.add(place)
    texts = {**metadata, DIGEST: _digest(held, metadata)}
    with atomic_path(path, error=error) as temporary:
        try:
            save_file(held, temporary, texts)
        except (LookupError, ValueError, TypeError, RuntimeError) as cause:
            raise error(
                f"{shown(path)} cannot be written: {type(cause).__name__}: {cause}",
                advice="safetensors files hold dense tensors of the common dtypes: convert the others",
            ) from cause


def read_tensors(
    path: str | Path, *, error: type[FxpruneError] = FxpruneError, advice: str = "copy or make the file again"
) -> Content:
    """Read a safetensors file, and compare it with its digest if it has one.

    Raises:
        FxpruneError: Or the given subclass: missing, no safetensors file, or changed since it was written.
    """
    target = regular_file(path, error=error, advice=advice)
    try:
        with safe_open(target, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as cause:  # what the reader of a damaged header raises is not written down
        raise _unreadable(path, cause, error, advice) from cause
    rest = {key: text for key, text in metadata.items() if key != DIGEST}
    if DIGEST in metadata and metadata[DIGEST] != _digest(tensors, rest):
        raise error(
            f"{shown(path)} is damaged: its content is not what was written, by its digest", advice=advice
        )
    return Content(tensors, metadata)


def read_header(
    path: str | Path, *, error: type[FxpruneError] = FxpruneError, advice: str = "copy or make the file again"
) -> dict[str, str]:
    """The metadata alone, not compared with the digest.

    Raises:
        FxpruneError: Or the given subclass: missing, or no safetensors file.
    """
    target = regular_file(path, error=error, advice=advice)
    try:
        with safe_open(target, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as cause:
        raise _unreadable(path, cause, error, advice) from cause


def warn_unchecked(path: str | Path) -> None:
    """Say that a file of the package's own has no digest: it was written by a version before there were any."""
    warnings.warn(
        f"{shown(path)} was written without a digest, so that damage to it cannot be noticed; write it again",
        IntegrityWarning,
        stacklevel=3,
    )


def _unreadable(path: str | Path, cause: Exception, error: type[FxpruneError], advice: str) -> FxpruneError:
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    return error(f"{shown(path)} is damaged or not a weights file: {reason}", advice=advice)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 in hexadecimal; every text is written with its length, so that no two contents look alike."""
    digest = hashlib.sha256()
    digest.update(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

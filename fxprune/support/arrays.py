"""numpy's files: arrays of numbers, never objects, and never more than the file honestly holds.

``numpy.load`` believes what an array's header says about its size; here the header has to agree with the bytes
that follow before any memory is asked for.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from fxprune.errors import FxpruneError
from fxprune.support.reading import MIB, check_archive, check_unfolded, is_archive, regular_file, shown

__all__ = ["Array", "read_arrays"]

Array = npt.NDArray[np.generic]

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SUFFIX = ".npy"


def read_arrays(path: str | Path, *, only: Collection[str] = ()) -> dict[str, Array]:
    """The arrays of an ``.npz`` file by name, or that of an ``.npy`` file as ``x``.

    Args:
        path: The file.
        only: Names of those to read, all of which must be there; by default every array is read.

    Returns:
        Arrays of booleans, integers, floats or complex numbers that may be written to.

    Raises:
        FxpruneError: The file is missing, damaged or larger than it pretends to be, has no array of a name, or
            holds something other than numbers.
    """
    target = regular_file(path)
    try:
        if not is_archive(target):
            with target.open("rb") as stream:
                return {"x": _array(stream, target.stat().st_size, target)}
        check_archive(target)
        with zipfile.ZipFile(target) as archive:
            members = {info.filename.removesuffix(_SUFFIX): info for info in archive.infolist()}
            for name in sorted(set(only) - set(members)):
                held = ", ".join(map(shown, list(members)[:10])) or "nothing"
                raise _refusal(path, f"there is no array '{name}' in it; it holds {held}")
            read = {}
            for name in only or members:
                with archive.open(members[name]) as stream:
                    read[name] = _array(stream, members[name].file_size, target)
            return read
    except FxpruneError:
        raise
    except Exception as error:  # a damaged archive shows in many ways
        raise _refusal(path, " ".join(str(error).split())[:200] or type(error).__name__) from error


def _refusal(path: str | Path, why: str) -> FxpruneError:
    return FxpruneError(
        f"no arrays could be read from {shown(path)}: {why}",
        advice="write it with numpy.savez(path, x=array)",
    )


def _array(stream: IO[bytes], size: int, path: Path) -> Array:
    """One array of a stream of so many bytes."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise _refusal(path, f"format {version} of its arrays is not known")
    shape, fortran, dtype = _HEADERS[version](stream)
    if dtype.kind not in "biufc":
        raise _refusal(path, f"it holds {'objects' if dtype.hasobject else dtype}, not numbers")
    bytes_left, count = size - stream.tell(), prod(shape)
    if any(n < 0 for n in shape) or count * dtype.itemsize != bytes_left:
        raise _refusal(path, f"an array says it is {dtype}{list(shape)}, but {bytes_left} bytes follow")
    check_unfolded(path, bytes_left)
    flat = np.empty(count, dtype)
    room = memoryview(flat.view(np.uint8)) if count else memoryview(bytearray())  # type: ignore[arg-type]
    done = 0
    while done < bytes_left:
        piece = stream.read(min(16 * MIB, bytes_left - done))
        if not piece:
            raise _refusal(path, "it ends too early")
        room[done : done + len(piece)] = piece
        done += len(piece)
    native = flat.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(shape[::-1]).transpose() if fortran else native.reshape(shape)

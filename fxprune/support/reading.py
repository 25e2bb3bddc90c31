"""What is read: regular files only, of bounded size, under names that can be used.

A name from a command line or a recipe may hold anything, and behind a good name may lie a folder, a pipe nobody
writes to, a device without an end, or an archive that unfolds to more than there is memory.  Every reader of the
package goes through this module first, so that each of these is one clear error and never a hang.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path

import psutil

from fxprune.errors import FxpruneError

__all__ = [
    "MIB",
    "check_archive",
    "check_unfolded",
    "is_archive",
    "json_object",
    "read_text",
    "regular_file",
    "shown",
    "usable",
]

MIB = 1 << 20

_SHOWN = 120  # letters of a name in an error
_LONGEST = 255  # bytes of one part of a path, on every common file system
_UNFOLDED_FREE = 64 * MIB
_UNFOLDED_RATIO = 100  # weights and images are packed to a tenth at best; bombs to a thousandth


def shown(path: str | Path) -> str:
    r"""A path for an error: printable, and not longer than a line or two.

    Example:
        >>> shown("a\0b"), len(shown("x" * 5000))
        ('a\\x00b', 123)
    """
    text = os.fspath(path)
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"


def usable(path: str | Path, *, error: type[FxpruneError] = FxpruneError) -> Path:
    """The path with ``~`` as the home, if a file could be called so.

    Args:
        path: From the user.
        error: The class of the error.

    Raises:
        FxpruneError: Or the given subclass: NUL or bytes that are no UTF-8 in it, a part that is too long, the
            home of a user that does not exist.

    Example:
        >>> usable("~/net.onnx") == Path.home() / "net.onnx"
        True
    """
    text = os.fspath(path)
    problem = ""
    if "\0" in text:
        problem = "it holds the character NUL"
    elif any("\ud800" <= c <= "\udfff" for c in text):
        problem = "its bytes are not UTF-8"
    elif any(len(part.encode()) > _LONGEST for part in Path(text).parts):
        problem = f"a part of it is longer than {_LONGEST} bytes"
    if not problem:
        try:
            return Path(text).expanduser()
        except RuntimeError:
            problem = (
                f"there is no user '{Path(text).parts[0][1:]}' with a home; write ./{shown(text)} for a file"
            )
    raise error(f"{shown(path)} cannot be the name of a file: {problem}", advice="choose another name")


def regular_file(
    path: str | Path, *, error: type[FxpruneError] = FxpruneError, advice: str = "check the path"
) -> Path:
    """A file that can be read to its end.

    Args:
        path: From the user; ``~`` is the home.
        error: The class of the error.
        advice: What to do where there is no such file.

    Raises:
        FxpruneError: Or the given subclass: no such file, or a folder, pipe, socket or device.
    """
    target = usable(path, error=error)
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as cause:
        dangling = target.is_symlink()
        what = f"{shown(path)} is a link to a file that does not exist" if dangling else ""
        raise error(what or f"there is no file {shown(path)}", advice=advice) from cause
    except OSError as cause:
        raise error(f"{shown(path)} cannot be read: {cause.strerror}", advice=advice) from cause
    if stat.S_ISDIR(mode):
        raise error(f"{shown(path)} is a folder", advice="give the file in it")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise error(
            f"{shown(path)} is not a regular file but {kind}",
            advice="write what comes out of it to a file, and give that",
        )
    if not os.access(target, os.R_OK):
        raise error(f"{shown(path)} cannot be read: Permission denied", advice=advice)
    return target


def read_text(
    path: str | Path, *, limit: int, error: type[FxpruneError] = FxpruneError, advice: str = "check the path"
) -> str:
    """A text file as UTF-8.

    Args:
        path: From the user.
        limit: Most bytes.
        error: The class of the error.
        advice: What to do where it cannot be read.

    Raises:
        FxpruneError: Or the given subclass: no such file, too large, no UTF-8.
    """
    target = regular_file(path, error=error, advice=advice)
    try:
        with target.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise error(
                f"{shown(path)} has more than {limit / MIB:g} MiB, which no such file has", advice=advice
            )
        return data.decode("utf-8")
    except OSError as cause:
        raise error(f"{shown(path)} cannot be read: {cause.strerror}", advice=advice) from cause
    except UnicodeDecodeError as cause:
        raise error(f"{shown(path)} cannot be read: it is not UTF-8 text", advice=advice) from cause


def json_object(path: Path) -> dict[str, object]:
    """The object in a JSON file, to see whose it is; empty where there is none."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def is_archive(path: Path) -> bool:
    """Whether a file looks like a zip archive, a damaged one included."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def check_archive(path: Path, *, error: type[FxpruneError] = FxpruneError) -> None:
    """Refuse a zip archive that two readers could read differently, or that unfolds to far more than it is.

    Args:
        path: A regular file that is a zip archive.
        error: The class of the error.

    Raises:
        FxpruneError: Or the given subclass: a name that stands twice (letter case aside), or a bomb.
        OSError: The file cannot be read.
        zipfile.BadZipFile: It is no zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names: set[str] = set()
    for member in members:
        folded = member.filename.casefold()
        if folded in names:
            raise error(
                f"{shown(path)} holds '{shown(member.filename)}' twice: what is read depends on the reader",
                advice="no tool writes such an archive by itself; get the file from a source you trust",
            )
        names.add(folded)
    check_unfolded(path, sum(member.file_size for member in members), error=error)


def check_unfolded(path: Path, size: int, *, error: type[FxpruneError] = FxpruneError) -> None:
    """Refuse what a file would become in memory: more than there is, or more than honest files are packed to.

    Args:
        path: The file.
        size: Bytes it would take in memory.
        error: The class of the error.

    Raises:
        FxpruneError: Or the given subclass.
    """
    free = psutil.virtual_memory().available
    if size > free:
        raise error(
            f"{shown(path)} would take {size / MIB:,.0f} MiB of memory, and {free / MIB:,.0f} are free",
            advice="use a machine with more memory, or a smaller file",
        )
    if size > max(_UNFOLDED_FREE, _UNFOLDED_RATIO * path.stat().st_size):
        raise error(
            f"{shown(path)} would unfold to {size / MIB:,.0f} MiB, more than {_UNFOLDED_RATIO} times its size",
            advice="it is damaged or made to exhaust the memory; if it is yours, save it without compression",
        )

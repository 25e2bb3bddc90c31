"""Files that are either complete or absent.

Everything the package writes goes through `atomic_path`: the bytes are written in a temporary
sibling folder and renamed over the target when they are all on the disk, so that a crash, a full disk
or a failed check leaves the target as it was.  What a killed writer has left goes when the next one
writes into the same folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from fxprune.errors import FxpruneError
from fxprune.support.locks import temporary_folder

__all__ = ["atomic_path", "check_writable", "write_text"]


@contextlib.contextmanager
def atomic_path(
    path: str | Path,
    *,
    beside: Sequence[str] = (),
    error: type[FxpruneError] = FxpruneError,
    advice: str = "",
) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to ``path`` if the body succeeds.

    Whatever the body raises, no partial file is left and an existing file at ``path`` stays
    as it was.  An ``OSError`` (disk full, no permission) is raised as ``error``.  A file that is
    replaced keeps its permissions; a new one gets those of the umask.

    Args:
        path: The file to make or replace; its folder must exist.  A link is followed.
        beside: Names of files that the body may write next to the temporary path and that move
            with it, first, to the folder of ``path``.
        error: The class of the error for a target that cannot be written.
        advice: What the user can do then; a default is given.

    Yields:
        A path of the same name in a temporary folder on the same disk; the body must create it.

    Raises:
        FxpruneError: Or the given subclass: the target cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("all or nothing")
        ...     print((Path(folder) / "a.txt").read_text())
        all or nothing
    """
    target = check_writable(path, error=error, advice=advice)
    try:
        with temporary_folder(target.parent) as folder:
            mode = folder.stat().st_mode & 0o666  # what the umask leaves of it
            folder.chmod(0o700)  # nobody reads a private file while it is being replaced
            yield folder / target.name
            for name in (*(n for n in beside if (folder / n).exists()), target.name):
                (folder / name).chmod(_mode(target.parent / name, mode))
                _sync(folder / name)
                (folder / name).replace(target.parent / name)
            _sync_folder(target.parent)
    except (OSError, SafetensorError) as cause:
        problem = getattr(cause, "strerror", None) or str(cause)
        raise _refusal(target, problem, error, advice) from cause


def _mode(there: Path, fresh: int) -> int:
    """A file that is replaced keeps its permissions."""
    return there.stat().st_mode & 0o777 if there.exists() else fresh


def write_text(
    path: str | Path, text: str, *, error: type[FxpruneError] = FxpruneError, advice: str = ""
) -> None:
    """Write text as UTF-8, completely or not at all.

    Raises:
        FxpruneError: Or the given subclass: the target cannot be written.
    """
    with atomic_path(path, error=error, advice=advice) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: str | Path, *, error: type[FxpruneError] = FxpruneError, advice: str = "") -> Path:
    """Refuse a target that cannot be written, before any work is done for it.

    Returns:
        The path with links resolved.

    Raises:
        FxpruneError: Or the given subclass: no such folder, a folder at this path, no permission.
    """
    target = Path(path)
    try:
        target = target.expanduser().resolve()
        problem = _problem(target)
    except (OSError, RuntimeError, ValueError) as cause:  # a loop of links, no such user, a name with NUL
        problem = getattr(cause, "strerror", None) or str(cause)
    if problem:
        raise _refusal(target, problem, error, advice)
    return target


def _problem(target: Path) -> str:
    folder = target.parent
    if not folder.exists():
        return f"the folder {folder} does not exist"
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if target.is_dir():
        return "it is a folder"
    if target.exists() and not target.is_file():
        return "it is not a regular file"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"no permission to write in {folder}"
    return ""


def _refusal(target: Path, problem: str, error: type[FxpruneError], advice: str) -> FxpruneError:
    return error(
        f"{target} cannot be written: {problem}",
        advice=advice
        or "choose a path in an existing folder that you may write to, on a disk with space left",
    )


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # The rename itself is on the disk only once the folder is; not every system can do that.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

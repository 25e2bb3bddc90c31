"""Who works where: temporary folders and folders in use, known by locks that die with their process.

The system gives a lock (``flock``) back when its holder ends, however it ends, so what a killed process has
left can be told from what a living one still needs: there is no age to guess and no process number that another
process may have got meanwhile.  Where a file system has no such locks nothing is ever cleaned up or refused.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

from fxprune.errors import FxpruneError

with contextlib.suppress(ImportError):  # a system without flock
    import fcntl

__all__ = ["claimed", "sweep", "temporary_folder"]

CLAIM = ".fxprune.lock"
"""Name of the file that says who works in a folder."""

_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_TEMPORARY = re.compile(r"\.fxprune-(?P<host>[0-9a-f]{8})-\d+-[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new hidden folder in another one, removed at the end; a killed process's goes at the next start.

    Yields:
        The folder, with the permissions that new folders have here.

    Raises:
        OSError: It cannot be made.
    """
    sweep(parent)
    folder, handle = _made(parent)
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:  # a signal that asks for the end: end with it, but after this
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            os.close(handle)


def sweep(parent: Path) -> None:
    """Remove the temporary folders that killed processes of this machine have left in a folder."""
    if not parent.is_dir():
        return
    for entry in list(parent.iterdir()):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or match["host"] != _HOST or entry.is_symlink() or not entry.is_dir():
            continue
        handle, ours = _locked(entry, os.O_RDONLY)
        if handle is not None:
            if ours:
                shutil.rmtree(entry, ignore_errors=True)
            os.close(handle)


def _made(parent: Path) -> tuple[Path, int]:
    while True:
        folder = parent / f".fxprune-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        folder.mkdir()
        handle, _ = _locked(folder, os.O_RDONLY)
        if handle is not None:
            if folder.exists():
                return folder, handle
            os.close(handle)
        # Swept between its making and its lock: the next one will do.


@contextlib.contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Have a folder for this process alone; it is made if it is not there, and goes again if it stays empty.

    Args:
        folder: Where this process is going to write.
        what: What it does there, for the message that another one gets.

    Raises:
        FxpruneError: Another process, or another thread of this one, works there.
        OSError: The folder cannot be made or written.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    handle = _claim(folder, what)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / CLAIM).unlink()
        os.close(handle)
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()


def _claim(folder: Path, what: str) -> int:
    path = folder / CLAIM
    while True:
        handle, ours = _locked(path, os.O_RDWR | os.O_CREAT)
        if handle is None:
            raise FxpruneError(
                f"{folder} is in use: {_holder(path)} works there",
                advice="wait until it has ended, or choose another folder",
            )
        if not ours or _same(handle, path):
            break
        os.close(handle)  # its holder has just ended and removed the file
    with contextlib.suppress(OSError):  # a full disk is no reason not to have the lock
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()} ({what})".encode())
    return handle


def _holder(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")[:200].strip() or "another process"
    except OSError:
        return "another process"


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _locked(path: Path, flags: int) -> tuple[int | None, bool]:
    """Open a file or folder and lock it: its handle, None if another has it; and whether it is locked."""
    try:
        handle = os.open(path, flags, 0o666)
    except FileNotFoundError:
        return None, False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None, False
    except (OSError, NameError):  # no locks on this file system, or nowhere on this system
        return handle, False
    return handle, True

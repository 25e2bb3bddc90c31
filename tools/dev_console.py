"""What the development commands show: lines as they come, and a sign of life while a tool is silent."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["Failure", "run", "say"]

TAIL = 12
QUIET_S = 10.0


class Failure(Exception):
    """A tool ended with an error.

    Args:
        label: What it was doing.
        code: Its exit code.
        tail: Its last lines.
    """

    def __init__(self, label: str, code: int, tail: Sequence[str]) -> None:
        super().__init__(f"{label}: exit code {code}")
        self.label, self.code, self.tail = label, code, tuple(tail)


def say(text: str) -> None:
    """Print one line of progress, at once."""
    print(f"[dev] {text}", flush=True)


def run(command: Sequence[str], label: str, *, folder: Path) -> None:
    """Run a tool, show its lines indented, and keep the last ones for an error message.

    Args:
        command: The command line.
        label: What it does, for people.
        folder: Where to run it.  A long silence is broken by the seconds gone and the gigabytes written
            to its disk.

    Raises:
        Failure: The tool could not be started or ended with an error.
    """
    say(label)
    started, tail = time.monotonic(), deque[str](maxlen=TAIL)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise Failure(label, 127, [str(error)]) from error
    assert process.stdout is not None
    with _signs_of_life(label, folder), process.stdout as lines:
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                tail.append(line)
                print(f"      {line}", flush=True)
    if process.wait():
        raise Failure(label, process.returncode, tail)
    say(f"{label}: done in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def _signs_of_life(label: str, folder: Path) -> Iterator[None]:
    started, over = time.monotonic(), threading.Event()
    free = shutil.disk_usage(folder).free

    def tick() -> None:
        while not over.wait(QUIET_S):
            written = (free - shutil.disk_usage(folder).free) / 1e9
            amount = f", {written:.1f} GB written" if written > 0.05 else ""
            say(f"{label}: {time.monotonic() - started:.0f} s{amount}")

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()

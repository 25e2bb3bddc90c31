"""What belongs to the whole process and not to a thread: one user at a time, and afterwards as it was.

torch.export, the collector, random numbers and Python's warnings have no state of their own for each thread.
Whoever needs them here takes one lock, so that two threads of this package never undo each other's work; other
threads keep their log lines, warnings and what they write to stderr.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import TextIO, cast

import numpy as np
import torch

__all__ = ["alone", "no_fast_path", "no_garbage", "quiet", "uninterrupted", "untouched_random_state"]

_NARRATORS = frozenset({"torch", "onnxscript", "onnx_ir"})
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class _Lock:
    """A re-entrant lock that a forked process has for itself."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.held = threading.RLock()


_LOCK = _Lock()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Be the only thread of this package that touches what belongs to the process."""
    with _LOCK.held:
        yield


@contextlib.contextmanager
def untouched_random_state() -> Iterator[None]:
    """Give the generators of torch, numpy and Python back as they were.

    Whoever traces or exports between two epochs must not change what they draw next.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with alone():
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the model's code may use it
        try:
            with torch.random.fork_rng(devices=list(devices)):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextlib.contextmanager
def no_fast_path() -> Iterator[None]:
    """Without torch.nn's fused encoder kernels: they hide the layers that are to be pruned, and are no ONNX."""
    with alone():
        before = torch.backends.mha.get_fastpath_enabled()
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(before)


class _Collector:
    """Whether the collector runs, and how many bodies want it not to."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.awake)

    def renew(self) -> None:
        self.lock = threading.Lock()
        self.bodies = 0
        self.was_enabled = False

    def awake(self) -> None:
        """In a forked process: whoever wanted it asleep in another thread is not there."""
        asleep = self.bodies and self.was_enabled
        self.renew()
        if asleep:
            gc.enable()


_COLLECTOR = _Collector()


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Make many small objects that live until the end: looking for garbage meanwhile is in vain.

    Threads do not wait for each other here: the collector sleeps until the last body has ended.
    """
    with _COLLECTOR.lock:
        counted = _COLLECTOR.lock
        if not _COLLECTOR.bodies:
            _COLLECTOR.was_enabled = gc.isenabled()
            gc.disable()
        _COLLECTOR.bodies += 1
    try:
        yield
    finally:
        with _COLLECTOR.lock:
            if counted is _COLLECTOR.lock:  # else the process was forked in the body, and counts anew
                _COLLECTOR.bodies -= 1
                if not _COLLECTOR.bodies and _COLLECTOR.was_enabled:
                    gc.enable()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Answer signals after the body: an exception in the middle of torch's callbacks ends the process.

    The second one of a kind is answered at once, for code that never returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    came: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if number in came and callable(handler):
            handler(number, frame)
        came.append(number)

    try:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, later)
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


# --- narration ---------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what torch and its exporters say in this thread; what matters of it comes back as an error."""
    with alone(), _no_log_lines(), _no_warnings(), _no_words():
        yield


class _Here:
    """Knows the thread that made it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    def __bool__(self) -> bool:
        return threading.get_ident() == self.thread

    def match(self, _text: str) -> bool:
        """As a pattern of a warning's text: any, in this thread."""
        return bool(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """As a filter of log records: all but what the narrators say in this thread."""
        return not self or record.name.partition(".")[0] not in _NARRATORS


@contextlib.contextmanager
def _no_log_lines() -> Iterator[None]:
    here = _Here()
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    owned = [
        lg for lg in loggers if isinstance(lg, logging.Logger) and lg.name.partition(".")[0] in _NARRATORS
    ]
    handlers = [h for lg in (logging.root, *owned) for h in lg.handlers]
    handlers += [logging.lastResort] if logging.lastResort is not None else []
    try:
        for handler in handlers:
            handler.addFilter(here)
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(here)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    entry = ("ignore", _Here(), Warning, None, 0)
    try:
        # catch_warnings would hide those of all threads.
        cast("list[object]", warnings.filters).insert(0, entry)
        yield
    finally:
        with contextlib.suppress(ValueError):
            cast("list[object]", warnings.filters).remove(entry)


@contextlib.contextmanager
def _no_words() -> Iterator[None]:
    before = sys.stderr
    muted = _Muted(before)
    try:
        sys.stderr = muted
        yield
    finally:
        if sys.stderr is muted:
            sys.stderr = before


class _Muted(io.TextIOBase):
    """Drops what this thread writes; a progress bar in another thread goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._here = _Here()

    def write(self, text: str) -> int:
        return len(text) if self._here else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

"""What a person sees while fxprune works: steps with a spinner or a bar, and errors as panels.

Everything here goes to stderr, so that stdout holds results and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from rich.console import Console
from rich.markup import escape as _escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from fxprune.errors import FxpruneError
from fxprune.escaping import terminal

__all__ = ["SILENT", "Stderr", "Steps", "Ticks", "Watcher", "error_facts", "show_error"]

_HEARTBEAT_S = 10.0


def escape(text: str) -> str:
    """Text that is neither rich's markup nor steers the terminal."""
    return _escape(terminal(text))


class Stderr(Console):
    """stderr, which nobody may be reading any more: that is no reason to stop working."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        self.quiet = True

    def print(self, *objects: object, **options: object) -> None:
        """Print, if it can be."""
        with contextlib.suppress(OSError):
            super().print(*objects, **options)  # type: ignore[arg-type]


class Ticks(Protocol):
    """How a running step says how far it is."""

    def tick(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` pieces are finished; ``note`` is a few words worth watching."""

    def note(self, text: str) -> None:
        """A few words that stay in the step's line when it is done."""


class Watcher(Protocol):
    """Something that is told which step begins and when it ends."""

    def step(self, title: str) -> AbstractContextManager[Ticks]:
        """A context in which the step runs."""


class _Silent:
    def tick(self, done: int, total: int, note: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Ticks]:
        yield self


SILENT: Watcher = _Silent()
"""A watcher that shows nothing."""


class Steps:
    """Shows steps on a terminal as they run, and leaves one line for each that is done.

    In a terminal a running step has a spinner, its time, and a bar once it ticks.  In a log file
    there is a line when a step is done, and a sign of life every ten seconds until then.

    Args:
        console: Where to write; a console on stderr by default.

    Example:
        >>> with Steps(Console(quiet=True)).step("train") as ticks:
        ...     ticks.tick(1, 2, "loss 0.3")
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Stderr()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Ticks]:
        """Show a step while the body runs; a failing step leaves a cross."""
        started = time.monotonic()
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        running = _Running(bar, bar.add_task(escape(title), total=None, note=""))
        sign = "[red]✗[/]"
        try:
            with bar if self.console.is_terminal else self._signs_of_life(title, running):
                yield running
            sign = "[green]✓[/]"
        finally:
            kept = f"  {escape(running.kept)}" if running.kept else ""
            seconds = time.monotonic() - started
            self._print(f"{sign} {escape(title)}{kept}  [dim]{seconds:.1f} s[/]")

    @contextlib.contextmanager
    def _signs_of_life(self, title: str, running: _Running) -> Iterator[None]:
        started, over = time.monotonic(), threading.Event()

        def beat() -> None:
            while not over.wait(_HEARTBEAT_S):
                self._print(escape(f"  {title}: {time.monotonic() - started:.0f} s  {running.told}".rstrip()))

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


class _Running:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self.kept = self.told = ""

    def tick(self, done: int, total: int, note: str = "") -> None:
        self._bar.update(self._task, completed=done, total=total, note=escape(note))
        self.told = f"{done} of {total}  {note}"

    def note(self, text: str) -> None:
        self.kept = text


def show_error(error: FxpruneError, console: Console) -> None:
    """Print what went wrong, where, and what to do, in a panel."""
    text = Text(error.what)
    where = " ".join(part for part in (error.op, error.node and f"'{error.node}'") if part)
    details = (("node", where), ("tensor", error.tensor), ("source", error.source))
    for label, value in details:
        if value:
            text.append(f"\n{label}: ", style="dim").append(value)
    if error.advice:
        text.append("\nwhat to do: ", style="bold").append(error.advice)
    kind = _kind(error)
    title = "error" if kind == FxpruneError.__name__ else re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()
    console.print(Panel(text, title=title, title_align="left", border_style="red", expand=False))


def error_facts(error: FxpruneError) -> dict[str, str]:
    """An error as plain values, for JSON: every field is there, empty where nothing is known.

    Example:
        >>> facts = error_facts(FxpruneError("no such file", advice="check the path"))
        >>> facts["kind"], facts["what"], facts["tensor"], facts["advice"]
        ('FxpruneError', 'no such file', '', 'check the path')
    """
    names = ("what", "node", "op", "tensor", "source", "advice")
    return {"kind": _kind(error), **{name: getattr(error, name) for name in names}}


def _kind(error: FxpruneError) -> str:
    """The name that users know: a subclass of some module's own stands for its public parent."""
    return next(c.__name__ for c in type(error).__mro__ if c.__module__ == FxpruneError.__module__)

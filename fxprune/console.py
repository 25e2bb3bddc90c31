"""What a person sees while fxprune works: steps with a spinner or a bar, and errors as panels.

Everything here goes to stderr, so that stdout holds results and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from fxprune.errors import FxpruneError

__all__ = ["SILENT", "Steps", "Ticks", "Watcher", "show_error"]

_HEARTBEAT_S = 10.0


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
    there is a line when a step is done, and a sign of life every ten seconds from those that tick.

    Args:
        console: Where to write; a console on stderr by default.

    Example:
        >>> with Steps(Console(quiet=True)).step("train") as ticks:
        ...     ticks.tick(1, 2, "loss 0.3")
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

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
        running = _Running(bar, bar.add_task(escape(title), total=None, note=""), self.console, title)
        sign = "[red]✗[/]"
        try:
            with bar:
                yield running
            sign = "[green]✓[/]"
        finally:
            kept = f"  {escape(running.kept)}" if running.kept else ""
            seconds = time.monotonic() - started
            line = f"{sign} {escape(title)}{kept}  [dim]{seconds:.1f} s[/]"
            self.console.print(line, highlight=False, soft_wrap=True)


class _Running:
    def __init__(self, bar: Progress, task: TaskID, console: Console, title: str) -> None:
        self._bar, self._task, self._console, self._title = bar, task, console, title
        self._last = time.monotonic()
        self.kept = ""

    def tick(self, done: int, total: int, note: str = "") -> None:
        self._bar.update(self._task, completed=done, total=total, note=escape(note))
        now = time.monotonic()
        if self._bar.disable and now - self._last > _HEARTBEAT_S:
            self._last = now
            line = escape(f"  {self._title}: {done} of {total}  {note}".rstrip())
            self._console.print(line, highlight=False, soft_wrap=True)

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
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(error).__name__).lower()
    title = "error" if type(error) is FxpruneError else words
    console.print(Panel(text, title=title, title_align="left", border_style="red", expand=False))

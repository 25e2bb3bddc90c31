"""What a method costs: the time it takes, and the time that passes between its steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """Time spent in the method, and time that passes between its steps."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.steps = 0
        self.first = self.last = 0.0
        self.spent_before = 0.0

    @contextmanager
    def running(self, *, is_step: bool) -> Iterator[None]:
        """Count the time inside; a step also ends the interval that ``share`` compares with."""
        start = time.perf_counter()
        yield
        now = time.perf_counter()
        self.spent += now - start
        if is_step:
            self.steps += 1
            self.last = now
            if self.steps == 1:
                self.first, self.spent_before = now, self.spent

    @property
    def milliseconds(self) -> float:
        """Mean time in the method per step."""
        return 1e3 * self.spent / self.steps if self.steps else 0.0

    @property
    def share(self) -> float:
        """Part of the time between steps that the method takes, in [0, 1]."""
        passed = self.last - self.first
        return (self.spent - self.spent_before) / passed if passed > 0 else 0.0

"""The command line that asked for what is made now."""

from __future__ import annotations

from contextvars import ContextVar

__all__ = ["COMMAND"]

COMMAND: ContextVar[str] = ContextVar("COMMAND", default="")
"""Empty in Python."""

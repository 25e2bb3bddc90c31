"""The colours of every picture, so that one colour means one thing in all of them."""

from __future__ import annotations

__all__ = ["BETWEEN", "DENSE", "ERROR_BARS", "LINE", "LINES", "SLIM", "VERDICTS"]

DENSE, SLIM, BETWEEN = "#b8c4d6", "#2458a6", "#d98e32"
"""The model as it came, the slim one, and what lies between them or is compared with fxprune."""

ERROR_BARS = "#444444"
LINE = "#8a93a0"
"""A line that has to be seen on white and on black."""

LINES = (SLIM, BETWEEN, "#5f8f5a", "#8c6bb1")
"""fxprune first, then its peers."""

VERDICTS = {"right": SLIM, "refused": "#9fbce3", "crash": "#e0b878", "silently wrong": "#b5382f"}
"""What became of an attempt, from the best to the worst."""

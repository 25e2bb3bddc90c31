"""From a graph node or an exception to the user's source line."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from types import FrameType

import torch
from torch import fx

__all__ = ["source_of", "user_line"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_TORCH = str(Path(torch.__file__).parent / "_")[:-1]  # ends with a separator: torchvision is not torch


def source_of(what: fx.Node | BaseException) -> str:
    """The innermost line of the user's code (not torch's), as ``model.py:31 in forward``.

    Example:
        >>> source_of(ValueError("no traceback"))
        ''
    """
    if isinstance(what, BaseException):
        frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(what.__traceback__)]
        own = str(Path(__file__).parents[1])
        frames = [f for f in frames if not f[0].startswith(own)]
    else:
        text = str(what.meta.get("stack_trace") or "")
        frames = [(f, int(n), name) for f, n, name in _FRAME.findall(text)]
    outside = [f for f in frames if _is_users(f[0])]
    return _shown(*outside[-1]) if outside else ""


def user_line(frame: FrameType) -> str:
    """The line of a running frame if it belongs to the user's code, else an empty string."""
    code = frame.f_code
    return _shown(code.co_filename, frame.f_lineno, code.co_name) if _is_users(code.co_filename) else ""


def _is_users(file: str) -> bool:
    return not file.startswith((_TORCH, "<"))


def _shown(file: str, line: int, name: str) -> str:
    return f"{Path(file).name}:{line} in {name}"

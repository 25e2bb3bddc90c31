"""The errors fxprune raises: what went wrong, where, and what to do about it."""

from __future__ import annotations

from fxprune.escaping import terminal

__all__ = [
    "ExportError",
    "FxpruneError",
    "IntegrityWarning",
    "MissingPackage",
    "PlanError",
    "RecipeError",
    "SliceError",
    "TraceError",
    "UnsupportedOp",
    "VerificationError",
]


class FxpruneError(Exception):
    """Base of every error that fxprune raises on purpose.

    Args:
        what: One sentence that says what went wrong.
        node: Name of the graph node concerned, if any.
        op: Its operator, as ``aten.conv2d.default``.
        tensor: Dotted name of the parameter or buffer concerned, if any.
        source: The user's source line, as ``file.py:12``.
        advice: What the user can do.

    Example:
        >>> print(FxpruneError("cannot slice this", tensor="fc.weight", advice="protect it"))
        cannot slice this
          tensor: fc.weight
          what to do: protect it
    """

    def __init__(
        self,
        what: str,
        *,
        node: str = "",
        op: str = "",
        tensor: str = "",
        source: str = "",
        advice: str = "",
    ) -> None:
        # Names from models and files end up here: no error may steer the terminal, or fail to print.
        self.what = terminal(what)
        self.node = terminal(node)
        self.op = terminal(op)
        self.tensor = terminal(tensor)
        self.source = terminal(source)
        self.advice = terminal(advice)
        super().__init__(self.what)

    def __str__(self) -> str:
        where = f"{self.op} '{self.node}'" if self.op and self.node else self.node or self.op
        details = (
            ("node", where),
            ("tensor", self.tensor),
            ("source", self.source),
            ("what to do", self.advice),
        )
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in details if text)])


class TraceError(FxpruneError):
    """The model or its example inputs could not be traced."""


class UnsupportedOp(FxpruneError):
    """An operator without a rule met a prunable tensor, and ``strict=True`` was asked for."""


class PlanError(FxpruneError):
    """A plan is impossible, malformed, or made for another model."""


class SliceError(FxpruneError):
    """A plan could not be applied to the model, or weights did not fit it."""


class VerificationError(FxpruneError):
    """The slim model does not compute what the zeroed dense model computes."""


class ExportError(FxpruneError):
    """An ONNX file could not be written, or does not agree with the model."""


class RecipeError(FxpruneError):
    """A training recipe is malformed."""


class MissingPackage(FxpruneError, ImportError):
    """A package is not installed that comes with an extra, as ``pip install 'fxprune[plots]'``."""


class IntegrityWarning(UserWarning):
    """A file was read that nothing vouches for: it was written before files had a digest."""

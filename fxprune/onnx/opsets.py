"""Which ONNX operator sets files are written for."""

from __future__ import annotations

from fxprune.errors import ExportError

__all__ = ["DEFAULT_OPSET", "OLDEST_OPSET", "check_opset"]

DEFAULT_OPSET = 20
"""As torch has it. Lower ones have no Gelu, which the runtime then computes in five steps."""

OLDEST_OPSET = 7
"""Onnxruntime reads nothing older."""


def check_opset(opset: int) -> None:
    """Refuse what onnx does not know before minutes are spent on an export.

    Raises:
        ExportError: There is no such operator set.
    """
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ExportError(
            f"there is no opset {opset} for this: onnx {onnx.__version__} knows opsets up to {newest}",
            advice=f"leave it at {DEFAULT_OPSET}, or ask for one from {OLDEST_OPSET} to {newest}",
        )

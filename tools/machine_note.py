"""One line that says on what a figure was measured."""

from __future__ import annotations

import os

from fxprune.onnx.session import machine

__all__ = ["machine_note"]


def machine_note() -> str:
    """CPU, versions, and how busy the machine was when the measurement ended."""
    m = machine()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{m.cpu}, {m.cores} cores, {m.capability}, {m.memory_gib} GiB, {m.system}; "
        f"torch {m.torch}, onnxruntime {m.onnxruntime}, python {m.python}{load}"
    )

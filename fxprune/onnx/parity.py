"""Parity: how far an ONNX file is from the torch module it was made of.

The error of an output is ``max|onnx - torch| / max|torch|`` over its elements; a model's is that
of its worst output.  Values that are not finite must be the same ones on both sides.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fxprune.errors import ExportError
from fxprune.models.calls import (
    Call,
    ExampleInputs,
    as_call,
    evaluating,
    output_tensors,
    untouched_random_state,
)
from fxprune.onnx.session import RUN_LIMIT_S, Array, Port, Session, open_session
from fxprune.support.source_lines import source_of

__all__ = [
    "check_module",
    "draws",
    "export_headline",
    "largest_error",
    "parity",
    "relative_difference",
    "rounding",
    "run_module",
]

_SLOWER = 100  # times what torch takes: so much slower than the module no file of it is


def parity(onnx_path: str | Path, module: nn.Module, inputs: ExampleInputs) -> float:
    """How far an ONNX file is from a module on given inputs.

    Args:
        onnx_path: The file.
        module: Run in evaluation mode; its modes are restored.
        inputs: As for `export_onnx`.

    Returns:
        ``max|onnx - torch| / max|torch|`` of the worst output.

    Raises:
        ExportError: The file cannot be loaded, the inputs do not fit, or number or shapes of the
            outputs differ.
    """
    check_module(module)
    call = as_call(inputs, error=ExportError)
    session = open_session(onnx_path)
    with evaluating(module), untouched_random_state():
        return largest_error(session, module, call, "the given inputs")


def largest_error(session: Session, module: nn.Module, call: Call, which: str) -> float:
    """The same of a loaded file and a module in evaluation mode.

    Args:
        session: The file.
        module: The module.
        call: The inputs.
        which: What errors call these inputs.

    Raises:
        ExportError: The inputs do not fit, or number or shapes of the outputs differ.
    """
    started = time.monotonic()
    expected = [_as_array(t) for t in run_module(module, call, which).values()]
    limit = max(RUN_LIMIT_S, _SLOWER * (time.monotonic() - started))
    got = session.run(session.feeds(call), limit_s=limit)
    if len(got) != len(expected):
        raise ExportError(f"{session.path} has {len(got)} outputs, the module {len(expected)}")
    errors = [_difference(a, b, port, which) for a, b, port in zip(expected, got, session.outputs)]
    return max(errors, default=0.0)


def _difference(expected: Array, got: Array, port: Port, which: str) -> float:
    """Largest difference relative to the largest magnitude of one output."""
    if expected.shape != got.shape:
        raise ExportError(
            f"output '{port.name}' has shape {list(got.shape)} in onnxruntime, {list(expected.shape)} in torch, on {which}",
            advice="a size is baked into the graph; pass dynamic_batch=False, or compute it from the input's shape",
        )
    return relative_difference(expected, got)


def relative_difference(expected: Array, got: Array) -> float:
    """``max|got - expected| / max|expected|`` of arrays of one shape; infinite where other numbers are not finite."""
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    a, b = expected.astype(wide), got.astype(wide)
    finite = np.isfinite(a)
    if not finite.all():
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return float("inf")
        a, b = a[finite], b[finite]
    scale = float(np.abs(a).max(initial=0.0))
    largest = float(np.abs(a - b).max(initial=0.0))
    largest = float("inf") if np.isnan(largest) else largest
    return largest / scale if scale else largest


def draws(module: nn.Module, call: Call) -> bool:
    """Whether the module returns something else when torch's random numbers are others."""
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        runs.append([_as_array(t) for t in run_module(module, call, "the same inputs").values()])
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(*runs))


def rounding(module: nn.Module, call: Call) -> float | None:
    """What float32 costs the module itself, or None if it does not run in float64."""
    try:
        double = copy.deepcopy(module).double()
        wide = call.with_tensors([t.double() if t.dtype == torch.float32 else t for t in call.tensors])
        exact, own = (run_module(m, c, "").values() for m, c in ((double, wide), (module, call)))
        port = Port("", "", ())
        return max(
            (_difference(_as_array(a), _as_array(b), port, "") for a, b in zip(exact, own)), default=0.0
        )
    except Exception:  # noqa: BLE001 - a hint for a message; whatever fails here is not the user's concern
        return None


def run_module(module: nn.Module, call: Call, which: str) -> dict[str, torch.Tensor]:
    """The tensors a module returns, by name.

    Raises:
        ExportError: It does not run on these inputs, or returns no tensor.
    """
    try:
        with torch.no_grad(), _full_precision():
            # A model may write into its inputs; each run must see the same ones.
            outputs = output_tensors(call.with_tensors([t.clone() for t in call.tensors])(module))
    except Exception as error:
        raise ExportError(
            f"the module does not run on {which}: {export_headline(error)}",
            source=source_of(error),
            advice="check shapes, dtypes and device of the inputs",
        ) from error
    if not outputs:
        raise ExportError(
            "the module returns no tensor", advice="return a tensor, or a tuple, list or dict of them"
        )
    return outputs


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """On a GPU, convolutions in TF32 would be compared with float32 ones: three digits apart."""
    if not torch.cuda.is_available():
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _as_array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).resolve_conj().numpy()
    return array


def check_module(module: nn.Module) -> None:
    """Refuse what has no weights to run with.

    Raises:
        ExportError: Not a module, or one on the meta device.
    """
    if not isinstance(module, nn.Module):
        raise ExportError(
            f"expected a torch.nn.Module, got {type(module).__name__}",
            advice="pass the model, not its path or weights",
        )
    held = [*module.named_parameters(), *module.named_buffers()]
    empty = next((name for name, tensor in held if tensor.is_meta), "")
    if empty:
        raise ExportError(
            "the module's tensors are on the meta device: it has no weights to export",
            tensor=empty,
            advice="load the weights first",
        )


def export_headline(error: BaseException) -> str:
    """What an error of torch says, in one line."""
    while error.__cause__ is not None and "Failed to" in str(error):
        error = error.__cause__
    lines = [line.strip(" -") for line in str(error).strip().splitlines() if line.strip()]
    # torch.export announces violated constraints and names them on the next line.
    picked = (
        lines[1] if len(lines) > 1 and lines[0].startswith("Constraints violated") else "".join(lines[:1])
    )
    return f"{type(error).__name__}: {picked[:300]}" if picked else type(error).__name__

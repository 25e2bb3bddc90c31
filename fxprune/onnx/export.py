"""Export: a module as one ONNX file, proved equal to it in onnxruntime.

module, example inputs
  └ capture      torch.export, torch.onnx's exporter, optimiser, rewrite rules
     └ write     a temporary file, checked by onnx
        └ parity onnxruntime against torch, on the user's inputs, on random ones, at other batch sizes
           └ the file takes its name, or nothing is left
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import nn

from fxprune import targets
from fxprune.errors import ExportError
from fxprune.models.calls import Call, ExampleInputs, as_call, evaluating, untouched_random_state
from fxprune.models.copies import unchanged_buffers
from fxprune.models.wrapped import unwrapped
from fxprune.onnx.capture import Attempt, Captured, Untranslatable, attempts, capture
from fxprune.onnx.cost import MODEL_NAME, data_files
from fxprune.onnx.opsets import DEFAULT_OPSET, check_opset
from fxprune.onnx.parity import (
    check_module,
    draws,
    export_headline,
    largest_error,
    parity,
    rounding,
    run_module,
)
from fxprune.onnx.passes import check_passes
from fxprune.onnx.session import Port, Session, open_session
from fxprune.support.files import atomic_path, check_writable
from fxprune.targets import DEFAULT_TARGET, Target

__all__ = ["ExportReport", "export_onnx", "parity"]

TOLERANCE = 1e-4
"""Relative; float32 rounding in deep nets stays below, a wrong graph does not."""

_SINGLE_FILE_BYTES = 2**31 - 2**24  # protobuf ends at 2 GiB, and the graph needs room beside the weights
_SEED = 20_240_229
_OTHER_BATCHES = (1, 3, 2)


@dataclass(frozen=True)
class ExportReport:
    """What was written and how far it is from the module.

    Attributes:
        path: The ONNX file.
        opset: Version of the ONNX operator set in the file.
        size_bytes: Bytes on disk, external weights included.
        inputs: Names, dtypes and shapes; a dimension of any size has a name.
        outputs: The same of the outputs.
        max_error_inputs: Largest relative error on the user's inputs, None if not verified.
        max_error_random: Largest relative error on random inputs, at all batch sizes tried.
        batches: Batch sizes at which the file was compared with the module.
        dynamic_batch: The file runs at any batch size.
        why_static: Why not, if a dynamic batch was asked for.
        external_data: Name of the file beside it that holds the weights, if it had to be split.
        passes: Places in the graph that were changed to run faster on the target, by pass.
        notes: What else the user should know.
    """

    path: Path
    opset: int
    size_bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_error_inputs: float | None
    max_error_random: float | None
    batches: tuple[int, ...]
    dynamic_batch: bool
    why_static: str = ""
    external_data: str = ""
    passes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def export_onnx(
    module: nn.Module,
    example_inputs: ExampleInputs,
    path: str | Path,
    *,
    opset: int = DEFAULT_OPSET,
    dynamic_batch: bool = True,
    verify: bool = True,
    tolerance: float | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    target: str = DEFAULT_TARGET,
    passes: Sequence[str] | None = None,
) -> ExportReport:
    """Write a module as an ONNX file that onnxruntime runs with the same results.

    The module is exported in evaluation mode and is given back as it was, every submodule in its
    own mode; torch's random state is not touched.  Other threads see it in evaluation mode meanwhile.  Weights are in the file, unless they exceed
    2 GB: then they are in a file beside it that is named after what is in it
    (``NAME.onnx.0123456789abcdef.data``), so that a graph never finds the weights of another export.

    Args:
        module: Any module, a graph made by torch.export included; what torch wraps around one is left out.
        example_inputs: A tensor or list (one argument), a tuple of positional arguments, or a dict
            of keyword arguments.  Numbers and flags in it become part of the graph.
        path: The file to make or replace.
        opset: Version of the ONNX operator set.
        dynamic_batch: Let the first dimension be of any size, named "batch".  Where the model does
            not allow it the file has the example's size, and the report says why.
        verify: Compare with the module in onnxruntime, and refuse to write what differs.
        tolerance: Largest relative error allowed; by default 1e-4, or eight units of rounding of a
            narrower type among the weights and inputs.
        input_names: Names of the inputs, by default those of the module's arguments.
        output_names: Names of the outputs, by default ``output``, or their keys and positions.
        target: The runtime to make the file fast for; it runs on others, too.
        passes: What may be changed to make it fast, by default all that helps: ``"pooling"`` (means over images
            as pooling), ``"gemm"`` (linear layers on rows as one operator), ``"padding"`` (channels filled up to
            whole blocks with zeros), ``"groups"`` (narrow groups of a convolution merged, with zeros between), ``"norms"`` (sums
            and the layer norms after them kept apart).
            ``[]`` writes the graph as torch makes it.

    Returns:
        What was written.

    Raises:
        ExportError: The model cannot be exported or differs, a pass is unknown, or the path cannot be written; no
            file is left.
        PlanError: There is no such target.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_onnx(nn.Linear(3, 4), torch.ones(1, 3), Path(folder) / "linear.onnx")
        >>> print(report.inputs[0], report.opset, report.max_error_random < 1e-6)
        input: float32[batch, 3] 20 True
    """
    check_module(module)
    module = unwrapped(module)
    check_opset(opset)
    call = as_call(example_inputs, error=ExportError)
    chosen, runtime = check_passes(passes), targets.get(target)
    destination = check_writable(path, error=ExportError)
    allowed = _tolerance(module, call) if tolerance is None else tolerance
    with evaluating(module), untouched_random_state(), unchanged_buffers(module):
        outputs = run_module(module, call, "the example inputs")
        names = _names(module, call, outputs, input_names, output_names)
        job = _Job(
            *(module, call, destination, opset, *names, allowed, verify, _idle(outputs)),
            passes=chosen,
            runtime=runtime,
        )
        try:
            return _first_that_works(job, attempts(call, dynamic_batch=dynamic_batch))
        except ExportError as error:
            if not any(t.dtype is torch.bfloat16 for t in (*module.parameters(), *call.tensors)):
                raise
            raise ExportError(
                f"the model is in bfloat16, which onnxruntime does not compute in on a CPU: {error.what}",
                advice="export it in float32, copy.deepcopy(model).float() with inputs like that, or in float16",
            ) from error


def _tolerance(module: nn.Module, call: Call) -> float:
    """What rounding explains in the narrowest type in use."""
    tensors = (*module.parameters(), *call.tensors)
    return max([TOLERANCE, *(8 * torch.finfo(t.dtype).eps for t in tensors if t.is_floating_point())])


@dataclass(frozen=True, eq=False)
class _Job:
    """What every attempt needs to know."""

    module: nn.Module
    call: Call
    target: Path
    opset: int
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    tolerance: float
    verify: bool
    notes: tuple[str, ...]
    passes: tuple[str, ...]
    runtime: Target


def _first_that_works(job: _Job, ways: Sequence[Attempt]) -> ExportReport:
    why = ""
    for way in ways:
        try:
            return _attempt(job, way, why)
        except Untranslatable:
            raise
        except ExportError as error:
            if not way.dynamic or isinstance(error.__cause__, OSError):  # a full disk stays full
                raise
            why = why or error.what
    raise AssertionError("the last attempt returns or raises")


def _attempt(job: _Job, way: Attempt, why: str) -> ExportReport:
    captured = capture(
        job.module,
        job.call,
        way,
        opset=job.opset,
        input_names=job.input_names,
        output_names=job.output_names,
        passes=job.passes,
        target=job.runtime,
    )
    captured.model.metadata_props[MODEL_NAME] = type(job.module).__name__
    data = _external_name(captured.model, job.target)
    stale = _older_weights(job.target) - {data}
    with atomic_path(job.target, beside=[data] if data else [], error=ExportError) as temporary:
        _write(captured.model, temporary, data)
        opset = _check(temporary, job)
        session = open_session(temporary, name=job.target)
        measured = _verify(session, job, captured, way) if job.verify else _Measured(None, None, ())
        size = sum(file.stat().st_size for file in temporary.parent.iterdir())
    for name in stale:  # only now: until the graph was replaced the old one needed them
        job.target.with_name(name).unlink(missing_ok=True)
    return ExportReport(
        path=job.target,
        opset=opset,
        size_bytes=size,
        inputs=session.inputs,
        outputs=session.outputs,
        max_error_inputs=measured.inputs,
        max_error_random=measured.random,
        batches=measured.batches,
        dynamic_batch=way.dynamic,
        why_static="" if way.dynamic else why,
        external_data=data,
        passes=captured.passes,
        notes=job.notes,
    )


def _idle(outputs: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Outputs with nothing in them: some heads start at zero, and agree with any wrong graph."""
    zero = [name for name, tensor in outputs.items() if tensor.numel() and not tensor.any()]
    return tuple(
        f"output '{name}' is zero on the example inputs: that it agrees proves nothing" for name in zero
    )


def _external_name(model: ir.Model, target: Path) -> str:
    """Name of the file for weights that do not fit beside the graph in one, or empty."""
    constants = {name: value.const_value for name, value in model.graph.initializers.items()}
    held = {name: constant for name, constant in constants.items() if constant is not None}
    if sum(constant.nbytes for constant in held.values()) <= _SINGLE_FILE_BYTES:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for name, constant in held.items():
        digest.update(f"{name} {constant.dtype} {constant.shape} ".encode())
        digest.update(constant.tobytes())
    return f"{target.name}.{digest.hexdigest()}.data"


def _older_weights(target: Path) -> set[str]:
    """Names of weights of earlier exports to this path, of killed ones too."""
    named = re.compile(rf"{re.escape(target.name)}\.[0-9a-f]{{16}}\.data")
    names = {path.name for path in target.parent.iterdir() if named.fullmatch(path.name)}
    former = f"{target.name}.data"  # as earlier versions called them, if the graph says so, too
    if target.with_name(former).exists() and target.exists():
        with contextlib.suppress(ExportError):
            names |= {path.name for path in data_files(target)} & {former}
    return names


def _write(model: ir.Model, path: Path, data: str) -> None:
    ir.save(model, path, external_data=data or None)


def _check(path: Path, job: _Job) -> int:
    """Hold the written file against the ONNX standard; give its opset."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        imports = onnx.load(str(path), load_external_data=False).opset_import
    except Exception as error:
        raise ExportError(
            f"the exporter made a file that is not valid ONNX: {export_headline(error)}",
            advice="try another opset, or a newer torch and onnxscript",
        ) from error
    opset = next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 0)
    if opset != job.opset:
        raise ExportError(f"opset {job.opset} was asked for, the file has opset {opset}")
    return int(opset)


# --- parity ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    inputs: float | None
    random: float | None
    batches: tuple[int, ...]


def _verify(session: Session, job: _Job, captured: Captured, way: Attempt) -> _Measured:
    own = _gate(session, job, job.call, "the example inputs")
    random = _gate(session, job, job.call.resampled(_SEED), "random inputs")
    batches = [job.call.batch] if job.call.batch is not None else []
    if way.dynamic:
        others = [size for size in _OTHER_BATCHES if size != job.call.batch][:2]
        for seed, size in enumerate(others, start=_SEED + 1):
            call = job.call.with_batch(size, captured.batched).resampled(seed)
            random = max(random, _gate(session, job, call, f"random inputs at batch size {size}"))
        batches += others
    return _Measured(own, random, tuple(batches))


def _gate(session: Session, job: _Job, call: Call, which: str) -> float:
    error = largest_error(session, job.module, call, which)
    if error <= job.tolerance:
        return error
    raise ExportError(
        f"{job.target.name} differs from the module by {error:.1e} (relative) on {which}, "
        f"more than the tolerance {job.tolerance:.0e}",
        advice=_remedy(job, call),
    )


def _remedy(job: _Job, call: Call) -> str:
    """What to do about a file that differs."""
    if draws(job.module, call):
        return (
            "the module draws random numbers in evaluation mode, and no file draws the same ones: make them an input, "
            "or pass verify=False and compare yourself"
        )
    lost = rounding(job.module, call)
    if lost is not None and lost > job.tolerance / 4:
        return (
            "the module itself loses as much to rounding: the same weights in float64 differ from float32 by "
            f"{lost:.1e}; raise the tolerance"
        )
    return "this is no rounding: report it with the model; another opset may be translated rightly"


# --- arguments -------------------------------------------------------------------------------


def _names(
    module: nn.Module,
    call: Call,
    outputs: dict[str, torch.Tensor],
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if isinstance(input_names, str) or isinstance(output_names, str):
        raise ExportError("input_names and output_names are lists of names", advice="write input_names=['x']")
    inputs = call.names(module) if input_names is None else tuple(input_names)
    defaults = tuple(f"{name}_out" if name in inputs else name for name in outputs)
    outs = defaults if output_names is None else tuple(output_names)
    for what, names, count in (("input", inputs, len(call.tensors)), ("output", outs, len(outputs))):
        if len(names) != count:
            raise ExportError(
                f"{len(names)} {what} names for {count} {what} tensors",
                advice=f"pass one name per {what} tensor",
            )
    if len({*inputs, *outs}) < len(inputs) + len(outs):
        raise ExportError(
            f"names of inputs and outputs repeat: {', '.join((*inputs, *outs))}", advice="make them distinct"
        )
    return inputs, outs

"""From a module to an ONNX graph in memory: torch.export, the exporter of torch.onnx, names.

The exporter is given a function of tensors that returns tensors.  Numbers and flags among the
inputs are fixed to their example's values; what is not a tensor among the outputs is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from onnxscript import version_converter
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from fxprune.errors import ExportError
from fxprune.models.calls import Call, output_tensors
from fxprune.onnx.parity import export_headline
from fxprune.onnx.passes import apply_passes
from fxprune.support.process import no_fast_path, quiet, uninterrupted
from fxprune.support.source_lines import source_of
from fxprune.targets import Target

__all__ = ["BATCH", "Attempt", "Captured", "Untranslatable", "attempts", "capture"]

BATCH = "batch"
"""Name of the dynamic dimension in the file."""

_TORCH_OPSET = 18  # the exporter's own; lower ones are made from it by conversion
_PREFIX = "module."
_POOLED_DIMS = {"adaptive_avg_pool1d": (-1,), "adaptive_avg_pool2d": (-2, -1)}
_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)', overload='(\w+)'\)>")
_AT_NODE = re.compile(r"Error when translating node %?(\w+)")


class Untranslatable(ExportError):
    """An operator or opset that the exporter does not have, however the batch is stated."""


@dataclass(frozen=True)
class Attempt:
    """One way to state the batch to torch.export.

    Attributes:
        dim: The dimension's description, or None for fixed sizes.
        batched: For each input tensor whether its first dimension is the batch.
        batch: Size of the batch in the example that is traced.
    """

    dim: object
    batched: tuple[bool, ...]
    batch: int | None

    @property
    def dynamic(self) -> bool:
        """Whether the batch is to be any size."""
        return self.dim is not None


@dataclass(frozen=True, eq=False)
class Captured:
    """An ONNX graph and what was done to make it.

    Attributes:
        model: The graph.
        batched: For each input whether its first dimension is the named batch.
        passes: Places that passes have changed, by pass.
    """

    model: ir.Model
    batched: tuple[bool, ...]
    passes: Mapping[str, int]


def attempts(call: Call, *, dynamic_batch: bool) -> tuple[Attempt, ...]:
    """Ways to capture a call, the most general first."""
    fixed = Attempt(None, call.batched, call.batch)
    if not dynamic_batch or call.batch is None or call.batch == 0:
        return (fixed,)
    # torch.export takes a size of one for the constant 1, so at least two samples are traced.
    size = max(call.batch, 2)
    return (
        Attempt(torch.export.Dim(BATCH), call.batched, size),
        # Where not every candidate is the batch (a table with as many rows), let torch.export find out.
        Attempt(torch.export.Dim.AUTO, call.batched, size),
        fixed,
    )


def capture(
    module: nn.Module,
    call: Call,
    attempt: Attempt,
    *,
    opset: int,
    input_names: Sequence[str],
    output_names: Sequence[str],
    passes: Sequence[str],
    target: Target,
) -> Captured:
    """Make the ONNX graph of a module in evaluation mode.

    Raises:
        ExportError: torch.export or the exporter refused, with cause, node and source line.
    """
    if attempt.dynamic and attempt.batch is not None:
        call = call.with_batch(attempt.batch)
    with uninterrupted(), quiet(), no_fast_path():
        program = _translate(_program(module, call, attempt), opset, input_names, output_names)
        try:
            batched = _name_batch(program, attempt)
            applied = apply_passes(program.model, target, passes)
            return Captured(_settled(program.model, opset), batched, applied)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(
                f"the exported graph could not be optimised: {export_headline(error)}",
                advice="try a newer onnxscript and onnx-ir",
            ) from error


class _Flat(nn.Module):
    """A module as a function from a flat list of tensors to a flat list of tensors."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self._call = call
        # Not by eval(): that would reach into the user's module, whose mode is settled already.
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        with _PlainPooling():
            return list(output_tensors(self._call.with_tensors(tensors)(self.module)).values())


class _PlainPooling(TorchFunctionMode):
    """Pooling to one value is a mean.

    torch's own decomposition also restores the memory layout, which for channels-last images
    (ConvNeXt, Swin) becomes a Gather over indices computed from the batch size.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        dims = _POOLED_DIMS.get(getattr(func, "__name__", "").partition(".")[0])
        if dims is not None:
            image, size = (*args, *given.values())
            sizes = size if isinstance(size, (tuple, list)) else [size]
            if isinstance(image, torch.Tensor) and all(s == 1 for s in sizes):
                return image.mean(dims, keepdim=True)
        return func(*args, **given)


def _program(module: nn.Module, call: Call, attempt: Attempt) -> torch.export.ExportedProgram:
    shapes = None
    if attempt.dynamic:
        shapes = {"tensors": tuple({0: attempt.dim} if batched else None for batched in attempt.batched)}
    try:
        with torch.no_grad():
            return torch.export.export(_Flat(module, call), call.tensors, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(
            f"torch.export refused the model: {export_headline(error)}",
            source=source_of(error),
            advice="a model whose control flow depends on its data cannot be an ONNX graph; "
            "replace the Python branch by torch.where or torch.cond",
        ) from error


def _settled(model: ir.Model, opset: int) -> ir.Model:
    """Names that the user knows, and the opset that was asked for."""
    _tidy(model)
    if opset < _TORCH_OPSET:
        version_converter.convert_version(model, opset, fallback=True)
    if model.opset_imports.get("") != opset:
        raise Untranslatable(
            f"opset {opset} was asked for, the exporter can only make opset {model.opset_imports.get('')}",
            advice=f"pass opset={_TORCH_OPSET}, which every current runtime reads",
        )
    return model


def _translate(
    program: torch.export.ExportedProgram, opset: int, input_names: Sequence[str], output_names: Sequence[str]
) -> torch.onnx.ONNXProgram:
    try:
        translated = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=max(opset, _TORCH_OPSET),
            input_names=input_names,
            output_names=output_names,
        )
    except Exception as error:
        raise _translation_error(program, error) from error
    assert translated is not None
    return translated


def _translation_error(program: torch.export.ExportedProgram, error: BaseException) -> ExportError:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    text = "\n".join(map(str, chain))
    missing, at = _NO_FUNCTION.search(text), _AT_NODE.search(text)
    op = ".".join(missing.groups()) if missing else ""
    name = at[1] if at else ""
    node = _node_like(program.graph, name, op)
    what = (
        f"ONNX has no translation of {op}"
        if missing
        else f"the ONNX exporter failed: {export_headline(chain[-1])}"
    )
    kind = Untranslatable if missing else ExportError
    return kind(
        what,
        node=name,
        op=op,
        source=source_of(node) if node is not None else "",
        advice="express the operation by others, or keep it outside of the exported model"
        if missing
        else "try another opset, or a newer torch and onnxscript",
    )


def _node_like(graph: fx.Graph, name: str, op: str) -> fx.Node | None:
    """The node of that name, or one of that operator: decompositions rename and rewrite nodes."""
    kind = op.partition(".")[2].partition(".")[0]
    nodes: list[fx.Node] = list(graph.nodes)
    return next((n for n in nodes if n.name == name or (kind and kind in str(n.target))), None)


def _name_batch(program: torch.onnx.ONNXProgram, attempt: Attempt) -> tuple[bool, ...]:
    """Call the batch by its name everywhere, and say which inputs carry it."""
    inputs = program.model.graph.inputs
    if not attempt.dynamic:
        return tuple(False for _ in inputs)
    _settle_sizes(program.model.graph)
    firsts = [value.shape[0] if value.shape is not None and len(value.shape) else 0 for value in inputs]
    symbols = [str(dim.value) if isinstance(dim, ir.SymbolicDim) else "" for dim in firsts]
    if not any(symbols) or not all(symbol.isidentifier() for symbol in symbols if symbol):
        raise ExportError(f"the model fixes the batch size of its inputs to {', '.join(map(str, firsts))}")
    program.rename_axes({symbol: BATCH for symbol in symbols if symbol})
    return tuple(bool(symbol) for symbol in symbols)


def _settle_sizes(graph: ir.Graph) -> None:
    """A size that torch.export settled on the way is a number, not a dimension named "3"."""
    values = [*graph.inputs, *(output for node in graph.all_nodes() for output in node.outputs)]
    for value in values:
        if value.shape is None:
            continue
        if any(isinstance(dim, ir.SymbolicDim) and str(dim.value).isdigit() for dim in value.shape):
            value.shape = ir.Shape([int(str(dim)) if str(dim).isdigit() else dim for dim in value.shape])


def _tidy(model: ir.Model) -> None:
    """Dotted parameter names as the user knows them; no stack traces, which hold paths of this machine."""
    # A tensor of the model may be called as an input or an output is: then it keeps the prefix.
    taken = {str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)}
    for value in list(model.graph.initializers.values()):
        name = str(value.name)
        own = name.removeprefix(_PREFIX)
        if name != own and own not in taken and own not in model.graph.initializers:
            value.name = own
    common_passes.ClearMetadataAndDocStringPass()(model)
